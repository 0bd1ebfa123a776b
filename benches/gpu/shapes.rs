//! What is timed: the published models at their full size, their lookups alone, and each family of kernels in a small model that is little else.
//! Tables of many gigabytes exist on the device alone.

use std::sync::Arc;

use gavel::engine::cuda::compile::Arch;
use gavel::engine::cuda::driver::{Context, DeviceMemory};
use gavel::engine::cuda::{LaunchWork, Numbers, Program, Target};
use gavel::model::{
    DType, FeatureKind, LoadOptions, Model, Node, Op, Output, OutputKind, TableArena, TableDType, Value, ValueId, ValueScope, load,
};
use gavel::synth::{ContextShare, Family, Recipe, Shape, TableFormat, write_bundle};

use crate::arguments::Arguments;
use crate::patterns::{Given, Pattern, patterns};
use crate::rig::{Probe, Rig, text};

/// A model to be timed, and in what numbers.
#[derive(Clone, Debug)]
pub struct Case {
    pub source: Source,
    pub numbers: Numbers,
}

/// What a model is made of.
#[derive(Clone, Debug)]
pub enum Source {
    /// A published one.
    Whole(Family, TableFormat),
    /// The lookups of a published one, whose results are added up to one number a row: of features with at least so many ids.
    Lookups(Family, TableFormat, u32),
    /// A family of `kernels/` in a pattern over rows of so many elements out of a table far larger than the caches; over dense inputs if 0.
    Pattern { family: &'static str, pattern: Pattern, dim: usize },
}

/// No table of the brief runs has more rows.
pub const BRIEF_ROWS: u32 = 100;
/// Ids of a bag that is called long.
const LONG_BAG: u32 = 6;
/// Rows of a pattern's table: 256 MB of 16 elements each.
const PATTERN_ROWS: u32 = 4_000_000;

/// What of `kernels/` does most of the work; patterns, elements of their table's rows, and numbers. Families without tensor cores are the same in both.
const PATTERNS: [(&str, &str, usize, Numbers); 20] = [
    ("fm", "factorisation machine", 16, Numbers::F32),
    ("mlp_bf16", "mlp 367-512-256-1", 0, Numbers::Bf16),
    ("mlp", "mlp 367-512-256-1", 0, Numbers::F32),
    ("dot_interaction", "dot interaction, below the diagonal", 16, Numbers::Bf16),
    ("dot_interaction", "dot interaction, below the diagonal", 16, Numbers::F32),
    ("elementwise", "cross, vector", 16, Numbers::F32),
    ("mlp_bf16, elementwise", "cross, matrix", 16, Numbers::Bf16),
    ("mlp_bf16, elementwise", "cross, low rank", 16, Numbers::Bf16),
    ("experts, mlp_bf16", "gated experts, 4 of 64", 16, Numbers::Bf16),
    ("attention", "attention over 20 of 32", 32, Numbers::F32),
    ("attention, mlp_bf16", "self-attention, 4 heads of 16 over 21", 64, Numbers::Bf16),
    ("recurrent, mlp_bf16", "gru of 64 over 20 of 32", 32, Numbers::Bf16),
    ("elementwise, mlp_bf16", "layer and dice over 20 of 64", 32, Numbers::Bf16),
    ("elementwise, mlp_bf16", "compressed interaction, 20 fields of 16, 64 maps", 16, Numbers::Bf16),
    ("products", "co-action, 20 of 16 through 8 and 4", 16, Numbers::F32),
    ("window", "convolution of 3 over 50 of 32", 32, Numbers::F32),
    ("normalize", "layer norm and softmax over 20 of 64", 64, Numbers::F32),
    ("reduce", "running sums and the largest of 50 of 32", 32, Numbers::F32),
    ("picks", "the best 5 of 50 of 32", 32, Numbers::F32),
    ("trees", "boosted trees, 200 of depth 8", 0, Numbers::F32),
];

/// Those that a run is about: the ones asked for, else all, of which brief runs take a few.
pub fn wanted(arguments: &Arguments) -> Vec<Case> {
    match &arguments.case {
        Some(text) => cases(false).into_iter().filter(|case| case.name().contains(text.as_str())).collect(),
        None => cases(!arguments.measuring),
    }
}

/// In the order of importance; two published models, one's lookups and one pattern if `brief`.
pub fn cases(brief: bool) -> Vec<Case> {
    use Family::{DlrmDcnv2, DlrmKaggle};
    use TableFormat::{Bf16, F32, Int8Rowwise};
    let case = |source, numbers| Case { source, numbers };
    let mut whole = vec![
        case(Source::Whole(DlrmKaggle, F32), Numbers::Bf16),
        case(Source::Whole(DlrmDcnv2, Bf16), Numbers::Bf16),
        case(Source::Whole(DlrmKaggle, F32), Numbers::F32),
        case(Source::Whole(DlrmDcnv2, Bf16), Numbers::F32),
    ];
    // Numbers change nothing of lookups. The nine long bags are 185 of the 214 ids, and leave shared memory for
    // tiles of 32 rows; sums of all bags fill it with 16.
    let mut lookups: Vec<Case> = [
        (DlrmKaggle, F32, 1),
        (DlrmDcnv2, Bf16, LONG_BAG),
        (DlrmDcnv2, Int8Rowwise, LONG_BAG),
        (DlrmDcnv2, F32, LONG_BAG),
        (DlrmDcnv2, Bf16, 1),
        (DlrmKaggle, Bf16, 1),
    ]
    .map(|(family, tables, ids)| case(Source::Lookups(family, tables, ids), Numbers::F32))
    .into();
    let known = patterns();
    let mut alone: Vec<Case> = PATTERNS
        .iter()
        .map(|&(family, name, dim, numbers)| {
            let pattern = known.iter().find(|pattern| pattern.name == name).expect("a pattern of that name");
            case(Source::Pattern { family, pattern: pattern.clone(), dim }, numbers)
        })
        .collect();
    if brief {
        whole.truncate(2);
        lookups.truncate(1);
        alone.truncate(1);
    }
    [whole, lookups, alone].concat()
}

impl Case {
    pub fn name(&self) -> String {
        let numbers = match self.numbers {
            Numbers::F32 => "f32",
            Numbers::Bf16 => "bf16",
        };
        match &self.source {
            Source::Whole(family, _) => format!("{} in {numbers}", family.name()),
            Source::Lookups(family, tables, 1) => format!("lookups of {}, {}", family.name(), tables.name()),
            Source::Lookups(family, tables, ids) => format!("bags of {ids} and more of {}, {}", family.name(), tables.name()),
            Source::Pattern { pattern, .. } => format!("{} in {numbers}", pattern.name),
        }
    }

