//! `gavel synth`: a model of a published shape with random numbers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::exit::{Exit, Failure};
use super::print;
use super::progress::{Progress, Unit};
use crate::limits::SELFTEST_ROWS_MAX;
use crate::synth::{ContextShare, Family, Recipe, Shape, SynthError, TableFormat, Tables, write_bundle, write_onnx};

/// Writes a synthetic model: the shape of a published one, random numbers
///
/// For benches, for sizing machines, and for trying things out. The bundle's selftest is computed in float64 by the reference interpreter. The
/// same seed gives the same tables and weights everywhere; a table's first rows do not depend on the cap.
#[derive(Args, Clone, Debug)]
pub struct SynthArgs {
    /// Which model
    #[arg(value_enum, value_name = "MODEL")]
    pub model: FamilyArg,

    /// No table has more rows [default: 100000 for dlrm-kaggle, 40000 for dlrm-dcnv2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(u32::MAX - 1)))]
    pub rows_cap: Option<u32>,

    /// Where all numbers come from
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// Folder of the bundle; must not exist
    #[arg(long, value_name = "BUNDLE")]
    pub out: PathBuf,

    /// Which features belong to the request: none, or the dense and the first half of the sparse ones
    #[arg(long, value_enum, value_name = "SHARE", default_value = "none")]
    pub context: ContextArg,

    /// Element type of the tables; in ONNX they are f32, with the numbers that these hold
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    pub tables: TablesArg,

    /// Rows of the selftest
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=SELFTEST_ROWS_MAX as i64))]
    pub selftest_rows: u32,

    /// Also writes the model as ONNX; from 2 GiB on, the numbers go to FILE.data
    #[arg(long, value_name = "FILE")]
    pub onnx: Option<PathBuf>,

    /// Also writes it as ONNX with all tables in one, which runtimes look up faster (dlrm-kaggle)
    #[arg(long, value_name = "FILE")]
    pub onnx_fused: Option<PathBuf>,
}

/// Names of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FamilyArg {
    /// 13 dense values, 26 ids, 26 tables of 16 columns, dot interaction
    DlrmKaggle,
    /// 13 dense values, 214 ids, 26 tables of 128 columns, low-rank cross network
    DlrmDcnv2,
}

/// Shares of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContextArg {
    /// Every feature is the candidate's
    None,
    /// All dense and the first half of the sparse features are the context's
    Half,
}

/// Element types of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TablesArg {
    /// 4 bytes
    F32,
    /// 2 bytes, 11 significant bits
    F16,
    /// 2 bytes, 8 significant bits
    Bf16,
    /// 1 byte, and a scale and a bias a row
    #[value(name = "int8_rowwise")]
    Int8Rowwise,
}

/// Writes the files. Errors: something is there already, or the disk.
pub fn run(args: &SynthArgs) -> Result<Exit, Failure> {
    let family = match args.model {
        FamilyArg::DlrmKaggle => Family::DlrmKaggle,
        FamilyArg::DlrmDcnv2 => Family::DlrmDcnv2,
    };
    let context = match args.context {
        ContextArg::None => ContextShare::None,
        ContextArg::Half => ContextShare::Half,
    };
    let tables = match args.tables {
        TablesArg::F32 => TableFormat::F32,
        TablesArg::F16 => TableFormat::F16,
        TablesArg::Bf16 => TableFormat::Bf16,
        TablesArg::Int8Rowwise => TableFormat::Int8Rowwise,
    };
    let shape = Shape::new(family, args.rows_cap.unwrap_or_else(|| family.usual_rows_cap()));
    if args.onnx_fused.is_some() && shape.hots.iter().any(|hot| *hot != 1) {
        return Err(Failure::usage(format!("--onnx-fused: {} has bags of several ids; take --onnx", family.name())));
    }
    let recipe = Recipe { shape, seed: args.seed, context, tables, selftest_rows: args.selftest_rows as usize };
    watched(&format!("writing {}", args.out.display()), |progress| write_bundle(&recipe, &args.out, progress))?;
    for (file, tables) in [(&args.onnx, Tables::Apart), (&args.onnx_fused, Tables::Fused)] {
        if let Some(file) = file {
            watched(&format!("writing {}", file.display()), |progress| write_onnx(&recipe, tables, file, progress))?;
        }
    }
    print(&format!("{}: {}, {} table rows, seed {}\n", args.out.display(), family.name(), recipe.shape.table_rows(), args.seed))
}

fn watched(what: &str, write: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<(), SynthError>) -> Result<(), Failure> {
    let mut shown: Option<Progress> = None;
    write(&mut |done, total| shown.get_or_insert_with(|| Progress::new(what, total, Unit::Bytes)).set(done)).map_err(Failure::new)?;
    if let Some(bar) = shown {
        bar.finish();
    }
    Ok(())
}
