//! Runs a program under a seccomp filter that refuses system calls, as container runtimes do.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// From now on the program that `command` starts gets `errno` for these system calls. Needs no privilege.
pub fn refuse(command: &mut Command, calls: &[i64], errno: i32) {
    install(command, calls, libc::SECCOMP_RET_ERRNO | errno as u32);
}

/// The program that `command` starts is killed by the first of these system calls.
#[allow(dead_code)] // each test uses some of it
pub fn forbid(command: &mut Command, calls: &[i64]) {
    install(command, calls, libc::SECCOMP_RET_KILL_PROCESS);
}

#[allow(unsafe_code)]
fn install(command: &mut Command, calls: &[i64], verdict: u32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET)];
    for (at, &call) in calls.iter().enumerate() {
        // A match jumps over the remaining comparisons and the permission, to the refusal.
        let jump = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(libc::sock_filter { code: jump as u16, jt: (calls.len() - at) as u8, jf: 0, k: call as u32 });
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    filter.push(statement(libc::BPF_RET | libc::BPF_K, verdict));
    let set = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: `program` and the filter it names live through the calls; both prctl forms take these arguments.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated.
    unsafe { command.pre_exec(set) };
}

/// `seccomp_data.nr`.
const NUMBER_OFFSET: u32 = 0;
