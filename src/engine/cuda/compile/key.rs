//! What a cubin is looked up by: everything that decides its code except the compiler's version.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::model::Digest;

use super::arch::Arch;
use super::headers::Header;
use super::nvrtc::CompileOptions;

/// SHA-256 of the source, the headers and the flags, architecture included.
///
/// The version of NVRTC is no part of it: a cubin that was shipped is found on machines that have no NVRTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    digest: Digest,
    arch: Arch,
}

impl Key {
    /// For these sources, compiled so.
    pub fn new(source: &str, headers: &[Header<'_>], arch: Arch, options: &CompileOptions) -> Key {
        let flags = options.flags(arch);
        let texts = [source].into_iter().chain(headers.iter().flat_map(|header| [header.name, header.text]));
        let mut hasher = Sha256::new();
        // Lengths keep the end of one text apart from the beginning of the next; counts keep headers apart from flags.
        hasher.update((headers.len() as u64).to_le_bytes());
        for text in texts.chain(flags.iter().map(String::as_str)) {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        Key { digest: Digest(hasher.finalize().into()), arch }
    }

    /// The whole digest.
    pub fn digest(self) -> Digest {
        self.digest
    }

    /// For which devices.
    pub fn arch(self) -> Arch {
        self.arch
    }
}

/// As files are named: `sm_90a-0123456789abcdef`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.arch)?;
        self.digest.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_decides_the_code_is_in_it() {
        let arch = |name: &str| name.parse::<Arch>().expect("an architecture");
        let header = |name, text| Header { name, text };
        let plain = CompileOptions::default();
        let base = Key::new("source", &[header("a", "b")], arch("sm_80"), &plain);
        assert_eq!(Key::new("source", &[header("a", "b")], arch("sm_80"), &plain), base);
        for other in [
            Key::new("sourcea", &[header("", "b")], arch("sm_80"), &plain),
            Key::new("source", &[header("a", "c")], arch("sm_80"), &plain),
            Key::new("source", &[header("ab", "")], arch("sm_80"), &plain),
            Key::new("source", &[], arch("sm_80"), &plain),
            Key::new("source", &[header("a", "b")], arch("sm_89"), &plain),
            Key::new("source", &[header("a", "b")], arch("sm_80"), &CompileOptions { line_info: true, ..plain.clone() }),
            Key::new("source", &[header("a", "b")], arch("sm_80"), &CompileOptions { registers_max: Some(64), ..plain.clone() }),
        ] {
            assert_ne!(other.digest(), base.digest());
        }
        let name = base.to_string();
        assert_eq!(name, format!("sm_80-{}", &base.digest().to_string()[..16]));
    }
}
