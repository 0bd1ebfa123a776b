//! The acceptor thread: takes connections off the listening sockets and deals each to the shard with the fewest.
//!
//! A shard's load is what it was dealt less what it has finished with; the second is a counter that only the shard writes. So 64 connects in a
//! row leave no two shards more than one apart, whatever the kernel's hash would have done. (A shard that does not read its mailbox is passed
//! over once that is full.)

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use gavel_protocol::{Code, Encoder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::Listeners;
use crate::metrics::Cells;
use crate::server::mailbox::{MailSender, Undelivered};
use crate::server::placement::pin_thread_to;
use crate::wire::Waker;

/// How connections get to one shard.
pub struct ShardIntake {
    sockets: MailSender<OwnedFd>,
    cells: Arc<Cells>,
    dealt: u64,
    gone: bool,
}

impl ShardIntake {
    /// `sockets`: the shard's mailbox. `cells`: where it counts the connections that it is done with.
    pub fn new(sockets: MailSender<OwnedFd>, cells: Arc<Cells>) -> ShardIntake {
        ShardIntake { sockets, cells, dealt: 0, gone: false }
    }

    /// Connections dealt and not over.
    fn load(&self) -> u64 {
        self.dealt.saturating_sub(self.cells.connections_closed.get())
    }
}

/// The running thread.
pub struct Acceptor {
    thread: JoinHandle<()>,
    stop: Waker,
}

impl Acceptor {
    /// Starts accepting, on `cpus` (none: anywhere). A shard gets at most `connections_per_shard` at once; beyond that a client is told `connection_limit` and closed.
    pub fn start(listeners: Listeners, shards: Vec<ShardIntake>, connections_per_shard: usize, cpus: &[usize]) -> io::Result<Acceptor> {
        let stop = Waker::new()?;
        let refusal = Encoder::new().error(0, Code::ConnectionLimit, Code::ConnectionLimit.name(), 0).into();
        let dealer = Dealer {
            shards,
            load_max: connections_per_shard as u64,
            waiting: None,
            refusal,
            refused: Complaint::default(),
            starved: Complaint::default(),
        };
        let (stopped, cpus) = (stop.clone(), cpus.to_vec());
        let thread = Builder::new().name("acceptor".into()).spawn(move || {
            if let Err(error) = pin_thread_to(&cpus) {
                tracing::warn!(%error, "the acceptor shares the shards' CPUs");
            }
            accept_until(&stopped, &listeners, dealer);
        })?;
        Ok(Acceptor { thread, stop })
    }

    /// Listens no more, and removes the files of Unix sockets. Connections that were dealt stay.
    pub fn stop(self) {
        self.stop.wake();
        if self.thread.join().is_err() {
            tracing::error!("the acceptor had panicked");
        }
    }
}

struct Dealer {
    shards: Vec<ShardIntake>,
    load_max: u64,
    /// Accepted, but the mailbox of every shard that may take it is full.
    waiting: Option<OwnedFd>,
    /// The error frame for a client that finds no room.
    refusal: Box<[u8]>,
    refused: Complaint,
    starved: Complaint,
}

fn accept_until(stop: &Waker, listeners: &Listeners, mut dealer: Dealer) {
    // Until when accepting pauses because descriptors or memory ran out.
    let mut pause_until: Option<Instant> = None;
    loop {
        let pausing = pause_until.is_some_and(|until| Instant::now() < until);
        let held = pausing || dealer.waiting.is_some();
        let mut polled = vec![PollFd::new(stop, PollFlags::IN)];
        if !held {
            polled.extend(listeners.sockets.iter().map(|listener| PollFd::from_borrowed_fd(listener.socket.as_fd(), PollFlags::IN)));
        }
        let timeout = if pausing { Some(STARVED_PAUSE) } else { dealer.waiting.is_some().then_some(FULL_PAUSE) };
        match poll(&mut polled, timeout.and_then(|pause| Timespec::try_from(pause).ok()).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the acceptor cannot wait for connections");
                std::thread::sleep(STARVED_PAUSE);
            }
        }
        if !polled[0].revents().is_empty() {
            return;
        }
        let ready: Vec<bool> = polled[1..].iter().map(|entry| !entry.revents().is_empty()).collect();
        drop(polled);
        if let Some(socket) = dealer.waiting.take() {
            dealer.deal(socket);
            continue;
        }
        pause_until = None;
        for (listener, _) in listeners.sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            for _ in 0..ACCEPTS_IN_A_ROW {
                if dealer.waiting.is_some() {
                    break;
                }
                match listener.socket.accept() {
                    Ok((socket, _)) => dealer.deal(socket.into()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if is_starved(&error) => {
                        if let Some(times) = dealer.starved.due() {
                            tracing::error!(%error, times, "cannot accept connections: raise the nofile limit (ulimit -n) or the memory; trying again");
                        }
                        pause_until = Some(Instant::now() + STARVED_PAUSE);
                        break;
                    }
                    // The client gave up before it was accepted, or a network error of its own: the next one may be well.
                    Err(_) => {}
                }
            }
        }
    }
}

