//! Safetensors files: header checked before anything is allocated, data read tensor by tensor straight to where it stays.
//!
//! ```text
//!   0        8             8 + n
//!   | n: u64 | header JSON | data ...... end of file |
//!              {"name": {"dtype": "F32", "shape": [200, 16], "data_offsets": [0, 12800]}, ...}
//! ```
//! Accepted: little-endian data, each byte of the data part owned by exactly one tensor. Nothing is mapped.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::limits::{AXES_MAX, TENSOR_HEADER_BYTES_MAX};

use super::error::Fault;
use super::json::{At, Json, quote};
use super::weights::TensorDType;

#[cfg(target_endian = "big")]
compile_error!("files and wire are little-endian and read without conversion");

/// Element type of a stored tensor: the name in the header, with its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredType(pub String);

impl StoredType {
    /// Bytes of an element; None for types that this build does not know (they may be skipped, not read).
    fn size(&self) -> Option<u64> {
        Some(match self.0.as_str() {
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" => 1,
            "I16" | "U16" | "F16" | "BF16" => 2,
            "I32" | "U32" | "F32" => 4,
            "I64" | "U64" | "F64" => 8,
            _ => return None,
        })
    }
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: StoredType,
    pub shape: Vec<usize>,
    /// Within the data part.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl Entry {
    /// An entry of no file.
    pub fn of(name: &str, dtype: TensorDType, shape: &[usize]) -> Entry {
        let dtype = match dtype {
            TensorDType::F32 => "F32",
            TensorDType::I64 => "I64",
        };
        Entry { name: name.into(), dtype: StoredType(dtype.into()), shape: shape.into(), start: 0, bytes: 0 }
    }

    /// `F32 [200, 16]`.
    pub fn describe(&self) -> String {
        format!("{} {:?}", self.dtype.0, self.shape)
    }
}

/// The checked header of a file.
#[derive(Debug)]
pub(crate) struct Header {
    /// The raw bytes of header length and header, for whoever digests the file.
    pub raw: Vec<u8>,
    /// By offset; without gaps.
    pub entries: Vec<Entry>,
}

impl Header {
    /// Reads and checks the header of a file of `file_bytes` bytes. `Ok(Err(_))` is a fault of the file.
    pub fn read(reader: &mut impl Read, file: &Path, file_bytes: u64) -> io::Result<Result<Header, Box<Fault>>> {
        let fault =
            |found: String, expected: &str| Fault::new(file, "header", found, expected, "Copy the file again, or export the bundle again");
        if file_bytes < 8 {
            return Ok(Err(fault(format!("{file_bytes} bytes"), "at least the 8 bytes of the header's length")));
        }
        let mut raw = vec![0; 8];
        reader.read_exact(&mut raw)?;
        let mut length = [0; 8];
        length.copy_from_slice(&raw);
        let length = u64::from_le_bytes(length);
        let most = TENSOR_HEADER_BYTES_MAX.min(file_bytes - 8);
        if length > most {
            return Ok(Err(fault(format!("a header of {length} bytes"), &format!("at most {most} (the file has {file_bytes})"))));
        }
        raw.resize(8 + length as usize, 0);
        reader.read_exact(&mut raw[8..])?;
        Ok(Header::parse(file, &raw[8..], file_bytes - 8 - length).map(|entries| Header { raw, entries }))
    }

