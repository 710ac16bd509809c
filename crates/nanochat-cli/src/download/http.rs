//! HTTP requests with time limits, redirects followed by hand so that the token is sent only to its host, and errors
//! that tell whether a retry may help.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;

use super::proxy::Proxies;

const CONNECT: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 8;
/// The number of failures in a row, without progress between them, after which a download is given up.
pub const TRIES: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The largest response that is read into memory (lists of files), in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// The reason why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// A retry may help, after `wait` at least if the server gave a time.
    Passing { reason: String, wait: Option<Duration> },
    /// A retry will not help.
    Lasting(String),
}

pub struct HttpClient {
    agent: Agent,
    /// The origin to which the token may be sent: scheme, host and port.
    token_origin: String,
    token: Option<String>,
    proxies: Proxies,
    /// The wait before the first retry; it doubles with each further one.
    pause: Duration,
}

/// A response whose body has not been read yet.
pub struct HttpResponse {
    pub status: u16,
    /// The headers of the last response, and the `x-linked-…` headers of the redirects before it.
    headers: Vec<(String, String)>,
    pub body: Box<dyn Read + Send>,
    /// The URL of the last response.
    url: String,
}

impl HttpClient {
    /// Makes a client. The token is sent only to the host of `endpoint`; `silence` is the longest time that a server
    /// may send nothing, `pause` the wait before the first retry.
    pub fn new(
        endpoint: &str,
        token: Option<String>,
        proxies: Proxies,
        [silence, pause]: [Duration; 2],
    ) -> Result<HttpClient, String> {
        let token_origin = origin(endpoint);
        let token_origin =
            token_origin.ok_or_else(|| format!("{} is not an http address", shown(endpoint)))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .user_agent(concat!("nanochat/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(HttpClient { agent: config.into(), token_origin, token, proxies, pause })
    }

    /// Sends a GET request. Responses 2xx and 416 are returned; everything else is a failure.
    pub fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<HttpResponse, Failure> {
        let (mut url, mut linked) = (url.to_string(), Vec::new());
        for _ in 0..=MAX_REDIRECTS {
            let mut answer = self.get_once(&url, headers)?;
            match answer.status {
                301 | 302 | 303 | 307 | 308 => {
                    let target = answer.header("location").and_then(|target| resolve(&url, target));
                    let target = target.ok_or_else(|| lasting(&url, "redirects to nowhere"))?;
                    if url.starts_with("https:") && !target.starts_with("https:") {
                        return Err(lasting(&url, "redirects to an address without encryption"));
                    }
                    linked
                        .extend(answer.headers.into_iter().filter(|(name, _)| name.starts_with("x-linked-")));
                    url = target;
                }
                200..=299 | 416 => {
                    answer.headers.extend(linked);
                    answer.url = url;
                    return Ok(answer);
                }
                _ => return Err(failed(&url, &answer, self.token.is_some())),
            }
        }
        Err(lasting(&url, "redirects in a circle"))
    }

    /// Returns the wait before the next retry: it grows with the failures in a row, and is at least what the server
    /// asked for.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let pause = (self.pause * 2u32.pow(failures - 1)).min(LONGEST_PAUSE);
        asked.unwrap_or(pause).max(pause)
    }

    /// Returns the text of a 2xx response, and the URL of the next page if it has one; retries after passing failures.
    pub fn text(&self, url: &str) -> Result<(String, Option<String>), String> {
        for failures in 1..TRIES {
            match self.text_once(url) {
                Err(Failure::Passing { reason, wait }) => {
                    let pause = self.pause(failures, wait);
                    eprintln!("{}", trying_again(&reason, pause));
                    std::thread::sleep(pause);
                }
                Err(Failure::Lasting(reason)) => return Err(reason),
                Ok(text) => return Ok(text),
            }
        }
        self.text_once(url).map_err(|failure| match failure {
            Failure::Passing { reason, .. } => format!("{reason}; gave up after {TRIES} tries"),
            Failure::Lasting(reason) => reason,
        })
    }

    fn text_once(&self, url: &str) -> Result<(String, Option<String>), Failure> {
        let answer = self.get(url, &[])?;
        let next = answer.header("link").and_then(next_page).and_then(|target| resolve(&answer.url, target));
        let mut text = String::new();
        let read = answer.body.take(MAX_TEXT).read_to_string(&mut text);
        read.map_err(|error| passing(format!("{}: {error}", shown(url))))?;
        Ok((text, next))
    }

    fn get_once(&self, url: &str, headers: &[(&str, String)]) -> Result<HttpResponse, Failure> {
        let origin = origin(url).ok_or_else(|| lasting(url, "is not a valid address"))?;
        let request = self.agent.get(url).config().proxy(self.proxies.proxy(&origin)).build();
        let mut request = request.header("accept-encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| origin == self.token_origin) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => lasting(url, "is not a valid address"),
            ureq::Error::Io(error) => passing(format!("{}: {error}", shown(url))),
            error => passing(format!("{}: {error}", shown(url))),
        })?;
        let (parts, body) = response.into_parts();
        let text = |value: &ureq::http::HeaderValue| value.to_str().unwrap_or_default().to_string();
        Ok(HttpResponse {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(|(name, value)| (name.as_str().into(), text(value))).collect(),
            body: Box::new(body.into_reader()),
            url: url.into(),
        })
    }
}

