//! Tensors of the file, with those whose data lie in files beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::limits::AXES_MAX;

use super::constant::{Const, Data, Elem};
use super::error::{Checked, problem};
use super::nd::count;
use super::proto;

/// Files beside the model that hold data.
#[derive(Debug)]
pub struct External {
    /// The model's folder; None where files beside it are not to be read.
    folder: Option<PathBuf>,
    open: HashMap<PathBuf, File>,
}

const DAMAGED: &str = "The file is damaged: export the model again";

impl External {
    /// Of a model in `folder`.
    pub fn new(folder: Option<PathBuf>) -> External {
        External { folder, open: HashMap::new() }
    }

    /// `bytes` bytes of the file that `entries` name.
    fn read(&mut self, entries: &[proto::Entry], bytes: usize) -> Checked<Vec<u8>> {
        let entry = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| problem(format!("external data with {key} {text:?}"), DAMAGED)),
        };
        let location = entry("location").ok_or_else(|| problem("external data without a location", DAMAGED))?;
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let remedy = "Data files must lie in the model's folder: save the model again with the data beside it";
            return Err(problem(format!("external data in {location:?}, outside the model's folder"), remedy));
        }
        let Some(folder) = &self.folder else {
            return Err(problem(format!("external data in {location:?}"), "Save the model in one file"));
        };
        let path = folder.join(relative);
        let unreadable = |error: std::io::Error| {
            problem(format!("external data in {}: {error}", path.display()), "Put the model's data files beside the model")
        };
        // A link inside the folder may still lead out of it.
        let real = path.canonicalize().map_err(unreadable)?;
        let home = folder.canonicalize().map_err(unreadable)?;
        if !real.starts_with(&home) || !real.is_file() {
            let remedy = "Data files must be regular files in the model's folder";
            return Err(problem(format!("external data in {}, which is {}", path.display(), real.display()), remedy));
        }
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(bytes as u64);
        if length != bytes as u64 {
            return Err(problem(format!("external data of {length} bytes where type and shape need {bytes}"), DAMAGED));
        }
        if !self.open.contains_key(&real) {
            self.open.insert(real.clone(), File::open(&real).map_err(unreadable)?);
        }
        let Some(file) = self.open.get_mut(&real) else { unreachable!("inserted above") };
        let size = file.metadata().map_err(unreadable)?.len();
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let found = format!("external data at {offset}, {length} bytes, of {} which has {size}", path.display());
            return Err(problem(found, "The data file is truncated: copy it again"));
        }
        let mut data = vec![0; bytes];
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut data)).map_err(unreadable)?;
        Ok(data)
    }
}

/// The tensor as a constant called `name`.
pub fn constant(tensor: proto::Tensor, name: &str, external: &mut External) -> Checked<Const> {
    let elem = Elem::of(i64::from(tensor.data_type))?;
    if tensor.dims.len() > AXES_MAX {
        return Err(problem(format!("a tensor of {} axes", tensor.dims.len()), format!("At most {AXES_MAX} can be imported")));
    }
    let shape = tensor
        .dims
        .iter()
        .map(|size| usize::try_from(*size).map_err(|_| problem(format!("a tensor of shape {:?}", tensor.dims), DAMAGED)))
        .collect::<Checked<Vec<usize>>>()?;
    let width = match elem {
        Elem::Bool | Elem::I8 | Elem::U8 => 1,
        Elem::F16 | Elem::BF16 | Elem::I16 | Elem::U16 => 2,
        Elem::F32 | Elem::I32 | Elem::U32 => 4,
        Elem::F64 | Elem::I64 | Elem::U64 => 8,
    };
    let elements = count(&shape).filter(|elements| elements.checked_mul(width).is_some());
    let elements = elements.ok_or_else(|| problem(format!("a tensor of shape {shape:?}"), DAMAGED))?;
    let wrong = |found: usize| problem(format!("a tensor of shape {shape:?} with {found} elements"), DAMAGED);
    let raw = match tensor.data_location {
        1 => Some(external.read(&tensor.external_data, elements * width)?),
        _ if !tensor.raw_data.is_empty() => Some(tensor.raw_data),
        _ => None,
    };
    let data = match raw {
        Some(raw) if raw.len() != elements * width => {
            return Err(problem(format!("a tensor of shape {shape:?} with {} bytes, expected {}", raw.len(), elements * width), DAMAGED));
        }
        Some(raw) => decode(elem, &raw),
        None => match elem {
            Elem::F32 => Data::F32(tensor.float_data),
            Elem::F64 => Data::F64(tensor.double_data),
            Elem::F16 => Data::F32(tensor.int32_data.iter().map(|bits| half::f16::from_bits(*bits as u16).to_f32()).collect()),
            Elem::BF16 => Data::F32(tensor.int32_data.iter().map(|bits| half::bf16::from_bits(*bits as u16).to_f32()).collect()),
            Elem::I64 => Data::I64(tensor.int64_data),
            Elem::U32 | Elem::U64 => Data::I64(tensor.uint64_data.iter().map(|value| *value as i64).collect()),
            _ => Data::I64(tensor.int32_data.iter().map(|value| i64::from(*value)).collect()),
        },
    };
    let result = Const { name: name.into(), elem, shape: shape.clone(), data: Rc::new(data) };
    if result.len() == elements { Ok(result) } else { Err(wrong(result.len())) }
}

fn decode(elem: Elem, raw: &[u8]) -> Data {
    fn each<const N: usize, T>(raw: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect()
    }
    match elem {
        Elem::F32 => Data::F32(each(raw, f32::from_le_bytes)),
        Elem::F64 => Data::F64(each(raw, f64::from_le_bytes)),
        Elem::F16 => Data::F32(each(raw, |bytes| half::f16::from_le_bytes(bytes).to_f32())),
        Elem::BF16 => Data::F32(each(raw, |bytes| half::bf16::from_le_bytes(bytes).to_f32())),
        Elem::I8 => Data::I64(each(raw, |bytes| i64::from(i8::from_le_bytes(bytes)))),
        Elem::U8 => Data::I64(each(raw, |[byte]| i64::from(byte))),
        Elem::Bool => Data::I64(each(raw, |[byte]| i64::from(byte != 0))),
        Elem::I16 => Data::I64(each(raw, |bytes| i64::from(i16::from_le_bytes(bytes)))),
        Elem::U16 => Data::I64(each(raw, |bytes| i64::from(u16::from_le_bytes(bytes)))),
        Elem::I32 => Data::I64(each(raw, |bytes| i64::from(i32::from_le_bytes(bytes)))),
        Elem::U32 => Data::I64(each(raw, |bytes| i64::from(u32::from_le_bytes(bytes)))),
        Elem::I64 => Data::I64(each(raw, i64::from_le_bytes)),
        Elem::U64 => Data::I64(each(raw, |bytes| u64::from_le_bytes(bytes) as i64)),
    }
}