    fn parse(file: &Path, json: &[u8], data_bytes: u64) -> Result<Vec<Entry>, Box<Fault>> {
        let document = Json::parse(file, json).map_err(|mut fault| {
            fault.at = "header".into();
            fault
        })?;
        let Json::Object(items) = &document else { return Err(At::root(file, &document).wrong("an object of tensors")) };
        let mut entries = Vec::with_capacity(items.len());
        for (name, json) in items.iter().filter(|(name, _)| name != "__metadata__") {
            entries.push(entry(name, &At { path: format!("tensor {}", quote(name)), ..At::root(file, json) })?);
        }
        entries.sort_by_key(|entry: &Entry| (entry.start, entry.bytes));
        let mut end = 0;
        for entry in &entries {
            if entry.start != end {
                return Err(Fault::new(
                    file,
                    format!("tensor {}", quote(&entry.name)),
                    format!("data_offsets start at {}", entry.start),
                    format!("{end}, where the tensor before it ends"),
                    "Write the file again with a safetensors library",
                ));
            }
            end += entry.bytes;
        }
        if end != data_bytes {
            let what = if end > data_bytes { "is truncated" } else { "has bytes that belong to no tensor" };
            return Err(Fault::new(
                file,
                "",
                format!("{data_bytes} bytes of data"),
                format!("{end}, the sum of its tensors"),
                format!("The file {what}: copy it again, or export the bundle again"),
            ));
        }
        Ok(entries)
    }
}

fn entry(name: &str, at: &At<'_>) -> Result<Entry, Box<Fault>> {
    let object = at.object()?;
    let dtype = StoredType(object.required("dtype")?.text()?.to_owned());
    let shape_at = object.required("shape")?;
    let shape = shape_at.list(AXES_MAX)?.iter().map(|at| at.count(0, u32::MAX as usize)).collect::<Result<Vec<usize>, _>>()?;
    let offsets_at = object.required("data_offsets")?;
    let offsets = offsets_at.list(2)?;
    let [start, end] = offsets.as_slice() else { return Err(offsets_at.wrong("[start, end]")) };
    let (start, end) = (start.integer(0, i64::MAX)? as u64, end.integer(0, i64::MAX)? as u64);
    object.finish()?;
    let elements = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size as u64));
    let bytes = end.checked_sub(start).ok_or_else(|| offsets_at.wrong("start <= end"))?;
    let fits = match dtype.size() {
        Some(size) => elements.and_then(|elements| elements.checked_mul(size)) == Some(bytes),
        None => true,
    };
    if !fits {
        return Err(at.fault(
            format!("{} {shape:?} in {bytes} bytes", dtype.0),
            "data_offsets that fit dtype and shape",
            "Write the file again",
        ));
    }
    Ok(Entry { name: name.into(), dtype, shape, start, bytes })
}

/// A small file of tensors, read whole: selftests and inputs of the command line.
#[derive(Debug)]
pub struct TensorFile {
    file: PathBuf,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    bytes: Vec<u8>,
    data: usize,
}

/// A tensor of a [`TensorFile`].
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    file: &'a Path,
    entry: &'a Entry,
    bytes: &'a [u8],
}

impl TensorFile {
    /// Reads the content `bytes` of `file`.
    pub fn parse(file: &Path, bytes: Vec<u8>) -> Result<TensorFile, Box<Fault>> {
        let header = Header::read(&mut bytes.as_slice(), file, bytes.len() as u64)
            .unwrap_or_else(|error| Err(Fault::new(file, "header", error.to_string(), "a safetensors file", "Copy the file again")))?;
        let index = header.entries.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
        Ok(TensorFile { file: file.to_owned(), index, entries: header.entries, data: header.raw.len(), bytes })
    }

    /// Its path.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Names in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        let entry = &self.entries[*self.index.get(name)?];
        let start = self.data + entry.start as usize;
        Some(TensorRef { file: &self.file, entry, bytes: &self.bytes[start..start + entry.bytes as usize] })
    }
}

