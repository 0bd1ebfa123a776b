//! Which wire can be used here, decided before the executor is touched: glommio panics with a wrong reason where io_uring is forbidden.
//!
//! Any failure of a real attempt ([`crate::wire::probe`]) counts; the facts around it only explain it. Each explanation is one line: what was
//! refused, why as far as the machine tells, and what to do.

use std::fmt;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::IoChoice;
use crate::wire::{ProbeFailure, ProbeStep, RingKind, probe};

/// What the shards use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoBackend {
    /// A ring per shard.
    Uring,
    /// epoll per shard.
    Epoll,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoDecision {
    /// Which wire.
    pub backend: IoBackend,
    /// One line that says which and why.
    pub message: String,
    /// `message` should be a warning: the operator gets less than the best.
    pub warn: bool,
}

/// `--io uring` was asked for and io_uring cannot be used: one line. The process exits with [`EXIT_IO_REFUSED`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IoRefused(pub String);

/// Exit code of `--io uring` where io_uring is refused (`EX_CONFIG`).
pub const EXIT_IO_REFUSED: i32 = 78;

/// Decides, trying the kernel unless epoll was asked for.
pub fn choose(choice: IoChoice) -> Result<IoDecision, IoRefused> {
    if choice == IoChoice::Epoll {
        return Ok(IoDecision { backend: IoBackend::Epoll, message: "io: epoll, as asked".into(), warn: false });
    }
    match (check(), choice) {
        (Ok(kind), _) => {
            let message = format!("io: io_uring ({})", kind_text(kind));
            Ok(IoDecision { backend: IoBackend::Uring, message, warn: false })
        }
        (Err(reason), IoChoice::Uring) => Err(IoRefused(reason)),
        (Err(reason), _) => {
            let message = format!("io: epoll instead of io_uring, because {reason}");
            Ok(IoDecision { backend: IoBackend::Epoll, message, warn: true })
        }
    }
}

/// Whether io_uring can be used here; else the one line that says why not. Raises the soft memlock limit to the hard one first.
pub fn check() -> Result<RingKind, String> {
    raise_soft_limit(Resource::Memlock);
    let memlock = getrlimit(Resource::Memlock);
    let failure = match probe() {
        Ok(kind) if memlock.current.is_none_or(|soft| soft >= MEMLOCK_BYTES_MIN) => return Ok(kind),
        Ok(_) => None,
        Err(failure) => Some(failure),
    };
    Err(Facts::gather(memlock).explain(failure))
}

/// In words, for logs.
pub fn kind_text(kind: RingKind) -> &'static str {
    match kind {
        RingKind::Deferred => "completions deferred to our own entries",
        RingKind::Cooperative => "cooperative completions: Linux 6.1 would do better",
        RingKind::Plain => "plain completions: Linux 6.1 would do better",
    }
}

/// Raises a soft limit to the hard one, which needs no privilege. Failure leaves it as it is.
pub fn raise_soft_limit(resource: Resource) {
    let Rlimit { current, maximum } = getrlimit(resource);
    if current.is_some_and(|soft| maximum.is_none_or(|hard| soft < hard)) {
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}

/// What the machine says about itself, where it explains a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    /// `uname -r`.
    kernel: String,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    disabled: Option<u8>,
    /// A seccomp filter is on.
    filtered: bool,
    /// Soft limit in bytes; `None`: unlimited.
    memlock: Option<u64>,
}

