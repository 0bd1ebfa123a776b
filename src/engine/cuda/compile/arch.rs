//! Architectures that code is compiled for.

use std::fmt;
use std::str::FromStr;

/// What a cubin is for: `sm_80`, `sm_89`, `sm_90a`, `sm_100`, ... A cubin runs on devices of exactly this capability, as gavel uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Major and minor in decimal: 89 for 8.9, 100 for 10.0.
    number: u16,
    /// With the instructions of this one architecture (`a`): those of 9.0 are needed for its tensor cores.
    specific: bool,
}

/// No architecture that kernels can be compiled for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownArch {
    /// Not of the form.
    #[error("architecture {0:?} is not of the form sm_90a: sm_, major and minor of the compute capability, perhaps an a")]
    Form(String),
    /// No asynchronous copies, no bf16.
    #[error("compute capability {0}.{1} is older than 8.0: the kernels need asynchronous copies and bf16 of Ampere or newer")]
    Old(u16, u16),
    /// No device looks for such code.
    #[error("GPUs of compute capability {}.{} take {takes}; code for {asked} would not be found", .asked.capability().0, .asked.capability().1)]
    NoDevices {
        /// As it was asked for.
        asked: Arch,
        /// What to ask for.
        takes: Arch,
    },
}

impl Arch {
    /// What `gavel compile` compiles for unless told otherwise: A100; L4 and L40S; H100 and H200; B200.
    pub const COMMON: [Arch; 4] = [Arch::of(80), Arch::of(89), Arch { number: 90, specific: true }, Arch::of(100)];

    const OLDEST: u16 = 80;

    const fn of(number: u16) -> Arch {
        Arch { number, specific: false }
    }

    /// For a device of this compute capability. 9.0 gets the instructions of its own; a device newer than this code gets its exact number,
    /// which an NVRTC that is new enough knows.
    pub fn of_device(major: i32, minor: i32) -> Result<Arch, UnknownArch> {
        let (major, minor) = (u16::try_from(major).unwrap_or(0), u16::try_from(minor).unwrap_or(0));
        let number = major.saturating_mul(10).saturating_add(minor);
        if number < Arch::OLDEST {
            return Err(UnknownArch::Old(major, minor));
        }
        Ok(Arch { number, specific: number == 90 })
    }

    /// Major and minor of the devices that it is for.
    pub fn capability(self) -> (u16, u16) {
        (self.number / 10, self.number % 10)
    }

    /// Whether it has products of warpgroups (wgmma): those of 9.0 alone do.
    pub fn has_warpgroups(self) -> bool {
        self.number == 90 && self.specific
    }

    /// Shared memory that a block may ask for at most, in bytes (CUDA C++ Programming Guide, "Technical Specifications per Compute
    /// Capability"): what a device of this architecture says of itself. One that is not in the guide's table: the least of all.
    pub fn shared_bytes_max(self) -> usize {
        const KIB: usize = 1024;
        match self.number {
            80 | 87 => 163 * KIB,
            90 | 100 | 101 | 103 | 110 => 227 * KIB,
            _ => 99 * KIB,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number, if self.specific { "a" } else { "" })
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Arch, UnknownArch> {
        let form = || UnknownArch::Form(text.into());
        let name = text.strip_prefix("sm_").ok_or_else(form)?;
        let (digits, specific) = name.strip_suffix('a').map_or((name, false), |digits| (digits, true));
        let plain = (2..=3).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
        let number: u16 = digits.parse().ok().filter(|_| plain).ok_or_else(form)?;
        if number < Arch::OLDEST {
            return Err(UnknownArch::Old(number / 10, number % 10));
        }
        let (asked, takes) = (Arch { number, specific }, Arch::of_device(i32::from(number / 10), i32::from(number % 10))?);
        if asked == takes { Ok(asked) } else { Err(UnknownArch::NoDevices { asked, takes }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for (text, capability, shared) in [
            ("sm_80", (8, 0), 163),
            ("sm_86", (8, 6), 99),
            ("sm_89", (8, 9), 99),
            ("sm_90a", (9, 0), 227),
            ("sm_100", (10, 0), 227),
            ("sm_121", (12, 1), 99),
        ] {
            let arch: Arch = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((arch.to_string().as_str(), arch.capability(), arch.shared_bytes_max()), (text, capability, shared * 1024));
        }
        assert_eq!(Arch::COMMON.map(|arch| arch.to_string()), ["sm_80", "sm_89", "sm_90a", "sm_100"]);
    }

    #[test]
    fn other_names_are_refused() {
        for text in ["", "90a", "sm_", "sm_9", "sm_1000", "sm_90b", "sm_90aa", "sm_+90", "SM_90", "compute_90", "sm_090", "sm_é"] {
            assert_eq!(text.parse::<Arch>(), Err(UnknownArch::Form(text.into())), "{text}");
        }
        assert_eq!("sm_75".parse::<Arch>(), Err(UnknownArch::Old(7, 5)));
        let refused = |text: &str| text.parse::<Arch>().expect_err("refused").to_string();
        assert_eq!(refused("sm_90"), "GPUs of compute capability 9.0 take sm_90a; code for sm_90 would not be found");
        assert_eq!(refused("sm_89a"), "GPUs of compute capability 8.9 take sm_89; code for sm_89a would not be found");
    }

    #[test]
    fn devices_get_their_own() {
        for (capability, name) in
            [((8, 0), "sm_80"), ((8, 6), "sm_86"), ((9, 0), "sm_90a"), ((10, 0), "sm_100"), ((12, 1), "sm_121"), ((13, 7), "sm_137")]
        {
            assert_eq!(Arch::of_device(capability.0, capability.1).map(|arch| arch.to_string()), Ok(name.into()));
        }
        let old = Arch::of_device(7, 5).map_err(|error| error.to_string());
        assert!(old.is_err_and(|text| text.starts_with("compute capability 7.5 is older than 8.0")));
        assert!(Arch::of_device(-1, 0).is_err());
    }
}
