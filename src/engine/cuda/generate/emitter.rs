//! Tasks to calls of device functions: what every family's file here starts from.

use std::fmt::Write;

use crate::batch::{IdTarget, Layout, ScopeLayout};
use crate::engine::cpu::plan::constant::Constant;
use crate::engine::cpu::plan::lower::Lowered;
use crate::engine::cpu::plan::origins::Piece;
use crate::engine::cpu::plan::task::{PlanValue, Task, ValueIndex, Work};
use crate::engine::cuda::program::DeviceTable;
use crate::model::{DType, Model, Scope, ValueScope};

use super::blob::Blob;
use super::place::{Place, Places, Region};
use super::{Numbers, Target};

/// Makes the steps of one task.
pub struct Emitter<'e, 'a> {
    /// The task.
    pub task: &'e Task<'a>,
    /// The plan that it is of.
    pub lowered: &'e Lowered<'a>,
    /// Where values lie.
    pub places: &'e mut Places,
    /// Layout of the inputs.
    pub layout: &'e Layout,
    /// The model.
    pub model: &'e Model,
    /// What is generated for.
    pub target: &'e Target,
    /// Numbers that kernels read.
    pub blob: &'e mut Blob,
    /// Numbers that libraries read.
    pub product_blob: &'e mut Blob,
    /// Tables that kernels read, in the order of `Job::tables`.
    pub tables: &'e mut Vec<DeviceTable>,
    /// Where types and tables of the task's own go, before the kernel.
    pub definitions: &'e mut String,
    /// Steps of the kernel, each a statement. Between two of them all threads of the block meet.
    pub steps: &'e mut Vec<String>,
    /// Distinguishes names: the number of the task.
    pub number: usize,
}

impl Emitter<'_, '_> {
    /// A value.
    pub fn value(&self, value: ValueIndex) -> &PlanValue {
        &self.lowered.values[value]
    }

    /// The value that the task makes.
    pub fn out(&self) -> &PlanValue {
        self.value(self.task.out)
    }

    /// Adds a step.
    pub fn step(&mut self, statement: impl Into<String>) {
        self.steps.push(statement.into());
    }

    /// Adds a definition.
    pub fn define(&mut self, text: &str) {
        let _ = writeln!(self.definitions, "{text}");
    }

    /// Whether the step belongs to the candidates' kernel.
    pub fn is_candidate(&self) -> bool {
        self.out().scope == ValueScope::Candidate
    }

    /// The type through which steps reach the rows of a value from its element `first` on.
    pub fn view_from(&mut self, value: ValueIndex, first: usize) -> String {
        let is_candidate = self.is_candidate();
        view(self.lowered, self.places, self.blob, value, first, is_candidate)
    }

    /// The type through which steps reach the rows of a value.
    pub fn view(&mut self, value: ValueIndex) -> String {
        self.view_from(value, 0)
    }

    /// The view of the value that the task makes.
    pub fn out_view(&mut self) -> String {
        self.view(self.task.out)
    }

    /// A view of an optional operand.
    pub fn view_or_none(&mut self, value: Option<ValueIndex>) -> String {
        value.map_or_else(|| "None".to_owned(), |value| self.view(value))
    }

    /// Memory for the steps of this task alone: a view with `bytes` per row (4 bytes an element), in shared memory where some is left.
    pub fn shared_room(&mut self, bytes: usize) -> String {
        let Place { region, offset, stride, .. } = self.places.room(self.number, bytes);
        format!("{}<float, {offset}, {}>", region.of_tile(), stride / size_of::<f32>())
    }

    /// The same for the block as a whole: row 0 of the view is `bytes` bytes, on a boundary of 128.
    pub fn block_room(&mut self, bytes: usize) -> String {
        let tile = self.places.tile;
        let Place { region, offset, .. } = self.places.room(self.number, bytes.div_ceil(tile));
        format!("{}<uint8_t, {offset}, 0>", region.of_tile())
    }

    /// A view of a piece.
    pub fn piece(&mut self, piece: &Piece) -> String {
        self.view_from(piece.value, piece.first)
    }

    /// A struct with `at(b, r, v)`: where vector `v` of row `r` lies, of vectors that are pieces; gives its name.
    pub fn vectors(&mut self, vectors: &[Piece]) -> String {
        let name = format!("Vectors{}", self.number);
        let mut text = format!("struct {name} {{\n    DEV static const float* at(const Block& b, int r, int v) {{\n");
        for run in self.vector_runs(vectors) {
            let _ = writeln!(text, "        {}return {};", run.condition(vectors.len()), run.address());
        }
        text.push_str("    }\n};");
        self.define(&text);
        name
    }

