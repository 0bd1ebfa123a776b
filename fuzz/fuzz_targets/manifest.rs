//! A manifest and a safetensors file: whatever they hold, they are read or refused by name. A graph that was read is in execution order, and
//! every output is one number.
#![no_main]

use std::path::Path;

use gavel::model::{Manifest, TensorDType, TensorFile};
use libfuzzer_sys::fuzz_target;

/// Tensors that the graph of a seed names.
const TENSORS: [(&str, TensorDType, &[usize]); 3] =
    [("hidden.weight", TensorDType::F32, &[4, 25]), ("hidden.bias", TensorDType::F32, &[4]), ("head.weight", TensorDType::F32, &[2, 4])];

fuzz_target!(|data: &[u8]| {
    match Manifest::parse(Path::new("manifest.json"), data).and_then(|manifest| manifest.graph(&TENSORS)) {
        Ok(graph) => {
            for node in &graph.nodes {
                assert!(node.op.inputs().iter().all(|input| *input < node.out), "in execution order");
            }
            assert!(graph.outputs.iter().all(|output| graph.value(output.value).len() == 1), "one number a row");
        }
        Err(error) => assert!(error.to_string().starts_with("manifest.json: "), "{error}"),
    }
    match TensorFile::parse(Path::new("weights.safetensors"), data.to_vec()) {
        Ok(file) => {
            for name in file.names() {
                let tensor = file.tensor(name).expect("a name of the file");
                let _ = (tensor.f64s(), tensor.i64s());
            }
        }
        Err(fault) => assert!(fault.to_string().contains("weights.safetensors"), "{fault}"),
    }
});
