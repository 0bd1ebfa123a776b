//! The one door to FlatBuffers: a table verified in place, within limits that fit a flat message.

use flatbuffers::{Follow, InvalidFlatbuffer, Verifiable, VerifierOptions};

/// What the verifier counts beyond the bytes of a body: it visits the vtable twice. The largest vtable of the schema has 15 fields.
const APPARENT_SLACK_BYTES: usize = 128;

/// The table of a body. One table, no nesting, and no byte counted twice: blocks cannot be made to overlap so that a small body claims
/// a large payload. Bodies may lie at any address; FlatBuffers' alignments are relative to the body's start and nothing is read in place
/// but bytes.
pub(crate) fn table<'a, T>(body: &'a [u8]) -> Result<T::Inner, InvalidFlatbuffer>
where
    T: Follow<'a> + Verifiable + 'a,
{
    within::<T>(body, body.len() + APPARENT_SLACK_BYTES)
}

/// The same for a table that holds lists of names: the verifier counts the offset of a name once in the list and once at the name.
pub(crate) fn table_of_names<'a, T>(body: &'a [u8]) -> Result<T::Inner, InvalidFlatbuffer>
where
    T: Follow<'a> + Verifiable + 'a,
{
    within::<T>(body, 2 * body.len() + APPARENT_SLACK_BYTES)
}

fn within<'a, T>(body: &'a [u8], max_apparent_size: usize) -> Result<T::Inner, InvalidFlatbuffer>
where
    T: Follow<'a> + Verifiable + 'a,
{
    let options = VerifierOptions { max_depth: 1, max_tables: 1, max_apparent_size, ignore_missing_null_terminator: false };
    flatbuffers::root_with_opts::<T>(&options, body)
}
