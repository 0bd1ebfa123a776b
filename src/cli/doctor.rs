//! `gavel doctor`: what this machine, kernel and container can do for gavel, with a remedy for what they cannot.

use std::fmt;
use std::fs;
use std::io::{self, Write};

use rustix::process::{Resource, getrlimit};

use super::exit::{Exit, Failure};
use crate::config::PinChoice;
use crate::engine::cuda::{
    self,
    compile::{Arch, Nvrtc, NvrtcMissing},
};
use crate::server::placement::Cpus;
use crate::server::preflight;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// As it should be.
    Ok,
    /// Works, with a loss that the line names.
    Warn,
    /// gavel will not start, or not serve.
    Fail,
}

/// One line.
#[derive(Clone, Debug)]
struct Finding {
    level: Level,
    topic: &'static str,
    text: String,
    remedy: Option<String>,
}

/// Prints the findings. Ends in 1 if one of them keeps gavel from serving.
pub fn run() -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    Ok(if doctor(&mut out) { Exit::Ok } else { Exit::Failure })
}

/// Writes one line per finding, and its remedy below. False if one of them is a failure.
pub fn doctor(out: &mut impl Write) -> bool {
    let mut worst = Level::Ok;
    for finding in findings() {
        worst = worst.max(finding.level);
        // A reader that went away wants no more lines.
        if write!(out, "{finding}").is_err() {
            break;
        }
    }
    worst < Level::Fail
}

fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(), io_uring(), memlock(), descriptors(), cpus(), cpu_features(), memory(), huge_pages()];
    findings.extend([address_space(), backlog(), seccomp(), gpu(), kernel_compiler()]);
    findings
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let version = version(&release);
    let found = Finding::ok("kernel", format!("Linux {release}"));
    match version {
        Some(version) if version >= (6, 1) => found,
        Some(version) if version >= (6, 0) => found.warn("Linux 6.1 or newer makes io_uring cheaper"),
        _ => found.warn("Linux 6.0 or newer is needed for io_uring, 6.1 is better; epoll is used instead"),
    }
}

fn io_uring() -> Finding {
    match preflight::check() {
        Ok(kind) => Finding::ok("io_uring", preflight::kind_text(kind)),
        Err(reason) => Finding::ok("io_uring", format!("refused: {reason}"))
            .warn("until then --io auto uses epoll, at a somewhat lower rate, and --io uring does not start"),
    }
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::Memlock);
    let shards = Cpus::detect().map_or(1, |cpus| cpus.place(None, PinChoice::Auto).shards.len()) as u64;
    let needed = preflight::MEMLOCK_BYTES_MIN.max(shards * RINGS_BYTES_PER_SHARD);
    let found = Finding::ok(
        "memlock",
        format!("{}; rings of {shards} shard(s) take {} KiB of it", limit_text(limit.current, 10, "KiB"), needed >> 10),
    );
    match limit.current {
        Some(bytes) if bytes < needed => found.warn("raise it: ulimit -l, LimitMEMLOCK= in the unit, --ulimit memlock= for a container"),
        _ => found,
    }
}

fn descriptors() -> Finding {
    preflight::raise_soft_limit(Resource::Nofile);
    let limit = getrlimit(Resource::Nofile).current;
    let found = Finding::ok("descriptors", format!("{} open files (each connection is one)", limit_text(limit, 0, "")));
    match limit {
        Some(files) if files < DESCRIPTORS_FEW => {
            found.warn("raise it: ulimit -n, LimitNOFILE= in the unit, --ulimit nofile= for a container")
        }
        _ => found,
    }
}

fn cpus() -> Finding {
    match Cpus::detect() {
        Ok(cpus) => {
            let placement = cpus.place(None, PinChoice::Auto);
            let found = Finding::ok("cpus", placement.message);
            if cpus.quota.is_some_and(|quota| quota < cpus.allowed.len() as f64) {
                return found.warn(
                    "a quota throttles whole threads for milliseconds: give whole CPUs (requests = limits, an integer, and the static CPU \
                     manager policy; or --cpuset-cpus instead of --cpus)",
                );
            }
            found
        }
        Err(error) => Finding::ok("cpus", format!("the affinity mask cannot be read: {error}")).fail("allow sched_getaffinity"),
    }
}

