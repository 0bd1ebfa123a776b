//! Frames into a buffer that is used again and again: after the largest frame was written once, writing allocates nothing.
//!
//! FlatBuffers are built back to front, so the header is simply pushed last, in front of its body: no byte is copied twice.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use crate::description::Description;
use crate::error::Code;
use crate::gavel_generated::gavel::wire;
use crate::header::{HEADER_BYTES, Header, Kind};
use crate::request::{PING_BYTES_MAX, RankBody};

/// Bytes of a scores frame beyond its blocks, at most: header, offsets, vtable, scalars, lengths, padding.
const SCORES_OVERHEAD_BYTES: usize = HEADER_BYTES + 128;
/// Bytes of a rank frame beyond its blocks, at most.
const RANK_OVERHEAD_BYTES: usize = HEADER_BYTES + 256;

/// Largest scores frame for so many rows and outputs, with status bytes and winners.
pub const fn scores_frame_bytes_max(rows: usize, outputs: usize) -> usize {
    SCORES_OVERHEAD_BYTES + rows * (outputs * 4 + 1 + 4)
}

/// Largest rank frame whose blocks ([`RankBody::block_bytes`]) have so many bytes together.
pub const fn rank_frame_bytes_max(block_bytes: usize) -> usize {
    RANK_OVERHEAD_BYTES + block_bytes
}

/// Answer to a rank request, as a server has it.
#[derive(Clone, Copy, Debug)]
pub struct ScoresBody<'a> {
    /// The version that answered.
    pub model_version: u64,
    /// Columns of `scores`.
    pub outputs: u16,
    /// Row-major.
    pub scores: &'a [f32],
    /// [`crate::status`] bits per row; none = all zero.
    pub status: Option<&'a [u8]>,
    /// Candidate indices, best first; only with `top_k`.
    pub winners: Option<&'a [u32]>,
    /// [`crate::status`] bits of the context.
    pub context_status: u8,
    /// Header read to batch started, µs.
    pub queue_us: u32,
    /// Batch started to scores ready, µs.
    pub compute_us: u32,
    /// Header read to answer queued, µs.
    pub total_us: u32,
}

/// What a server tells in its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAnswerBody<'a> {
    /// Name and version.
    pub server: &'a str,
    /// The version that this connection speaks from here on.
    pub version: u8,
    /// Largest frame, header included.
    pub frame_bytes_max: u32,
    /// Most candidates of a request.
    pub candidates_max: u32,
    /// Requests that may be unanswered.
    pub in_flight_max: u32,
    /// 0 = never.
    pub idle_timeout_ms: u32,
}

