//! Access control: who may send requests (API keys), how often (a rate limit per client), and from which web pages
//! (CORS).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nanochat::engine::Owner;
use subtle::ConstantTimeEq;

use crate::Shared;
use crate::error::ApiError;
use crate::keys::{Client, Keys};
use crate::rate::RateLimiter;
use crate::slots::{Activity, network};
use crate::wrong_keys::WrongKeys;

/// The access rules of a server: its keys, its rate limit and the web pages it answers.
pub struct Access {
    /// The API keys: first those of clients, then those that only read `/stats` and `/metrics`.
    keys: Vec<String>,
    /// The number of client keys at the start of `keys`.
    clients: usize,
    /// Whether all keys share the cached prompt prefixes.
    shares_cache: bool,
    wrong_keys: WrongKeys,
    rate: RateLimiter,
    /// The origin of the web page that may send requests from another address (CORS), if any.
    origin: Option<HeaderValue>,
    /// Whether the server listens on loopback without keys. It then refuses host names other than those of this
    /// machine: an attacker's page could otherwise reach it by pointing its own name at 127.0.0.1 (DNS rebinding).
    only_local: bool,
}

/// The rights of the client that sent a request, for the routes.
#[derive(Clone, Copy)]
pub struct ClientRights {
    /// The owner of the cached prefixes that its prompts may reuse.
    pub owner: Owner,
    /// Whether it may read exact counts, which reveal the lengths of other clients' requests.
    pub sees_counts: bool,
}

impl Access {
    /// Makes the rules for a server that listens on `bound` and allows `per_minute` requests of each client.
    pub fn new(
        keys: Keys,
        per_minute: Option<u32>,
        origin: Option<HeaderValue>,
        bound: SocketAddr,
    ) -> Access {
        let Keys { clients: mut keys, watchers, share_cache: shares_cache } = keys;
        let (clients, only_local) = (keys.len(), keys.is_empty() && bound.ip().is_loopback());
        keys.extend(watchers);
        let (wrong_keys, rate) = (WrongKeys::default(), RateLimiter::new(per_minute));
        Access { keys, clients, shares_cache, wrong_keys, rate, origin, only_local }
    }

    /// Whether the server answers without a key.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the client and how long to delay its answer. Every key is compared, even after a match, so that the time
    /// taken reveals nothing about the keys.
    fn client(&self, headers: &HeaderMap, peer: IpAddr) -> (Result<Client, ApiError>, Duration) {
        let network = network(peer);
        if self.is_open() {
            return (Ok(Client::Address(network)), Duration::ZERO);
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let given = given.map_or("", |(_, key)| key.trim());
        let mut found = None;
        for (i, key) in self.keys.iter().enumerate() {
            if bool::from(key.as_bytes().ct_eq(given.as_bytes())) {
                found = Some(i);
            }
        }
        // A missing key is no guess: the web page tries without one before it asks its user.
        let wait = if given.is_empty() { Duration::ZERO } else { self.wrong_keys.wait(network, found) };
        let client = found.map(|i| if i < self.clients { Client::Key(i) } else { Client::Watcher });
        let wrong = || {
            let message = "this server wants a key: Authorization: Bearer KEY";
            ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
        };
        (client.ok_or_else(wrong), wait)
    }

    /// Returns the rights of `client`.
    fn rights(&self, client: Client) -> ClientRights {
        match client {
            Client::Key(i) if !self.shares_cache => {
                ClientRights { owner: 1 + i as Owner, sees_counts: self.clients == 1 }
            }
            Client::Key(_) => ClientRights { owner: 0, sees_counts: self.clients == 1 },
            Client::Watcher | Client::Address(_) => ClientRights { owner: 0, sees_counts: true },
        }
    }

    /// Returns the rights of the client that sends `request`, after the delay for wrong keys from its address.
    async fn admit(&self, request: &Parts) -> Result<ClientRights, ApiError> {
        let peer = request.extensions.get::<SocketAddr>().map_or([0, 0, 0, 0].into(), SocketAddr::ip);
        let (client, wait) = self.client(&request.headers, peer);
        if !wait.is_zero() {
            let activity = request.extensions.get::<Arc<Activity>>().cloned().unwrap_or_default();
            activity.set_blocked(true); // its slot may go to another connection
            tokio::time::sleep(wait).await;
            activity.set_blocked(false);
        }
        let client = client?;
        if client == Client::Watcher && !matches!(request.uri.path(), "/stats" | "/metrics") {
            let message = "this key reads /stats and /metrics only";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
        if request.method == Method::POST {
            self.rate.limit(client)?;
        }
        Ok(self.rights(client))
    }

    /// Whether the web page with this `origin` may send requests; the setting `*` allows every page.
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origin.as_ref().is_some_and(|allowed| allowed == "*" || allowed == origin)
    }

    /// Refuses a host name that is not this machine's, where only those are allowed.
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

/// Middleware in front of every route: checks the host, the key and the rate, answers preflight requests, counts the
/// response and adds CORS headers.
pub async fn check(State(server): State<Shared>, request: Request, next: Next) -> Response {
    let access = &server.access;
    let page = request.headers().get(header::ORIGIN).filter(|page| access.allows(page)).cloned();
    if let Some(page) = page.as_ref().filter(|_| request.method() == Method::OPTIONS) {
        return preflight(page, request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS));
    }
    let (mut parts, body) = request.into_parts();
    let admitted = match access.check_host(&parts.headers) {
        Ok(()) if is_public(parts.uri.path()) => Ok(None),
        Ok(()) => access.admit(&parts).await.map(Some),
        Err(error) => Err(error),
    };
    let route = server.route_name(parts.uri.path());
    let mut response = match admitted {
        Ok(rights) => {
            if let Some(rights) = rights {
                parts.extensions.insert(rights);
            }
            next.run(Request::from_parts(parts, body)).await
        }
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

/// Whether a path needs no key: the web page contains no secret, and a load balancer that checks health has no key.
fn is_public(path: &str) -> bool {
    matches!(path, "/health" | "/ready") || crate::page::find(path).is_some()
}

/// Answers a browser's CORS preflight request for `page`. All headers are allowed: API client libraries send their own
/// (`x-stainless-os` and others), and a program outside a browser can send any header anyway.
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

    fn access(keys: &[&str]) -> Access {
        let clients = keys.iter().map(|key| key.to_string()).collect();
        Access::new(Keys { clients, ..Keys::default() }, None, None, "127.0.0.1:8000".parse().unwrap())
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_key_fits_only_as_a_whole() {
        let access = access(&["first-key-1", "second-key-2"]);
        let fits = |value| access.client(&headers("authorization", value), [1, 2, 3, 4].into()).0.is_ok();
        assert!(fits("Bearer first-key-1") && fits("bearer second-key-2"));
        for bad in
            ["Bearer first-key", "Bearer first-key-12", "Bearer ", "first-key-1", "Basic first-key-1", ""]
        {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn names_of_elsewhere_are_refused_while_open() {
        let open = access(&[]);
        for (host, fits) in [
            ("localhost:8000", true),
            ("127.0.0.1", true),
            ("[::1]:8000", true),
            ("evil.example:8000", false),
            ("", false),
        ] {
            assert_eq!(open.check_host(&headers("host", host)).is_ok(), fits, "{host}");
        }
        assert!(access(&["first-key-1"]).check_host(&headers("host", "chat.example")).is_ok());
    }
}
