//! The table of what each kernel of the published models must do for a row, and how fast that can be at best: needs no device.

use gavel::engine::cuda::compile::Arch;
use gavel::engine::cuda::works;

use crate::kernels::Peaks;
use crate::shapes::{BRIEF_ROWS, CASES};

/// An H100 SXM by its data sheet: 3.35 TB/s, 989 TFLOP/s in bf16 without sparsity, 67 TFLOP/s in f32. L2 has no published figure.
const H100: Peaks = Peaks { memory: 3.35e12, l2: f64::NAN, bf16: 989e12, f32: 67e12 };

/// Rows of a batch large enough that weights count little.
const ROWS: usize = 65_536;

/// Prints it as Markdown.
pub fn run() -> Result<(), String> {
    let h100 = Arch::of_device(9, 0).map_err(|error| error.to_string())?;
    println!(
        "| model | launch | tasks | FLOPs a row | of these products | table bytes a row | passed on, bytes a row | weights, bytes | floor, ns a row | bound by |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    for case in CASES {
        let model = case.model(BRIEF_ROWS)?;
        for work in works(&model, &case.target(h100)).map_err(|error| error.to_string())? {
            let floor = H100.floor(&work, case.numbers, ROWS, ROWS / 64);
            println!(
                "| {} | {}{} | {} | {} | {} | {} | {} | {} | {:.3} | {} |",
                case.name(),
                work.launch,
                if work.per_request { " (requests)" } else { "" },
                work.tasks,
                work.flops,
                work.product_flops,
                work.table_bytes,
                work.passed_bytes,
                work.weight_bytes,
                floor.microseconds * 1e3 / ROWS as f64,
                floor.bound
            );
        }
    }
    Ok(())
}
