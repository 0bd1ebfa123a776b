//! Loading a bundle: everything that can be refused by a look at headers is refused first, then each file is read once, from front to back,
//! digested as it goes, every tensor straight into the memory that it is served from.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::limits::{MANIFEST_BYTES_MAX, SELFTEST_BYTES_MAX};

use super::Model;
use super::digest::Digest;
use super::error::{Fault, LoadError, did_you_mean, unknown_name};
use super::feature::Feature;
use super::graph::Graph;
use super::json::quote;
use super::manifest::{FileSpec, Manifest, TableSpec};
use super::name::{is_model_name, model_name_rule};
use super::resolve::{Catalogue, Resolved, TensorUse, resolve};
use super::rows::Field;
use super::selftest::Selftest;
use super::table::{Table, TableDType, TableRows};
use super::table_memory::TableArena;
use super::tensor_file::{Entry, Header};
use super::trees;
use super::weights::{Tensor, TensorDType, TensorData, Weights};
use super::widen;

/// The file that makes a folder a bundle.
pub const MANIFEST: &str = "manifest.json";

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Public name; None = what the manifest says.
    pub name: Option<String>,
    /// Version.
    pub version: u64,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { name: None, version: 1 }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file being read.
    pub file: &'a str,
    /// Bytes of weights and selftest read so far.
    pub bytes: u64,
    /// Bytes there are.
    pub total: u64,
}

/// A bundle whose manifest was read.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of the manifest, which holds the digests of all other files.
    pub digest: Digest,
}

