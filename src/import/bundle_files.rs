//! Writing a bundle: safetensors files, digested as they are written, and the manifest.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value as Json, json};
use sha2::Digest as _;

use crate::model::Digest;

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct FileTensor<'a> {
    /// Name.
    pub name: &'a str,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: FileData<'a>,
}

/// Elements of a [`FileTensor`].
#[derive(Clone, Copy, Debug)]
pub enum FileData<'a> {
    /// F32.
    F32(&'a [f32]),
    /// F64.
    F64(&'a [f64]),
    /// I64.
    I64(&'a [i64]),
}

impl FileData<'_> {
    fn dtype(&self) -> &'static str {
        match self {
            FileData::F32(_) => "F32",
            FileData::F64(_) => "F64",
            FileData::I64(_) => "I64",
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            FileData::F32(values) => bytemuck::cast_slice(values),
            FileData::F64(values) => bytemuck::cast_slice(values),
            FileData::I64(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Writes a safetensors file and gives `{"file", "bytes", "sha256"}` as a manifest says it.
pub fn write_tensors(folder: &Path, name: &str, tensors: &[FileTensor<'_>]) -> io::Result<Json> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for FileTensor { name, shape, data } in tensors {
        let start = end;
        end += data.bytes().len();
        header.insert((*name).into(), json!({"dtype": data.dtype(), "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Json::Object(header).to_string();
    // The data begin at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(folder.join(name))?);
    let mut hasher = sha2::Sha256::new();
    let mut bytes = 0_usize;
    let length = (header.len() as u64).to_le_bytes();
    let parts = [&length[..], header.as_bytes()].into_iter().chain(tensors.iter().map(|tensor| tensor.data.bytes()));
    for part in parts {
        hasher.update(part);
        bytes += part.len();
        file.write_all(part)?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(json!({"file": name, "bytes": bytes, "sha256": Digest(hasher.finalize().into()).to_string()}))
}