    /// Vectors that are pieces, in order, as runs of those that lie at equal distances.
    pub fn vector_runs(&mut self, vectors: &[Piece]) -> Vec<VectorRun> {
        let spots: Vec<_> = vectors.iter().map(|vector| self.spot(vector)).collect();
        let mut runs = Vec::new();
        let mut first = 0;
        while first < vectors.len() {
            let next = spots.get(first + 1).filter(|next| next.0 == spots[first].0);
            let step = next.map_or(0, |next| next.1 - spots[first].1);
            let is_in = |at: &usize| spots[*at].0 == spots[first].0 && spots[*at].1 == spots[first].1 + (*at - first) as isize * step;
            let end = (first..vectors.len()).take_while(is_in).last().map_or(first, |last| last + 1);
            runs.push(VectorRun { first, end, view: self.view_from(vectors[first].value, vectors[first].first), step });
            first = end;
        }
        runs
    }

    /// What two pieces have in common whose distance is the same in every row, and the element at which this one starts.
    fn spot(&self, piece: &Piece) -> ((Option<Region>, usize, usize), isize) {
        let planned = self.value(piece.value);
        if planned.scope == ValueScope::Constant {
            return ((None, piece.value, 0), piece.first as isize);
        }
        let bytes = if self.places.is_narrow(piece.value) { 2 } else { planned.element_bytes() };
        let place = self.places.of(piece.value, bytes);
        let first = (place.first + piece.first) as isize;
        match place.region {
            Region::Work => ((Some(place.region), place.stride, place.offset), first),
            region => ((Some(region), place.stride, bytes), first + (place.offset / bytes) as isize),
        }
    }

    /// Layout of a feature's scope, the map from rows of the tile to its rows, and whether it is a candidate feature (C++).
    pub fn feature_rows(&self, scope: Scope) -> (&ScopeLayout, &'static str, bool) {
        let through_context = scope == Scope::Context && self.is_candidate();
        (self.layout.scope(scope), if through_context { "ContextRows" } else { "OwnRows" }, scope == Scope::Candidate)
    }

    /// The type that finds a sparse feature's ids.
    pub fn bag(&self, feature: usize) -> String {
        let (layout, _, of_candidates) = self.feature_rows(self.model.features[feature].scope);
        let bag = layout.bag_of(feature).expect("the shape pass lets sparse features alone be looked up");
        match layout.bag_stride {
            Some(stride) => {
                let at = layout.bag_offsets[bag];
                let end = layout.bag_offsets.get(bag + 1).copied().unwrap_or(stride);
                format!("Bag<{of_candidates}, {}, {bag}, {stride}, {at}, {}>", layout.bags, end - at)
            }
            None => format!("Bag<{of_candidates}, {}, {bag}, 0, 0, 0>", layout.bags),
        }
    }

    /// Adds the steps of the task.
    pub fn emit(&mut self) {
        let work = &self.task.work;
        if self.out().len() == 0 {
            return;
        }
        match work {
            Work::Dense { features } => self.dense(features),
            Work::Integer { feature } => self.integer(*feature),
            Work::Length { feature } => self.length(*feature),
            Work::Lookup { .. } => self.lookups(std::slice::from_ref(self.task)),
            Work::Linear { x, matrix, bias, addend, activation } => self.linear(*x, matrix, bias, *addend, *activation),
            Work::Interaction { vectors, dim, pairs, .. } => self.interaction(vectors, *dim, pairs),
            Work::Binary { .. } | Work::Unary { .. } | Work::Chain { .. } | Work::Broadcast { .. } | Work::BatchNorm { .. } => {
                self.formula_step();
            }
            Work::ClampI64 { x, min, max } => self.clamp_i64(*x, *min, *max),
            Work::Cast { x } => self.cast(*x),
            Work::Concat { xs, axis } => self.concat(xs, *axis),
            Work::View { x, first } => self.same_elements(*x, *first),
            Work::Slice { x, axis, start, step } => self.slice(*x, *axis, *start, *step),
            Work::Transpose { x, perm } => self.transpose(*x, perm),
            Work::Gather { x, axis, indices } => self.gather(*x, *axis, indices),
            Work::Sum { x, axes } => self.sum(*x, axes),
            Work::Softmax { x, axis } => self.softmax(*x, *axis),
            Work::L2Norm { x, axis, eps } => self.l2_norm(*x, *axis, *eps),
            Work::Fm { x, sums } => self.fm(*x, *sums),
            Work::Mix { weights, softmax, vectors } => self.mix(weights, *softmax, vectors),
            Work::MatMul { a, b, transpose_a, transpose_b } => self.matmul(*a, *b, *transpose_a, *transpose_b),
            Work::Generic(generic) => self.generic(generic),
            Work::Observe { .. } | Work::Quantize { .. } | Work::Int8Linear { .. } | Work::HalfLinear { .. } => {
                unreachable!("precisions of the CPU engine alone")
            }
        }
    }

