//! Error codes: fixed numbers, never reused. For each: its name, whose fault it is, whether a retry can help and
//! whether the connection goes on. `PROTOCOL.md` repeats this table; a test holds the two together.

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller sent something that can never succeed.
    Client,
    /// The server's present state; nobody's mistake.
    State,
    /// The server is broken.
    Server,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $fault:ident, retry $retry:literal, closes $closes:literal;)*) => {
        /// Why a request was not answered with scores.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $variant = $number,)* }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code with this number.
            pub const fn from_u16(number: u16) -> Option<Code> {
                match number { $($number => Some(Code::$variant),)* _ => None }
            }
            /// Its name on the wire's documents, in logs and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }
            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Code::$variant => Fault::$fault,)* }
            }
            /// Whether the same request may succeed when sent again (elsewhere or later).
            pub const fn retry(self) -> bool {
                match self { $(Code::$variant => $retry,)* }
            }
            /// Whether the server closes the connection after this answer.
            pub const fn closes(self) -> bool {
                match self { $(Code::$variant => $closes,)* }
            }
        }
    };
}

codes! {
    /// The first four bytes are not the magic: this is no gavel client.
    BadMagic = 1, "bad_magic", Client, retry false, closes true;
    /// Header of another protocol version.
    VersionUnsupported = 2, "version_unsupported", Client, retry false, closes true;
    /// A kind that does not exist, or that only the server sends.
    KindUnknown = 3, "kind_unknown", Client, retry false, closes true;
    /// Flags or reserved fields that are not zero.
    HeaderMalformed = 4, "header_malformed", Client, retry false, closes true;
    /// Header and body exceed the server's frame limit.
    FrameTooLarge = 5, "frame_too_large", Client, retry false, closes true;
    /// The first frame was not a hello, or a second hello came.
    HelloRequired = 6, "hello_required", Client, retry false, closes true;
    /// The hello's token was wrong.
    Unauthorized = 7, "unauthorized", Client, retry false, closes true;
    /// A request id that is still in flight on this connection.
    BadRequest = 8, "bad_request", Client, retry false, closes true;
    /// The body is not the FlatBuffers table of its kind, or exceeds what its kind may hold.
    BodyMalformed = 20, "body_malformed", Client, retry false, closes false;
    /// No ready model has this layout: describe again.
    SignatureUnknown = 21, "signature_unknown", Client, retry false, closes false;
    /// No ready model of this name.
    ModelUnknown = 22, "model_unknown", Client, retry false, closes false;
    /// Zero candidates, or more than the model takes.
    CandidatesInvalid = 23, "candidates_invalid", Client, retry false, closes false;
    /// A block's size is not what layout, candidates and lengths demand.
    BlockSize = 24, "block_size", Client, retry false, closes false;
    /// A bag longer than its feature's limit, or more ids than a request may have.
    LengthTooLarge = 25, "length_too_large", Client, retry false, closes false;
    /// An id at or above its table's rows, and no rule for it.
    IdOutOfRange = 26, "id_out_of_range", Client, retry false, closes false;
    /// The missing value (all ones) in a feature without a missing rule.
    IdMissing = 27, "id_missing", Client, retry false, closes false;
    /// NaN in a dense feature without a rule for it, or in a weight.
    ValueNan = 28, "value_nan", Client, retry false, closes false;
    /// The mask has another length than the candidates, or a byte that is neither 0 nor 1.
    MaskInvalid = 29, "mask_invalid", Client, retry false, closes false;
    /// The bids have another length than the candidates.
    BidsInvalid = 30, "bids_invalid", Client, retry false, closes false;
    /// `rank_output` is not an output of the model.
    OutputUnknown = 31, "output_unknown", Client, retry false, closes false;
    /// The trace is not 25 bytes.
    TraceInvalid = 32, "trace_invalid", Client, retry false, closes false;
    /// The budget was spent before the answer could be queued.
    DeadlineExceeded = 40, "deadline_exceeded", State, retry false, closes false;
    /// No room, or the budget cannot be met: ask another server, or later.
    Overloaded = 41, "overloaded", State, retry true, closes false;
    /// The client gave the request up.
    Cancelled = 42, "cancelled", State, retry false, closes false;
    /// The server is going away.
    Draining = 43, "draining", State, retry true, closes false;
    /// The connection has as many unanswered requests as it may have.
    InFlightLimit = 44, "in_flight_limit", State, retry true, closes false;
    /// The server holds as many connections as it may hold.
    ConnectionLimit = 45, "connection_limit", State, retry true, closes true;
    /// A broken invariant of the server.
    Internal = 60, "internal", Server, retry true, closes false;
    /// The engine could not run the batch.
    EngineFailed = 61, "engine_failed", Server, retry true, closes false;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), *self as u16)
    }
}
