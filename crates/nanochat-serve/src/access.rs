//! Who may ask, and how often: keys, a rate for each of them, origins of web pages.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::Shared;
use crate::error::ApiError;

/// Clients whose rate is remembered; beyond that, those are forgotten who have not asked for a minute.
const REMEMBERED: usize = 10_000;

pub struct Access {
    keys: Vec<String>,
    /// Requests a minute of each client; None: any number.
    per_minute: Option<u32>,
    /// The web page that may ask from elsewhere.
    origin: Option<HeaderValue>,
    /// Only reachable from this machine, and by names of it: a web page whose name was pointed here is refused.
    only_local: bool,
    buckets: Mutex<HashMap<Client, Bucket>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    Key(usize),
    Address(IpAddr),
}

/// A token bucket: what is left of a minute's requests.
struct Bucket {
    left: f64,
    at: Instant,
}

/// Keys from a file, one a line, and from text with commas (an environment variable).
pub fn read_keys(file: Option<&Path>, listed: Option<&str>) -> Result<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    if let Some(file) = file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(String::from));
        ensure!(!keys.is_empty(), "{} has no keys; one a line is wanted", file.display());
    }
    let listed = listed.unwrap_or_default().split(',').map(str::trim);
    keys.extend(listed.filter(|key| !key.is_empty()).map(String::from));
    let short = keys.iter().any(|key| key.len() < 8);
    ensure!(!short, "a key of less than 8 characters is soon guessed; make longer ones");
    Ok(keys)
}

impl Access {
    pub fn new(
        keys: Vec<String>,
        per_minute: Option<u32>,
        origin: Option<HeaderValue>,
        bound: SocketAddr,
    ) -> Access {
        let only_local = keys.is_empty() && bound.ip().is_loopback();
        Access { keys, per_minute, origin, only_local, buckets: Mutex::default() }
    }

    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Every key is compared, whether one fits or not: time says nothing about them.
    fn client(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Client, ApiError> {
        if self.is_open() {
            return Ok(Client::Address(peer));
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let given = given.map_or("", |(_, key)| key.trim());
        let mut found = None;
        for (i, key) in self.keys.iter().enumerate() {
            if bool::from(key.as_bytes().ct_eq(given.as_bytes())) {
                found = Some(Client::Key(i));
            }
        }
        found.ok_or_else(|| {
            let message = "this server wants a key: Authorization: Bearer KEY";
            ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
        })
    }

    fn limit(&self, client: Client) -> Result<(), ApiError> {
        let Some(per_minute) = self.per_minute.map(f64::from) else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        if buckets.len() >= REMEMBERED {
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 60);
        }
        let bucket = buckets.entry(client).or_insert(Bucket { left: per_minute, at: now });
        let gained = now.duration_since(bucket.at).as_secs_f64() * per_minute / 60.0;
        *bucket = Bucket { left: (bucket.left + gained).min(per_minute), at: now };
        if bucket.left < 1.0 {
            let seconds = ((1.0 - bucket.left) * 60.0 / per_minute).ceil() as u64;
            return Err(ApiError::busy("too many requests; wait a little", seconds.max(1)));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Whether the web page from `origin` may ask from its own address; `*` lets every page.
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origin.as_ref().is_some_and(|allowed| allowed == "*" || allowed == origin)
    }

    fn check_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        if !self.only_local || matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
            return Ok(());
        }
        let message =
            "without a key this server answers to localhost and 127.0.0.1 only; give it keys or --host";
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}

/// In front of every route.
pub async fn check(State(server): State<Shared>, request: Request, next: Next) -> Response {
    let access = &server.access;
    let page = request.headers().get(header::ORIGIN).filter(|page| access.allows(page)).cloned();
    if let Some(page) = page.as_ref().filter(|_| request.method() == Method::OPTIONS) {
        return preflight(page, request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS));
    }
    let refused = access.check_host(request.headers()).and_then(|()| {
        if is_public(request.uri().path()) {
            return Ok(());
        }
        let peer = request.extensions().get::<SocketAddr>().map_or([0, 0, 0, 0].into(), SocketAddr::ip);
        let client = access.client(request.headers(), peer)?;
        if request.method() == Method::POST { access.limit(client) } else { Ok(()) }
    });
    let route = server.route_name(request.uri().path());
    let mut response = match refused {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    server.metrics.answered(route, response.status().as_u16());
    let headers = response.headers_mut();
    if access.origin.is_some() {
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(page) = page {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
    response
}

/// The page itself holds no secret, and a load balancer has no key.
fn is_public(path: &str) -> bool {
    matches!(path, "/health" | "/ready") || crate::page::find(path).is_some()
}

/// What a browser asks before it lets `page` send a request: any header may come along, since packages for the API send
/// their own (`x-stainless-os` and others), and none of them gives more than a program without a browser has.
fn preflight(page: &HeaderValue, asked: Option<&HeaderValue>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    if let Some(asked) = asked {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200")); // Chromium's longest
    headers.insert(header::VARY, HeaderValue::from_static("origin, access-control-request-headers"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(keys: &[&str], per_minute: Option<u32>) -> Access {
        let keys = keys.iter().map(|key| key.to_string()).collect();
        Access::new(keys, per_minute, None, "127.0.0.1:8000".parse().unwrap())
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_key_fits_only_as_a_whole() {
        let access = access(&["first-key-1", "second-key-2"], None);
        let fits = |value| access.client(&headers("authorization", value), [1, 2, 3, 4].into()).is_ok();
        assert!(fits("Bearer first-key-1") && fits("bearer second-key-2"));
        for bad in
            ["Bearer first-key", "Bearer first-key-12", "Bearer ", "first-key-1", "Basic first-key-1", ""]
        {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn a_client_may_ask_so_often_and_no_more() {
        let access = access(&[], Some(3));
        let (here, there) = (Client::Address([1, 1, 1, 1].into()), Client::Address([2, 2, 2, 2].into()));
        assert_eq!((0..5).filter(|_| access.limit(here).is_ok()).count(), 3);
        assert!(access.limit(there).is_ok());
    }

    #[test]
    fn names_of_elsewhere_are_refused_while_open() {
        let open = access(&[], None);
        for (host, fits) in [
            ("localhost:8000", true),
            ("127.0.0.1", true),
            ("[::1]:8000", true),
            ("evil.example:8000", false),
            ("", false),
        ] {
            assert_eq!(open.check_host(&headers("host", host)).is_ok(), fits, "{host}");
        }
        assert!(access(&["first-key-1"], None).check_host(&headers("host", "chat.example")).is_ok());
    }

    #[test]
    fn keys_come_from_a_file_and_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "# mine\nfirst-key-1\n\n second-key-2 \n").unwrap();
        let keys = read_keys(Some(&file), Some("third-key-3,")).unwrap();
        assert_eq!(keys, ["first-key-1", "second-key-2", "third-key-3"]);
        assert!(read_keys(None, Some("short")).is_err());
        std::fs::write(&file, "# none\n").unwrap();
        assert!(read_keys(Some(&file), None).unwrap_err().to_string().contains("keys"));
    }
}
