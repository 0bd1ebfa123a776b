//! The table of what each kernel must do for a row, and how fast that can be at best: needs no device.

use std::path::Path;

use gavel::batch::Layout;
use gavel::engine::cuda::compile::Arch;
use gavel::engine::cuda::works;
use serde_json::Value;

use crate::kernels::{Peaks, input_bytes};
use crate::shapes::{BRIEF_ROWS, cases};

/// Bytes a second of an H100 SXM and of an H200, by their data sheets; the rest is the same of both.
const MEMORY: [f64; 2] = [3.35e12, 4.8e12];

/// Rows of a batch large enough that weights count little.
const ROWS: usize = 65_536;

/// By the data sheet: 989 TFLOP/s in bf16 without sparsity, 67 TFLOP/s in f32. L2 has no published figure.
fn hopper(memory: f64) -> Peaks {
    Peaks { memory, l2: f64::NAN, bf16: 989e12, f32: 67e12, random_rows: vec![] }
}

/// Prints it as Markdown, with the shares that a run of the pack found, if its folder is given.
pub fn run(results: Option<&Path>) -> Result<(), String> {
    let arch = Arch::of_device(9, 0).map_err(|error| error.to_string())?;
    let measured = results.map(|folder| read(&folder.join("kernels.json"))).transpose()?;
    let [h100, h200] = MEMORY.map(hopper);
    println!(
        "| kernels | model: launches | FLOPs a row | of these products | inputs, bytes a row | table bytes a row | passed on, bytes a row | weights, bytes \
         | floor, ns a row: H100 | H200 | bound by | share |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |");
    for case in cases(false) {
        let model = case.model(BRIEF_ROWS)?;
        let layout = Layout::new(&model.features, model.graph.outputs.len());
        let works = works(&model, &case.target(arch)).map_err(|error| error.to_string())?;
        // Launches that do the same are one line.
        let mut lines: Vec<(&str, String, String)> = Vec::new();
        for (number, work) in works.iter().enumerate() {
            let inputs = input_bytes(&layout, &works, number);
            let [slow, fast] = [&h100, &h200].map(|peaks| peaks.floor(work, inputs, case.numbers, ROWS, ROWS / 64));
            let bound = if slow.bound == fast.bound { fast.bound.into() } else { format!("{}; {}", slow.bound, fast.bound) };
            let figures = format!(
                "{} | {} | {} | {} | {} | {} | {:.3} | {:.3} | {} | {}",
                thousands(work.flops),
                thousands(work.product_flops),
                thousands(inputs),
                thousands(work.table_bytes),
                thousands(work.passed_bytes),
                thousands(work.weight_bytes),
                slow.microseconds * 1e3 / ROWS as f64,
                fast.microseconds * 1e3 / ROWS as f64,
                bound,
                share(measured.as_ref(), &case.name(), number),
            );
            let name = format!("{number}{}", if work.per_request { " (requests)" } else { "" });
            let families = case.families(work);
            match lines.iter_mut().find(|(known, _, same)| *known == families && *same == figures) {
                Some((_, launches, _)) => *launches += &format!(", {name}"),
                None => lines.push((families, name, figures)),
            }
        }
        for (families, launches, figures) in lines {
            let launches = if works.len() > 1 { format!(": {launches}") } else { String::new() };
            println!("| {families} | {}{launches} | {figures} |", case.name());
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", file.display()))
}

/// What was measured of a launch, as a share of the floor by the peaks of the same run.
fn share(measured: Option<&Value>, case: &str, launch: usize) -> String {
    let figures = measured.and_then(|measured| measured["figures"].as_array());
    let same = |row: &&Value| row["case"] == case && row["rows"] == ROWS && row["launch"] == launch;
    match figures.and_then(|figures| figures.iter().find(same)?["share of the floor"].as_f64()) {
        Some(share) => format!("{:.0} %", share * 100.0),
        None => "not yet run on hardware".into(),
    }
}

/// With commas between groups of three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}
