//! A safetensors file written front to back, and digested on the way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::Digest as _;

use crate::model::Digest;

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Name.
    pub name: String,
    /// As the format names it: `F32`.
    pub dtype: &'static str,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes of its data.
    pub bytes: u64,
}

/// A file whose header is written.
pub struct TensorWriter {
    out: BufWriter<File>,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl TensorWriter {
    /// Makes the file and writes its header. The data of `tensors` follows in their order.
    pub fn create(path: &Path, tensors: &[Planned]) -> io::Result<TensorWriter> {
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for Planned { name, dtype, shape, bytes } in tensors {
            let start = end;
            end += bytes;
            header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        }
        let mut header = serde_json::Value::Object(header).to_string();
        // Spaces behind the JSON put the data on a multiple of eight.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut writer = TensorWriter { out, hasher: sha2::Sha256::new(), bytes: 0 };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(header.as_bytes())?;
        Ok(writer)
    }

    /// The next bytes of data.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Size and digest of the file.
    pub fn finish(self) -> io::Result<(u64, Digest)> {
        self.out.into_inner()?.sync_data()?;
        Ok((self.bytes, Digest(self.hasher.finalize().into())))
    }
}