impl Dealer {
    fn deal(&mut self, socket: OwnedFd) {
        let mut socket = socket;
        let mut passed = vec![false; self.shards.len()];
        let mut is_full = true;
        loop {
            let least = self
                .shards
                .iter_mut()
                .enumerate()
                .filter(|(number, shard)| !passed[*number] && !shard.gone)
                .min_by_key(|(_, shard)| shard.load());
            let Some((number, shard)) = least else { break };
            if shard.load() >= self.load_max {
                break;
            }
            match shard.sockets.send(socket) {
                Ok(()) => {
                    shard.dealt += 1;
                    return;
                }
                Err((Undelivered::Gone, back)) => {
                    shard.gone = true;
                    socket = back;
                }
                Err((Undelivered::Full, back)) => {
                    is_full = false;
                    socket = back;
                }
            }
            passed[number] = true;
        }
        if is_full {
            self.refuse(Socket::from(socket));
        } else {
            self.waiting = Some(socket);
        }
    }

    /// Tells a client that there is no room, and closes. What it has sent already is read first, as far as it is there: unread bytes would make
    /// the kernel answer with a reset that destroys the refusal.
    fn refuse(&mut self, mut socket: Socket) {
        if let Some(times) = self.refused.due() {
            tracing::warn!(
                times,
                limit = self.load_max,
                "connections refused: every shard has as many as it may (limits.connections_per_shard)"
            );
        }
        let _ = socket.set_nonblocking(true);
        let _ = socket.write(&self.refusal);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read(&mut [0; 4096]);
    }
}

/// Descriptors or memory ran out: here, in the process or in the system.
fn is_starved(error: &io::Error) -> bool {
    const STARVED: [rustix::io::Errno; 4] =
        [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS, rustix::io::Errno::NOMEM];
    error.raw_os_error().is_some_and(|errno| STARVED.iter().any(|starved| starved.raw_os_error() == errno))
}

/// Something that may happen a thousand times a second and is logged once in a while.
#[derive(Default)]
struct Complaint {
    times: u64,
    last: Option<Instant>,
}

impl Complaint {
    /// Counts one more; says how many there were since the last line if a new line is due.
    fn due(&mut self) -> Option<u64> {
        self.times += 1;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}

/// Connections taken from one socket before the others and the stop are looked at.
const ACCEPTS_IN_A_ROW: usize = 64;
/// How long to wait where accepting failed for want of descriptors.
const STARVED_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait for a shard to read its mailbox.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Between two lines about the same trouble.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use gavel_protocol::Header;

    use super::super::bind;
    use super::*;
    use crate::config::Address;
    use crate::metrics::ShardCells;
    use crate::server::mailbox::{MailReceiver, mailbox};

    struct FakeShard {
        mail: MailReceiver<OwnedFd>,
        cells: ShardCells,
        held: Vec<OwnedFd>,
    }

    impl FakeShard {
        fn take(&mut self) {
            while let Some(socket) = self.mail.receive() {
                self.held.push(socket);
            }
        }
        fn drop_one(&mut self) {
            self.held.pop();
            self.cells.connections_closed.inc();
        }
    }

    fn start(shards: usize, capacity: usize, per_shard: usize, addresses: &[Address]) -> (Acceptor, Vec<FakeShard>, Vec<Address>) {
        let listeners = bind(addresses).expect("bound");
        let bound = listeners.addresses();
        let (mut intakes, mut fakes) = (Vec::new(), Vec::new());
        for _ in 0..shards {
            let (sender, mail) = mailbox(capacity, Waker::new().expect("eventfd"));
            let cells = ShardCells::new(0);
            intakes.push(ShardIntake::new(sender, cells.reader()));
            fakes.push(FakeShard { mail, cells, held: Vec::new() });
        }
        (Acceptor::start(listeners, intakes, per_shard, &[]).expect("thread"), fakes, bound)
    }

