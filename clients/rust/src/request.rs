//! A request that was checked against its layout, ready to be sent.

use gavel_protocol::{DescribedFeature, RankBody, Scope};

use crate::build_error::{BuildError, RowName};
use crate::layout::Layout;

/// A request whose blocks have the sizes that its layout demands. Borrowed: from a [`crate::RequestBuilder`], or from the caller's blocks.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    signature: u64,
    candidates: u32,
    body: RankBody<'a>,
}

impl<'a> Request<'a> {
    /// For callers whose values lie in row-major blocks already (section 5 of PROTOCOL.md). Sizes and lengths are checked here, values by
    /// the server.
    pub fn from_blocks(layout: &Layout, candidates: u32, body: RankBody<'a>) -> Result<Request<'a>, BuildError> {
        let description = layout.description();
        let rows = candidates as usize;
        if rows == 0 {
            return Err(BuildError::NoCandidates);
        }
        if candidates > description.candidates_max {
            return Err(BuildError::CandidatesTooMany { candidates: rows, candidates_max: description.candidates_max });
        }
        let context = Blocks {
            names: ["context_dense", "context_ids", "context_lengths", "context_weights"],
            dense: body.context_dense,
            ids: body.context_ids,
            lengths: body.context_lengths,
            weights: body.context_weights,
        };
        let candidate = Blocks {
            names: ["dense", "ids", "lengths", "weights"],
            dense: body.dense,
            ids: body.ids,
            lengths: body.lengths,
            weights: body.weights,
        };
        let ids = context.check(layout, Scope::Context, 1)? + candidate.check(layout, Scope::Candidate, rows)?;
        if ids > description.ids_max as usize {
            return Err(BuildError::IdsTooMany { ids, ids_max: description.ids_max });
        }
        if let Some(mask) = body.mask {
            check_size("mask", mask, rows)?;
        }
        if let Some(bids) = body.bids {
            check_size("bids", bids, rows * 8)?;
        }
        if usize::from(body.rank_output) >= description.outputs.len() {
            return Err(BuildError::OutputUnknown { model: description.model.clone(), output: body.rank_output.to_string() });
        }
        Ok(Request { signature: layout.signature(), candidates, body })
    }

    pub(crate) fn checked(signature: u64, candidates: u32, body: RankBody<'a>) -> Request<'a> {
        Request { signature, candidates, body }
    }

    /// Which layout it has.
    pub fn signature(&self) -> u64 {
        self.signature
    }

    /// Candidates, ≥ 1.
    pub fn candidates(&self) -> u32 {
        self.candidates
    }

    /// Its blocks.
    pub fn body(&self) -> &RankBody<'a> {
        &self.body
    }
}

struct Blocks<'a> {
    names: [&'static str; 4],
    dense: &'a [u8],
    ids: &'a [u8],
    lengths: &'a [u8],
    weights: &'a [u8],
}

impl Blocks<'_> {
    /// The number of ids.
    fn check(&self, layout: &Layout, scope: Scope, rows: usize) -> Result<usize, BuildError> {
        let shape = layout.shape(scope);
        check_size(self.names[0], self.dense, rows * shape.dense_width * 4)?;
        check_size(self.names[2], self.lengths, rows * shape.variable * 2)?;
        let (mut ids, mut weights) = (0, 0);
        for index in &shape.ids {
            let (feature, _) = layout.described(*index);
            let count = if feature.is_variable() { 0 } else { rows * feature.width as usize };
            ids += count;
            weights += if feature.is_weighted() { count } else { 0 };
        }
        if shape.variable > 0 {
            let variable: Vec<&DescribedFeature> =
                shape.ids.iter().map(|index| layout.described(*index).0).filter(|feature| feature.is_variable()).collect();
            for (row, lengths) in self.lengths.chunks_exact(shape.variable * 2).enumerate() {
                for (feature, length) in variable.iter().zip(lengths.as_chunks::<2>().0) {
                    let length = usize::from(u16::from_le_bytes(*length));
                    if length > feature.length_max as usize {
                        return Err(BuildError::Length {
                            feature: feature.name.clone(),
                            row: if scope == Scope::Context { RowName::Context } else { RowName::Candidate(row) },
                            given: length,
                            allowed: feature.length_max as usize,
                            exact: false,
                        });
                    }
                    ids += length;
                    weights += if feature.is_weighted() { length } else { 0 };
                }
            }
        }
        check_size(self.names[1], self.ids, ids * shape.id_bytes)?;
        check_size(self.names[3], self.weights, weights * 4)?;
        Ok(ids)
    }
}

fn check_size(block: &'static str, bytes: &[u8], expected: usize) -> Result<(), BuildError> {
    if bytes.len() == expected { Ok(()) } else { Err(BuildError::BlockSize { block, given: bytes.len(), expected }) }
}
