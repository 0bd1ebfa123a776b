//! An ONNX file: whatever it holds, it is converted or refused by name, in bounded memory and time; no file beside it is read.
#![no_main]

use std::path::Path;

use gavel::import::onnx::convert;
use gavel::limits::NODES_MAX;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match convert(Path::new("model.onnx"), data, &[("length".to_owned(), 3)], None) {
        Ok(converted) => assert!(converted.steps() <= NODES_MAX),
        Err(error) => assert!(error.to_string().starts_with("model.onnx: "), "{error}"),
    }
});
