//! Where io_uring is refused, `gavel` says why in one line: with `--io uring` it ends with 78, with `--io auto` it goes on without.
#![allow(clippy::unwrap_used)]

mod seccomp;

use std::process::Command;

use gavel::config::IoChoice;
use gavel::server::preflight::{self, EXIT_IO_REFUSED, IoBackend};

fn gavel() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gavel"))
}

/// What is refused, with which errno, and what the line must say.
const REFUSALS: [(&[i64], i32, &str); 5] = [
    (&[libc::SYS_io_uring_setup], libc::EPERM, "a seccomp filter refuses io_uring_setup (EPERM)"),
    (
        &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
        libc::ENOSYS,
        "a seccomp filter refuses io_uring_setup (ENOSYS)",
    ),
    (&[libc::SYS_io_uring_setup], libc::EOPNOTSUPP, "a seccomp filter refuses io_uring_setup (EOPNOTSUPP)"),
    (&[libc::SYS_io_uring_register], libc::EPERM, "refuses io_uring_register"),
    (&[libc::SYS_io_uring_enter], libc::EPERM, "refuses io_uring_enter"),
];

#[test]
fn uring_where_it_is_refused_ends_with_78_and_one_line() {
    let models = tempfile::tempdir().unwrap();
    for (calls, errno, expected) in REFUSALS {
        let mut command = gavel();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--io", "uring", "--models"]).arg(models.path());
        seccomp::refuse(&mut command, calls, errno);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(EXIT_IO_REFUSED), "{text}");
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
    }
}

#[test]
fn doctor_names_the_reason_and_the_way_out() {
    for (calls, errno, expected) in REFUSALS {
        let mut command = gavel();
        command.arg("doctor");
        seccomp::refuse(&mut command, calls, errno);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "a machine without io_uring can serve: {text}");
        assert!(text.contains(expected), "{text} lacks {expected:?}");
        assert!(text.contains("--io auto uses epoll"), "{text}");
        assert!(text.contains("a filter is on"), "{text}");
    }
}

#[test]
fn a_small_memlock_limit_is_named() {
    use std::os::unix::process::CommandExt;
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    let mut command = gavel();
    command.arg("doctor");
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec only one system call is made, on memory that is moved along.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(text.contains("memlock limit is 64 KiB and io_uring needs 512 KiB") || text.contains("no memory for a ring"), "{text}");
}

#[test]
fn auto_decides_and_says_so() {
    let decision = preflight::choose(IoChoice::Auto).unwrap();
    println!("{}", decision.message);
    assert_eq!(decision.warn, decision.backend == IoBackend::Epoll);
    assert_eq!(preflight::choose(IoChoice::Uring).is_ok(), decision.backend == IoBackend::Uring);
    assert_eq!(preflight::choose(IoChoice::Epoll).unwrap().backend, IoBackend::Epoll);
}
