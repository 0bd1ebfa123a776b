//! The numbers that kernels read beside their arguments: packed weights, constants, index tables, side by side.

use std::collections::HashMap;

use bytemuck::{NoUninit, cast_slice};
use sha2::{Digest, Sha256};

/// Pieces on boundaries of 256 bytes, equal ones once.
#[derive(Default)]
pub struct Blob {
    bytes: Vec<u8>,
    known: HashMap<[u8; 32], usize>,
}

impl Blob {
    /// Adds elements; gives their offset in bytes.
    pub fn add<T: NoUninit>(&mut self, elements: &[T]) -> usize {
        let bytes: &[u8] = cast_slice(elements);
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(&offset) = self.known.get(&digest) {
            return offset;
        }
        let offset = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(bytes);
        self.known.insert(digest, offset);
        offset
    }

    /// All of it, whole lines.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self.bytes
    }
}

/// Where a piece may begin: every load of a kernel is aligned then.
const ALIGN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pieces_lie_once() {
        let mut blob = Blob::default();
        assert_eq!(blob.add(&[1.0f32, 2.0]), 0);
        assert_eq!(blob.add(&[3u32]), 256);
        assert_eq!(blob.add(&[1.0f32, 2.0]), 0);
        assert_eq!(blob.into_bytes().len(), 512);
    }
}
