//! Chooses the proxy for a URL, from the same variables as curl. A proxy for the URL's scheme overrides ALL_PROXY,
//! lower case overrides upper case; NO_PROXY lists hosts, domains and networks that need none.

use std::net::IpAddr;

use ureq::Proxy;

#[derive(Debug, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    /// The hosts without a proxy, in lower case; `*` is all.
    without: Vec<String>,
}

impl Proxies {
    /// Reads the variables; `variable` is the environment.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Proxies, String> {
        let either = |name: &str| {
            let named =
                |name: String| Some((variable(&name).filter(|value| !value.trim().is_empty())?, name));
            named(name.to_lowercase()).or_else(|| named(name.to_uppercase()))
        };
        let proxy = |scheme: &str| {
            let Some((value, name)) = either(scheme).or_else(|| either("all_proxy")) else { return Ok(None) };
            // The value may hold a password.
            let wrong = |_| {
                format!(
                    "{name} is not the address of a proxy, such as http://host:3128 or socks5h://host:1080"
                )
            };
            Proxy::new(value.trim()).map(Some).map_err(wrong)
        };
        let without = either("no_proxy").map_or(String::new(), |(value, _)| value.to_lowercase());
        let hosts = without.split([',', ' ']).filter(|host| !host.is_empty());
        Ok(Proxies {
            http: proxy("http_proxy")?,
            https: proxy("https_proxy")?,
            without: hosts
                .map(|host| host.trim_start_matches("*.").trim_start_matches('.').to_string())
                .collect(),
        })
    }

    /// Returns the proxy for a URL with this origin, such as `https://host:8443`.
    pub fn proxy(&self, origin: &str) -> Option<Proxy> {
        let (scheme, authority) = origin.split_once("://")?;
        // A port follows the last colon, but those of an IPv6 address stand in brackets.
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if self.without.iter().any(|entry| entry == authority || covers(entry, host)) {
            return None;
        }
        if scheme == "https" { self.https.clone() } else { self.http.clone() }
    }
}

/// Whether an entry of NO_PROXY matches this host: all, its name or a parent domain, its address or a network.
fn covers(entry: &str, host: &str) -> bool {
    if entry == "*" || entry == host {
        return true;
    }
    match (host.parse(), entry.split_once('/')) {
        (Ok(address), Some((network, bits))) => network
            .parse()
            .is_ok_and(|network| bits.parse().is_ok_and(|bits| is_within(address, network, bits))),
        (Ok(_), None) => false,
        (Err(_), _) => host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.')),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let differ = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        let variable = |name: &str| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_string())
        };
        Proxies::of(variable)
    }

    #[test]
    fn the_proxy_of_the_scheme_wins_and_all_proxy_is_for_the_rest() {
        let host = |proxies: &Proxies, origin| {
            proxies.proxy(origin).map(|proxy| (proxy.host().to_string(), proxy.port()))
        };
        let both = proxies(&[
            ("ALL_PROXY", "socks5h://s:1080"),
            ("https_proxy", "http://h:3128"),
            ("HTTPS_PROXY", "http://x"),
        ])
        .unwrap();
        assert_eq!(host(&both, "https://hub.example"), Some(("h".into(), 3128)));
        assert_eq!(host(&both, "http://hub.example"), Some(("s".into(), 1080)));
        let none = proxies(&[("HTTPS_PROXY", " "), ("http_proxy", "p:1")]).unwrap();
        assert_eq!(host(&none, "https://hub.example"), None);
        assert_eq!(host(&none, "http://hub.example"), Some(("p".into(), 1)));
        for bad in ["ftp://me:secret@h", "http://me:secret@"] {
            let error = proxies(&[("all_proxy", bad)]).unwrap_err();
            assert!(error.contains("all_proxy is not") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_ports_and_networks() {
        let list = "localhost, .corp.example,*.lab.example,one.example:81,10.0.0.0/8,fd00::/8,192.168.1.7";
        let some = proxies(&[("all_proxy", "http://p:1"), ("NO_PROXY", list)]).unwrap();
        let is_direct = |origin: &str| some.proxy(origin).is_none();
        for origin in [
            "http://localhost:9000",
            "https://corp.example",
            "https://hub.corp.example",
            "https://a.lab.example:8443",
            "http://one.example:81",
            "http://10.255.0.1:80",
            "https://[fd12::1]:443",
            "http://192.168.1.7",
        ] {
            assert!(is_direct(origin), "{origin}");
        }
        for origin in [
            "https://notcorp.example",
            "http://one.example",
            "http://11.0.0.1",
            "https://[fe80::1]",
            "http://192.168.1.70",
            "https://10.example",
            "https://localhost.example",
        ] {
            assert!(!is_direct(origin), "{origin}");
        }
        assert!(
            proxies(&[("all_proxy", "http://p:1"), ("no_proxy", "*")])
                .unwrap()
                .proxy("https://any")
                .is_none()
        );
    }
}
