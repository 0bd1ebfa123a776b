//! Where a socket listens, or where one is reached.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// `host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host (name, IPv4, or IPv6 in brackets) and a port; port 0 lets the system choose.
    Tcp {
        /// Without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// The socket addresses behind a TCP address; a name may have several. Asks the resolver: control path only.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let Address::Tcp { host, port } = self else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{self} is not a TCP address")));
        };
        let addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err(format!("{text:?} names no path: write unix:/path/to/socket"));
            }
            if path.len() > UNIX_PATH_MAX {
                return Err(format!("the path of {text:?} has {} bytes, the kernel takes {UNIX_PATH_MAX}", path.len()));
            }
            return Ok(Address::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port: write host:port or unix:/path"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port (0 to 65535) in {text:?}"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err(format!("{text:?}: write an IPv6 address in brackets, [{host}]:{port}")),
            None => host,
        };
        if host.is_empty() {
            return Err(format!("{text:?} has no host: write 0.0.0.0:{port} for every interface, 127.0.0.1:{port} for this machine alone"));
        }
        Ok(Address::Tcp { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `sockaddr_un.sun_path` less its closing zero.
const UNIX_PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_shows() {
        for good in ["127.0.0.1:7400", "[::1]:0", "localhost:65535", "unix:/run/gavel.sock", "unix:relative"] {
            let address: Address = good.parse().expect(good);
            assert_eq!(address.to_string(), good);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for (bad, why) in [
            ("", "no port"),
            ("7400", "no port"),
            (":7400", "no host"),
            ("host:65536", "is no port"),
            ("::1:80", "in brackets"),
            ("unix:", "names no path"),
            (&long, "108 bytes"),
        ] {
            let error = bad.parse::<Address>().expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn resolves_numbers_without_a_resolver() {
        let address: Address = "[::1]:80".parse().expect("valid");
        assert_eq!(address.resolve().expect("an address"), ["[::1]:80".parse().expect("valid")]);
        assert!("unix:/x".parse::<Address>().expect("valid").resolve().is_err());
    }
}