impl Facts {
    fn gather(memlock: Rlimit) -> Facts {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Facts {
            kernel: text("/proc/sys/kernel/osrelease").trim().into(),
            disabled: text("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            filtered: status_field(&text("/proc/self/status"), "Seccomp") == Some("2"),
            memlock: memlock.current,
        }
    }

    /// The line. `None`: the ring works but the executor would refuse the memlock limit.
    fn explain(&self, failure: Option<ProbeFailure>) -> String {
        let kernel = &self.kernel;
        let memlock = self.memlock.map_or("unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
        let Some(ProbeFailure { step, errno }) = failure else {
            return format!(
                "the memlock limit is {memlock} and io_uring needs {} KiB: raise it (ulimit -l, LimitMEMLOCK=, container ulimits)",
                MEMLOCK_BYTES_MIN >> 10
            );
        };
        let name = errno_name(errno);
        match (step, errno) {
            (ProbeStep::Setup, libc::EPERM) if self.disabled == Some(2) => {
                "io_uring_setup gave EPERM and kernel.io_uring_disabled=2: the administrator disabled it for all; set the sysctl to 0"
                    .into()
            }
            (ProbeStep::Setup, libc::EPERM) if self.disabled == Some(1) => {
                "io_uring_setup gave EPERM and kernel.io_uring_disabled=1: only for privileged processes and kernel.io_uring_group; \
                 set the sysctl to 0 or join the group"
                    .into()
            }
            (ProbeStep::Setup, libc::EPERM | libc::ENOSYS | libc::EACCES | libc::EOPNOTSUPP) if self.filtered => format!(
                "a seccomp filter refuses io_uring_setup ({name}): allow io_uring_setup, io_uring_enter and io_uring_register \
                 (container default profiles do not), or run without the filter"
            ),
            (ProbeStep::Setup, libc::ENOSYS) => format!(
                "kernel {kernel} has no io_uring (ENOSYS): older than 5.1, built without CONFIG_IO_URING, or a sandbox such as gVisor; \
                 Linux 6.0 or newer is needed"
            ),
            (ProbeStep::Setup, libc::EOPNOTSUPP) => {
                "io_uring_setup gave EOPNOTSUPP: the platform that runs this container forbids io_uring; ask its operator".into()
            }
            (ProbeStep::Setup | ProbeStep::Register, libc::ENOMEM) => format!(
                "no memory for a ring (ENOMEM) with a memlock limit of {memlock}, which all processes of this user on the machine share: \
                 raise the limit, or give this process a user id of its own"
            ),
            (ProbeStep::Setup, libc::EMFILE | libc::ENFILE) => {
                format!("no file descriptor left for a ring ({name}): raise the nofile limit (ulimit -n)")
            }
            (ProbeStep::Setup, _) => format!("io_uring_setup gave {name} on kernel {kernel}"),
            (ProbeStep::Operation(operation), _) => {
                format!("kernel {kernel} lacks the io_uring operation {operation}: Linux 6.0 or newer is needed")
            }
            (ProbeStep::Register, libc::EINVAL) => {
                format!("kernel {kernel} has no provided-buffer rings (EINVAL): Linux 6.0 or newer is needed")
            }
            (ProbeStep::Register, libc::EPERM | libc::ENOSYS | libc::EACCES) if self.filtered => {
                format!("a seccomp filter allows io_uring_setup but refuses io_uring_register or io_uring_enter ({name}): allow all three")
            }
            (ProbeStep::Register, _) => format!("io_uring_register gave {name} on kernel {kernel}"),
            (ProbeStep::Receive, libc::EINVAL) => {
                format!("kernel {kernel} has no multishot receive (EINVAL): Linux 6.0 or newer is needed")
            }
            (ProbeStep::Receive, libc::EPERM | libc::ENOSYS | libc::EACCES) if self.filtered => format!(
                "a seccomp filter allows io_uring_setup but refuses io_uring_enter ({name}): allow all three system calls of io_uring"
            ),
            (ProbeStep::Receive, libc::ETIMEDOUT) => {
                format!("a byte sent through io_uring did not arrive within a second on kernel {kernel}")
            }
            (ProbeStep::Receive, _) => format!("a receive through io_uring gave {name} on kernel {kernel}"),
        }
    }
}

/// The value of a field of `/proc/self/status`.
pub(crate) fn status_field<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

fn errno_name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        libc::ENOSYS => "ENOSYS".into(),
        libc::EOPNOTSUPP => "EOPNOTSUPP".into(),
        libc::ENOMEM => "ENOMEM".into(),
        libc::EINVAL => "EINVAL".into(),
        libc::EMFILE => "EMFILE".into(),
        libc::ENFILE => "ENFILE".into(),
        other => format!("errno {other}, {}", std::io::Error::from_raw_os_error(other)),
    }
}

impl IoBackend {
    /// As it is spelled in settings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            IoBackend::Uring => "uring",
            IoBackend::Epoll => "epoll",
        }
    }
}

impl fmt::Display for IoBackend {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.name())
    }
}

/// glommio refuses a smaller soft memlock limit.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_line() {
        let plain = Facts { kernel: "6.18.0".into(), disabled: Some(0), filtered: false, memlock: Some(8 << 20) };
        let filtered = Facts { filtered: true, ..plain.clone() };
        let disabled = |level| Facts { disabled: Some(level), ..plain.clone() };
        let old = Facts { kernel: "4.4.0".into(), disabled: None, ..plain.clone() };
        let failure = |step, errno| Some(ProbeFailure { step, errno });
        let setup = |errno| failure(ProbeStep::Setup, errno);
        let cases = [
            (&disabled(2), setup(libc::EPERM), "kernel.io_uring_disabled=2"),
            (&disabled(1), setup(libc::EPERM), "kernel.io_uring_disabled=1"),
            (&filtered, setup(libc::EPERM), "a seccomp filter refuses io_uring_setup (EPERM)"),
            (&filtered, setup(libc::ENOSYS), "a seccomp filter refuses io_uring_setup (ENOSYS)"),
            (&old, setup(libc::ENOSYS), "kernel 4.4.0 has no io_uring"),
            (&plain, setup(libc::EOPNOTSUPP), "EOPNOTSUPP"),
            (&plain, setup(libc::ENOMEM), "memlock limit of 8192 KiB"),
            (&plain, setup(libc::EMFILE), "nofile"),
            (&plain, setup(libc::EIO), "errno 5"),
            (&plain, failure(ProbeStep::Operation("RECV"), libc::EOPNOTSUPP), "operation RECV"),
            (&plain, failure(ProbeStep::Register, libc::EINVAL), "provided-buffer rings"),
            (&filtered, failure(ProbeStep::Register, libc::EPERM), "refuses io_uring_register"),
            (&plain, failure(ProbeStep::Receive, libc::EINVAL), "multishot receive"),
            (&plain, failure(ProbeStep::Receive, libc::ETIMEDOUT), "within a second"),
            (&Facts { memlock: Some(64 << 10), ..plain.clone() }, None, "memlock limit is 64 KiB"),
        ];
        for (facts, failure, expected) in cases {
            let line = facts.explain(failure);
            assert!(line.contains(expected), "{line:?} lacks {expected:?}");
            assert!(!line.contains('\n') && !line.contains("  "), "not one tidy line: {line:?}");
        }
    }

    #[test]
    fn epoll_needs_no_probe() {
        let decision = choose(IoChoice::Epoll).expect("never refused");
        assert_eq!((decision.backend, decision.warn), (IoBackend::Epoll, false));
    }
}
