//! The flags of a server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use axum::http::HeaderValue;
use nanochat::values;
use nanochat_tensor::Dtype;

/// Connections at once from each address that is not this machine's.
pub const CONNECTIONS: usize = 256;

/// How a server works.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Address to listen on; 0.0.0.0 is all of this machine's
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_parser = values::whole::<u16, 0, 65_535>, default_value_t = 8000)]
    pub port: u16,
    /// Name of the model in the API [default: from its folder]
    #[arg(long)]
    pub name: Option<String>,
    /// File with the keys that clients must show, one a line (or NANOCHAT_API_KEYS, apart by commas)
    #[arg(long, value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// More keys, apart by commas.
    #[arg(skip)]
    pub listed_keys: Option<String>,
    /// File with keys that read /stats and /metrics and do nothing else. With several keys in --api-keys only these see exact counts
    #[arg(long, value_name = "FILE")]
    pub metrics_keys: Option<PathBuf>,
    /// Keep prefixes of prompts for all keys together: a system text that they have in common is computed once, but by
    /// how soon an answer comes a key can find out what others have asked [default: apart for each key]
    #[arg(long)]
    pub share_cache: bool,
    /// Connections at once from each address (IPv6: each /64); 0: any number, as behind a proxy, where all come from its address
    /// [default: 256, from this machine any number]
    #[arg(long, value_name = "N", value_parser = values::amount)]
    pub connections_per_address: Option<usize>,
    /// Requests a minute that each key may make (without keys, each address) [default: any number]
    #[arg(long, value_name = "N", value_parser = values::whole::<u32, 1, 4_294_967_295>)]
    pub rate_limit: Option<u32>,
    /// Web page that may ask from its own address, such as https://chat.example [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Option<HeaderValue>,
    /// Answers generated together on each device
    #[arg(long, value_parser = values::count, default_value_t = 64)]
    pub max_rows: usize,
    /// Answers that may wait for a place; more are told to come again (429)
    #[arg(long, value_parser = values::count, default_value_t = 256)]
    pub max_queue: usize,
    /// Memory for keys and values on each device, in MiB [default: 1024; on a GPU up to 32768 of what is free]
    #[arg(long, value_parser = values::count)]
    pub cache_mib: Option<usize>,
    /// Weights on the CPU: f32, bf16 or int8
    #[arg(long, default_value_t = Dtype::Bf16)]
    pub weights: Dtype,
    /// Seconds that running answers get to finish after SIGTERM or Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, default_value_t = 30)]
    pub grace: u64,
}
