//! What the command line says.

use std::path::PathBuf;

/// One run of this program.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// What to do: the first argument that is no flag.
    pub mode: String,
    /// Figures are wanted; else everything runs once on tiny sizes.
    pub measuring: bool,
    /// Where results go as JSON.
    pub json: Option<PathBuf>,
    /// Compiled kernels: looked up and kept there.
    pub cubins: Option<PathBuf>,
    /// The compiler's library.
    pub nvrtc: Option<PathBuf>,
    /// To compile for.
    pub arch: String,
    /// Seconds after which nothing new is begun.
    pub seconds: u64,
    /// A bundle's folder.
    pub bundle: Option<PathBuf>,
    /// What `facts` found out on this device.
    pub facts: Option<PathBuf>,
    /// What `collect` reads; `work` takes measured shares from there.
    pub folder: Option<PathBuf>,
    /// Only batches of so many candidates, of the first case.
    pub rows: Option<usize>,
    /// Only the cases in whose names this stands.
    pub case: Option<String>,
    /// A server that is running.
    pub address: Option<String>,
    /// What the server's engine is called in the report.
    pub name: Option<String>,
}

impl Arguments {
    /// Of this process. `--brief` takes `--bench` back: everything runs, nothing is measured.
    pub fn read() -> Result<Arguments, String> {
        let mut read = Arguments { arch: "sm_90a".into(), seconds: 120, ..Arguments::default() };
        let mut brief = false;
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bench" => read.measuring = true,
                "--brief" => brief = true,
                "--json" => read.json = Some(value()?.into()),
                "--cubins" => read.cubins = Some(value()?.into()),
                "--nvrtc" => read.nvrtc = Some(value()?.into()),
                "--arch" => read.arch = value()?,
                "--seconds" => read.seconds = value()?.parse().map_err(|_| "--seconds: a whole number")?,
                "--bundle" => read.bundle = Some(value()?.into()),
                "--facts" => read.facts = Some(value()?.into()),
                "--folder" => read.folder = Some(value()?.into()),
                "--rows" => read.rows = Some(value()?.parse().map_err(|_| "--rows: a whole number")?),
                "--case" => read.case = Some(value()?),
                "--address" => read.address = Some(value()?),
                "--name" => read.name = Some(value()?),
                mode if !mode.starts_with('-') && read.mode.is_empty() => read.mode = mode.into(),
                other => return Err(format!("{other}: unknown; {USAGE}")),
            }
        }
        read.measuring &= !brief;
        Ok(read)
    }
}

/// The modes.
pub const USAGE: &str = "gpu facts|kernels|work|compile|serve|collect [--brief] [--json FILE] [--cubins DIR] [--nvrtc PATH] [--arch ARCH] [--seconds N] \
                         [--facts FILE] [--folder DIR] [--rows N] [--case TEXT] [--bundle DIR] [--address ADDRESS] [--name NAME]";
