//! `gavel compile`: a bundle's kernels to cubins, ahead of time and without a GPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::exit::{Exit, Failure};
use super::inspect::count;
use super::loading;
use super::table::TextTable;
use crate::engine::cuda::compile::{Arch, BUNDLE_FOLDER, CompileOptions, Compiled, CubinFolder, Key, Nvrtc, NvrtcMissing, headers};
use crate::engine::cuda::{Numbers, Program, Target};
use crate::model::{LoadOptions, Model};

/// Compiles a bundle's kernels for GPUs, ahead of time
///
/// Makes the CUDA kernels of this one model and compiles them for each architecture, with NVRTC; neither a GPU nor its driver is needed. The
/// server finds the result inside the bundle and then needs no compiler. Prints what each kernel takes of a device.
#[derive(Args, Clone, Debug)]
pub struct CompileArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,

    /// For which GPUs
    ///
    /// sm_80: A100. sm_86: A10. sm_89: L4, L40S. sm_90a: H100, H200. sm_100: B200. A GPU of another kind compiles its kernels while loading.
    #[arg(long, value_name = "ARCH,...", value_delimiter = ',', default_values_t = Arch::COMMON)]
    pub arch: Vec<Arch>,

    /// In what numbers dense layers are computed
    #[arg(long, value_name = "PRECISION,...", value_delimiter = ',', default_value = "f32", value_parser = PossibleValuesParser::new(["f32", "bf16"]))]
    pub precision: Vec<String>,

    /// Where the cubins go [default: kernels/ inside the bundle, where the server looks]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// The compiler: libnvrtc.so.12, or the folder that holds it [default: GAVEL_NVRTC, else where the loader and CUDA's installers have it]
    #[arg(long, value_name = "PATH")]
    pub nvrtc: Option<PathBuf>,

    /// Also prints the generated source, before it is compiled
    #[arg(long)]
    pub source: bool,

    /// Fails if a kernel runs out of registers or keeps a stack, if its products wait for each other, or if the compiler does not tell
    #[arg(long)]
    pub deny_spills: bool,
}

/// Compiles and prints. Errors: the bundle, no compiler (78), kernels that it refuses, files that cannot be written, spills if they are denied.
pub fn run(args: &CompileArgs) -> Result<Exit, Failure> {
    let nvrtc =
        Nvrtc::open(args.nvrtc.as_deref()).map_err(|missing| Failure::environment(format!("{missing}; {}", NvrtcMissing::REMEDY)))?;
    let model = loading::load(&args.bundle, &LoadOptions::default()).map_err(Failure::new)?;
    let folder = CubinFolder::new(args.out.clone().unwrap_or_else(|| args.bundle.join(BUNDLE_FOLDER)));
    let mut report = Report::default();
    for numbers in numbers(&args.precision) {
        for arch in unique(&args.arch) {
            one(args, &nvrtc, &model, &folder, (arch, numbers), &mut report)?;
        }
    }
    let (version, place) = (nvrtc.version(), folder.path().display());
    super::print(&format!("{}\n{}\nNVRTC {version} made {} cubins, now in {place}\n", report.kernels, report.cubins, report.files))?;
    report.faults.iter().for_each(|fault| eprintln!("warning: {fault}"));
    if args.deny_spills && !report.faults.is_empty() {
        return Err(Failure::new(format!(
            "{} kernels do not do with their registers or have products that wait for each other, or nothing is known of them (--deny-spills)",
            report.faults.len()
        )));
    }
    Ok(Exit::Ok)
}

/// What is printed at the end.
struct Report {
    kernels: TextTable,
    cubins: TextTable,
    files: usize,
    faults: Vec<String>,
}

impl Default for Report {
    fn default() -> Report {
        let kernels = ["kernel", "arch", "precision", "threads", "registers", "stack", "spilled", "shared", "dynamic", "scratch"];
        Report {
            kernels: TextTable::new(kernels),
            cubins: TextTable::new(["file", "precision", "bytes", "seconds"]),
            files: 0,
            faults: Vec::new(),
        }
    }
}

