//! The flags of `nanochat serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use axum::http::HeaderValue;
use nanochat::terminal::flag_values;
use nanochat_tensor::Dtype;

/// The default limit of connections per address, for addresses other than this machine's.
pub const CONNECTIONS: usize = 256;

/// The settings of a server.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Address to listen on; 0.0.0.0 means all of this machine's addresses
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 chooses a free one
    #[arg(long, value_parser = flag_values::whole::<u16, 0, 65_535>, default_value_t = 8000)]
    pub port: u16,
    /// Name of the model in the API [default: from its folder]
    #[arg(long)]
    pub name: Option<String>,
    /// File with the API keys that clients must send, one per line (or NANOCHAT_API_KEYS, comma-separated)
    #[arg(long, value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// More keys, comma-separated, from NANOCHAT_API_KEYS.
    #[arg(skip)]
    pub listed_keys: Option<String>,
    /// File with keys that only read /stats and /metrics. If --api-keys has several keys, only these see exact counts
    #[arg(long, value_name = "FILE")]
    pub metrics_keys: Option<PathBuf>,
    /// Share cached prompt prefixes between all keys: a common system text is computed once, but response times can
    /// reveal to one key what others have asked [default: a cache for each key]
    #[arg(long)]
    pub share_cache: bool,
    /// Concurrent connections per address (IPv6: per /64); 0: no limit, as needed behind a proxy, whose address they
    /// all have [default: 256, no limit from this machine]
    #[arg(long, value_name = "N", value_parser = flag_values::amount)]
    pub connections_per_address: Option<usize>,
    /// Requests per minute for each key (without keys, for each address) [default: no limit]
    #[arg(long, value_name = "N", value_parser = flag_values::whole::<u32, 1, 4_294_967_295>)]
    pub rate_limit: Option<u32>,
    /// Origin of a web page that may send requests from another address, such as https://chat.example [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Option<HeaderValue>,
    /// Answers generated at once on each device
    #[arg(long, value_parser = flag_values::count, default_value_t = 64)]
    pub max_rows: usize,
    /// Answers that may wait to be generated; further requests are refused (429)
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    pub max_queue: usize,
    /// Memory for cached keys and values on each device, in MiB [default: 1024; on a GPU up to 32768 of what is free]
    #[arg(long, value_parser = flag_values::count)]
    pub cache_mib: Option<usize>,
    /// Weights on the CPU: f32, bf16 or int8
    #[arg(long, default_value_t = Dtype::Bf16)]
    pub weights: Dtype,
    /// Seconds that running answers get to finish after SIGTERM or Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = flag_values::seconds, default_value_t = 30)]
    pub grace: u64,
}
