//! Bodies that a server sends, as a client reads them: a corrupt answer is an error, never a panic.

use flatbuffers::{ForwardsUOffset, Vector};

use crate::description::{DescribedFeature, DescribedOutput, Description};
use crate::error::Code;
use crate::feature::{FeatureKind, OutputKind, Scope};
use crate::gavel_generated::gavel::wire;
use crate::verify;

/// Most values per row of a feature: the largest entry of a lengths block.
const LENGTH_MAX: u32 = u16::MAX as u32;
/// Most values per row of all features together, so that a corrupt description cannot make a reader allocate without bound.
const ROW_VALUES_MAX: u64 = 1 << 24;

/// An answer that is not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Not the FlatBuffers table of its kind.
    #[error("the body of the {0} is not the FlatBuffers table that the protocol names")]
    Malformed(&'static str),
    /// A table whose parts contradict each other.
    #[error("the {0} contradicts itself: {1}")]
    Inconsistent(&'static str, &'static str),
}

/// Body of the answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAnswerView<'a> {
    /// Name and version of the server.
    pub server: &'a str,
    /// Protocol version from here on.
    pub version: u8,
    /// Largest frame, header included, that the server reads.
    pub frame_bytes_max: u32,
    /// Most candidates of a request, over all models.
    pub candidates_max: u32,
    /// Requests that may be unanswered on this connection.
    pub in_flight_max: u32,
    /// A connection with nothing in flight is closed after so long without a frame; 0 = never.
    pub idle_timeout_ms: u32,
}

