//! The Landlock rules: which files a program may use, and that it can reach no outside process or socket.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::sandbox::Python;

/// The Landlock version that supports every rule here.
pub const NEWEST: ABI = ABI::V6;

/// The folders of the system's shared libraries.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Returns the paths from which Python and the loader of its libraries read.
pub fn readable(python: &Python) -> impl Iterator<Item = &Path> {
    let library = python.library.iter().map(PathBuf::as_path);
    LIBRARIES.iter().map(Path::new).chain(library).chain([Path::new("/etc/ld.so.cache")])
}

/// Returns rules that allow reading Python's program, its library and the system's libraries, and making files in
/// `folder`. Fails on a kernel without the first version of Landlock. Features of later versions, up to `newest`, are
/// restricted where the kernel supports them: truncating, ioctl on devices, TCP, and from version 6 on signals and
/// abstract sockets of outside processes.
pub fn ruleset(python: &Python, folder: &Path, newest: ABI) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate | read;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?;
    if newest >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(newest))?;
    }
    if newest >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(newest))?;
    }
    let mut ruleset = ruleset.create()?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        let Ok(file) = PathFd::new(path) else { return Ok(()) }; // the path is missing: nothing to allow
        let known = if path.is_dir() { AccessFs::from_all(newest) } else { AccessFs::from_file(newest) };
        (&mut ruleset).add_rule(PathBeneath::new(file, access & known)).map(drop)
    };
    for path in readable(python) {
        allow(path, read)?;
    }
    allow(Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    for path in loaders().iter().chain([&python.program]) {
        allow(path, read | AccessFs::Execute)?;
    }
    allow(folder, own)?;
    Ok(ruleset)
}

/// Returns the programs that load shared libraries; the kernel starts one together with Python.
fn loaders() -> Vec<PathBuf> {
    let entries = LIBRARIES.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let is_loader = |entry: &std::fs::DirEntry| entry.file_name().as_bytes().starts_with(b"ld-");
    entries.filter(is_loader).map(|entry| entry.path()).collect()
}
