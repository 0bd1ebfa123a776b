//! What wide layers do with their sums (`END` in `kernels/wide.cuh`): they store them, or compute what follows from them first.

use std::collections::HashMap;
use std::fmt::Write;

use crate::engine::cpu::plan::task::{ValueIndex, Work};
use crate::engine::cpu::walk::broadcast;

use super::dense_layers::Layer;
use super::elementwise::{Formula, Source, index_expression};
use super::emitter::Emitter;
use super::traffic::is_in_place;

/// The text of a layer's end.
#[derive(Default)]
struct End {
    /// Pairs that are loaded: name and expression of `b`, `r`, `e`.
    operands: Vec<(String, String)>,
    /// Which name a pair goes by that was loaded or computed, by the expression that loads it, or by value.
    loaded: HashMap<String, String>,
    held: HashMap<ValueIndex, String>,
    functions: String,
    /// Statements of `store`.
    steps: String,
}

impl Emitter<'_, '_> {
    /// The type of what becomes of a layer of `n` columns with this tail, and whether the tail computes anything.
    pub(super) fn end(&mut self, layer: &Layer, n: usize, tail: &[usize]) -> (String, bool) {
        let Layer { out, addend, activation, bias, .. } = layer;
        let lowered = self.lowered;
        let (own, number) = (self.task, self.number);
        let is_step = |task: &&usize| !is_in_place(&lowered.tasks[**task], lowered, self.places.homes());
        if !tail.iter().any(|task| is_step(&task)) {
            return (format!("Stored<{out}, {addend}, {n}, {activation}, {bias}>"), false);
        }
        let mut end = End::default();
        let addend = match addend.as_str() {
            "None" => "make_float2(0.0f, 0.0f)".to_owned(),
            view => end.operand(format!("pair_of<{view}, {n}>(b, r, e)")),
        };
        end.result(own.out, &format!("layer_pair<{activation}, {bias}>(b, e, first, second, {addend})"));
        self.keep(&mut end, own.out, n);
        for &at in tail {
            let task = &lowered.tasks[at];
            if is_in_place(task, lowered, self.places.homes()) {
                if let Work::View { x, .. } = &task.work
                    && lowered.values[task.out].len() == n
                    && let Some(name) = end.held.get(x).cloned()
                {
                    end.held.insert(task.out, name);
                }
                continue;
            }
            (self.task, self.number) = (task, at);
            self.tail_step(&mut end, n);
        }
        (self.task, self.number) = (own, number);
        let name = format!("End{number}");
        self.define(&end.text(&name));
        (name, true)
    }

    /// What the task computes of a pair.
    fn tail_step(&mut self, end: &mut End, n: usize) {
        let Formula { operands, lines, expression } = self.formula().expect("tails are made of elementwise tasks");
        let arguments: Vec<String> = operands.iter().map(|source| self.pair(end, source, n)).collect();
        let out = self.task.out;
        let parameters: Vec<String> = (0..arguments.len()).map(|at| format!("float x{at}")).collect();
        let _ = writeln!(end.functions, "    DEV static float value{out}({}) {{", parameters.join(", "));
        lines.iter().for_each(|line| {
            let _ = writeln!(end.functions, "        {line}");
        });
        let _ = writeln!(end.functions, "        return {expression};\n    }}");
        let call = |part: &str| {
            let arguments: Vec<String> = arguments.iter().map(|argument| format!("{argument}.{part}")).collect();
            format!("value{out}({})", arguments.join(", "))
        };
        end.result(out, &format!("make_float2({}, {})", call("x"), call("y")));
        self.keep(end, out, n);
    }

    /// An operand's pair, by name.
    fn pair(&mut self, end: &mut End, source: &Source, n: usize) -> String {
        let (view, index) = match source {
            Source::Value(value) => {
                if let Some(name) = end.held.get(value) {
                    return name.clone();
                }
                let strides = broadcast(&self.value(*value).shape, &self.out().shape);
                (self.view(*value), index_expression(&self.out().shape, &strides, 0))
            }
            Source::Numbers { offset, index } => (format!("Constant<float, {offset}>"), index.clone()),
        };
        end.operand(if index == "e" {
            format!("pair_of<{view}, {n}>(b, r, e)")
        } else {
            format!("pair_at<{view}, {n}>(b, r, e, [](int e) {{ return (void)e, {index}; }})")
        })
    }

    /// Stores a result if others read it.
    fn keep(&mut self, end: &mut End, value: ValueIndex, n: usize) {
        if self.places.has_memory(value) {
            let (view, name) = (self.view(value), &end.held[&value]);
            let _ = writeln!(end.steps, "        put_pair<{view}, {n}, 1>(b, r, e, {name}.x, {name}.y);");
        }
    }
}

impl End {
    /// A pair that is loaded before the first one is stored; gives its name.
    fn operand(&mut self, load: String) -> String {
        if let Some(name) = self.loaded.get(&load) {
            return name.clone();
        }
        let name = format!("x{}", self.operands.len());
        self.operands.push((name.clone(), load.clone()));
        self.loaded.insert(load, format!("held.{name}"));
        format!("held.{name}")
    }

    /// A pair that is computed.
    fn result(&mut self, value: ValueIndex, expression: &str) {
        let name = format!("v{value}");
        let _ = writeln!(self.steps, "        const float2 {name} = {expression};");
        self.held.insert(value, name);
    }

    fn text(&self, name: &str) -> String {
        let names: Vec<&str> = self.operands.iter().map(|(name, _)| name.as_str()).collect();
        let held = if names.is_empty() { String::new() } else { format!("float2 {}; ", names.join(", ")) };
        let loads: Vec<String> = self.operands.iter().map(|(_, load)| format!("            {load}")).collect();
        format!(
            "struct {name} {{\n    static constexpr int OPERANDS = {};\n    struct Held {{ {held}}};\n{}    DEV static Held load(const Block& b, \
             int r, int e) {{\n        return Held{{\n{}\n        }};\n    }}\n    DEV static void store(const Block& b, int r, int e, const \
             Held& held, float first, float second) {{\n        (void)held;\n{}    }}\n}};",
            names.len(),
            self.functions,
            loads.join(",\n"),
            self.steps,
        )
    }
}
