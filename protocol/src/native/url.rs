//! How a store is named: `kinesin://HOST[:PORT]`. Pure.

use super::PORT_DEFAULT;

/// Why a text names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no store: {why}; write kinesin://HOST:PORT, such as kinesin://127.0.0.1:4567")]
pub struct NotAStoreUrl {
    /// What was offered.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Host (a name or an address, without brackets) and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl StoreUrl {
    /// Reads `kinesin://HOST[:PORT]`; an IPv6 address is in brackets.
    ///
    /// # Errors
    /// When the scheme is another, or host or port are none.
    pub fn parse(text: &str) -> Result<StoreUrl, NotAStoreUrl> {
        let bad = |why| NotAStoreUrl { text: text.to_owned(), why };
        let rest = text.strip_prefix("kinesin://").ok_or(bad("it does not start with kinesin://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(bad("a bracket is not closed"))?;
                let port = after.strip_prefix(':');
                if port.is_none() && !after.is_empty() {
                    return Err(bad("after the bracket comes a colon and a port"));
                }
                (host, port)
            }
            None => match rest.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(bad("it has two ports, or an address that is not in brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            None => PORT_DEFAULT,
            Some(digits) => {
                digits.parse().ok().filter(|p| *p > 0).ok_or(bad("its port is no number from 1 to 65535"))?
            }
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%');
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(bad("it has no host"));
        }
        Ok(StoreUrl { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "kinesin://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "kinesin://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_are_read_and_bad_ones_say_why() {
        let good = [
            ("kinesin://127.0.0.1:4567", "127.0.0.1", 4567),
            ("kinesin://store.example", "store.example", PORT_DEFAULT),
            ("kinesin://[::1]:99/", "::1", 99),
            ("kinesin://[::1]", "::1", PORT_DEFAULT),
        ];
        for (text, host, port) in good {
            assert_eq!(StoreUrl::parse(text), Ok(StoreUrl { host: host.to_owned(), port }), "{text}");
        }
        for bad in [
            "http://a:1",
            "kinesin://",
            "kinesin://:1",
            "kinesin://a:0",
            "kinesin://a:b",
            "kinesin://a/b",
            "kinesin://[::1",
            "kinesin://[::1]99",
            "kinesin://::1:99",
            "kinesin://a:b:99",
        ] {
            assert!(StoreUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
