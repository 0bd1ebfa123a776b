//! Bytes from a server, cut into frames.

use std::sync::Arc;

use gavel_protocol::{HEADER_BYTES, Header};

use crate::error::Error;

const SPARE_BYTES_MIN: usize = 4096;

/// Received bytes. Grows to the largest frame and stays so.
#[derive(Debug)]
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Of the frame at `start`, header included; known once its header is here.
    frame_bytes: usize,
    frame_bytes_max: usize,
}

impl ReceiveBuffer {
    pub fn new(frame_bytes_max: usize) -> ReceiveBuffer {
        ReceiveBuffer { bytes: vec![0; 64 << 10], start: 0, end: 0, frame_bytes: HEADER_BYTES, frame_bytes_max }
    }

    /// Room for more bytes.
    pub fn spare(&mut self) -> &mut [u8] {
        let needed = self.frame_bytes.max(self.end - self.start + SPARE_BYTES_MIN);
        if self.start + needed > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if needed > self.bytes.len() {
                self.bytes.resize(needed.next_power_of_two(), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of `spare` were filled.
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }

    /// The next whole frame; it is consumed. Error: what came is no frame.
    pub fn frame(&mut self, address: &Arc<str>) -> Result<Option<(Header, &[u8])>, Error> {
        let received = &self.bytes[self.start..self.end];
        let Some(header) = received.first_chunk::<HEADER_BYTES>() else {
            self.frame_bytes = HEADER_BYTES;
            return Ok(None);
        };
        let header = Header::parse(header).map_err(|(code, _)| Error::protocol(address, format!("its header is no header: {code}")))?;
        let frame_bytes = HEADER_BYTES + header.body_len as usize;
        if frame_bytes > self.frame_bytes_max {
            let what = format!("an answer of {frame_bytes} bytes, the client takes at most {}", self.frame_bytes_max);
            return Err(Error::protocol(address, what));
        }
        self.frame_bytes = frame_bytes;
        if received.len() < frame_bytes {
            return Ok(None);
        }
        let body = self.start + HEADER_BYTES..self.start + frame_bytes;
        self.start += frame_bytes;
        self.frame_bytes = HEADER_BYTES;
        Ok(Some((header, &self.bytes[body])))
    }
}

#[cfg(test)]
mod tests {
    use gavel_protocol::{Encoder, Kind, RankBody};

    use super::*;

    #[test]
    fn frames_come_whole_in_whatever_pieces() {
        let address: Arc<str> = Arc::from("test");
        let mut encoder = Encoder::new();
        let mut stream = Vec::new();
        let sizes = [0, 1, 100, 70_000, 3, 200_000, 0];
        for (id, size) in sizes.iter().enumerate() {
            let dense = vec![id as u8; *size];
            stream.extend_from_slice(encoder.rank(&Header::new(Kind::Rank, id as u64), &RankBody { dense: &dense, ..RankBody::default() }));
        }
        for piece in [1, 47, 48, 49, 4096, 1_000_000] {
            let mut buffer = ReceiveBuffer::new(1 << 20);
            let (mut sent, mut got) = (0, 0);
            while sent < stream.len() {
                let spare = buffer.spare();
                let bytes = piece.min(spare.len()).min(stream.len() - sent);
                spare[..bytes].copy_from_slice(&stream[sent..sent + bytes]);
                buffer.filled(bytes);
                sent += bytes;
                while let Some((header, body)) = buffer.frame(&address).expect("sound frames") {
                    assert_eq!((header.request_id, header.body_len as usize), (got, body.len()));
                    let view = gavel_protocol::RankView::parse(body).expect("sound body");
                    assert!(view.dense.len() == sizes[got as usize] && view.dense.iter().all(|byte| *byte == got as u8));
                    got += 1;
                }
            }
            assert_eq!(got as usize, sizes.len(), "pieces of {piece}");
        }
    }

    #[test]
    fn garbage_and_giants_are_errors() {
        let address: Arc<str> = Arc::from("test");
        let giant = Header { body_len: 1000, ..Header::new(Kind::Scores, 1) }.to_bytes();
        for bytes in [[0xff; HEADER_BYTES], giant] {
            let mut buffer = ReceiveBuffer::new(1000);
            buffer.spare()[..HEADER_BYTES].copy_from_slice(&bytes);
            buffer.filled(HEADER_BYTES);
            assert!(matches!(buffer.frame(&address), Err(Error::Protocol { .. })));
        }
    }
}
