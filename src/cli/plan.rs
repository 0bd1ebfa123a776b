//! The plan's part of `gavel inspect`: a table for people, JSON for programs.

use std::fmt::Write as _;

use super::inspect::{bytes, count, section};
use super::precision;
use crate::engine::cpu::{Per, PlanTask, PlanWork, Program};

/// The plan as text.
pub fn text(program: &Program) -> String {
    let report = program.report();
    let (contexts, candidates) = program.steps();
    let mut text = String::new();
    // Writing to a String cannot fail: the results of `writeln!` are dropped.
    let _ = writeln!(text, "\nplan of the cpu engine for {}", program.level().name());
    let _ = writeln!(
        text,
        "  {contexts} kernels per tile of contexts, {candidates} per tile of candidates; a tile is up to {} rows",
        report.tile_rows
    );
    let _ = writeln!(text, "  {} of packed weights and constants, held once per process", bytes(program.shared_bytes() as u64));
    let _ = writeln!(
        text,
        "  {} kept per request of a batch, {} of values in a tile",
        bytes(report.bytes_per_context as u64),
        bytes(report.tile_bytes as u64)
    );
    for (name, work) in [("request", report.request), ("candidate", report.candidate)] {
        let _ = writeln!(text, "  per {name:<9} {}", totals(work));
    }
    for (per, title) in [(Per::Request, "once per request"), (Per::Candidate, "once per candidate")] {
        let tasks = report.tasks.iter().filter(|task| task.per == per && (task.kernels > 0 || has_notes(task)));
        section(&mut text, title, &["op", "value", "shape", "FLOPs", "bytes", "table bytes", "weights", "remarks"], tasks.map(row));
    }
    let unseen = report.tasks.iter().filter(|task| task.kernels == 0).count();
    let _ = writeln!(
        text,
        "\n{unseen} values lie inside others' memory and take no step. FLOPs and bytes are those of a row, sequences and bags full; a multiply-add \
         is two FLOPs. Dense layers read their weights once per tile."
    );
    text.push_str(&precision::text(program.precision()));
    text
}

/// The plan as JSON.
pub fn json(program: &Program) -> serde_json::Value {
    let (contexts, candidates) = program.steps();
    serde_json::json!({
        "engine": "cpu",
        "instructions": program.level().name(),
        "kernels_per_context_tile": contexts,
        "kernels_per_candidate_tile": candidates,
        "shared_bytes": program.shared_bytes(),
        "plan": program.report(),
        "precision": program.precision(),
    })
}

fn totals(work: PlanWork) -> String {
    format!(
        "{} FLOPs, {} of values, {} of table rows; {} of weights",
        count(work.flops),
        bytes(work.value_bytes),
        bytes(work.table_bytes),
        bytes(work.weight_bytes)
    )
}

fn has_notes(task: &PlanTask) -> bool {
    !(task.fused.is_empty() && task.hoisted.is_empty() && task.generic.is_empty())
}

fn row(task: &PlanTask) -> Vec<String> {
    let number = |number: u64, show: fn(u64) -> String| if number == 0 { String::new() } else { show(number) };
    let remarks = [("fused", &task.fused), ("hoisted", &task.hoisted), ("generic", &task.generic)];
    let remarks = remarks.into_iter().filter(|(_, list)| !list.is_empty()).map(|(word, list)| format!("{word}: {}", list.join("; ")));
    vec![
        task.op.clone(),
        task.value.clone(),
        format!("{:?}{}", task.shape, if task.integer { " i64" } else { "" }),
        number(task.work.flops, count),
        number(task.work.value_bytes, bytes),
        number(task.work.table_bytes, bytes),
        number(task.work.weight_bytes, bytes),
        remarks.collect::<Vec<_>>().join(". "),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::engine::cpu::{Hoist, Options, Simd};
    use crate::model::{LoadOptions, load};

    fn program(name: &str, hoist: Hoist) -> Program {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles").join(name);
        let model = Arc::new(load(&path, &LoadOptions::default(), &mut |_| {}).unwrap());
        Program::planned(&model, &Options { hoist, ..Options::new(Simd::detect()) }).unwrap()
    }

    /// Tasks of an op that run: (per, shape).
    fn ops<'p>(program: &'p Program, op: &str) -> Vec<(Per, &'p [usize])> {
        let tasks = program.report().tasks.iter().filter(|task| task.op == op && task.kernels > 0);
        tasks.map(|task| (task.per, task.shape.as_slice())).collect()
    }

    #[test]
    fn interactions_are_fused_and_split_by_scope() {
        let candidate = Per::Candidate;
        for name in ["dlrm", "dlrm_torchrec", "dlrm_scoped", "dlrm_torchrec_scoped"] {
            let program = program(name, Hoist::WherePaying);
            assert_eq!((ops(&program, "mat_mul"), ops(&program, "gather")), (vec![], vec![]), "{name}");
            // 27 vectors; 14 of the context where it is scoped.
            let expected: &[(Per, &[usize])] =
                if name.ends_with("scoped") { &[(Per::Request, &[91]), (candidate, &[260])] } else { &[(candidate, &[351])] };
            assert_eq!(ops(&program, "interaction"), expected, "{name}");
        }
    }

    #[test]
    fn context_inputs_of_layers_are_multiplied_once_per_request() {
        let cases = [
            // Dense vector and pairs of the context, out of 16 + 351.
            ("dlrm_scoped", "107 of 367"),
            // Eight embeddings of 8 and a dense value, out of 96 + 3.
            ("deepfm_scoped", "65 of 99"),
            ("wdl_scoped", "65 of 99"),
            ("dcn_matrix_scoped", "65 of 99"),
        ];
        for (name, share) in cases {
            let split = program(name, Hoist::WherePaying);
            let notes: Vec<&String> = split.report().tasks.iter().flat_map(|task| &task.hoisted).collect();
            assert!(notes.iter().any(|note| note.starts_with(share)), "{name}: {notes:?}");
            let whole = program(name, Hoist::Nothing);
            assert_eq!(whole.report().request, PlanWork::default(), "{name}");
            let [now, before] = [&split, &whole].map(|program| program.report().candidate);
            assert!(now.flops < before.flops && now.table_bytes < before.table_bytes, "{name}: {now:?} {before:?}");
            // Splitting adds one sum per column of a layer, and nothing else.
            let all = split.report().request.flops + now.flops;
            assert!(all < before.flops + before.flops / 20, "{name}: {all} for {}", before.flops);
        }
    }

    #[test]
    fn unscoped_models_do_nothing_per_request() {
        for name in ["dlrm", "dcn", "deepfm", "mmoe", "wdl"] {
            let program = program(name, Hoist::WherePaying);
            let report = program.report();
            assert_eq!(report.request, PlanWork::default(), "{name}");
            assert!(report.candidate.flops > 0 && report.candidate.weight_bytes > 0 && report.candidate.table_bytes > 0);
            assert!(report.tasks.iter().all(|task| task.per == Per::Candidate && task.hoisted.is_empty()));
        }
    }

    #[test]
    fn text_and_json_tell_the_same() {
        let program = program("dlrm_scoped", Hoist::WherePaying);
        let (text, json) = (text(&program), json(&program));
        for part in
            ["plan of the cpu engine", "once per request", "once per candidate", "interaction", "hoisted: 107 of 367 inputs", "fused:"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(json["plan"]["tasks"].as_array().unwrap().len(), program.report().tasks.len());
        assert_eq!(json["plan"]["candidate"]["flops"], program.report().candidate.flops);
    }
}