impl<'a> TensorRef<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.entry.name
    }
    /// Its shape.
    pub fn shape(&self) -> &'a [usize] {
        &self.entry.shape
    }

    /// A complaint about this tensor.
    pub fn fault(&self, found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Box<Fault> {
        Fault::new(self.file, format!("tensor {}", quote(self.name())), found, expected, remedy)
    }

    fn elements<const N: usize, T>(&self, from: impl Fn([u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks::<N>().0.iter().map(|chunk| from(*chunk)).collect()
    }

    /// Its elements as f64: F32 or F64.
    pub fn f64s(&self) -> Result<Vec<f64>, Box<Fault>> {
        match self.entry.dtype.0.as_str() {
            "F64" => Ok(self.elements(f64::from_le_bytes)),
            "F32" => Ok(self.elements(|bytes| f64::from(f32::from_le_bytes(bytes)))),
            other => Err(self.fault(other, "F64 or F32", "Convert the tensor before saving it")),
        }
    }

    /// Its elements as f32: F32 or F64 (rounded).
    pub fn f32s(&self) -> Result<Vec<f32>, Box<Fault>> {
        match self.entry.dtype.0.as_str() {
            "F32" => Ok(self.elements(f32::from_le_bytes)),
            "F64" => Ok(self.elements(|bytes| f64::from_le_bytes(bytes) as f32)),
            other => Err(self.fault(other, "F32 or F64", "Convert the tensor before saving it")),
        }
    }

    /// Its elements as i64: any integer type; U64 in two's complement.
    pub fn i64s(&self) -> Result<Vec<i64>, Box<Fault>> {
        Ok(match self.entry.dtype.0.as_str() {
            "I64" => self.elements(i64::from_le_bytes),
            "U64" => self.elements(|bytes| u64::from_le_bytes(bytes) as i64),
            "I32" => self.elements(|bytes| i64::from(i32::from_le_bytes(bytes))),
            "U32" => self.elements(|bytes| i64::from(u32::from_le_bytes(bytes))),
            "I16" => self.elements(|bytes| i64::from(i16::from_le_bytes(bytes))),
            "U16" => self.elements(|bytes| i64::from(u16::from_le_bytes(bytes))),
            "I8" => self.elements(|bytes| i64::from(i8::from_le_bytes(bytes))),
            "U8" | "BOOL" => self.elements(|bytes| i64::from(u8::from_le_bytes(bytes))),
            other => return Err(self.fault(other, "an integer type (I64, say)", "Convert the tensor before saving it")),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Result<TensorFile, Box<Fault>> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        TensorFile::parse(Path::new("t.safetensors"), bytes)
    }

    #[test]
    fn reads_tensors() {
        let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"I32","shape":[2],"data_offsets":[4,12]},
            "y":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let file = file(header, &[0, 0, 0x80, 0x3f, 255, 255, 255, 255, 7, 0, 0, 0]).unwrap();
        assert_eq!(file.tensor("x").unwrap().i64s().unwrap(), [-1, 7]);
        assert_eq!(file.tensor("y").unwrap().f32s().unwrap(), [1.0]);
        assert!(file.tensor("y").unwrap().i64s().is_err());
        assert!(file.tensor("z").is_none());
    }

    #[test]
    fn refuses_headers_that_lie() {
        let cases = [
            (r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 0, "0 bytes of data; expected 4, the sum of its tensors"),
            (r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 5, "5 bytes of data; expected 4, the sum of its tensors"),
            (r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#, 5, "data_offsets start at 1; expected 0, where"),
            (r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "F32 [2] in 4 bytes; expected data_offsets that fit"),
            (r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "expected start <= end"),
            (
                r#"{"x":{"dtype":"F64","shape":[4294967295,4294967295,4294967295],"data_offsets":[0,8]}}"#,
                8,
                "expected data_offsets that fit",
            ),
            (r#"[]"#, 0, "expected an object of tensors"),
            (r#"{"#, 0, "not valid JSON"),
        ];
        for (header, data, message) in cases {
            let error = file(header, &vec![0; data]).unwrap_err().to_string();
            assert!(error.contains(message), "{header}: {error}");
        }
        for bytes in [vec![], vec![0; 7], vec![255; 8], vec![255; 9], vec![9, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            assert!(TensorFile::parse(Path::new("t"), bytes).is_err());
        }
    }
}
