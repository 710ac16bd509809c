//! The kernel's part of the sandbox: rlimits here, the visible files in [`root`], access to files in [`landlock`],
//! system calls in [`seccomp`].
//!
//! Everything is prepared before the fork. The child makes only system calls, as required after the fork of a process
//! with threads.

mod landlock;
mod root;
mod seccomp;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ::landlock::ABI;
use libc::{c_char, c_uint, pid_t, rlim_t};
use seccompiler::BpfProgram;

pub use self::landlock::{NEWEST, ruleset};
use self::root::Root;
use super::{LARGEST_FILE, MEMORY, OPEN_FILES, Python, WALL_CLOCK};

/// Makes `command` limit itself before it becomes Python, and confine itself if `confinement` is given.
pub fn limit(command: &mut Command, confinement: Option<Confinement>) {
    let parent = std::process::id();
    let child = move || {
        // This comes first: it opens files, for which the limits below may leave no descriptor.
        if let Some(root) = confinement.as_ref().and_then(|confinement| confinement.root.as_ref()) {
            root.enter()?;
        }
        // SAFETY: plain system calls on values of our own.
        unsafe {
            // A program must not outlive its parent, which may have died before this call. (Exec of a setuid program
            // would clear this setting.)
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            check(libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
        }
        let seconds = WALL_CLOCK.as_secs();
        for (resource, most) in [
            (libc::RLIMIT_AS, MEMORY),
            (libc::RLIMIT_CPU, seconds + 1),
            (libc::RLIMIT_FSIZE, LARGEST_FILE),
            (libc::RLIMIT_NOFILE, OPEN_FILES),
            // No core dump; with 1 instead of 0 none is piped to the system's own program either (core(5)).
            (libc::RLIMIT_CORE, 1),
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
}

/// Kills all processes of the group that a program leads.
pub fn kill_group(leader: u32) {
    // SAFETY: a plain system call. It fails if there is none left.
    unsafe { libc::kill(-(leader as pid_t), libc::SIGKILL) };
}

/// Whether a child has ended. It is not reaped, so its process id stays taken and [`kill_group`] can hit no other
/// process.
pub fn has_ended(child: u32) -> io::Result<bool> {
    // SAFETY: all zeros are a value of this C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` lives through the call, which sets it, or leaves it zero while the child runs.
    check(unsafe { libc::waitid(libc::P_PID, child, &mut info, look) })?;
    // SAFETY: that field is set for every child that has ended.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Everything that the child needs to confine itself and become Python.
pub struct Confinement {
    /// The private root folder; None to keep the machine's.
    root: Option<Root>,
    ruleset: OwnedFd,
    filter: BpfProgram,
    program: CString,
    /// The arguments, ending with null, which point into `_texts`.
    arguments: Vec<*const c_char>,
    _texts: Vec<CString>,
}

// SAFETY: the pointers are to heap memory that moves with the struct and is never changed.
unsafe impl Send for Confinement {}
// SAFETY: as above.
unsafe impl Sync for Confinement {}

impl Confinement {
    /// Prepares the confinement of Python with `arguments` to `folder`, with the Landlock features up to `newest`. With
    /// `own_root` the program sees only the files that it needs.
    pub fn new(
        python: &Python,
        arguments: &[&str],
        folder: &Path,
        own_root: bool,
        newest: ABI,
    ) -> io::Result<Confinement> {
        let root = own_root.then(|| Root::new(python, folder)).transpose()?;
        let ruleset: Option<OwnedFd> = ruleset(python, folder, newest).map_err(io::Error::other)?.into();
        let ruleset = ruleset.ok_or_else(|| io::Error::other("the kernel has no Landlock"))?;
        let program = CString::new(python.program.as_os_str().as_bytes())?;
        let texts: Vec<CString> =
            arguments.iter().map(|text| CString::new(*text)).collect::<Result<_, _>>()?;
        let pointers = [program.as_ptr()].into_iter().chain(texts.iter().map(|text| text.as_ptr()));
        let arguments = pointers.chain([std::ptr::null()]).collect();
        let filter = seccomp::filter(program.as_ptr() as u64).map_err(io::Error::other)?;
        Ok(Confinement { root, ruleset, filter, program, arguments, _texts: texts })
    }

    /// Confines this process and becomes Python. Returns only if this fails.
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

fn check(result: impl TryInto<i64>) -> io::Result<()> {
    if result.try_into().is_ok_and(|result| result >= 0) { Ok(()) } else { Err(io::Error::last_os_error()) }
}