/// One program, for one architecture.
fn one(
    args: &CompileArgs,
    nvrtc: &Nvrtc,
    model: &Arc<Model>,
    folder: &CubinFolder,
    (arch, numbers): (Arch, Numbers),
    report: &mut Report,
) -> Result<(), Failure> {
    let program = Program::new(model, &Target::of(arch, numbers)).map_err(Failure::new)?;
    if args.source {
        super::print(&program.source)?;
    }
    let options = CompileOptions::default();
    let compiled = nvrtc.compile(&program.source, headers(), arch, &options).map_err(Failure::new)?;
    let key = Key::new(&program.source, headers(), arch, &options);
    folder.store(key, &compiled.cubin, &nvrtc.version(), &compiled.kernels).map_err(Failure::new)?;
    report.add(&program, arch, numbers, &compiled, &folder.file(key))
}

impl Report {
    fn add(&mut self, program: &Program, arch: Arch, numbers: Numbers, compiled: &Compiled, file: &Path) -> Result<(), Failure> {
        let precision = precision_name(numbers);
        let remarks = compiled.losses().into_iter().map(|remark| format!("on {arch} in {precision}: {}", remark.trim()));
        self.faults.extend(remarks);
        let launches: Vec<_> = program.kernels().collect();
        for kernel in &compiled.kernels {
            let launch = launches.iter().find(|launch| launch.kernel == kernel.function);
            let of_launch =
                |number: fn(&crate::engine::cuda::Launch) -> u64| launch.map(|launch| count(number(launch))).unwrap_or_default();
            let shared = u64::from(kernel.shared_bytes) + launch.map_or(0, |launch| u64::from(launch.shared_bytes));
            if shared > arch.shared_bytes_max() as u64 {
                let most = arch.shared_bytes_max();
                return Err(Failure::new(format!(
                    "kernel {} asks for {shared} bytes of shared memory; {arch} has {most}",
                    kernel.function
                )));
            }
            self.faults.extend(kernel.fault().map(|fault| format!("{} on {arch} in {precision} {fault}", kernel.function)));
            self.kernels.row([
                kernel.function.clone(),
                arch.to_string(),
                precision.into(),
                of_launch(|launch| launch.threads.into()),
                kernel.registers.to_string(),
                count(kernel.stack_bytes.into()),
                count(u64::from(kernel.spill_store_bytes) + u64::from(kernel.spill_load_bytes)),
                count(kernel.shared_bytes.into()),
                of_launch(|launch| launch.shared_bytes.into()),
                of_launch(|launch| launch.scratch_bytes as u64),
            ]);
        }
        for launch in launches.iter().filter(|launch| compiled.kernels.iter().all(|kernel| kernel.function != launch.kernel)) {
            self.faults.push(format!("NVRTC does not tell what {} takes on {arch} in {precision}", launch.kernel));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let (bytes, seconds) = (count(compiled.cubin.len() as u64), format!("{:.2}", compiled.took.as_secs_f64()));
        self.cubins.row([name.as_ref(), precision, &bytes, &seconds]);
        self.files += 1;
        Ok(())
    }
}

fn precision_name(numbers: Numbers) -> &'static str {
    match numbers {
        Numbers::F32 => "f32",
        Numbers::Bf16 => "bf16",
    }
}

/// As the flag names them, each once.
fn numbers(names: &[String]) -> Vec<Numbers> {
    [Numbers::F32, Numbers::Bf16].into_iter().filter(|numbers| names.iter().any(|name| name == precision_name(*numbers))).collect()
}

/// In ascending order, each once.
fn unique(archs: &[Arch]) -> Vec<Arch> {
    let mut archs = archs.to_vec();
    archs.sort_unstable();
    archs.dedup();
    archs
}
