//! Where a server listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;

/// `host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or IP address and a port, resolved anew at every connect.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let fault = |why| Error::Address { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(fault("the path is empty")) } else { Ok(Address::Unix(PathBuf::from(path))) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(fault("it has no port"))?;
        if host.is_empty() {
            return Err(fault("it has no host"));
        }
        if port.parse::<u16>().is_err() {
            return Err(fault("the port is no number up to 65535"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(fault("an IPv6 address stands in brackets"));
        }
        Ok(Address::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(text) => f.write_str(text),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, good) in [
            ("localhost:7000", true),
            ("127.0.0.1:0", true),
            ("[::1]:7000", true),
            ("unix:/run/gavel.sock", true),
            ("unix:relative", true),
            ("unix:", false),
            ("localhost", false),
            (":7000", false),
            ("localhost:65536", false),
            ("localhost:", false),
            ("::1:7000", false),
            ("", false),
        ] {
            match text.parse::<Address>() {
                Ok(address) => assert!(good && address.to_string() == text, "{text}"),
                Err(error) => assert!(!good, "{text}: {error}"),
            }
        }
    }
}
