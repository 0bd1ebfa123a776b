//! `manifest.json`, read and checked as far as it stands alone: format, files, tables, features. The graph is read by [`super::resolve`],
//! which needs the tensors' shapes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::limits::{BAG_IDS_MAX, DENSE_WIDTH_MAX, FEATURES_MAX, ROW_IDS_MAX, TABLE_DIM_MAX, TABLES_MAX, WEIGHT_FILES_MAX};

use super::digest::Digest;
use super::error::{Fault, LoadError, did_you_mean, unknown_name};
use super::feature::{DenseTransform, Feature, FeatureKind, Hash, HashFn, IdType, MissingRule, NanRule, RangeRule, Scope};
use super::graph::{Graph, Pool};
use super::json::{At, Json, Object, quote};
use super::name::{file_name, model_name, name};
use super::resolve::{Catalogue, resolve};
use super::table::{TableDType, TableId};
use super::tensor_file::Entry;
use super::weights::TensorDType;

/// The format that this build reads and writes.
pub const FORMAT: &str = "gavel/1";

/// A file of the bundle, as the manifest describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSpec {
    /// Plain name.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Of the whole file.
    pub sha256: Digest,
    /// Place in the manifest.
    pub(crate) at: String,
}

/// An embedding table, as the manifest describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSpec {
    /// Unique name.
    pub name: String,
    /// The tensor that holds it: [rows, dim], or [rows, bytes of a row] if rows are coded.
    pub tensor: String,
    /// Rows.
    pub rows: u32,
    /// Elements per row.
    pub dim: u32,
    /// Row format.
    pub dtype: TableDType,
    /// Place in the manifest.
    pub(crate) at: String,
}

/// How close an engine must come to the selftest's outputs: `|found − expected| ≤ atol + rtol · |expected|`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Absolute part.
    pub atol: f64,
    /// Relative part.
    pub rtol: f64,
}

impl Tolerance {
    /// Whether `found` is near enough. NaN never is.
    pub fn accepts(&self, found: f64, expected: f64) -> bool {
        (found - expected).abs() <= self.allowed(expected)
    }

    /// How far from `expected` is near enough.
    pub fn allowed(&self, expected: f64) -> f64 {
        self.atol + self.rtol * expected.abs()
    }
}

/// Where the selftest's inputs come from: what is measured on rows that nobody sent says little of real answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowsOrigin {
    /// Real inputs, as far as the bundle's maker knows.
    #[default]
    Given,
    /// Some were mixed from given ones, or drawn at random.
    Mixed,
    /// Drawn at random.
    MadeUp,
}

impl RowsOrigin {
    /// Every origin, with its name in the manifest.
    pub const NAMES: [(&'static str, RowsOrigin); 3] =
        [("given", RowsOrigin::Given), ("mixed", RowsOrigin::Mixed), ("made_up", RowsOrigin::MadeUp)];

    /// Its name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            RowsOrigin::Given => "given",
            RowsOrigin::Mixed => "mixed",
            RowsOrigin::MadeUp => "made_up",
        }
    }
}

/// A manifest whose graph was not looked at yet.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it was read.
    pub file: PathBuf,
    /// What the model calls itself.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// Weights files.
    pub weights: Vec<FileSpec>,
    /// Embedding tables.
    pub tables: Vec<TableSpec>,
    /// Features in signature order.
    pub features: Vec<Feature>,
    /// The selftest's file.
    pub selftest: FileSpec,
    /// What the selftest asks for.
    pub tolerance: Tolerance,
    /// Where the selftest's inputs come from.
    pub origin: RowsOrigin,
    document: Json,
}

