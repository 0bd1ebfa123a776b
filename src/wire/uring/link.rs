//! What this wire knows of a connection beyond the common part: which operations the kernel has.

use crate::wire::line::{HasLine, Line};

/// A connection.
pub struct Link {
    /// What both wires know.
    pub line: Line,
    /// The receive under way.
    pub receive: Receive,
    /// The send under way.
    pub send: Sending,
    /// Frames are larger than a provided buffer: single receives.
    pub large: bool,
    /// The length of the last large frame: what a receive between frames asks for.
    pub frame_bytes: usize,
    /// Bytes came while reading was off.
    pub unannounced: bool,
    /// The peer's end came while reading was off: the shard does not know yet.
    pub end_untold: bool,
}

impl HasLine for Link {
    fn line(&self) -> &Line {
        &self.line
    }
    fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }
}

/// What the kernel has of a connection's receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    Idle,
    Multishot,
    Single,
    /// A cancel is on its way; more bytes may come first.
    Ending,
}

/// What the kernel has of a connection's sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Idle,
    UnderWay,
    Ending,
}

impl Link {
    /// Of a free slot.
    pub fn new(line: Line) -> Link {
        Link { line, receive: Receive::Idle, send: Sending::Idle, large: false, frame_bytes: 0, unannounced: false, end_untold: false }
    }

    /// Forgets the connection that had the slot before.
    pub fn begin(&mut self) {
        (self.receive, self.send, self.large, self.frame_bytes) = (Receive::Idle, Sending::Idle, false, 0);
        (self.unannounced, self.end_untold) = (false, false);
    }
}
