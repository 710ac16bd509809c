//! A private root folder for the program that contains only what it may use, so that even `stat` finds nothing else.
//!
//! The child enters a user namespace and a mount namespace. It mounts an empty file system over the private folder,
//! which it still holds as its working directory, mounts everything that the program needs into it under the same
//! paths, makes it the root, and detaches the machine's root. With execve it loses the rights in its namespace that it
//! needed for this, as every user but root does. A run takes 35 ms with or without this.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null;

use super::check;
use super::landlock::readable;
use crate::sandbox::Python;

/// The user and group that a program sees, whoever runs it: nobody, who has no rights.
const NOBODY: u32 = 65_534;

const EMPTY: &CStr = c"tmpfs";
const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Everything that the child needs to enter its root.
pub struct Root {
    /// The files of the user namespace, and the text to write to each. Without a user the empty file system would allow
    /// no folders.
    identity: [(&'static CStr, CString); 3],
    /// The private folder. The new root is mounted over it, and contains it at the same path.
    folder: CString,
    /// The path of the private folder until the new root is the root.
    inner: CString,
    /// The folders to make in the new root, outer ones first, and then the empty files.
    folders: Vec<CString>,
    files: Vec<CString>,
    /// The mounts: a path in the old root, and the path in the new one.
    mounts: Vec<(CString, CString)>,
}

impl Root {
    pub fn new(python: &Python, folder: &Path) -> io::Result<Root> {
        let folder = fs::canonicalize(folder)?;
        let mut mounts: Vec<(PathBuf, PathBuf)> = Vec::new();
        for path in readable(python).chain([Path::new("/dev/null"), &python.program]) {
            let Ok(real) = fs::canonicalize(path) else { continue }; // the path is missing: nothing to mount
            // A link's target is mounted at its own path and at the path of the link.
            for target in [&real, path] {
                if !mounts.iter().any(|(_, outer)| target.starts_with(outer)) {
                    mounts.push((real.clone(), target.to_path_buf()));
                }
            }
        }
        let inside = |path: &Path| text(&folder.join(path.strip_prefix("/").unwrap_or(path)));
        let targets = mounts.iter().map(|(_, to)| to.as_path());
        let (of_folders, of_files): (Vec<&Path>, Vec<&Path>) = targets.partition(|path| path.is_dir());
        let outer = of_files.iter().filter_map(|path| path.parent());
        let folders = of_folders.into_iter().chain(outer).chain([&*folder]).flat_map(Path::ancestors);
        let folders: BTreeSet<&Path> = folders.filter(|path| path.parent().is_some()).collect();
        // SAFETY: plain system calls, which cannot fail.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Root {
            // The order matters: a group may be set only after giving up the right to set more groups.
            identity: [
                (c"/proc/self/uid_map", CString::new(format!("{NOBODY} {user} 1"))?),
                (c"/proc/self/setgroups", c"deny".into()),
                (c"/proc/self/gid_map", CString::new(format!("{NOBODY} {group} 1"))?),
            ],
            inner: inside(&folder)?,
            folders: folders.into_iter().map(inside).collect::<Result<_, _>>()?,
            files: of_files.into_iter().map(inside).collect::<Result<_, _>>()?,
            mounts: mounts
                .iter()
                .map(|(from, to)| Ok((text(from)?, inside(to)?)))
                .collect::<io::Result<_>>()?,
            folder: text(&folder)?,
        })
    }

    /// Enters the root. Called by the child, whose working directory is the private folder, while it may still open
    /// files.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: plain system calls on strings that live as long as `self`.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
            for (path, text) in &self.identity {
                write(path, text)?;
            }
            mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            let kind = EMPTY.as_ptr();
            check(libc::mount(kind, self.folder.as_ptr(), kind, FLAGS, c"mode=755".as_ptr().cast()))?;
            for folder in &self.folders {
                check(libc::mkdir(folder.as_ptr(), 0o755))?;
            }
            for file in &self.files {
                check(libc::mknod(file.as_ptr(), libc::S_IFREG | 0o644, 0))?;
            }
            for (from, to) in &self.mounts {
                mount(Some(from), to, libc::MS_BIND | libc::MS_REC)?;
            }
            // The path of the folder would lead to the new root, so the working directory is mounted.
            mount(Some(c"."), &self.inner, libc::MS_BIND)?;
            mount(None, &self.folder, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | FLAGS)?;
            check(libc::chdir(self.folder.as_ptr()))?;
            // The old root then lies over the new one and is detached (pivot_root(2)).
            check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
            check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
            check(libc::chdir(self.folder.as_ptr()))
        }
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn mount(from: Option<&CStr>, to: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: strings that live through the call, or null.
    check(unsafe { libc::mount(from.map_or(null(), CStr::as_ptr), to.as_ptr(), null(), flags, null()) })
}

fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    let bytes = text.to_bytes();
    // SAFETY: plain system calls on memory that lives through them.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file)?;
        let written = check(libc::write(file, bytes.as_ptr().cast(), bytes.len()));
        libc::close(file);
        written
    }
}