    fn until(mut done: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < limit, "not in 10 s");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn held(fakes: &mut [FakeShard]) -> Vec<usize> {
        fakes.iter_mut().for_each(FakeShard::take);
        fakes.iter().map(|fake| fake.held.len()).collect()
    }

    fn connect(address: &Address) -> OwnedFd {
        match address {
            Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).expect("connected").into(),
            Address::Unix(path) => UnixStream::connect(path).expect("connected").into(),
        }
    }

    #[test]
    fn connections_are_balanced_and_stay_so() {
        let folder = tempfile::tempdir().expect("folder");
        let addresses = ["127.0.0.1:0".parse().expect("address"), Address::Unix(folder.path().join("s"))];
        for shards in [1, 2, 3, 5, 16] {
            let (acceptor, mut fakes, bound) = start(shards, 64, 1000, &addresses);
            let mut clients: Vec<OwnedFd> = (0..64).map(|number| connect(&bound[number % 2])).collect();
            until(|| held(&mut fakes).iter().sum::<usize>() == 64);
            let counts = held(&mut fakes);
            assert!(counts.iter().max().expect("some") - counts.iter().min().expect("some") <= 1, "{counts:?}");
            // One shard loses its connections; the next ones go there.
            let lost = fakes[0].held.len();
            (0..lost).for_each(|_| fakes[0].drop_one());
            clients.extend((0..lost).map(|_| connect(&bound[0])));
            until(|| held(&mut fakes).iter().sum::<usize>() == 64);
            let counts = held(&mut fakes);
            assert!(counts.iter().max().expect("some") - counts.iter().min().expect("some") <= 1, "{counts:?}");
            acceptor.stop();
            assert!(!folder.path().join("s").exists(), "the socket's file goes with the acceptor");
        }
    }

    #[test]
    fn full_mailboxes_lose_nothing() {
        let (acceptor, mut fakes, bound) = start(2, 1, 1000, &["127.0.0.1:0".parse().expect("address")]);
        let _clients: Vec<OwnedFd> = (0..64).map(|_| connect(&bound[0])).collect();
        until(|| held(&mut fakes).iter().sum::<usize>() == 64);
        acceptor.stop();
    }

    #[test]
    fn accepted_sockets_have_their_options() {
        let (acceptor, mut fakes, bound) = start(1, 8, 8, &["127.0.0.1:0".parse().expect("address")]);
        let _client = connect(&bound[0]);
        until(|| held(&mut fakes)[0] == 1);
        let socket = Socket::from(fakes[0].held.pop().expect("one"));
        assert!(socket.tcp_nodelay().expect("option"));
        assert!(socket.keepalive().expect("option"));
        acceptor.stop();
    }

    #[test]
    fn a_full_server_says_so() {
        let (acceptor, mut fakes, bound) = start(2, 8, 2, &["127.0.0.1:0".parse().expect("address")]);
        let _clients: Vec<OwnedFd> = (0..4).map(|_| connect(&bound[0])).collect();
        until(|| held(&mut fakes) == [2, 2]);
        let mut refused = TcpStream::from(connect(&bound[0]));
        refused.set_read_timeout(Some(Duration::from_secs(5))).expect("option");
        let mut answer = Vec::new();
        refused.read_to_end(&mut answer).expect("an answer and an end");
        let header = Header::parse(answer.first_chunk().expect("a header")).expect("a frame");
        assert_eq!(header.kind, gavel_protocol::Kind::Error);
        fakes[1].drop_one();
        let _next = connect(&bound[0]);
        until(|| held(&mut fakes) == [2, 2]);
        acceptor.stop();
    }

    #[test]
    fn dead_shards_get_nothing() {
        let (acceptor, mut fakes, bound) = start(3, 8, 100, &["127.0.0.1:0".parse().expect("address")]);
        drop(fakes.remove(1));
        let _clients: Vec<OwnedFd> = (0..10).map(|_| connect(&bound[0])).collect();
        until(|| held(&mut fakes).iter().sum::<usize>() == 10);
        assert_eq!(held(&mut fakes), [5, 5]);
        acceptor.stop();
    }

    #[test]
    fn what_is_starvation() {
        for (errno, expected) in [(24, true), (23, true), (105, true), (12, true), (103, false), (11, false)] {
            assert_eq!(is_starved(&io::Error::from_raw_os_error(errno)), expected, "errno {errno}");
        }
    }
}
