//! The seccomp rules: which system calls a program may make.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// System calls that a program may make with any arguments: reading and writing open files, memory, clocks. All other
/// calls fail with EPERM.
const ALLOWED: &[c_long] = &[
    // files, within what Landlock allows
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_unlinkat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_dup,
    libc::SYS_dup3,
    // memory
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    // the process itself
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_sched_yield,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // time
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// System calls of which one argument, given by its number, must have one of these values.
const BY_VALUE: &[(c_long, u8, &[c_int])] = &[
    // Copies of descriptors and their flags. Other commands could choose a signal and its receiver for changes of a
    // file.
    (
        libc::SYS_fcntl,
        1,
        &[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL],
    ),
    // Required for opening a file.
    (libc::SYS_ioctl, 1, &[libc::TCGETS as c_int, libc::FIOCLEX as c_int, libc::FIONCLEX as c_int]),
    // Used by an allocator to return memory. With other values root could take memory pages from the machine for good.
    (libc::SYS_madvise, 2, &[libc::MADV_DONTNEED, libc::MADV_FREE]),
    // Waiting and waking within the process.
    (
        libc::SYS_futex,
        1,
        &[
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME,
            libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
        ],
    ),
    // ARCH_SET_FS sets the address of thread-local variables.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_arch_prctl, 0, &[0x1002]),
];

/// Returns the allow-list. `execve` is allowed only with the string at address `program`. That address is free after
/// the exec, but if a program puts another path there, Landlock lets it start only Python, under the same rules.
pub fn filter(program: u64) -> Result<BpfProgram, BackendError> {
    let int = |argument, value: c_int| SeccompCondition::new(argument, Dword, Eq, u64::from(value as u32));
    let long = |argument, value| SeccompCondition::new(argument, Qword, Eq, value);
    let one = |condition| SeccompRule::new(vec![condition]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    for &(call, argument, values) in BY_VALUE {
        let values = values.iter().map(|&value| one(int(argument, value)?));
        rules.insert(call, values.collect::<Result<_, _>>()?);
    }
    rules.insert(libc::SYS_execve, vec![one(long(0, program)?)?]);
    // A process may read its own limits.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![int(0, 0)?, long(2, 0)?])?]);
    // Huge and locked pages are scarce, so they are refused.
    let scarce = (libc::MAP_HUGETLB | libc::MAP_LOCKED) as u64;
    rules.insert(libc::SYS_mmap, vec![one(SeccompCondition::new(3, Dword, MaskedEq(scarce), 0)?)?]);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()
}
