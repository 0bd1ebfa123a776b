//! Vectors against a server: bytes in pieces, answers compared, the connection's fate.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use gavel_protocol::{Encoder, Header, Kind};

use crate::compare::difference;
use crate::vector::{Fate, Vector, frames, split};

/// How the bytes are cut.
#[derive(Clone, Copy, Debug)]
pub enum Pieces {
    Whole,
    Bytes,
    /// At random places; the seed.
    Random(u64),
}

/// How long an answer or the end of a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between random pieces, so that they arrive as pieces.
const PAUSE: Duration = Duration::from_micros(200);
/// The id of the ping that asks whether a connection is still open.
const ALIVE_ID: u64 = 0xa11e_a11e;

/// Replays one vector on a connection of its own. Error: what is not as the vector says.
pub fn replay(address: &str, hello: &Vector, vector: &Vector, pieces: Pieces) -> Result<(), String> {
    let send = vector.send.as_deref().ok_or("no request")?;
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    if vector.hello {
        bytes.extend_from_slice(hello.send.as_deref().ok_or("no hello")?);
        expected.extend_from_slice(&hello.answers);
    }
    bytes.extend_from_slice(send);
    expected.extend_from_slice(&vector.answers);

    let mut peer = Peer::connect(address)?;
    let written = peer.write(&bytes, pieces);
    if vector.fate == Fate::Open || vector.half_close {
        written?;
    }
    if vector.half_close {
        peer.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    }
    let mut found = peer.frames(expected.len())?;
    if vector.fate == Fate::Closed {
        peer.expect_end()?;
    } else {
        // The answer to this is the next frame: nothing else was on its way.
        let alive = Encoder::new().ping(ALIVE_ID, b"alive").to_vec();
        peer.write(&alive, Pieces::Whole)?;
        let pong = peer.frames(1)?;
        same(&[Encoder::new().pong(ALIVE_ID, b"alive").to_vec()], &pong)?;
    }
    sort(&mut found);
    sort(&mut expected);
    same(&expected, &found)
}

/// All vectors that leave their connection open, behind each other on one connection, ids made unique.
pub fn replay_pipelined(address: &str, hello: &Vector, vectors: &[&Vector], pieces: Pieces) -> Result<(), String> {
    let mut bytes = hello.send.clone().ok_or("no hello")?;
    let mut expected = hello.answers.clone();
    for (number, vector) in (1..).zip(vectors) {
        let (send, whole) = frames(vector.send.as_deref().ok_or("no request")?);
        if !whole {
            return Err(format!("{} does not end with a frame", vector.name));
        }
        send.into_iter().for_each(|frame| bytes.extend(renumbered(frame, number)));
        expected.extend(vector.answers.iter().map(|frame| renumbered(frame, number)));
    }
    let mut peer = Peer::connect(address)?;
    let mut writer = Peer { stream: peer.stream.try_clone().map_err(|error| error.to_string())?, received: Vec::new() };
    let mut found = std::thread::scope(|scope| {
        let written = scope.spawn(|| writer.write(&bytes, pieces));
        let found = peer.frames(expected.len())?;
        written.join().map_err(|_| "the writer panicked")??;
        Ok::<_, String>(found)
    })?;
    sort(&mut found);
    sort(&mut expected);
    same(&expected, &found)
}

/// The frame with `number << 32` added to its request id.
fn renumbered(frame: &[u8], number: u64) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let id = u64::from_le_bytes(frame[16..24].try_into().unwrap());
    frame[16..24].copy_from_slice(&id.wrapping_add(number << 32).to_le_bytes());
    frame
}

fn sort(frames: &mut [Vec<u8>]) {
    // Stable: a hello's answer stays in front of its error.
    frames.sort_by_key(|frame| split(frame).map(|(header, _)| header.request_id));
}

fn same(expected: &[Vec<u8>], found: &[Vec<u8>]) -> Result<(), String> {
    let told = |frames: &[Vec<u8>]| {
        frames.iter().filter_map(|frame| split(frame)).map(|(Header { request_id, kind, .. }, _)| (request_id, kind)).collect::<Vec<_>>()
    };
    if expected.len() != found.len() {
        return Err(format!("expected {:?}, found {:?}", told(expected), told(found)));
    }
    match expected.iter().zip(found).find_map(|(expected, found)| difference(expected, found)) {
        Some(difference) => Err(difference),
        None => Ok(()),
    }
}

struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    fn connect(address: &str) -> Result<Peer, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Peer { stream, received: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8], pieces: Pieces) -> Result<(), String> {
        let mut rest = bytes;
        let mut state = match pieces {
            Pieces::Random(seed) => seed | 1,
            _ => 1,
        };
        while !rest.is_empty() {
            let size = match pieces {
                Pieces::Whole => rest.len(),
                Pieces::Bytes => 1,
                Pieces::Random(_) => {
                    // xorshift64: Marsaglia 2003. Small pieces are likelier, large ones occur.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    std::thread::sleep(PAUSE);
                    (1 + (state >> 32) as usize % [3, 50, 400][state as usize % 3]).min(rest.len())
                }
            };
            let (piece, behind) = rest.split_at(size);
            self.stream.write_all(piece).map_err(|error| format!("while writing: {error}"))?;
            rest = behind;
        }
        Ok(())
    }

    /// The next `count` frames.
    fn frames(&mut self, count: usize) -> Result<Vec<Vec<u8>>, String> {
        loop {
            let (known, _) = frames(&self.received);
            if known.len() >= count {
                let found: Vec<Vec<u8>> = known[..count].iter().map(|frame| frame.to_vec()).collect();
                let bytes: usize = found.iter().map(Vec::len).sum();
                self.received.drain(..bytes);
                return Ok(found);
            }
            let told: Vec<(u64, Kind)> =
                known.iter().filter_map(|frame| split(frame)).map(|(header, _)| (header.request_id, header.kind)).collect();
            if self.read().map_err(|error| format!("{error} after {told:?} of {count} answers"))? == 0 {
                return Err(format!("closed after {told:?} of {count} answers"));
            }
        }
    }

    fn read(&mut self) -> Result<usize, String> {
        let mut more = [0; 1 << 16];
        let bytes = self.stream.read(&mut more).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "nothing came".to_owned(),
            _ => error.to_string(),
        })?;
        self.received.extend_from_slice(&more[..bytes]);
        Ok(bytes)
    }

    /// The server closes, and has nothing more to say.
    fn expect_end(&mut self) -> Result<(), String> {
        while self.read().map_err(|error| format!("instead of the end: {error}"))? > 0 {}
        let (more, _) = frames(&self.received);
        if self.received.is_empty() { Ok(()) } else { Err(format!("{} frames too many", more.len())) }
    }
}
