//! Making listening sockets: TCP and Unix, from addresses to descriptors, with errors that say what to do.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::Address;

/// An address cannot be listened on: which, why, and what to do.
#[derive(Debug)]
pub struct ListenError {
    address: Address,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// The resolver.
    Resolve(io::Error),
    /// Another process listens there.
    InUse,
    /// A file that is no socket lies at the path.
    NotASocket,
    /// Another error of the system.
    System(io::Error),
}

/// Sockets that listen. Dropped, they listen no more, and the files of Unix sockets are gone.
#[derive(Debug)]
pub struct Listeners {
    pub(super) sockets: Vec<Listener>,
}

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// Non-blocking.
    pub socket: Socket,
    address: Address,
    /// The file of a Unix socket.
    _file: Option<SocketFile>,
}

/// A socket's file, removed when the socket goes, if it is still the same file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Binds all addresses, or none. A TCP name that resolves to several addresses is listened on at each of them (with port 0 only at the first).
pub fn bind(addresses: &[Address]) -> Result<Listeners, ListenError> {
    let mut sockets = Vec::new();
    for address in addresses {
        let fail = |cause| ListenError { address: address.clone(), cause };
        match address {
            Address::Unix(path) => sockets.push(bind_unix(path, address).map_err(fail)?),
            Address::Tcp { port, .. } => {
                let mut resolved = address.resolve().map_err(|error| fail(Cause::Resolve(error)))?;
                resolved.sort_unstable();
                resolved.dedup();
                if *port == 0 {
                    resolved.truncate(1);
                }
                for at in resolved {
                    // A socket for all IPv6 addresses would take the IPv4 ones too.
                    let apart =
                        addresses.iter().any(|other| other != address && matches!(other, Address::Tcp { port: same, .. } if same == port));
                    sockets.push(bind_tcp(at, apart).map_err(|error| fail(Cause::from(error)))?);
                }
            }
        }
    }
    Ok(Listeners { sockets })
}

impl Listeners {
    /// Where they listen; port 0 has become a real one.
    pub fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|listener| listener.address.clone()).collect()
    }
}

fn bind_tcp(at: SocketAddr, apart: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // A restarted server need not wait for its predecessor's connections to be forgotten; two servers at once are refused all the same.
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(apart)?;
    }
    // Accepted sockets inherit both.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(at);
    Ok(Listener { socket, address: Address::Tcp { host: bound.ip().to_string(), port: bound.port() }, _file: None })
}

fn bind_unix(path: &Path, address: &Address) -> Result<Listener, Cause> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Cause::System(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Cause::NotASocket),
        // Left behind by a server that was killed: nobody answers.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(Cause::System)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // It answers, or has no room for us at the moment.
            _ => return Err(Cause::InUse),
        },
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.into(), device: made.dev(), inode: made.ino() };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener { socket, address: address.clone(), _file: Some(file) })
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if same {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Cause {
        if error.kind() == ErrorKind::AddrInUse { Cause::InUse } else { Cause::System(error) }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        write!(f, "cannot listen on {address}: ")?;
        match (&self.cause, address) {
            (Cause::Resolve(error), _) => write!(f, "its host cannot be resolved: {error}"),
            (Cause::InUse, Address::Tcp { port, .. }) => {
                write!(f, "the address is in use; `ss -ltnp 'sport = :{port}'` shows by whom; choose another --listen")
            }
            (Cause::InUse, Address::Unix(_)) => write!(f, "another server listens there; stop it or choose another path"),
            (Cause::NotASocket, _) => write!(f, "a file that is no socket lies there; move it away or choose another path"),
            (Cause::System(error), Address::Tcp { port, .. }) if error.kind() == ErrorKind::PermissionDenied && *port < 1024 => {
                write!(f, "ports below 1024 need privileges ({error}); choose a higher one, or grant CAP_NET_BIND_SERVICE")
            }
            (Cause::System(error), Address::Tcp { host, .. }) if error.kind() == ErrorKind::AddrNotAvailable => {
                write!(f, "{host} is no address of this machine; 0.0.0.0 stands for all of them")
            }
            (Cause::System(error), Address::Unix(_)) if error.kind() == ErrorKind::NotFound => {
                write!(f, "its folder does not exist; create it first")
            }
            (Cause::System(error), Address::Unix(_)) if error.kind() == ErrorKind::PermissionDenied => {
                write!(f, "no permission to create it in its folder ({error})")
            }
            (Cause::System(error), _) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Resolve(error) | Cause::System(error) => Some(error),
            Cause::InUse | Cause::NotASocket => None,
        }
    }
}

/// Connections that the kernel has finished and the acceptor has not taken yet. Bidders reconnect all at once after a deployment; the kernel caps
/// this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A client that vanished without a word is noticed after 60 + 3 × 10 seconds, also where no idle timeout is set.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect(text)
    }

    #[test]
    fn refusals_name_address_cause_and_remedy() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| format!("unix:{}", folder.path().join(name).display());
        fs::write(folder.path().join("file"), "x").expect("file");
        let taken = bind(&[address("127.0.0.1:0"), address(&at("taken"))]).expect("free addresses");
        let taken_port = taken.addresses()[0].to_string();
        let cases = [
            (taken_port.as_str(), "the address is in use; `ss -ltnp"),
            (&at("taken"), "another server listens there"),
            (&at("file"), "a file that is no socket"),
            (&at("no/such/folder"), "its folder does not exist"),
            ("192.0.2.1:7400", "192.0.2.1 is no address of this machine"),
        ];
        for (text, expected) in cases {
            let error = bind(&[address(text)]).expect_err(text).to_string();
            assert!(error.starts_with(&format!("cannot listen on {text}: ")) && error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_socket_file_left_behind_is_replaced_and_removed_at_the_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gavel.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a server that is killed leaves its file"));
        assert!(path.exists());
        let listeners = bind(&[Address::Unix(path.clone())]).expect("the file is stale");
        assert!(UnixStream::connect(&path).is_ok());
        drop(listeners);
        assert!(!path.exists());
        // A successor's file is not ours.
        let listeners = bind(&[Address::Unix(path.clone())]).expect("free");
        fs::remove_file(&path).expect("removed by hand");
        let successor = bind(&[Address::Unix(path.clone())]).expect("free again");
        drop(listeners);
        assert!(UnixStream::connect(&path).is_ok(), "the successor's file must stay");
        drop(successor);
    }

    #[test]
    fn both_families_of_one_port() {
        let first = bind(&[address("0.0.0.0:0")]).expect("a port");
        let Address::Tcp { port, .. } = first.addresses()[0].clone() else { panic!("not TCP") };
        drop(first);
        match bind(&[address(&format!("0.0.0.0:{port}")), address(&format!("[::]:{port}"))]) {
            Ok(listeners) => assert_eq!(listeners.addresses().len(), 2),
            Err(error) => println!("skipped: no IPv6 here ({error})"),
        }
    }
}