fn cpu_features() -> Finding {
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()))
        .unwrap_or_else(|| std::env::consts::ARCH.into());
    let features: Vec<&str> = features().into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
    let found =
        Finding::ok("cpu features", format!("{model}: {}", if features.is_empty() { "none known".into() } else { features.join(" ") }));
    if cfg!(target_arch = "x86_64") && !(features.contains(&"avx2") && features.contains(&"fma")) {
        return found.warn("without AVX2 and FMA the CPU engine uses its portable code, several times slower");
    }
    found
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    use std::arch::is_x86_feature_detected as has;
    vec![
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx512f", has!("avx512f")),
        ("avx512bw", has!("avx512bw")),
        ("avx512vl", has!("avx512vl")),
        ("avx512vnni", has!("avx512vnni")),
        ("avx512bf16", has!("avx512bf16")),
        ("avx512fp16", has!("avx512fp16")),
        ("avxvnni", has!("avxvnni")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

fn memory() -> Finding {
    let info = read("/proc/meminfo");
    let mib = |field: &str| meminfo_kib(&info, field).map_or("?".into(), |kib| format!("{} MiB", kib >> 10));
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .map(read)
        .into_iter()
        .find_map(|text| text.parse::<u64>().ok());
    // Version 1 writes a huge number for "no limit".
    let limit =
        limit.filter(|bytes| *bytes < 1 << 60).map_or("no cgroup limit".into(), |bytes| format!("cgroup limit {} MiB", bytes >> 20));
    Finding::ok("memory", format!("{} in all, {} available, {limit}", mib("MemTotal"), mib("MemAvailable")))
}

fn huge_pages() -> Finding {
    let mode = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = mode.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("absent", |(chosen, _)| chosen);
    let found = Finding::ok("huge pages", format!("transparent huge pages: {chosen}"));
    match chosen {
        "always" | "madvise" => found,
        _ => found.warn("lookups in big tables miss the TLB more often: set transparent_hugepage/enabled to madvise"),
    }
}

fn address_space() -> Finding {
    let overcommit = read("/proc/sys/vm/overcommit_memory");
    let limit = getrlimit(Resource::As).current;
    let found = Finding::ok("address space", format!("vm.overcommit_memory = {overcommit}, {}", limit_text(limit, 20, "MiB")));
    if overcommit == "2" || limit.is_some() {
        return found.warn(
            "buffers of all connections are reserved (not used) at start: should that fail, lower limits.connections_per_shard, frame_bytes or \
             send_bytes, or set vm.overcommit_memory to 0",
        );
    }
    found
}

fn backlog() -> Finding {
    let text = read("/proc/sys/net/core/somaxconn");
    let found = Finding::ok("backlog", format!("net.core.somaxconn = {text}"));
    match text.parse::<u32>() {
        Ok(connections) if connections < BACKLOG_FEW => found.warn("many clients that connect at once will wait: raise net.core.somaxconn"),
        _ => found,
    }
}

fn seccomp() -> Finding {
    let status = read("/proc/self/status");
    let field = |name| preflight::status_field(&status, name);
    let mode = match field("Seccomp") {
        Some("0") => "no filter",
        Some("1") => "strict mode",
        Some("2") => "a filter is on",
        _ => "unknown",
    };
    Finding::ok("seccomp", format!("{mode}; no_new_privs {}", if field("NoNewPrivs") == Some("1") { "on" } else { "off" }))
}

fn gpu() -> Finding {
    let is_usable = |gpu: &cuda::Gpu| Arch::of_device(gpu.capability.0, gpu.capability.1).is_ok();
    match cuda::probe() {
        Ok(gpus) if gpus.is_empty() => Finding::ok("gpu", "the driver shows none".to_owned()),
        Ok(gpus) => {
            let tell = |gpu: &cuda::Gpu| {
                let (major, minor) = gpu.capability;
                format!("{}: {} ({} MiB, compute capability {major}.{minor})", gpu.ordinal, gpu.name, gpu.memory_bytes >> 20)
            };
            let finding = Finding::ok("gpu", gpus.iter().map(tell).collect::<Vec<_>>().join(", "));
            match gpus.iter().all(is_usable) {
                true => finding,
                false => finding.warn("the cuda engine needs compute capability 8.0 (A100) or newer"),
            }
        }
        Err(cuda::GpuUnavailable::NoDriver) => Finding::ok("gpu", "none: no NVIDIA driver library (libcuda.so.1) was found"),
        Err(reason) => Finding::ok("gpu", reason.to_string()).warn("gavel serves from the CPU; nvidia-smi tells more about the driver"),
    }
}

/// Whether kernels can be compiled here; who ships them with every bundle needs no compiler.
fn kernel_compiler() -> Finding {
    match (Nvrtc::open(None), cuda::probe()) {
        (Ok(nvrtc), _) => Finding::ok(
            "nvrtc",
            format!("{}, {}: kernels that a bundle does not bring are compiled", nvrtc.version(), nvrtc.file().display()),
        ),
        (Err(missing), Ok(gpus)) if !gpus.is_empty() => {
            let remedy = format!("without it the cuda engine serves only bundles that bring their kernels; {}", NvrtcMissing::REMEDY);
            Finding::ok("nvrtc", missing.to_string()).warn(&remedy)
        }
        (Err(_), _) => Finding::ok("nvrtc", "none was found: the cuda engine's compiler, of no use without a GPU"),
    }
}

impl Finding {
    fn ok(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, topic, text: text.into(), remedy: None }
    }

    fn warn(self, remedy: &str) -> Finding {
        Finding { level: Level::Warn, remedy: Some(remedy.into()), ..self }
    }

    fn fail(self, remedy: &str) -> Finding {
        Finding { level: Level::Fail, remedy: Some(remedy.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        writeln!(f, "{level}  {:<14} {}", self.topic, self.text)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "{:21}> {remedy}", ""),
            None => Ok(()),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn limit_text(limit: Option<u64>, shift: u32, unit: &str) -> String {
    limit.map_or("unlimited".into(), |value| format!("at most {} {unit}", value >> shift).trim_end().to_owned())
}

fn meminfo_kib(info: &str, field: &str) -> Option<u64> {
    let rest = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Major and minor of `6.18.44-name`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|separator: char| !separator.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Memlock charged to one shard: three rings of glommio (48 KiB as measured), 64 KiB that it registers, and the wire's ring.
const RINGS_BYTES_PER_SHARD: u64 = 192 << 10;
const DESCRIPTORS_FEW: u64 = 4096;
const BACKLOG_FEW: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_its_line() {
        let mut out = Vec::new();
        assert!(doctor(&mut out), "this machine runs gavel's tests, so it can serve");
        let text = String::from_utf8(out).expect("text");
        for topic in ["kernel", "io_uring", "memlock", "descriptors", "cpus", "cpu features", "memory", "huge pages", "seccomp", "gpu"] {
            assert!(text.lines().any(|line| line[6..].starts_with(topic)), "{topic} is missing in:\n{text}");
        }
        println!("{text}");
    }

    #[test]
    fn kernels_and_fields_are_parsed() {
        for (release, expected) in
            [("6.18.44-fc", Some((6, 18))), ("5.10", Some((5, 10))), ("4.4.0", Some((4, 4))), ("", None), ("six", None), ("6", None)]
        {
            assert_eq!(version(release), expected, "{release:?}");
        }
        let info = "MemTotal:       24000 kB\nMemAvailable:    x kB\n";
        assert_eq!(
            (meminfo_kib(info, "MemTotal"), meminfo_kib(info, "MemAvailable"), meminfo_kib(info, "None")),
            (Some(24_000), None, None)
        );
    }

    #[test]
    fn a_finding_shows_its_remedy() {
        let finding = Finding::ok("memlock", "64 KiB").fail("raise it");
        assert_eq!(finding.to_string(), "FAIL  memlock        64 KiB\n                     > raise it\n");
    }
}