impl Manifest {
    /// Reads `bytes`, the content of `file`.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Manifest, LoadError> {
        let document = Json::parse(file, bytes).map_err(LoadError::Manifest)?;
        check_format(&At::root(file, &document))?;
        Manifest::read(file, document).map_err(LoadError::Manifest)
    }

    fn read(file: &Path, document: Json) -> Result<Manifest, Box<Fault>> {
        let root = At::root(file, &document).object()?;
        root.required("format")?;
        let name = model_name(&root.required("name")?)?;
        let description = root.optional("description").map(|at| at.text().map(String::from)).transpose()?.unwrap_or_default();
        let weights = list(root.required("weights")?, WEIGHT_FILES_MAX, file_spec)?;
        unique(file, weights.iter().map(|spec| (spec.file.as_str(), spec.at.as_str())), "file")?;
        let tables = list(root.required("tables")?, TABLES_MAX, table_spec)?;
        unique(file, tables.iter().map(|table| (table.name.as_str(), table.at.as_str())), "table")?;
        one_table_per_tensor(file, &tables)?;
        let index = Tables::new(&tables);
        let features_at = root.required("features")?;
        let features = list(features_at.clone(), FEATURES_MAX, |at| feature(at, &index))?;
        let places: Vec<String> = (0..features.len()).map(|i| format!("features[{i}].name")).collect();
        unique(file, features.iter().zip(&places).map(|(feature, at)| (feature.name.as_str(), at.as_str())), "feature")?;
        if features.is_empty() {
            return Err(features_at.fault("no feature", "at least one", "A model without inputs has nothing to rank"));
        }
        check_rows(&features_at, &features)?;
        root.required("graph")?;
        root.required("outputs")?;
        let (selftest, tolerance, origin) = selftest(&root.required("selftest")?)?;
        root.finish()?;
        Ok(Manifest { file: file.to_owned(), name, description, weights, tables, features, selftest, tolerance, origin, document })
    }

    /// The graph, resolved against tensors of these names, types and shapes instead of weights files: for tools that write bundles.
    pub fn graph(&self, tensors: &[(&str, TensorDType, &[usize])]) -> Result<Graph, LoadError> {
        let catalogue: Catalogue =
            tensors.iter().map(|(name, dtype, shape)| ((*name).into(), (0, Entry::of(name, *dtype, shape)))).collect();
        Ok(resolve(self, &catalogue).map_err(LoadError::Manifest)?.graph)
    }

    /// A key of the document that [`Manifest::parse`] found to be there.
    pub(crate) fn section(&self, key: &'static str) -> Result<At<'_>, Box<Fault>> {
        At::root(&self.file, &self.document).object()?.required(key)
    }
}

/// Before anything else: a manifest from the future may have any keys.
fn check_format(root: &At<'_>) -> Result<(), LoadError> {
    let at = root.object().and_then(|object| object.required("format")).map_err(LoadError::Format)?;
    let text = at.text().map_err(LoadError::Format)?;
    let version = text.strip_prefix("gavel/").and_then(|version| version.parse::<u32>().ok());
    let remedy = match version {
        _ if text == FORMAT => return Ok(()),
        Some(2..) => "The bundle was made for a newer gavel: upgrade this server, or export the bundle again in an older format",
        _ => "This is not a bundle that gavel wrote: docs/bundle.md is the specification",
    };
    Err(LoadError::Format(at.fault(format!("the format {}", quote(text)), format!("{FORMAT:?}"), remedy)))
}

fn list<'a, T>(at: At<'a>, most: usize, mut read: impl FnMut(&At<'a>) -> Result<T, Box<Fault>>) -> Result<Vec<T>, Box<Fault>> {
    at.list(most)?.iter().map(&mut read).collect()
}

fn unique<'a>(file: &Path, names: impl Iterator<Item = (&'a str, &'a str)>, what: &str) -> Result<(), Box<Fault>> {
    let mut seen = HashSet::new();
    for (name, at) in names {
        if !seen.insert(name) {
            return Err(Fault::new(file, at, format!("a second {what} {name:?}"), "each name once", "Rename one of the two"));
        }
    }
    Ok(())
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(at: &At<'_>, choices: &[(&str, T)]) -> Result<T, Box<Fault>> {
    let text = at.text()?;
    let words = || choices.iter().map(|(word, _)| *word);
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<String> = words().map(|word| format!("{word:?}")).collect();
        at.fault(
            quote(text),
            format!("one of {}", known.join(", ")),
            did_you_mean(text, words()).unwrap_or_else(|| "Choose one of them".into()),
        )
    })
}