/// Writes frames. Each method gives a complete frame, valid until the next call.
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
    /// Frames whose body is no table.
    small: [u8; HEADER_BYTES + PING_BYTES_MAX],
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder that grows as needed.
    pub fn new() -> Encoder {
        Encoder::with_capacity(1024)
    }

    /// An encoder that has room for frames of so many bytes from the start.
    pub fn with_capacity(frame_bytes: usize) -> Encoder {
        let mut encoder =
            Encoder { builder: FlatBufferBuilder::with_capacity(frame_bytes.max(64)), small: [0; HEADER_BYTES + PING_BYTES_MAX] };
        // The builder's lists of fields and vtables get their memory here, not with the first request.
        encoder.rank(
            &Header::new(Kind::Rank, 0),
            &RankBody { mask: Some(&[]), bids: Some(&[]), top_k: 1, rank_output: 1, split_key: 1, ..RankBody::default() },
        );
        encoder
    }

    /// Server: answer to a hello.
    pub fn hello_answer(&mut self, request_id: u64, body: &HelloAnswerBody<'_>) -> &[u8] {
        self.builder.reset();
        let server = self.builder.create_string(body.server);
        let table = wire::HelloAnswer::create(
            &mut self.builder,
            &wire::HelloAnswerArgs {
                server: Some(server),
                version: body.version,
                frame_bytes_max: body.frame_bytes_max,
                candidates_max: body.candidates_max,
                in_flight_max: body.in_flight_max,
                idle_timeout_ms: body.idle_timeout_ms,
            },
        );
        self.builder.finish_minimal(table);
        self.frame(Header::new(Kind::HelloAnswer, request_id))
    }

    /// Server: a layout. The frame's header bears the description's signature.
    pub fn description(&mut self, request_id: u64, description: &Description) -> &[u8] {
        self.builder.reset();
        let builder = &mut self.builder;
        let features = &description.features;
        let names: Vec<_> = features.iter().map(|feature| builder.create_string(&feature.name)).collect();
        let output_names: Vec<_> = description.outputs.iter().map(|output| builder.create_string(&output.name)).collect();
        let args = wire::DescriptionArgs {
            model: Some(builder.create_string(&description.model)),
            model_version: description.model_version,
            signature: description.signature,
            candidates_max: description.candidates_max,
            ids_max: description.ids_max,
            context_id_bytes: description.context_id_bytes,
            candidate_id_bytes: description.candidate_id_bytes,
            feature_names: Some(builder.create_vector(&names)),
            feature_kinds: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.kind as u8))),
            feature_scopes: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.scope as u8))),
            feature_widths: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.width))),
            feature_lengths_max: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.length_max))),
            feature_id_bytes: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.id_bytes))),
            feature_flags: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.flags))),
            feature_rows: Some(builder.create_vector_from_iter(features.iter().map(|feature| feature.rows))),
            output_names: Some(builder.create_vector(&output_names)),
            output_kinds: Some(builder.create_vector_from_iter(description.outputs.iter().map(|output| output.kind as u8))),
        };
        let table = wire::Description::create(builder, &args);
        self.builder.finish_minimal(table);
        self.frame(Header { signature: description.signature, ..Header::new(Kind::Description, request_id) })
    }

    /// Server: the answer to a rank request.
    pub fn scores(&mut self, request_id: u64, signature: u64, body: &ScoresBody<'_>) -> &[u8] {
        self.builder.reset();
        let builder = &mut self.builder;
        let args = wire::ScoresArgs {
            model_version: body.model_version,
            outputs: body.outputs,
            winners: body.winners.map(|winners| builder.create_vector(bytemuck::cast_slice::<u32, u8>(winners))),
            status: body.status.map(|status| builder.create_vector(status)),
            scores: Some(builder.create_vector(bytemuck::cast_slice::<f32, u8>(body.scores))),
            context_status: body.context_status,
            queue_us: body.queue_us,
            compute_us: body.compute_us,
            total_us: body.total_us,
        };
        let table = wire::Scores::create(builder, &args);
        self.builder.finish_minimal(table);
        self.frame(Header { signature, ..Header::new(Kind::Scores, request_id) })
    }

    /// Server: a request failed. `request_id` 0 where the request's is not known.
    pub fn error(&mut self, request_id: u64, code: Code, message: &str, retry_after_us: u32) -> &[u8] {
        self.builder.reset();
        let message = self.builder.create_string(message);
        let args = wire::ErrorArgs { code: code as u16, message: Some(message), retry_after_us };
        let table = wire::Error::create(&mut self.builder, &args);
        self.builder.finish_minimal(table);
        self.frame(Header::new(Kind::Error, request_id))
    }

    /// Server: the echo of a ping's body, of which the first [`PING_BYTES_MAX`] bytes are taken.
    pub fn pong(&mut self, request_id: u64, body: &[u8]) -> &[u8] {
        self.small(Kind::Pong, request_id, body)
    }

    /// Server: no new requests from here on.
    pub fn drain(&mut self, deadline_ms: u32) -> &[u8] {
        self.builder.reset();
        let table = wire::Drain::create(&mut self.builder, &wire::DrainArgs { deadline_ms });
        self.builder.finish_minimal(table);
        self.frame(Header::new(Kind::Drain, 0))
    }

    /// Client: the first frame of a connection.
    pub fn hello(&mut self, request_id: u64, client: &str, token: Option<&[u8]>) -> &[u8] {
        self.builder.reset();
        let client = self.builder.create_string(client);
        let token = token.map(|token| self.builder.create_vector(token));
        let args = wire::HelloArgs { client: Some(client), token, version_max: crate::VERSION };
        let table = wire::Hello::create(&mut self.builder, &args);
        self.builder.finish_minimal(table);
        self.frame(Header::new(Kind::Hello, request_id))
    }

    /// Client: asks for the layout of a public name.
    pub fn describe(&mut self, request_id: u64, model: &str) -> &[u8] {
        self.describe_frame(request_id, model, 0)
    }

    /// Client: asks for the layout of a signature.
    pub fn describe_signature(&mut self, request_id: u64, signature: u64) -> &[u8] {
        self.describe_frame(request_id, "", signature)
    }

    /// Client: one context and `header.candidates` candidates. Of the header, `kind` and `body_len` are set here.
    pub fn rank(&mut self, header: &Header, body: &RankBody<'_>) -> &[u8] {
        self.builder.reset();
        let builder = &mut self.builder;
        // Back to front: the largest blocks lie next to the table.
        let args = wire::RankArgs {
            trace: body.trace.map(|trace| builder.create_vector(&trace.to_bytes())),
            bids: body.bids.map(|bids| builder.create_vector(bids)),
            mask: body.mask.map(|mask| builder.create_vector(mask)),
            weights: block(builder, body.weights),
            lengths: block(builder, body.lengths),
            ids: block(builder, body.ids),
            dense: block(builder, body.dense),
            context_weights: block(builder, body.context_weights),
            context_lengths: block(builder, body.context_lengths),
            context_ids: block(builder, body.context_ids),
            context_dense: block(builder, body.context_dense),
            top_k: body.top_k,
            rank_output: body.rank_output,
            split_key: body.split_key,
        };
        let table = wire::Rank::create(builder, &args);
        self.builder.finish_minimal(table);
        self.frame(Header { kind: Kind::Rank, ..*header })
    }

    /// Client: gives up a rank request.
    pub fn cancel(&mut self, request_id: u64) -> &[u8] {
        self.small(Kind::Cancel, request_id, &[])
    }

    /// Client: asks for an echo of `body`, of which the first [`PING_BYTES_MAX`] bytes are taken.
    pub fn ping(&mut self, request_id: u64, body: &[u8]) -> &[u8] {
        self.small(Kind::Ping, request_id, body)
    }

    /// Client: has seen the drain and sends no more requests.
    pub fn drain_answer(&mut self) -> &[u8] {
        self.small(Kind::DrainAnswer, 0, &[])
    }

    fn describe_frame(&mut self, request_id: u64, model: &str, signature: u64) -> &[u8] {
        self.builder.reset();
        let model = self.builder.create_string(model);
        let table = wire::Describe::create(&mut self.builder, &wire::DescribeArgs { model: Some(model) });
        self.builder.finish_minimal(table);
        self.frame(Header { signature, ..Header::new(Kind::Describe, request_id) })
    }

    fn small(&mut self, kind: Kind, request_id: u64, body: &[u8]) -> &[u8] {
        let body = &body[..body.len().min(PING_BYTES_MAX)];
        let header = Header { body_len: body.len() as u32, ..Header::new(kind, request_id) };
        let frame = &mut self.small[..HEADER_BYTES + body.len()];
        frame[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        frame[HEADER_BYTES..].copy_from_slice(body);
        frame
    }

    /// Puts the header in front of the finished body. A finished body is a multiple of 4 bytes long, so words of 4 need no padding.
    fn frame(&mut self, header: Header) -> &[u8] {
        let body_len = self.builder.finished_data().len();
        let header = Header { body_len: body_len as u32, ..header }.to_bytes();
        for word in header.as_chunks::<4>().0.iter().rev() {
            self.builder.push(u32::from_le_bytes(*word));
        }
        self.builder.unfinished_data()
    }
}

/// An empty block is left out.
fn block(builder: &mut FlatBufferBuilder<'static>, bytes: &[u8]) -> Option<WIPOffset<Vector<'static, u8>>> {
    (!bytes.is_empty()).then(|| builder.create_vector(bytes))
}
