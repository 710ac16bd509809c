//! Requests that fail in known ways: time limits, redirects followed by hand so that the token stays with its
//! host, and a verdict on every failure whether trying again may help.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;

use super::proxy::Proxies;

const CONNECT: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 8;
/// Failures in a row, without progress between them, before something is given up.
pub const TRIES: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Answers that are read whole (lists of files) end here.
const MAX_TEXT: u64 = 64 << 20;

/// Why a request gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// May work later: after this time at least, if the server named one.
    Passing { reason: String, wait: Option<Duration> },
    /// Will not work.
    Lasting(String),
}

pub struct Client {
    agent: Agent,
    /// Where the token may go: scheme, host and port.
    token_origin: String,
    token: Option<String>,
    proxies: Proxies,
    /// Before the first new try after a failure; it doubles with each.
    pause: Duration,
}

/// An answer whose body is still to be read.
pub struct Answer {
    pub status: u16,
    /// All but the status, of the last answer; `x-linked-…` also of those that redirected to it.
    headers: Vec<(String, String)>,
    pub body: Box<dyn Read + Send>,
    /// The address that answered.
    url: String,
}

impl Client {
    /// `token` goes to the host of `endpoint` alone; `silence` is how long a server may send nothing, `pause` the
    /// time before the first new try.
    pub fn new(
        endpoint: &str,
        token: Option<String>,
        proxies: Proxies,
        [silence, pause]: [Duration; 2],
    ) -> Result<Client, String> {
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
        Ok(Client { agent: config.into(), token_origin, token, proxies, pause })
    }

    /// The answer to GET; 2xx and 416 are answers, everything else is a failure.
    pub fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<Answer, Failure> {
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

    /// How long to wait before another try: longer with each failure in a row, and as long as the server asked.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let pause = (self.pause * 2u32.pow(failures - 1)).min(LONGEST_PAUSE);
        asked.unwrap_or(pause).max(pause)
    }

    /// The text of a 2xx answer, and the address of the next page if the answer names one; tried again after failures
    /// that pass.
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

    fn get_once(&self, url: &str, headers: &[(&str, String)]) -> Result<Answer, Failure> {
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
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(|(name, value)| (name.as_str().into(), text(value))).collect(),
            body: Box::new(body.into_reader()),
            url: url.into(),
        })
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What to say before another try.
pub fn trying_again(reason: &str, pause: Duration) -> String {
    format!("{reason}; trying again in {:.0} s", pause.as_secs_f64().ceil())
}

pub fn passing(reason: String) -> Failure {
    Failure::Passing { reason, wait: None }
}

fn lasting(url: &str, what: &str) -> Failure {
    Failure::Lasting(format!("{} {what}", shown(url)))
}

fn failed(url: &str, answer: &Answer, has_token: bool) -> Failure {
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

/// An address without its query, which may hold a signature, and without a password.
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

/// Scheme, host and port of an http address, in lower case.
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

/// `target` as written in an answer from `url`.
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

/// The address in `<…>; rel="next"`.
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