/// Reads the words of a [`Pool`].
pub(crate) fn pool(at: &At<'_>) -> Result<Pool, Box<Fault>> {
    choice(at, &[("sum", Pool::Sum), ("mean", Pool::Mean), ("max", Pool::Max), ("none", Pool::None)])
}

fn digest(at: &At<'_>) -> Result<Digest, Box<Fault>> {
    Digest::from_hex(at.text()?).ok_or_else(|| at.wrong("64 hexadecimal digits"))
}

fn file_fields(object: &Object<'_>) -> Result<FileSpec, Box<Fault>> {
    Ok(FileSpec {
        file: file_name(&object.required("file")?)?,
        bytes: object.required("bytes")?.integer(0, i64::MAX)? as u64,
        sha256: digest(&object.required("sha256")?)?,
        at: object.at.path.clone(),
    })
}

fn file_spec(at: &At<'_>) -> Result<FileSpec, Box<Fault>> {
    let object = at.object()?;
    let spec = file_fields(&object)?;
    object.finish()?;
    Ok(spec)
}

fn selftest(at: &At<'_>) -> Result<(FileSpec, Tolerance, RowsOrigin), Box<Fault>> {
    let object = at.object()?;
    let spec = file_fields(&object)?;
    let bound = |at: At<'_>| at.number().and_then(|value| if value < 0.0 { Err(at.wrong("a number from 0")) } else { Ok(value) });
    let atol = bound(object.required("atol")?)?;
    let rtol = object.optional("rtol").map(bound).transpose()?.unwrap_or(0.0);
    let origin = object.optional("rows").map(|at| choice(&at, &RowsOrigin::NAMES)).transpose()?.unwrap_or_default();
    object.finish()?;
    Ok((spec, Tolerance { atol, rtol }, origin))
}

fn table_spec(at: &At<'_>) -> Result<TableSpec, Box<Fault>> {
    let object = at.object()?;
    let table = name(&object.required("name")?)?;
    let spec = TableSpec {
        tensor: object.optional("tensor").map(|at| at.text().map(String::from)).transpose()?.unwrap_or_else(|| table.clone()),
        name: table,
        rows: object.required("rows")?.integer(1, i64::from(u32::MAX) - 1)? as u32,
        dim: object.required("dim")?.integer(1, i64::from(TABLE_DIM_MAX))? as u32,
        dtype: object.optional("dtype").map(|at| choice(&at, &TableDType::ALL)).transpose()?.unwrap_or(TableDType::F32),
        at: at.path.clone(),
    };
    object.finish()?;
    Ok(spec)
}

fn feature(at: &At<'_>, tables: &Tables<'_>) -> Result<Feature, Box<Fault>> {
    #[derive(Clone, Copy)]
    enum Kind {
        Dense,
        Sparse,
        Integer,
    }
    let object = at.object()?;
    let name = name(&object.required("name")?)?;
    let kind = choice(&object.required("kind")?, &[("dense", Kind::Dense), ("sparse", Kind::Sparse), ("integer", Kind::Integer)])?;
    let scope = choice(&object.required("scope")?, &[("context", Scope::Context), ("candidate", Scope::Candidate)])?;
    let width_at = object.optional("width");
    let width = |most: usize| width_at.as_ref().map_or(Ok(1), |at| at.count(1, most)).map(|width| width as u32);
    let feature = match kind {
        Kind::Dense => {
            let width = width(DENSE_WIDTH_MAX)?;
            let kind = FeatureKind::Dense { transform: transform(&object)?, nan: nan_rule(&object)? };
            Feature { name, scope, width, max_len: width, id_type: IdType::U32, kind }
        }
        Kind::Integer => {
            let width = width(BAG_IDS_MAX as usize)?;
            Feature { name, scope, width, max_len: width, id_type: id_type(&object)?, kind: FeatureKind::Integer }
        }
        Kind::Sparse => {
            let (width, max_len) = match object.optional("max_len") {
                None => width(BAG_IDS_MAX as usize).map(|width| (width, width))?,
                Some(at) if width_at.is_some() => {
                    return Err(at.fault(
                        "both width and max_len",
                        "width (always so many ids) or max_len (0 to so many ids)",
                        "Remove one of the two",
                    ));
                }
                Some(at) => (0, at.count(1, BAG_IDS_MAX as usize)? as u32),
            };
            Feature { name, scope, width, max_len, id_type: id_type(&object)?, kind: sparse(&object, tables)? }
        }
    };
    object.finish()?;
    Ok(feature)
}