impl<'a> HelloAnswerView<'a> {
    /// Verifies a body in place.
    pub fn parse(body: &'a [u8]) -> Result<HelloAnswerView<'a>, AnswerFault> {
        let table = verify::table::<wire::HelloAnswer<'a>>(body).map_err(|_| AnswerFault::Malformed("hello answer"))?;
        Ok(HelloAnswerView {
            server: table.server().unwrap_or_default(),
            version: table.version(),
            frame_bytes_max: table.frame_bytes_max(),
            candidates_max: table.candidates_max(),
            in_flight_max: table.in_flight_max(),
            idle_timeout_ms: table.idle_timeout_ms(),
        })
    }
}

impl Description {
    /// Reads the body of a description. Memory: bounded by the body's size.
    pub fn parse(body: &[u8]) -> Result<Description, AnswerFault> {
        const WHAT: &str = "description";
        let table = verify::table_of_names::<wire::Description<'_>>(body).map_err(|_| AnswerFault::Malformed(WHAT))?;
        let names = table.feature_names();
        let count = names.map_or(0, |names| names.len());
        let kinds = bytes(table.feature_kinds());
        let scopes = bytes(table.feature_scopes());
        let id_bytes = bytes(table.feature_id_bytes());
        let flags = bytes(table.feature_flags());
        let output_names = table.output_names();
        let output_kinds = bytes(table.output_kinds());
        let lengths = [
            kinds.len(),
            scopes.len(),
            id_bytes.len(),
            flags.len(),
            table.feature_widths().map_or(0, |v| v.len()),
            table.feature_lengths_max().map_or(0, |v| v.len()),
            table.feature_rows().map_or(0, |v| v.len()),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err(AnswerFault::Inconsistent(WHAT, "the feature_* vectors differ in length"));
        }
        if output_names.map_or(0, |names| names.len()) != output_kinds.len() {
            return Err(AnswerFault::Inconsistent(WHAT, "output_names and output_kinds differ in length"));
        }
        let features = strings(names)
            .zip(kinds.iter().zip(scopes))
            .zip(table.feature_widths().into_iter().flatten().zip(table.feature_lengths_max().into_iter().flatten()))
            .zip(id_bytes.iter().zip(flags))
            .zip(table.feature_rows().into_iter().flatten())
            .map(|((((name, (kind, scope)), (width, length_max)), (id_bytes, flags)), rows)| {
                Ok(DescribedFeature {
                    name: name.to_owned(),
                    kind: FeatureKind::from_u8(*kind).ok_or(AnswerFault::Inconsistent(WHAT, "a feature kind without a meaning"))?,
                    scope: Scope::from_u8(*scope).ok_or(AnswerFault::Inconsistent(WHAT, "a feature scope without a meaning"))?,
                    width,
                    length_max,
                    id_bytes: *id_bytes,
                    flags: *flags,
                    rows,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = strings(output_names)
            .zip(output_kinds)
            .map(|(name, kind)| {
                let kind = OutputKind::from_u8(*kind).ok_or(AnswerFault::Inconsistent(WHAT, "an output kind without a meaning"))?;
                Ok(DescribedOutput { name: name.to_owned(), kind })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let description = Description {
            model: table.model().unwrap_or_default().to_owned(),
            model_version: table.model_version(),
            signature: table.signature(),
            candidates_max: table.candidates_max(),
            ids_max: table.ids_max(),
            context_id_bytes: table.context_id_bytes(),
            candidate_id_bytes: table.candidate_id_bytes(),
            features,
            outputs,
        };
        description.check()?;
        Ok(description)
    }

    /// That the fields of every feature fit each other and the sizes of the ids blocks.
    fn check(&self) -> Result<(), AnswerFault> {
        let fault = |text| Err(AnswerFault::Inconsistent("description", text));
        for feature in &self.features {
            let dense = feature.kind == FeatureKind::Dense;
            if dense != (feature.id_bytes == 0) || !matches!(feature.id_bytes, 0 | 4 | 8) {
                return fault("an id size that its kind cannot have");
            }
            if (feature.is_variable() && dense) || (!feature.is_variable() && feature.width != feature.length_max) {
                return fault("a width that its kind or length limit cannot have");
            }
            if feature.length_max > LENGTH_MAX {
                return fault("a feature with more than 65535 values per row");
            }
        }
        if self.features.iter().map(|feature| u64::from(feature.length_max)).sum::<u64>() > ROW_VALUES_MAX {
            return fault("a row of more than 2^24 values");
        }
        for (scope, id_bytes) in [(Scope::Context, self.context_id_bytes), (Scope::Candidate, self.candidate_id_bytes)] {
            let wide = self.features.iter().any(|feature| feature.scope == scope && feature.id_bytes == 8);
            if id_bytes != if wide { 8 } else { 4 } {
                return fault("an ids block whose element size is not that of its features");
            }
        }
        Ok(())
    }
}

/// Body of the answer to a rank request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoresView<'a> {
    /// The version that answered.
    pub model_version: u64,
    /// Columns, ≥ 1.
    pub outputs: usize,
    /// Rows: candidates, or winners.
    pub rows: usize,
    /// f32 little-endian, `rows` × `outputs`, at any alignment.
    pub scores: &'a [u8],
    /// One byte of [`crate::status`] bits per row; none = all zero.
    pub status: Option<&'a [u8]>,
    /// u32 little-endian candidate indices, best first; only with `top_k`.
    pub winners: Option<&'a [u8]>,
    /// [`crate::status`] bits of the context.
    pub context_status: u8,
    /// Header read to batch started, µs.
    pub queue_us: u32,
    /// Batch started to scores ready, µs.
    pub compute_us: u32,
    /// Header read to answer queued, µs.
    pub total_us: u32,
}

impl<'a> ScoresView<'a> {
    /// Verifies a body in place; the sizes of its parts fit each other. Whether they fit the request is the caller's to check.
    pub fn parse(body: &'a [u8]) -> Result<ScoresView<'a>, AnswerFault> {
        const WHAT: &str = "scores";
        let table = verify::table::<wire::Scores<'a>>(body).map_err(|_| AnswerFault::Malformed(WHAT))?;
        let outputs = usize::from(table.outputs());
        let scores = bytes(table.scores());
        if outputs == 0 || !scores.len().is_multiple_of(outputs * 4) {
            return Err(AnswerFault::Inconsistent(WHAT, "the scores are no whole number of rows"));
        }
        let rows = scores.len() / (outputs * 4);
        let status = table.status().map(|vector| vector.bytes());
        if status.is_some_and(|status| status.len() != rows) {
            return Err(AnswerFault::Inconsistent(WHAT, "status bytes and rows differ in number"));
        }
        let winners = table.winners().map(|vector| vector.bytes());
        if winners.is_some_and(|winners| winners.len() != rows * 4) {
            return Err(AnswerFault::Inconsistent(WHAT, "winners and rows differ in number"));
        }
        Ok(ScoresView {
            model_version: table.model_version(),
            outputs,
            rows,
            scores,
            status,
            winners,
            context_status: table.context_status(),
            queue_us: table.queue_us(),
            compute_us: table.compute_us(),
            total_us: table.total_us(),
        })
    }

    /// All scores, row-major.
    pub fn scores(&self) -> impl ExactSizeIterator<Item = f32> + 'a {
        self.scores.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
    }

    /// Candidate indices, best first; none where the scores are in row order.
    pub fn winners(&self) -> Option<impl ExactSizeIterator<Item = u32> + 'a> {
        self.winners.map(|winners| winners.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)))
    }
}

/// Body of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorView<'a> {
    /// The number of a [`Code`]; a newer server may use one that is not known here.
    pub code: u16,
    /// For a developer's eyes.
    pub message: &'a str,
    /// When a retry may succeed, µs; 0 = unknown.
    pub retry_after_us: u32,
}

impl<'a> ErrorView<'a> {
    /// Verifies a body in place.
    pub fn parse(body: &'a [u8]) -> Result<ErrorView<'a>, AnswerFault> {
        let table = verify::table::<wire::Error<'a>>(body).map_err(|_| AnswerFault::Malformed("error"))?;
        Ok(ErrorView { code: table.code(), message: table.message().unwrap_or_default(), retry_after_us: table.retry_after_us() })
    }

    /// The code, if this release knows it.
    pub fn known(&self) -> Option<Code> {
        Code::from_u16(self.code)
    }
}

/// Body of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainView {
    /// The connection is closed after so long at the latest.
    pub deadline_ms: u32,
}

impl DrainView {
    /// Verifies a body in place.
    pub fn parse(body: &[u8]) -> Result<DrainView, AnswerFault> {
        let table = verify::table::<wire::Drain<'_>>(body).map_err(|_| AnswerFault::Malformed("drain"))?;
        Ok(DrainView { deadline_ms: table.deadline_ms() })
    }
}

fn bytes(vector: Option<Vector<'_, u8>>) -> &[u8] {
    vector.map_or(&[], |vector| vector.bytes())
}

fn strings<'a>(vector: Option<Vector<'a, ForwardsUOffset<&'a str>>>) -> impl Iterator<Item = &'a str> {
    vector.into_iter().flatten()
}
