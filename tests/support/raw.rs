//! A client that does what it is told, frame by frame: good ones, bad ones, halves of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use gavel::config::Address;
use gavel_protocol::{Code, Description, Encoder, ErrorView, HEADER_BYTES, Header, Kind};
use socket2::{Domain, SockAddr, Socket, Type};

/// A whole frame of the server.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Frame {
    /// The code, if it is an error.
    pub fn code(&self) -> Option<Code> {
        (self.header.kind == Kind::Error).then(|| ErrorView::parse(&self.body).unwrap().known().expect("a known code"))
    }
}

/// A connection without any manners of its own.
pub struct Raw {
    pub socket: Socket,
    pub encoder: Encoder,
    bytes: Vec<u8>,
    start: usize,
}

/// Longest wait for anything: a noisy machine is no fault of the server, a hang is.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Raw {
    /// Connected; nothing is said yet.
    pub fn connect(address: &Address) -> io::Result<Raw> {
        let socket = match address {
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect(&SockAddr::unix(path)?)?;
                socket
            }
            Address::Tcp { .. } => {
                let at = address.resolve()?[0];
                let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
                socket.connect(&at.into())?;
                socket.set_tcp_nodelay(true)?;
                socket
            }
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Raw { socket, encoder: Encoder::new(), bytes: Vec::new(), start: 0 })
    }

    /// Connected, and greeted: the hello's answer was taken.
    pub fn open(address: &Address) -> Raw {
        let mut raw = Raw::connect(address).unwrap();
        raw.hello();
        raw
    }

    /// Says hello and takes the answer.
    pub fn hello(&mut self) {
        let hello = self.encoder.hello(1, "test", None).to_vec();
        self.send(&hello).unwrap();
        let frame = self.frame();
        assert_eq!((frame.header.kind, frame.header.request_id), (Kind::HelloAnswer, 1), "{:?}", frame.code());
    }

    /// Asks for a layout and takes the description.
    pub fn describe(&mut self, model: &str) -> Description {
        let frame = self.encoder.describe(2, model).to_vec();
        self.send(&frame).unwrap();
        let frame = self.frame();
        assert_eq!((frame.header.kind, frame.header.request_id), (Kind::Description, 2), "{:?}", frame.code());
        Description::parse(&frame.body).unwrap()
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&self.socket).write_all(bytes)
    }

    /// The next frame; there must be one.
    pub fn frame(&mut self) -> Frame {
        self.recv().unwrap().expect("a frame, not the end of the connection")
    }

    /// The next frame, or `None` at the end of the stream.
    pub fn recv(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered() {
                return Ok(Some(frame));
            }
            if !self.fill()? {
                assert!(self.start == self.bytes.len(), "the stream ended inside a frame");
                return Ok(None);
            }
        }
    }

    /// The next frame if it is there within `wait`.
    pub fn try_recv(&mut self, wait: Duration) -> io::Result<Option<Frame>> {
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
        let result = loop {
            if let Some(frame) = self.buffered() {
                break Ok(Some(frame));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        self.socket.set_read_timeout(Some(PATIENCE))?;
        result
    }

    /// Waits until the server has closed; gives the frames that came first, and how long it took. A reset is an end too.
    pub fn until_closed(&mut self) -> (Vec<Frame>, Duration) {
        let began = Instant::now();
        let mut frames = Vec::new();
        loop {
            match self.recv() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
                Err(error) => panic!("the server did not close within {PATIENCE:?}: {error}"),
            }
        }
        (frames, began.elapsed())
    }

    /// Sends no more.
    pub fn finish(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends with a reset (TCP), not with a goodbye.
    pub fn reset(self) {
        let _ = self.socket.set_linger(Some(Duration::ZERO));
    }

    fn buffered(&mut self) -> Option<Frame> {
        let unread = &self.bytes[self.start..];
        let header = Header::parse(unread.first_chunk::<HEADER_BYTES>()?).expect("a server's header is good");
        let body = unread.get(HEADER_BYTES..HEADER_BYTES + header.body_len as usize)?.to_vec();
        self.start += HEADER_BYTES + body.len();
        Some(Frame { header, body })
    }

    /// False at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let have = self.bytes.len();
        self.bytes.resize(have + (64 << 10), 0);
        let read = loop {
            match (&self.socket).read(&mut self.bytes[have..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(have + *read.as_ref().unwrap_or(&0));
        read.map(|bytes| bytes > 0)
    }
}
