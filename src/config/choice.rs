//! Settings with a small set of values.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value as it is written.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($name::$variant => $text,)* })
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<$name, String> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err(format!("expected one of {}, found {text:?}", $name::NAMES.join(", "))),
                }
            }
        }
    };
}

choices! {
    /// What computes scores, as asked for.
    EngineChoice {
        /// The best engine that this build has for this machine.
        Auto = "auto",
        /// The CPU engine.
        Cpu = "cpu",
        /// The CUDA engine.
        Cuda = "cuda",
        /// A constant: measures everything around the engine.
        Null = "null",
    }
}

choices! {
    /// In what numbers dense layers are computed, where that keeps answers within the limits.
    PrecisionChoice {
        /// 32-bit floats.
        F32 = "f32",
        /// 8-bit integers.
        Int8 = "int8",
        /// 16-bit floats as weights.
        F16 = "f16",
        /// Products of bf16 on tensor cores.
        Bf16 = "bf16",
    }
}

choices! {
    /// How wide layers in bf16 are computed on a GPU.
    WideLayersChoice {
        /// In the fastest way that agrees with mma.sync, measured when a model is loaded.
        Measure = "measure",
        /// By mma.sync.
        Mma = "mma",
    }
}

choices! {
    /// What the sockets run on, as asked for.
    IoChoice {
        /// io_uring, or epoll where the kernel or the container refuses it.
        Auto = "auto",
        /// io_uring, or exit 78.
        Uring = "uring",
        /// epoll.
        Epoll = "epoll",
    }
}

choices! {
    /// Whether each shard is bound to one CPU.
    PinChoice {
        /// Bound where every shard has a CPU of its own and no quota cuts the set.
        Auto = "auto",
        /// Bound.
        On = "on",
        /// Left to the kernel.
        Off = "off",
    }
}

choices! {
    /// How log lines look.
    LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One object per line, on stdout.
        Json = "json",
        /// For eyes, on stderr.
        Text = "text",
    }
}

choices! {
    /// The least important line that is written.
    LogLevel {
        /// What stops or breaks something.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn",
        /// Start, stop, models.
        Info = "info",
        /// For developers.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// Number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// As many as the machine gives this process.
    Auto,
    /// This many.
    Count(u16),
}

impl Shards {
    /// The number that was asked for.
    pub fn count(self) -> Option<usize> {
        match self {
            Shards::Auto => None,
            Shards::Count(count) => Some(count.into()),
        }
    }
}

impl FromStr for Shards {
    type Err = String;
    fn from_str(text: &str) -> Result<Shards, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Shards::Auto),
            (_, Ok(count @ 1..=SHARDS_MAX)) => Ok(Shards::Count(count)),
            _ => Err(format!("expected auto or a whole number from 1 to {SHARDS_MAX}, found {text:?}")),
        }
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shards::Auto => f.write_str("auto"),
            Shards::Count(count) => count.fmt(f),
        }
    }
}

/// Where something is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where it usually is.
    Auto,
    /// Here.
    Path(PathBuf),
}

impl Place {
    /// The path that was given.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Place::Auto => None,
            Place::Path(path) => Some(path),
        }
    }
}

/// More CPUs than any machine that we know.
const SHARDS_MAX: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for name in EngineChoice::NAMES {
            assert_eq!(name.parse::<EngineChoice>().expect("a name").to_string(), *name);
        }
        for (text, shards) in
            [("auto", Some(Shards::Auto)), ("1", Some(Shards::Count(1))), ("0", None), ("1025", None), ("-1", None), ("", None)]
        {
            assert_eq!(text.parse().ok(), shards, "{text}");
        }
        let error = "gpu".parse::<EngineChoice>().expect_err("no such engine");
        assert_eq!(error, r#"expected one of auto, cpu, cuda, null, found "gpu""#);
    }
}
