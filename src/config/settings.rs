//! Every setting: its type, default, range, what it does and why the default is what it is.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::address::Address;
use super::choice::{EngineChoice, IoChoice, LogFormat, LogLevel, PinChoice, Place, PrecisionChoice, Shards, WideLayersChoice};
use super::layers::{Layers, Origin, Problem};
use super::value::{Value, check_range};

/// A setting as documentation.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Dotted key in the file.
    pub key: &'static str,
    /// Default, as TOML.
    pub default: fn() -> String,
    /// Numbers that are accepted.
    pub range: Option<RangeInclusive<u64>>,
    /// What it does.
    pub what: &'static str,
    /// Why the default, and what a change costs.
    pub why: &'static str,
}

impl Setting {
    /// The environment variable that sets it: `limits.frame_bytes` is `GAVEL_LIMITS_FRAME_BYTES`.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// What variables of ours begin with.
pub const ENVIRONMENT_PREFIX: &str = "GAVEL_";

/// A value that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Dotted key.
    pub key: &'static str,
    /// As TOML.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

macro_rules! settings {
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
    ($(
        $(#[$struct_doc:meta])*
        $section:literal $struct:ident {
            $($field:ident: $type:ty = $default:expr $(, in $range:expr)?; $what:literal $why:literal)*
        }
    )*) => {
        $(
            $(#[$struct_doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $struct {
                $(#[doc = $what] #[doc = ""] #[doc = $why] pub $field: $type,)*
            }

            impl Default for $struct {
                fn default() -> $struct {
                    $struct { $($field: $default,)* }
                }
            }

            impl $struct {
                fn take(layers: &mut Layers, effective: &mut Vec<Effective>, problems: &mut Vec<Problem>) -> $struct {
                    $struct {
                        $($field: take(
                            layers, concat!($section, stringify!($field)), settings!(@range $($range)?), $default, effective, problems,
                        ),)*
                    }
                }
            }
        )*

        /// Every setting, in the order of the documentation.
        pub fn settings() -> Vec<Setting> {
            vec![$($(Setting {
                key: concat!($section, stringify!($field)),
                default: || { let value: $type = $default; value.to_toml() },
                range: settings!(@range $($range)?),
                what: $what,
                why: $why,
            },)*)*]
        }
    };
}

settings! {
    /// Settings of no section.
    "" General {
        models: PathBuf = PathBuf::from("models");
            "Folder of bundles: `NAME/VERSION/`, or `NAME/` for version 1."
            "Relative to where the server starts; name an absolute path in production."
        listen: Vec<Address> = vec![Address::Tcp { host: "127.0.0.1".into(), port: 7400 }];
            "Addresses that answer rank requests: `host:port` or `unix:/path`, one or several."
            "This machine alone: the protocol carries no encryption, so opening it to a network is a decision to write down."
        admin: Address = Address::Tcp { host: "127.0.0.1".into(), port: 7401 };
            "Address of `/metrics`, `/livez` and `/readyz` (TCP)."
            "Apart from the data port, so that it can be closed to clients. In a pod: `0.0.0.0:7401`, for the kubelet's probes."
        shards: Shards = Shards::Auto;
            "Serving threads, one per CPU: `auto` or a number."
            "`auto` takes the CPUs of the process's affinity, capped by the cgroup's quota; from four CPUs on, one is left to the control thread."
        engine: EngineChoice = EngineChoice::Auto;
            "What computes: `auto`, `cpu`, `cuda`, or `null` (a constant, to measure the server itself)."
            "`auto` says at start what it took. Name the engine in production, so that a missing device is an error and not a slow server."
        precision: PrecisionChoice = PrecisionChoice::F32;
            "In what numbers dense layers are computed: `f32`, on CPUs also `int8` or `f16` (weights of 16 bits, arithmetic of 32), on GPUs also `bf16`."
            "f32 is exact. The others are for throughput: measured on the selftest at load, answers move by no more than the next two settings allow: on CPUs the layers that would move them further stay in f32, on GPUs such a model is refused."
        precision_shift: f64 = 0.005;
            "How far reduced precision may move a probability on any row of a model's selftest."
            "A bid is proportional to the probability; half a percent of its range is below what retraining moves. `gavel check --precision int8` shows what a model needs."
        precision_auc: f64 = 0.002;
            "How far reduced precision may move the AUC on a model's selftest (`docs/operations.md` says how it is measured)."
            "Ranking suffers less than probabilities do; this catches the model where it does not."
        io: IoChoice = IoChoice::Auto;
            "What the sockets run on: `auto`, `uring` or `epoll`."
            "`auto` takes io_uring where it is allowed and says loudly when it is not. `uring` exits with 78 instead of falling back."
        pin: PinChoice = PinChoice::Auto;
            "Whether each shard is bound to a CPU: `auto`, `on` or `off`."
            "`auto` binds only where every shard has a CPU of its own and no quota cuts the set: bound threads under a quota stall each other."
        spin_us: u32 = 0, in 0..=1_000_000;
            "How long an idle shard looks for work before it sleeps, in µs."
            "Waking a sleeping thread costs tens of µs. Spinning buys them back and burns a CPU while idle: 0 is right for shared machines, 50 to 1000 for dedicated ones."
    }

    /// Everything is bounded, and memory is reserved at start.
    "limits." Limits {
        connections_per_shard: usize = 1024, in 1..=1_000_000;
            "Connections that a shard holds; one more is answered `connection_limit` and closed."
            "Bidders keep few, long-lived connections. Each reserves `frame_bytes` + `send_bytes` + 4 MiB of address space and takes memory only when touched, until it closes."
        in_flight_per_connection: usize = 128, in 1..=65_536;
            "Unanswered requests of one connection; one more is answered `in_flight_limit`."
            "Ten milliseconds of answers at 12,800 requests a second on one connection; keeps one client from filling a shard."
        in_flight_per_shard: usize = 4096, in 1..=1_000_000;
            "Unanswered requests of a shard; one more is answered `overloaded`."
            "More than a shard can answer within any sane budget: what queues longer would come too late."
        frame_bytes: usize = 1_048_576, in 4096..=67_108_864;
            "Largest frame, header included; a larger one is answered `frame_too_large` and the connection closed."
            "4096 candidates with 60 ids of 4 bytes each."
        send_bytes: usize = 4_194_304, in 65_536..=67_108_864;
            "Unsent answers of one connection; reading from it stops until the client takes them."
            "Half of it is for answers of requests in flight: a hundred of 4096 scores. A client that does not read delays itself, not its neighbours."
        candidates_per_request: usize = 4096, in 1..=1_000_000;
            "Candidates of one request; more are answered `candidates_invalid`."
            "A request is never split over batches, so this bounds how long it holds an engine."
        ids_per_request: usize = 262_144, in 1..=16_777_216;
            "Ids of one request, context and candidates together; more are answered `length_too_large`."
            "64 ids a candidate at the largest number of candidates."
        batch_rows: usize = 8192, in 1..=1_000_000;
            "Candidates in a batch."
            "Two of the largest requests. A batch answers all of its requests together: a larger one makes the first wait for the last."
        batch_requests: usize = 1024, in 1..=65_536;
            "Requests in a batch."
            "Eight candidates a request at the largest batch; smaller requests than that are rare."
        batch_ids: usize = 524_288, in 1..=67_108_864;
            "Ids in a batch, per scope."
            "Two of the largest requests; 4 bytes each."
        slots_per_model: usize = 4, in 2..=64;
            "Batches of a model that a shard holds at once: one computing, the others filling."
            "Two are the least that keep an engine busy; four absorb a mix of deadlines."
        models: usize = 64, in 1..=4096;
            "Model versions served at once."
            "Metrics keep a fixed set of cells per shard and version, about 7 KB."
    }

    /// The CUDA engine.
    "cuda." Cuda {
        device: usize = 0, in 0..=1023;
            "Number of the GPU, as the driver counts those that this process may use."
            "A process serves from one GPU: run one per GPU, each with shards of its own. In Kubernetes a pod sees only its own GPU, as number 0."
        in_flight_per_shard: usize = 2, in 1..=16;
            "Batches that a shard gives the GPU before the first is done."
            "Two overlap one batch's transfer with the other's kernels; more only make batches smaller."
        in_flight_per_device: usize = 4, in 1..=1024;
            "Batches that all shards together give the GPU before the first is done."
            "While the GPU has so many, requests gather into larger batches; without it sixteen shards would launch sixteen tiny ones. To be measured on hardware."
        copy_from_bytes: usize = 262_144, in 0..=1_073_741_824;
            "Candidates' inputs of a batch from this size on are copied to the GPU before its kernels run; smaller ones are read over the bus by the kernels."
            "A copy costs microseconds to begin and then uses the bus better. To be measured on hardware."
        wide_layers: WideLayersChoice = WideLayersChoice::Measure;
            "How wide layers are computed in `bf16`: `measure` (in the fastest way that agrees with our kernel by `mma.sync`, found out when a model is loaded), or `mma` (by that kernel alone)."
            "A trial takes milliseconds a layer, and the log says what it found. `mma` where a kernel on trial breaks the GPU, or loading must launch nothing new."
        nvrtc: Place = Place::Auto;
            "The kernels' compiler: `libnvrtc.so.12`, or the folder that holds it. `auto`: wherever the loader and CUDA's installers have it; `GAVEL_NVRTC` then still counts."
            "Asked only for what neither the bundle nor `kernel_cache` holds; `docs/operations.md` says where to get it, and how to do without."
        kernel_cache: Place = Place::Auto;
            "Folder where compiled kernels are kept. `auto`: `gavel/kernels` in the cache folder of the user (`XDG_CACHE_HOME`, `~/.cache`), else in `/var/cache`."
            "Compiling takes seconds a model. What lies here runs on the GPU: let nobody else write it."
    }

    /// Every wait is bounded.
    "timeouts." Timeouts {
        hello_ms: u32 = 5_000, in 1..=3_600_000;
            "A new connection must have said hello."
            "Port scanners and half-open sockets go away; a client across an ocean does not."
        receive_ms: u32 = 10_000, in 1..=3_600_000;
            "A frame that has begun must be complete."
            "A frame takes microseconds; ten seconds survive a few lost packets."
        idle_ms: u32 = 300_000, in 0..=86_400_000;
            "A connection with nothing in flight is closed after so long without a frame; 0 = never."
            "Above the two and a half minutes that ad exchanges keep idle connections, below what NAT and load balancers forget."
        send_ms: u32 = 5_000, in 1..=3_600_000;
            "A client that takes none of its answers for so long is disconnected."
            "Answers that old are worthless in an auction, and they hold memory."
        drain_ms: u32 = 10_000, in 0..=3_600_000;
            "After SIGTERM: the longest wait for what is in flight and for clients to leave."
            "Requests take milliseconds; the rest is for clients to move. Keep it below the pod's grace period (30 s)."
        heartbeat_ms: u32 = 5_000, in 1_100..=600_000;
            "`/livez` fails when a shard gave no sign of life for so long."
            "A shard's turn takes under a millisecond and an idle shard wakes twenty times a second; five seconds are a hang, not load."
    }

    /// Logs of the control path; nothing is logged per request.
    "log." Log {
        format: LogFormat = LogFormat::Auto;
            "`json` (one object per line on stdout), `text` (stderr), or `auto`: text on a terminal, JSON elsewhere."
            "The JSON fields are `severity`, `time` and `message`, as Google Cloud Logging and most collectors read them."
        level: LogLevel = LogLevel::Info;
            "`error`, `warn`, `info`, `debug` or `trace`."
            "A healthy server writes a few lines at start and at stop."
    }
}

/// Checked settings of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Settings of no section.
    pub general: General,
    /// `[limits]`
    pub limits: Limits,
    /// `[cuda]`
    pub cuda: Cuda,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[log]`
    pub log: Log,
}

impl Config {
    /// Reads every setting out of the layers, and says which value came from where. Faults are added to `problems`; the default then stands in.
    pub(super) fn take(layers: &mut Layers, problems: &mut Vec<Problem>) -> (Config, Vec<Effective>) {
        let mut effective = Vec::new();
        let config = Config {
            general: General::take(layers, &mut effective, problems),
            limits: Limits::take(layers, &mut effective, problems),
            cuda: Cuda::take(layers, &mut effective, problems),
            timeouts: Timeouts::take(layers, &mut effective, problems),
            log: Log::take(layers, &mut effective, problems),
        };
        (config, effective)
    }
}

fn take<T: Value>(
    layers: &mut Layers,
    key: &'static str,
    range: Option<RangeInclusive<u64>>,
    default: T,
    effective: &mut Vec<Effective>,
    problems: &mut Vec<Problem>,
) -> T {
    let (value, origin) = match layers.take(key) {
        None => (default, Origin::Default),
        Some((origin, raw)) => match T::read(&raw).and_then(|value| check_range(&value, range.as_ref()).map(|()| value)) {
            Ok(value) => (value, origin),
            Err(message) => {
                problems.push(Problem { origin: origin.clone(), key: key.into(), message });
                (default, origin)
            }
        },
    };
    effective.push(Effective { key, value: value.to_toml(), origin });
    value
}
