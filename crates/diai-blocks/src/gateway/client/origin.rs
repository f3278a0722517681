use hyper::Uri;

use crate::gateway::ConfigError;

/// Where a gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// What stands before `/ipfs/`.
    prefix: String,
}

impl Origin {
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        let faulty = || ConfigError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| faulty())?;
        let origin = Self::of(&uri).filter(|_| uri.query().is_none()).ok_or_else(faulty)?;
        Ok(Self { prefix: uri.path().trim_end_matches('/').to_owned(), ..origin })
    }

    fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok()?,
            // One that is no port.
            None if authority.as_str().len() > authority.host().len() => return None,
            None => Self::default_port(https),
        };
        let host = authority.host().to_ascii_lowercase();
        (!host.is_empty()).then_some(Self { https, host, port, prefix: String::new() })
    }

    fn default_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }

    /// What stands in the header `Host`.
    pub(super) fn authority(&self) -> String {
        if self.port == Self::default_port(self.https) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The path and query of a request for `target` here.
    pub(super) fn target(&self, target: &str) -> String {
        format!("{}{target}", self.prefix)
    }

    /// Where `location`, which stood in an answer from here, leads, and its path and query. Only to this origin itself or to
    /// a name below its own: a gateway must not send us about in networks that we reach and it does not.
    pub(super) fn follow(&self, location: &str) -> Option<(Self, String)> {
        let uri: Uri = location.parse().ok()?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let origin = if uri.scheme().is_none()
            && uri.authority().is_none()
            && location.starts_with('/')
            && !location.starts_with("//")
        {
            Self { prefix: String::new(), ..self.clone() }
        } else {
            Self::of(&uri)?
        };
        let named = |host: &str| host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
        let below = origin.host.strip_suffix(self.host.as_str()).is_some_and(|name| name.ends_with('.'));
        let near = origin.host == self.host || below && named(&self.host);
        (near && origin.https == self.https && origin.port == self.port).then(|| (origin, target.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_gateways_are_told_from_others() {
        let origin = Origin::parse("https://Example.org/gate/").unwrap();
        assert_eq!((origin.https, origin.host.as_str(), origin.port), (true, "example.org", 443));
        assert_eq!(origin.target("/ipfs/x?format=raw"), "/gate/ipfs/x?format=raw");
        assert_eq!(origin.authority(), "example.org");
        let origin = Origin::parse("http://[::1]:8080").unwrap();
        assert_eq!((origin.https, origin.authority().as_str(), origin.port), (false, "[::1]:8080", 8080));
        for url in [
            "",
            "example.org",
            "ftp://example.org",
            "https://user@example.org",
            "https://",
            "http://a:99999",
            "/ipfs",
            "http://a?b",
            "http://a:/",
        ] {
            assert!(matches!(Origin::parse(url), Err(ConfigError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn redirects_lead_to_the_gateway_itself_or_below_it() {
        let origin = Origin::parse("https://example.org/gate").unwrap();
        let led = |to: &str| origin.follow(to).map(|(origin, target)| (origin.authority(), target));
        assert_eq!(led("/ipfs/x?format=raw"), Some(("example.org".into(), "/ipfs/x?format=raw".into())));
        assert_eq!(led("https://x.ipfs.example.org/?a"), Some(("x.ipfs.example.org".into(), "/?a".into())));
        for to in [
            "http://example.org/",
            "https://example.org:8443/",
            "https://badexample.org/",
            "https://127.0.0.1/",
            "//elsewhere.org/",
            "file:///etc/passwd",
            "x",
            "",
        ] {
            assert_eq!(led(to), None, "{to}");
        }
        let origin = Origin::parse("http://127.0.0.1:80").unwrap();
        assert_eq!(origin.follow("http://1.127.0.0.1/"), None);
    }
}