impl HttpResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Returns the message before a retry.
pub fn trying_again(reason: &str, pause: Duration) -> String {
    format!("{reason}; trying again in {:.0} s", pause.as_secs_f64().ceil())
}

pub fn passing(reason: String) -> Failure {
    Failure::Passing { reason, wait: None }
}

fn lasting(url: &str, what: &str) -> Failure {
    Failure::Lasting(format!("{} {what}", shown(url)))
}

fn failed(url: &str, answer: &HttpResponse, has_token: bool) -> Failure {
    let (status, url) = (answer.status, shown(url));
    let seconds = answer.header("retry-after").and_then(|value| value.trim().parse().ok());
    let wait = seconds.map(|seconds: u64| Duration::from_secs(seconds.min(300)));
    match status {
        408 | 425 | 429 | 500..=599 => Failure::Passing { reason: format!("{url} answered {status}"), wait },
        401 | 403 if !has_token => Failure::Lasting(format!(
            "{url} answered {status}: it does not exist, or needs an access token (set HF_TOKEN)"
        )),
        401 | 403 => {
            Failure::Lasting(format!("{url} answered {status}: the token in HF_TOKEN has no access"))
        }
        404 | 410 => Failure::Lasting(format!("{url} answered {status}: there is no such file")),
        _ => Failure::Lasting(format!("{url} answered {status}")),
    }
}

/// Returns a URL without its query, which may contain a signature, and without a password.
pub fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => plain.into(),
    }
}

/// Returns scheme, host and port of an http URL, in lower case.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_lowercase();
    let host = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?.to_lowercase();
    let port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    (!host.is_empty()).then(|| format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(&host)))
}

/// Resolves the redirect `target` of a response from `url`.
fn resolve(url: &str, target: &str) -> Option<String> {
    if origin(target).is_some() {
        return Some(target.into());
    }
    match target {
        _ if target.contains("://") || target.is_empty() => None,
        _ if target.starts_with("//") => Some(format!("{}:{target}", url.split_once(':')?.0)),
        _ if target.starts_with('/') => Some(origin(url)? + target),
        _ => Some(format!("{}/{target}", url.split(['?', '#']).next()?.rsplit_once('/')?.0)),
    }
}

/// Returns the URL in `<…>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(part.split_once('<')?.1.split_once('>')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(origin("HTTPS://User:pw@Host.example:443/a").as_deref(), Some("https://host.example"));
        assert_eq!(origin("http://h:81?x").as_deref(), Some("http://h:81"));
        assert_eq!(origin("ftp://h/"), None);
        assert_eq!(origin("https://hub.example@evil.example/").as_deref(), Some("https://evil.example"));
        let from = "https://h/a/b?c=/d";
        for (target, expected) in [
            ("/x", "https://h/x"),
            ("x", "https://h/a/x"),
            ("//g/x", "https://g/x"),
            ("http://g/x", "http://g/x"),
        ] {
            assert_eq!(resolve(from, target).as_deref(), Some(expected));
        }
        assert_eq!(resolve(from, "file:///etc/passwd"), None);
        assert_eq!(shown("https://me:secret@h/a?sig=secret#x"), "https://h/a");
        assert_eq!(
            next_page("<https://h/1>; rel=\"prev\", <https://h/2>; rel=\"next\""),
            Some("https://h/2")
        );
    }
}