/// Loads the bundle in `path`. See [`Bundle::load`].
pub fn load(path: &Path, options: &LoadOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Model, LoadError> {
    Bundle::open(path)?.load(options, progress)
}

impl Bundle {
    /// Reads and checks the manifest of the bundle in `path`.
    pub fn open(path: &Path) -> Result<Bundle, LoadError> {
        let file = path.join(MANIFEST);
        let size = fs::metadata(&file).map_err(|error| LoadError::io(&file, "cannot be read", error))?.len();
        if size > MANIFEST_BYTES_MAX {
            let found = format!("{size} bytes");
            let remedy = "Weights belong in safetensors files";
            return Err(LoadError::Manifest(Fault::new(&file, "", found, format!("at most {MANIFEST_BYTES_MAX}"), remedy)));
        }
        let mut bytes = Vec::new();
        let read = File::open(&file).and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| LoadError::io(&file, "cannot be read", error))?;
        let manifest = Manifest::parse(&file, &bytes)?;
        Ok(Bundle { path: path.to_owned(), manifest, digest: Digest::of(&bytes) })
    }

    /// Reads everything else. `progress` is called about once per MiB.
    pub fn load(&self, options: &LoadOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Model, LoadError> {
        let manifest = &self.manifest;
        let name = options.name.clone().unwrap_or_else(|| manifest.name.clone());
        if !is_model_name(&name) {
            let fault = Fault::new(&self.path, "", format!("the name {}", quote(&name)), model_name_rule(), "Choose another name");
            return Err(LoadError::Folder(fault));
        }
        let mut files = Vec::with_capacity(manifest.weights.len());
        for spec in &manifest.weights {
            files.push(WeightsFile::open(&manifest.file, &self.path, spec)?);
        }
        let catalogue = catalogue(&files)?;
        let mut table_bytes = Vec::with_capacity(manifest.tables.len());
        for table in &manifest.tables {
            table_bytes.push(check_table(&manifest.file, table, &catalogue)?);
        }
        let selftest = open_sized(&manifest.file, &self.path, &manifest.selftest, SELFTEST_BYTES_MAX)?;
        let Resolved { graph, tensors, trees } = resolve(manifest, &catalogue).map_err(LoadError::Manifest)?;

        let total = manifest.weights.iter().map(|spec| spec.bytes).sum::<u64>() + manifest.selftest.bytes;
        let mut meter = Meter { progress, bytes: 0, total };
        let arena = TableArena::zeroed(table_bytes).map_err(|error| LoadError::io(&self.path, "no memory for its tables", error))?;
        let mut memory = Memory::new(&manifest.tables, arena, &tensors);
        for file in files {
            file.read(&manifest.file, &mut memory, &mut meter)?;
        }
        let weights = memory.into_weights(manifest, tensors)?;
        for (trees, at) in &trees {
            let features = graph.value(trees.x).len();
            trees::check(trees, features, &weights, &manifest.file, at).map_err(LoadError::Manifest)?;
        }
        let selftest = self.read_selftest(selftest, &graph, &mut meter)?;
        let digest = self.digest;
        let features = manifest.features.clone();
        let folder = Some(self.path.clone());
        Ok(Model { version: options.version, digest, selftest, folder, ..Model::new(name, features, graph, weights) })
    }

    fn read_selftest(&self, (path, file): (PathBuf, File), graph: &Graph, meter: &mut Meter<'_>) -> Result<Selftest, LoadError> {
        let spec = &self.manifest.selftest;
        let mut reader = HashingReader { file, path: &path, name: &spec.file, hasher: sha2::Sha256::new(), meter };
        let mut bytes = vec![0; spec.bytes as usize];
        reader.fill(&mut bytes)?;
        reader.finish(&self.manifest.file, spec)?;
        let fields: Vec<Field> = self.manifest.features.iter().map(Field::from).collect();
        Selftest::parse(&path, bytes, &fields, &graph.outputs, self.manifest.tolerance, self.manifest.origin).map_err(LoadError::Selftest)
    }
}

/// Opens a file of the bundle, whose size must be the manifest's.
fn open_sized(manifest: &Path, folder: &Path, spec: &FileSpec, most: u64) -> Result<(PathBuf, File), LoadError> {
    let path = folder.join(&spec.file);
    let open = || -> io::Result<(File, u64)> {
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((file, metadata.len()))
    };
    let (file, size) = open().map_err(|error| LoadError::io(&path, "cannot be read", error))?;
    if size != spec.bytes {
        let expected = format!("{} ({}.bytes in {})", spec.bytes, spec.at, manifest.display());
        let what = if size < spec.bytes { "It is truncated" } else { "It is not the file that the manifest was written for" };
        let remedy = format!("{what}: copy the bundle again, or export it again");
        return Err(LoadError::Integrity(Fault::new(&path, "", format!("{size} bytes"), expected, remedy)));
    }
    if size > most {
        return Err(LoadError::Integrity(Fault::new(&path, "", format!("{size} bytes"), format!("at most {most}"), "Use fewer rows")));
    }
    Ok((path, file))
}

/// An open weights file whose header was read.
struct WeightsFile<'m> {
    spec: &'m FileSpec,
    path: PathBuf,
    file: File,
    header: Header,
}

