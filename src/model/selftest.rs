//! The rows by which a server convinces itself, at every load, that it computes what the trainer meant.

use std::path::Path;

use crate::limits::SELFTEST_ROWS_MAX;

use super::error::Fault;
use super::graph::Output;
use super::manifest::{RowsOrigin, Tolerance};
use super::rows::{FeatureRows, Field};
use super::tensor_file::TensorFile;

/// Inputs and expected outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selftest {
    /// Inputs; every row has a context of its own.
    pub inputs: FeatureRows,
    /// Per output of the model, per row.
    pub expected: Vec<Vec<f64>>,
    /// Per output: what happened, 0 or 1 per row, where the bundle says it. Only the AUC of reduced precision looks at it.
    pub labels: Vec<Option<Vec<f64>>>,
    /// How close an engine must come.
    pub tolerance: Tolerance,
    /// Where the inputs come from.
    pub origin: RowsOrigin,
}

impl Selftest {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.inputs.rows()
    }

    /// Reads `in.FEATURE..`, `out.OUTPUT` and `label.OUTPUT` from the content of `file`.
    pub(crate) fn parse(
        file: &Path,
        bytes: Vec<u8>,
        fields: &[Field],
        outputs: &[Output],
        tolerance: Tolerance,
        origin: RowsOrigin,
    ) -> Result<Selftest, Box<Fault>> {
        let tensors = TensorFile::parse(file, bytes)?;
        let (inputs, mut ignored) = FeatureRows::from_tensors(fields, &tensors, "in.")?;
        let rows = inputs.rows();
        if rows == 0 || rows > SELFTEST_ROWS_MAX {
            return Err(Fault::new(file, "", format!("{rows} rows"), format!("1 to {SELFTEST_ROWS_MAX}"), "Export the bundle again"));
        }
        let mut expected = Vec::with_capacity(outputs.len());
        let mut labels = Vec::with_capacity(outputs.len());
        for output in outputs {
            let name = format!("out.{}", output.name);
            ignored.retain(|ignored| *ignored != name);
            let Some(tensor) = tensors.tensor(&name) else {
                let remedy = "The selftest says what each output should be";
                return Err(Fault::new(file, "", format!("no tensor {name:?}"), format!("F64 [{rows}]"), remedy));
            };
            if !matches!(tensor.shape(), [n] | [n, 1] if *n == rows) {
                return Err(tensor.fault(
                    format!("shape {:?}", tensor.shape()),
                    format!("[{rows}], the rows of the inputs"),
                    "Export the bundle again",
                ));
            }
            let values = tensor.f64s()?;
            if let Some(row) = values.iter().position(|value| !value.is_finite()) {
                return Err(tensor.fault(format!("element {row} is {}", values[row]), "a finite number", "Export the bundle again"));
            }
            expected.push(values);
            let name = format!("label.{}", output.name);
            ignored.retain(|ignored| *ignored != name);
            let label = tensors.tensor(&name).map(|tensor| {
                if !matches!(tensor.shape(), [n] | [n, 1] if *n == rows) {
                    let expected = format!("[{rows}], the rows of the inputs");
                    return Err(tensor.fault(format!("shape {:?}", tensor.shape()), expected, "Export the bundle again"));
                }
                let values = tensor.f64s()?;
                match values.iter().position(|value| *value != 0.0 && *value != 1.0) {
                    Some(row) => {
                        Err(tensor.fault(format!("element {row} is {}", values[row]), "0 or 1", "Leave labels of other kinds out"))
                    }
                    None => Ok(values),
                }
            });
            labels.push(label.transpose()?);
        }
        if let Some(name) = ignored.first() {
            return Err(Fault::new(
                file,
                format!("tensor {name:?}"),
                "neither an input nor an output of the model",
                "in.FEATURE, in.FEATURE.lengths, in.FEATURE.weights, out.OUTPUT or label.OUTPUT",
                "Check its name",
            ));
        }
        Ok(Selftest { inputs, expected, labels, tolerance, origin })
    }
}