    fn dense(&mut self, features: &[usize]) {
        let out = self.out_view();
        let mut at = 0;
        for &feature in features {
            let (layout, rows, of_candidates) = self.feature_rows(self.model.features[feature].scope);
            let run = layout.dense.iter().find(|run| run.feature == feature);
            let run = run.expect("the shape pass lets `dense` read dense features alone");
            let (width, column, count) = (layout.dense_width, run.column, run.width);
            let step = format!("dense_columns<{out}, {rows}, {of_candidates}, {width}, {column}, {at}, {count}>(b);");
            at += count;
            self.step(step);
        }
    }

    fn integer(&mut self, feature: usize) {
        let (out, count) = (self.out_view(), self.out().len());
        let (layout, rows, of_candidates) = self.feature_rows(self.model.features[feature].scope);
        let column = layout.ids.iter().find(|field| field.feature == feature).and_then(|field| match field.target {
            IdTarget::Integer { column } => Some(column),
            IdTarget::Bag { .. } => None,
        });
        let column = column.expect("the shape pass lets `integer` read integer features alone");
        let width = layout.int_width;
        self.step(format!("integer_columns<{out}, {rows}, {of_candidates}, {width}, {column}, {count}>(b);"));
    }

    fn length(&mut self, feature: usize) {
        let (out, bag) = (self.out_view(), self.bag(feature));
        let (_, rows, _) = self.feature_rows(self.model.features[feature].scope);
        self.step(format!("bag_length<{out}, {rows}, {bag}>(b);"));
    }

    /// Whether products are to run on tensor cores.
    pub fn is_bf16(&self) -> bool {
        self.target.numbers == Numbers::Bf16
    }
}

/// Vectors `first .. end` of a list, at equal distances.
pub struct VectorRun {
    /// Index of the first.
    pub first: usize,
    /// Index behind the last.
    pub end: usize,
    /// Of the first one's rows.
    pub view: String,
    /// Elements from vector to vector.
    pub step: isize,
}

impl VectorRun {
    /// What says, once earlier runs are out of question, that `v` is in this one; nothing where it is the last of `count` vectors.
    pub fn condition(&self, count: usize) -> String {
        if self.end == count { String::new() } else { format!("if (v < {}) ", self.end) }
    }

    /// Where vector `v` of row `r` lies.
    pub fn address(&self) -> String {
        format!("{}::row(b, r) + (v - {}) * {}", self.view, self.first, self.step)
    }
}

/// The type through which the steps of a kernel reach the rows of a value from its element `first` on.
pub fn view(lowered: &Lowered, places: &Places, blob: &mut Blob, value: ValueIndex, first: usize, is_candidate: bool) -> String {
    let planned = &lowered.values[value];
    let (bytes, element) = if places.is_narrow(value) { (2, "Bf16") } else { (planned.element_bytes(), element(planned.dtype)) };
    if planned.scope == ValueScope::Constant {
        let offset = match lowered.constants.get(&value).expect("constants that tasks read were computed") {
            Constant::F32(values) => blob.add(values),
            Constant::I64(values) => blob.add(values),
        };
        return format!("Constant<{element}, {}>", offset + first * bytes);
    }
    let place = places.of(value, bytes);
    let (first, stride) = (first + place.first, place.stride);
    let offset = place.offset + first * bytes;
    match place.region {
        Region::Shared | Region::Scratch => format!("{}<{element}, {offset}, {stride}>", place.region.of_tile()),
        Region::Work => format!("Work<{element}, {}, {first}, {stride}>", place.offset),
        Region::Kept if is_candidate => format!("KeptOf<{element}, {offset}, {}>", places.kept_bytes),
        Region::Kept => format!("Kept<{element}, {offset}, {}>", places.kept_bytes),
    }
}

/// The C++ type of an element.
pub fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::I64 => "int64_t",
    }
}

/// A C++ literal of exactly this number.
pub fn literal(value: f32) -> String {
    if value.is_nan() {
        return format!("bits_f32(0x{:08x}u)", value.to_bits());
    }
    if value.is_infinite() {
        return format!("bits_f32(0x{:08x}u)", value.to_bits());
    }
    format!("{value:?}f")
}

/// The same for integers.
pub fn literal_i64(value: i64) -> String {
    if value == i64::MIN { "(-9223372036854775807ll - 1)".to_owned() } else { format!("{value}ll") }
}