impl<'m> WeightsFile<'m> {
    fn open(manifest: &Path, folder: &Path, spec: &'m FileSpec) -> Result<WeightsFile<'m>, LoadError> {
        let (path, mut file) = open_sized(manifest, folder, spec, u64::MAX)?;
        let io_error = |error| LoadError::io(&path, "cannot be read", error);
        let header = match Header::read(&mut file, &path, spec.bytes).map_err(io_error)? {
            Ok(header) => header,
            Err(fault) => {
                // Damage in transit explains an odd header better than the header itself.
                check_digest(hashed(&mut file).map_err(io_error)?, &path, manifest, spec)?;
                return Err(LoadError::Weights(fault));
            }
        };
        Ok(WeightsFile { spec, header, path, file })
    }

    /// Reads the data; what `memory` wants goes there.
    fn read(self, manifest: &Path, memory: &mut Memory, meter: &mut Meter<'_>) -> Result<(), LoadError> {
        let WeightsFile { spec, path, file, header } = self;
        let mut reader = HashingReader { file, path: &path, name: &spec.file, hasher: sha2::Sha256::new(), meter };
        reader.hasher.update(&header.raw);
        reader.meter.add(&spec.file, header.raw.len());
        // Not reported before the digest: in a damaged file, an odd number is a consequence.
        let mut odd = None;
        for entry in &header.entries {
            odd = odd.or(memory.read(entry, &mut reader)?);
        }
        reader.finish(manifest, spec)?;
        odd.map_or(Ok(()), |fault| Err(LoadError::NotFinite(fault)))
    }
}

fn catalogue(files: &[WeightsFile<'_>]) -> Result<Catalogue, LoadError> {
    let mut catalogue = Catalogue::new();
    for (index, file) in files.iter().enumerate() {
        for entry in &file.header.entries {
            if let Some((first, _)) = catalogue.insert(entry.name.clone(), (index, entry.clone())) {
                let found = format!("a second tensor of that name; the first is in {}", files[first].spec.file);
                let at = format!("tensor {}", quote(&entry.name));
                return Err(LoadError::Weights(Fault::new(&file.path, at, found, "each name in one file", "Rename one of the two")));
            }
        }
    }
    Ok(catalogue)
}

/// Bytes of a table's tensor, which must be what the manifest says.
fn check_table(manifest: &Path, table: &TableSpec, catalogue: &Catalogue) -> Result<usize, LoadError> {
    let TableSpec { tensor, rows, dim, dtype, at, .. } = table;
    let fault = |at: &str, found: String, expected: String, remedy: String| {
        Err(LoadError::Manifest(Fault::new(manifest, at, found, expected, remedy)))
    };
    let tensor_at = format!("{at}.tensor");
    let Some((_, entry)) = catalogue.get(tensor) else {
        let remedy = did_you_mean(tensor, catalogue.keys().map(String::as_str)).unwrap_or_else(unknown_name);
        return fault(&tensor_at, format!("no tensor {}", quote(tensor)), "the name of a tensor in a weights file".into(), remedy);
    };
    let found = format!("tensor {} is {}", quote(tensor), entry.describe());
    let need = dtype.row_bytes(*dim as usize);
    let (name, stored) = (dtype.name(), dtype.stored());
    if entry.dtype.0 != stored {
        let remedy =
            match TableDType::ALL.iter().filter(|(_, dtype)| dtype.stored() == entry.dtype.0).map(|(name, _)| *name).collect::<Vec<_>>() {
                names if names.is_empty() => "Export the weights again".into(),
                names => format!("Set the table's dtype to what the tensor holds ({}), or export the weights again", names.join(", ")),
            };
        return fault(&tensor_at, found, format!("{stored}, which holds a table of dtype {name:?}"), remedy);
    }
    let (rows, dim) = (*rows as usize, *dim as usize);
    let fits = match entry.shape[..] {
        [found_rows, row_bytes] if stored == "U8" => found_rows == rows && row_bytes >= need,
        _ => entry.shape == [rows, dim],
    };
    if !fits {
        let expected = match stored {
            "U8" => format!("U8 [{rows}, {need} or more]: the table's rows, and the bytes of {dim} codes with scale and bias"),
            _ => format!("{stored} [{rows}, {dim}], the table's rows and dim"),
        };
        return fault(&tensor_at, found, expected, "Correct rows and dim, or export the weights again".into());
    }
    Ok(entry.bytes as usize)
}

/// Where the numbers go.
struct Memory<'m> {
    specs: &'m [TableSpec],
    /// Tensor name → table that it fills.
    table_of: HashMap<&'m str, usize>,
    /// Tensor name → tensor that it fills.
    tensor_of: HashMap<String, usize>,
    arena: TableArena,
    tensors: Vec<Option<TensorData>>,
    dtypes: Vec<TensorDType>,
    /// Which tensors may hold infinities.
    infinite: Vec<bool>,
    /// For bytes that do not stay: those of tensors that nobody wants (they count for the digest), and of elements that are converted.
    scratch: Vec<u8>,
}

impl<'m> Memory<'m> {
    fn new(tables: &'m [TableSpec], arena: TableArena, tensors: &[TensorUse]) -> Memory<'m> {
        Memory {
            specs: tables,
            table_of: tables.iter().enumerate().map(|(index, table)| (table.tensor.as_str(), index)).collect(),
            tensor_of: tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect(),
            arena,
            tensors: tensors.iter().map(|_| None).collect(),
            dtypes: tensors.iter().map(|tensor| tensor.dtype).collect(),
            infinite: tensors.iter().map(|tensor| tensor.infinite).collect(),
            scratch: vec![0; CHUNK_BYTES],
        }
    }

    /// Reads the next tensor of a file. Gives the first number that is not finite, if any is.
    fn read(&mut self, entry: &Entry, reader: &mut HashingReader<'_, '_>) -> Result<Option<Box<Fault>>, LoadError> {
        // The size of every tensor was compared with the size of the file: nothing allocates more than there is on disk.
        let count = entry.shape.iter().product::<usize>();
        let tensor = self.tensor_of.get(&entry.name).copied();
        if let Some(&table) = self.table_of.get(entry.name.as_str()) {
            let bytes = self.arena.table_mut(table);
            reader.fill(bytes)?;
            if let Some(index) = tensor {
                let mut values = vec![0_f32; count];
                widen::to_f32(&entry.dtype.0, bytes, &mut values);
                self.tensors[index] = Some(TensorData::F32(values));
            }
            let TableSpec { rows, dim, dtype, .. } = self.specs[table];
            return Ok(TableRows { bytes, rows, dim, dtype }.not_finite().map(|found| not_finite(reader.path, entry, found)));
        }
        let Some(index) = tensor else {
            self.through_scratch(entry, reader, |_| {})?;
            return Ok(None);
        };
        let (data, fault) = match self.dtypes[index] {
            TensorDType::F32 => {
                let mut values = vec![0_f32; count];
                if entry.dtype.0 == "F32" {
                    reader.fill(bytemuck::cast_slice_mut(&mut values))?;
                } else {
                    let mut rest = values.as_mut_slice();
                    self.through_scratch(entry, reader, |bytes| {
                        let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes.len() * count / entry.bytes as usize);
                        widen::to_f32(&entry.dtype.0, bytes, now);
                        rest = later;
                    })?;
                }
                let infinite = self.infinite[index];
                let odd = values.iter().position(|value| value.is_nan() || (value.is_infinite() && !infinite));
                let converted = if entry.dtype.0 == "F32" { "" } else { " as f32" };
                let found = odd.map(|index| format!("element {index} (of {:?}) is {}{converted}", entry.shape, values[index]));
                (TensorData::F32(values), found.map(|found| not_finite(reader.path, entry, found)))
            }
            TensorDType::I64 => {
                let mut values = vec![0_i64; count];
                reader.fill(bytemuck::cast_slice_mut(&mut values))?;
                (TensorData::I64(values), None)
            }
        };
        self.tensors[index] = Some(data);
        Ok(fault)
    }