fn sparse(object: &Object<'_>, tables: &Tables<'_>) -> Result<FeatureKind, Box<Fault>> {
    let (table, spec) = tables.named(&object.required("table")?)?;
    let rows = spec.rows;
    let pool_at = object.optional("pool");
    let pool = pool_at.as_ref().map(pool).transpose()?.unwrap_or_default();
    let weighted = object.optional("weighted").map(|at| at.boolean()).transpose()?.unwrap_or(false);
    if weighted && pool == Pool::Max {
        return Err(object.at.fault(
            "weighted, and pool \"max\"",
            "pool \"sum\", \"mean\" or \"none\" where ids have weights",
            "Set another pool, or weighted to false",
        ));
    }
    let hash = object.optional("hash").map(|at| hash(&at, spec)).transpose()?;
    let padding = object.optional("padding").map(|at| row(&at, spec)).transpose()?;
    let missing = match object.optional("missing") {
        None => MissingRule::Error,
        Some(at) => match row_rule(&at, spec)? {
            Some(row) => MissingRule::Row(row),
            None => choice(&at, &[("error", MissingRule::Error), ("skip", MissingRule::Skip)])?,
        },
    };
    let out_of_range = match object.optional("out_of_range") {
        None => RangeRule::Error,
        Some(at) => match row_rule(&at, spec)? {
            Some(_) if hash.is_some() => {
                return Err(at.fault("a rule for a hashed feature", "none: a hashed id is always in range", "Remove the key"));
            }
            Some(row) => RangeRule::Row(row),
            None => choice(&at, &[("error", RangeRule::Error)])?,
        },
    };
    Ok(FeatureKind::Sparse { table, rows, pool, weighted, hash, padding, missing, out_of_range })
}

/// Tables by name.
pub(crate) struct Tables<'m> {
    specs: &'m [TableSpec],
    index: HashMap<&'m str, TableId>,
}

impl<'m> Tables<'m> {
    pub fn new(specs: &'m [TableSpec]) -> Tables<'m> {
        Tables { specs, index: specs.iter().enumerate().map(|(i, spec)| (spec.name.as_str(), TableId(i as u16))).collect() }
    }

    pub fn spec(&self, id: TableId) -> &'m TableSpec {
        &self.specs[id.0 as usize]
    }

    /// The table that is named here.
    pub fn named(&self, at: &At<'_>) -> Result<(TableId, &'m TableSpec), Box<Fault>> {
        let text = at.text()?;
        match self.index.get(text) {
            Some(id) => Ok((*id, self.spec(*id))),
            None => {
                let remedy = did_you_mean(text, self.specs.iter().map(|table| table.name.as_str())).unwrap_or_else(unknown_name);
                Err(at.fault(format!("no table {}", quote(text)), "the name of an entry of tables", remedy))
            }
        }
    }
}

/// Each table takes memory for its tensor: a bundle takes no more than its files have.
fn one_table_per_tensor(file: &Path, tables: &[TableSpec]) -> Result<(), Box<Fault>> {
    let mut seen = HashMap::new();
    for table in tables {
        if let Some(first) = seen.insert(table.tensor.as_str(), table.name.as_str()) {
            let found = format!("tensor {}, which is table {first:?} already", quote(&table.tensor));
            let remedy = "Features that share a table name the same table";
            return Err(Fault::new(file, format!("{}.tensor", table.at), found, "one table per tensor", remedy));
        }
    }
    Ok(())
}