    /// Families of `kernels/` that do most of a launch's work.
    pub fn families(&self, work: &LaunchWork) -> &'static str {
        match (&self.source, self.numbers) {
            (Source::Pattern { family, .. }, _) => family,
            (Source::Lookups(..), _) => "lookup_pool",
            (_, Numbers::Bf16) if work.wide => "wide, wide_hopper",
            (_, Numbers::F32) if work.wide => "wide",
            (Source::Whole(Family::DlrmKaggle, _), Numbers::Bf16) => "lookup_pool, mlp_bf16, dot_interaction",
            (Source::Whole(Family::DlrmKaggle, _), Numbers::F32) => "lookup_pool, mlp, dot_interaction",
            (_, Numbers::Bf16) if work.table_bytes > 0 => "lookup_pool, mlp_bf16",
            (_, Numbers::F32) if work.table_bytes > 0 => "lookup_pool, mlp",
            (_, Numbers::Bf16) => "mlp_bf16",
            (_, Numbers::F32) => "mlp",
        }
    }

    /// Bytes of its tables with at most `rows_cap` rows each.
    pub fn table_bytes(&self, rows_cap: u32) -> f64 {
        match &self.source {
            Source::Whole(family, tables) | Source::Lookups(family, tables, _) => {
                let shape = Shape::new(*family, rows_cap);
                shape.table_rows() as f64 * tables.row_bytes(shape.dim) as f64
            }
            Source::Pattern { dim, .. } => f64::from(PATTERN_ROWS.min(rows_cap)) * (4 * dim) as f64,
        }
    }

    /// The model with tables of at most `rows_cap` rows, whose numbers are nowhere: rows are zeros that take no memory.
    pub fn model(&self, rows_cap: u32) -> Result<Arc<Model>, String> {
        let (family, tables) = match &self.source {
            Source::Whole(family, tables) | Source::Lookups(family, tables, _) => (*family, *tables),
            Source::Pattern { pattern, dim: 0, .. } => return Ok(Arc::new(pattern.model(Given::Dense))),
            Source::Pattern { pattern, dim, .. } => {
                let mut model = pattern.model(Given::Rows { dim: *dim, rows: BRIEF_ROWS as usize });
                enlarge(&mut model, &[PATTERN_ROWS.min(rows_cap)])?;
                return Ok(Arc::new(model));
            }
        };
        let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
        let bundle = folder.path().join(family.name());
        let small = Recipe { shape: Shape::new(family, BRIEF_ROWS), seed: 1, context: ContextShare::None, tables, selftest_rows: 1 };
        write_bundle(&small, &bundle, &mut |_, _| {}).map_err(|error| error.to_string())?;
        let mut model = load(&bundle, &LoadOptions::default(), &mut |_| {}).map_err(|error| error.to_string())?;
        if let Source::Lookups(_, _, ids) = self.source {
            keep_lookups(&mut model, ids);
        }
        enlarge(&mut model, &Shape::new(family, rows_cap).rows)?;
        Ok(Arc::new(model))
    }