    /// Reads a tensor piece by piece, each a multiple of 8 bytes except the last.
    fn through_scratch(&mut self, entry: &Entry, reader: &mut HashingReader<'_, '_>, mut take: impl FnMut(&[u8])) -> Result<(), LoadError> {
        let mut left = entry.bytes;
        while left > 0 {
            let size = left.min(CHUNK_BYTES as u64);
            let piece = &mut self.scratch[..size as usize];
            reader.fill(piece)?;
            take(piece);
            left -= size;
        }
        Ok(())
    }

    fn into_weights(self, manifest: &Manifest, uses: Vec<TensorUse>) -> Result<Weights, LoadError> {
        let mut weights = Weights::default();
        for (spec, data) in manifest.tables.iter().zip(self.arena.into_tables()) {
            weights.tables.push(Table { name: spec.name.clone(), rows: spec.rows, dim: spec.dim, dtype: spec.dtype, data });
        }
        for (TensorUse { name, shape, above, .. }, data) in uses.into_iter().zip(self.tensors) {
            let Some(data) = data else { unreachable!("every tensor of the graph is in the catalogue, whose files were all read") };
            let tensor = Tensor { name, shape, data };
            if let Some((bound, at)) = above {
                check_above(&manifest.file, &tensor, bound, &at)?;
            }
            weights.tensors.push(tensor);
        }
        Ok(weights)
    }
}

fn not_finite(path: &Path, entry: &Entry, found: String) -> Box<Fault> {
    let at = format!("tensor {}", quote(&entry.name));
    Fault::new(path, at, found, "finite weights", "Training diverged or the export is broken: export a good checkpoint")
}

fn check_above(manifest: &Path, tensor: &Tensor, bound: f64, at: &str) -> Result<(), LoadError> {
    let Some((index, value)) = tensor.as_f32().and_then(|values| values.iter().enumerate().find(|(_, v)| f64::from(**v) <= bound)) else {
        return Ok(());
    };
    let found = format!("element {index} of tensor {} is {value}", quote(&tensor.name));
    let remedy = "A variance cannot be negative: export a good checkpoint";
    Err(LoadError::Manifest(Fault::new(manifest, at, found, format!("elements above {bound} (var + eps > 0)"), remedy)))
}

/// Bytes that are read, then digested while they are in cache.
const CHUNK_BYTES: usize = 1 << 20;

struct Meter<'p> {
    progress: &'p mut dyn FnMut(Progress<'_>),
    bytes: u64,
    total: u64,
}

