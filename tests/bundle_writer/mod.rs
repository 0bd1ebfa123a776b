//! Writes small bundles for tests: a manifest as JSON, tensors by name. Sizes and digests are filled in.
#![allow(dead_code)] // each test uses some of it

use std::fs;
use std::path::{Path, PathBuf};

use gavel::model::{Digest, LoadError, LoadOptions, Model, load};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to write.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "F32", shape: shape.into(), bytes }
}

pub fn f64s(name: &str, shape: &[usize], values: &[f64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "F64", shape: shape.into(), bytes }
}

pub fn i64s(name: &str, shape: &[usize], values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "I64", shape: shape.into(), bytes }
}

pub fn u8s(name: &str, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor { name: name.into(), dtype: "U8", shape: shape.into(), bytes: bytes.into() }
}

/// Of 2 bytes each: `F16` or `BF16`.
pub fn halves(name: &str, dtype: &'static str, shape: &[usize], bits: &[u16]) -> Tensor {
    let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype, shape: shape.into(), bytes }
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let offsets = [data.len(), data.len() + tensor.bytes.len()];
        header.insert(tensor.name.clone(), json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}));
        data.extend(&tensor.bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A bundle in the making.
#[derive(Clone)]
pub struct Draft {
    /// `weights` and `selftest` are filled in by [`Draft::write`] unless they are there.
    pub manifest: Value,
    pub weights: Vec<Tensor>,
    pub selftest: Vec<Tensor>,
}

impl Draft {
    /// One dense feature `x` of `width`, the graph given, whose value `y` of `elements` elements becomes outputs `y0`, `y1`, ..
    pub fn of_op(width: usize, rows: &[&[f32]], graph: Value, weights: Vec<Tensor>, elements: usize) -> Draft {
        let mut nodes = vec![json!({"op": "dense", "features": ["x"], "out": "x"})];
        nodes.extend(graph.as_array().cloned().unwrap_or_default());
        nodes.push(json!({"op": "reshape", "in": "y", "shape": [elements], "out": "y.flat"}));
        let mut outputs = Vec::new();
        let mut selftest = vec![f32s("in.x", &[rows.len(), width], &rows.concat())];
        for i in 0..elements {
            nodes.push(json!({"op": "slice", "in": "y.flat", "axis": 0, "start": i, "end": i + 1, "out": format!("y.{i}")}));
            outputs.push(json!({"name": format!("y{i}"), "value": format!("y.{i}"), "kind": "value"}));
            selftest.push(f64s(&format!("out.y{i}"), &[rows.len()], &vec![0.0; rows.len()]));
        }
        let manifest = json!({
            "format": "gavel/1",
            "name": "test",
            "tables": [],
            "features": [{"name": "x", "kind": "dense", "scope": "candidate", "width": width}],
            "graph": nodes,
            "outputs": outputs,
        });
        Draft { manifest, weights, selftest }
    }

    /// Writes the files.
    pub fn write(&self, folder: &Path) {
        let mut manifest = self.manifest.clone();
        let (weights, selftest) = (safetensors(&self.weights), safetensors(&self.selftest));
        let entry = |file: &str, bytes: &[u8]| json!({"file": file, "bytes": bytes.len(), "sha256": Digest::of(bytes).to_string()});
        let object = manifest.as_object_mut().expect("an object");
        object.entry("weights").or_insert_with(|| json!([entry("weights.safetensors", &weights)]));
        object.entry("selftest").or_insert_with(|| {
            let mut entry = entry("selftest.safetensors", &selftest);
            entry["atol"] = json!(1e-6);
            entry
        });
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("weights.safetensors"), weights).expect("weights");
        fs::write(folder.join("selftest.safetensors"), selftest).expect("selftest");
        fs::write(folder.join("manifest.json"), serde_json::to_string_pretty(&manifest).expect("JSON")).expect("manifest");
    }

    /// Writes to a fresh folder and loads.
    pub fn load(&self) -> (TempDir, Result<Model, LoadError>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        self.write(folder.path());
        let model = load_from(folder.path());
        (folder, model)
    }
}

pub fn load_from(folder: &Path) -> Result<Model, LoadError> {
    load(folder, &LoadOptions::default(), &mut |_| {})
}

/// A bundle of the repository.
pub fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name)
}

/// A copy of it, to be damaged.
pub fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in ["manifest.json", "weights.safetensors", "selftest.safetensors"] {
        fs::copy(committed(name).join(file), folder.path().join(file)).expect("a copy");
    }
    folder
}