fn hash(at: &At<'_>, table: &TableSpec) -> Result<Hash, Box<Fault>> {
    let object = at.object()?;
    let functions = [("identity", HashFn::Identity), ("fnv1a64", HashFn::Fnv1a64), ("splitmix64", HashFn::Splitmix64)];
    let function = choice(&object.required("fn")?, &functions)?;
    let modulus = object.required("mod")?.integer(1, i64::MAX)? as u64;
    let add = object.optional("add").map(|at| at.integer(0, i64::from(u32::MAX))).transpose()?.unwrap_or(0) as u32;
    object.finish()?;
    if u64::from(add).checked_add(modulus).is_none_or(|end| end > u64::from(table.rows)) {
        return Err(at.fault(
            format!("rows {add} to {add} + {modulus} - 1"),
            format!("rows below {} (table {:?})", table.rows, table.name),
            "Lower mod or add, or give the table more rows",
        ));
    }
    Ok(Hash { function, modulus, add })
}

fn row(at: &At<'_>, table: &TableSpec) -> Result<u32, Box<Fault>> {
    at.integer(0, i64::from(table.rows) - 1).map(|row| row as u32)
}

/// `{"row": k}`, or None where a word is written.
fn row_rule(at: &At<'_>, table: &TableSpec) -> Result<Option<u32>, Box<Fault>> {
    if matches!(at.json, Json::Text(_)) {
        return Ok(None);
    }
    let object = at.object().map_err(|_| at.wrong("a word or {\"row\": k}"))?;
    let row = row(&object.required("row")?, table)?;
    object.finish()?;
    Ok(Some(row))
}

fn nan_rule(object: &Object<'_>) -> Result<NanRule, Box<Fault>> {
    let Some(at) = object.optional("nan") else { return Ok(NanRule::Error) };
    if matches!(at.json, Json::Text(_)) {
        return choice(&at, &[("error", NanRule::Error), ("keep", NanRule::Keep)]);
    }
    let rule = at.object().map_err(|_| at.wrong("\"error\", \"keep\" or {\"value\": x}"))?;
    let value_at = rule.required("value")?;
    let value = value_at.number()? as f32;
    rule.finish()?;
    if value.is_finite() { Ok(NanRule::Value(value)) } else { Err(value_at.wrong("a number that f32 holds")) }
}

fn transform(object: &Object<'_>) -> Result<DenseTransform, Box<Fault>> {
    let choices = [("none", DenseTransform::None), ("log1p_clamp0", DenseTransform::Log1pClamp0)];
    object.optional("transform").map_or(Ok(DenseTransform::None), |at| choice(&at, &choices))
}

fn id_type(object: &Object<'_>) -> Result<IdType, Box<Fault>> {
    object.optional("id_type").map_or(Ok(IdType::U32), |at| choice(&at, &[("u32", IdType::U32), ("u64", IdType::U64)]))
}

/// Bounds of a whole row.
fn check_rows(at: &At<'_>, features: &[Feature]) -> Result<(), Box<Fault>> {
    for scope in [Scope::Context, Scope::Candidate] {
        let total = |ids: bool| -> usize {
            features.iter().filter(|f| f.scope == scope && f.has_ids() == ids).map(|feature| feature.max_len as usize).sum()
        };
        for (found, most, what) in [(total(false), DENSE_WIDTH_MAX, "dense values"), (total(true), ROW_IDS_MAX, "ids")] {
            if found > most {
                let scope = if scope == Scope::Context { "context" } else { "candidate" };
                return Err(at.fault(format!("{found} {what} per {scope} row"), format!("at most {most}"), "Lower widths or max_len"));
            }
        }
    }
    Ok(())
}