impl Meter<'_> {
    fn add(&mut self, file: &str, bytes: usize) {
        self.bytes += bytes as u64;
        (self.progress)(Progress { file, bytes: self.bytes, total: self.total });
    }
}

/// A file read from front to back.
struct HashingReader<'a, 'p> {
    file: File,
    path: &'a Path,
    name: &'a str,
    hasher: sha2::Sha256,
    meter: &'a mut Meter<'p>,
}

impl HashingReader<'_, '_> {
    /// Reads exactly `bytes.len()` bytes.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), LoadError> {
        for chunk in bytes.chunks_mut(CHUNK_BYTES) {
            self.file.read_exact(chunk).map_err(|error| LoadError::io(self.path, "cannot be read", error))?;
            self.hasher.update(&*chunk);
            self.meter.add(self.name, chunk.len());
        }
        Ok(())
    }

    /// Compares the digest of all that was read.
    fn finish(self, manifest: &Path, spec: &FileSpec) -> Result<(), LoadError> {
        check_digest(self.hasher, self.path, manifest, spec)
    }
}

/// The whole file, digested.
fn hashed(file: &mut File) -> io::Result<sha2::Sha256> {
    let mut hasher = sha2::Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    file.rewind()?;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher),
            count => hasher.update(&chunk[..count]),
        }
    }
}

fn check_digest(hasher: sha2::Sha256, path: &Path, manifest: &Path, spec: &FileSpec) -> Result<(), LoadError> {
    let found = Digest(hasher.finalize().into());
    if found == spec.sha256 {
        return Ok(());
    }
    let expected = format!("{} ({}.sha256 in {})", spec.sha256, spec.at, manifest.display());
    let remedy = "The file is damaged or was replaced: copy the bundle again, or export it again";
    Err(LoadError::Integrity(Fault::new(path, "", format!("SHA-256 {found}"), expected, remedy)))
}

impl Model {
    /// A model made by hand, version 1, with an empty selftest and no digest.
    pub fn new(name: impl Into<String>, features: Vec<Feature>, graph: Graph, weights: Weights) -> Model {
        Model {
            name: name.into(),
            version: 1,
            features,
            graph,
            weights,
            selftest: Selftest::default(),
            digest: Digest::default(),
            folder: None,
        }
    }
}
