//! The kernel's part of the sandbox: rlimits, Landlock, seccomp.
//!
//! All is prepared before the fork; the child only makes system calls, as it must after the fork of a process with
//! threads.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};
use libc::{c_char, c_long, c_uint, rlim_t};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::{ARGUMENTS, LARGEST_FILE, MEMORY, OPEN_FILES, Python, WALL_CLOCK};

/// Where shared libraries of the system lie.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Makes `command` limit itself before it becomes Python, and confine itself to `folder` if there is one.
pub fn limit(command: &mut Command, python: &Python, folder: Option<&Path>) -> io::Result<()> {
    let confinement = folder.map(|folder| Confinement::new(python, folder)).transpose()?;
    let child = move || {
        // SAFETY: plain system calls on values of our own.
        unsafe {
            // A program does not outlive whoever started it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            check(libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
        }
        let seconds = WALL_CLOCK.as_secs();
        for (resource, most) in [
            (libc::RLIMIT_AS, MEMORY),
            (libc::RLIMIT_CPU, seconds + 1),
            (libc::RLIMIT_FSIZE, LARGEST_FILE),
            (libc::RLIMIT_NOFILE, OPEN_FILES),
            (libc::RLIMIT_CORE, 0),
        ] {
            let limit = libc::rlimit { rlim_cur: most as rlim_t, rlim_max: most as rlim_t };
            // SAFETY: `limit` lives through the call.
            check(unsafe { libc::setrlimit(resource, &limit) })?;
        }
        match &confinement {
            Some(confinement) => Err(confinement.enter()),
            None => Ok(()),
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock and makes system calls only.
    unsafe { command.pre_exec(child) };
    Ok(())
}

/// Kills all processes of a group that a program led.
pub fn kill_group(leader: u32) {
    // SAFETY: a plain system call. It fails if there is none left.
    unsafe { libc::kill(-(leader as libc::pid_t), libc::SIGKILL) };
}

/// Everything that the child needs to lock itself in and become Python.
struct Confinement {
    ruleset: OwnedFd,
    filter: BpfProgram,
    program: CString,
    /// Ends with null; points into `_texts`.
    arguments: Vec<*const c_char>,
    _texts: Vec<CString>,
}

// SAFETY: the pointers are to heap memory that moves with the struct and is never changed.
unsafe impl Send for Confinement {}
// SAFETY: as above.
unsafe impl Sync for Confinement {}

impl Confinement {
    fn new(python: &Python, folder: &Path) -> io::Result<Confinement> {
        let ruleset: Option<OwnedFd> = ruleset(python, folder).map_err(io::Error::other)?.into();
        let ruleset = ruleset.ok_or_else(|| io::Error::other("the kernel has no Landlock"))?;
        let program = CString::new(python.program.as_os_str().as_bytes())?;
        let texts: Vec<CString> =
            ARGUMENTS.iter().map(|text| CString::new(*text)).collect::<Result<_, _>>()?;
        let pointers = [program.as_ptr()].into_iter().chain(texts.iter().map(|text| text.as_ptr()));
        let arguments = pointers.chain([std::ptr::null()]).collect();
        let filter = filter(program.as_ptr() as u64).map_err(io::Error::other)?;
        Ok(Confinement { ruleset, filter, program, arguments, _texts: texts })
    }

    /// Returns only if it fails.
    fn enter(&self) -> io::Error {
        let locked = || {
            // SAFETY: plain system calls; the descriptor is open.
            unsafe {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                check(libc::syscall(libc::SYS_landlock_restrict_self, self.ruleset.as_raw_fd(), 0))?;
            }
            seccompiler::apply_filter(&self.filter).map_err(|_| io::Error::last_os_error())
        };
        if let Err(error) = locked() {
            return error;
        }
        let environment = [std::ptr::null()];
        // SAFETY: strings and lists that end with null and live as long as `self`.
        unsafe { libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Files: Python's program, its library and the system's may be read, and files be made in `folder`. A kernel that
/// does not know the first version of Landlock is refused; newer rights are restricted where they are known.
fn ruleset(python: &Python, folder: &Path) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate | read;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        let Ok(file) = PathFd::new(path) else { return Ok(()) }; // not there: nothing to allow
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
        (&mut ruleset).add_rule(PathBeneath::new(file, access)).map(drop)
    };
    for path in LIBRARIES.iter().map(Path::new).chain(python.library.iter().map(PathBuf::as_path)) {
        allow(path, read)?;
    }
    allow(Path::new("/etc/ld.so.cache"), read)?;
    for path in loaders().iter().chain([&python.program]) {
        allow(path, read | AccessFs::Execute)?;
    }
    allow(folder, own)?;
    Ok(ruleset)
}

/// Programs that load shared libraries: the kernel starts one with Python.
fn loaders() -> Vec<PathBuf> {
    let entries = LIBRARIES.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let is_loader = |entry: &std::fs::DirEntry| entry.file_name().as_bytes().starts_with(b"ld-");
    entries.filter(is_loader).map(|entry| entry.path()).collect()
}

/// System calls that a program may make with any arguments: reading and writing what is open, memory, clocks.
/// Whatever is not here fails with EPERM.
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
    libc::SYS_fcntl,
    // memory
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // the process itself
    libc::SYS_futex,
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
    libc::SYS_arch_prctl,
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

/// The allow-list, with what depends on arguments: limits may be read but not set, of `ioctl` is left what opening
/// a file needs, and `execve` is for the one string at `program`. That address is free after the exec, but whoever
/// puts another path there finds that Landlock lets it start only Python, under these same rules.
fn filter(program: u64) -> Result<BpfProgram, seccompiler::BackendError> {
    let only_if = |argument: u8, len: SeccompCmpArgLen, value: u64| {
        let condition = SeccompCondition::new(argument, len, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![condition])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_execve, vec![only_if(0, Qword, program)?]);
    rules.insert(libc::SYS_prlimit64, vec![only_if(2, Qword, 0)?]);
    let ioctls = [libc::TCGETS, libc::FIOCLEX, libc::FIONCLEX];
    let ioctls = ioctls.map(|request| only_if(1, Dword, request));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()
}

fn check(result: impl TryInto<i64>) -> io::Result<()> {
    if result.try_into().is_ok_and(|result| result >= 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
}