    /// The kernels for devices of an architecture.
    pub fn program(&self, model: &Arc<Model>, arch: Arch) -> Result<Program, String> {
        Program::new(model, &self.target(arch)).map_err(|error| error.to_string())
    }

    pub fn target(&self, arch: Arch) -> Target {
        Target::of(arch, self.numbers)
    }
}

/// Gives tables so many rows: zeros that take no memory.
fn enlarge(model: &mut Model, rows: &[u32]) -> Result<(), String> {
    for feature in &mut model.features {
        if let FeatureKind::Sparse { table, rows: known, .. } = &mut feature.kind {
            *known = rows[table.0 as usize];
        }
    }
    let sizes: Vec<usize> = model.weights.tables.iter().zip(rows).map(|(table, rows)| table.row_bytes() * *rows as usize).collect();
    let memory = TableArena::unwritten(sizes).map_err(|error| format!("room for tables: {error}"))?;
    for ((table, rows), data) in model.weights.tables.iter_mut().zip(rows).zip(memory.into_tables()) {
        (table.rows, table.data) = (*rows, data);
    }
    model.folder = None;
    Ok(())
}

/// Makes the sum of what is looked up by features of at least `ids` ids the only output; what else there was is dead code.
fn keep_lookups(model: &mut Model, ids: u32) {
    let Model { features, graph, .. } = model;
    let kept = |op: &Op| matches!(op, Op::Lookup { feature, .. } if features[*feature].width >= ids);
    let pooled: Vec<ValueId> = graph.nodes.iter().filter(|node| kept(&node.op)).map(|node| node.out).collect();
    let mut add = |shape: Vec<usize>, op| {
        let out = ValueId(graph.values.len() as u32);
        graph.values.push(Value { name: format!("lookups.{}", out.0), shape, dtype: DType::F32, scope: ValueScope::Candidate });
        graph.nodes.push(Node { out, op });
        out
    };
    let sums = pooled.into_iter().map(|x| add(vec![1], Op::ReduceSum { x, axes: vec![0], keep: true })).collect::<Vec<_>>();
    let sums = add(vec![sums.len()], Op::Concat { xs: sums, axis: 0 });
    let value = add(vec![1], Op::ReduceSum { x: sums, axes: vec![0], keep: true });
    graph.outputs = vec![Output { name: "sum".into(), kind: OutputKind::Value, value }];
}

/// Tables of a program, made on the device of a seed: small numbers, each row another.
pub fn generate(rig: &Rig, context: &Arc<Context>, program: &Program, seed: u32) -> Result<Vec<DeviceMemory>, String> {
    let mut made = Vec::with_capacity(program.tables.len());
    for (number, placed) in program.tables.iter().enumerate() {
        let table = program.model.weights.table(placed.id);
        let format = match table.dtype {
            TableDType::F32 => 0,
            TableDType::Bf16 => 1,
            // Any byte is a code; two small numbers in f16 are a small f32, so that scale and bias are finite.
            TableDType::F16 | TableDType::Int8Rowwise => 2,
            coded => return Err(format!("table {}: no numbers are generated in {}", table.name, coded.name())),
        };
        let bytes = placed.bytes(table);
        let memory = DeviceMemory::new(context, bytes).map_err(|error| format!("table {} of {bytes} bytes: {error}", table.name))?;
        let probe = Probe {
            to: memory.address(),
            count: bytes as u64 / 4,
            value: format,
            seed: seed.wrapping_mul(1_000_003).wrapping_add(number as u32),
            ..Probe::default()
        };
        // SAFETY: the kernel writes the memory from end to end; it lives until the stream was waited for.
        unsafe { rig.launch("fill", rig.full(), &probe) }.map_err(text)?;
        made.push(memory);
    }
    rig.stream.wait().map_err(text)?;
    Ok(made)
}
