//! Runs Python that a model wrote, so that it can harm nothing.
//!
//! A program is one process that may compute, read Python's own library and use a folder of its own. On Linux the
//! kernel enforces that, also for root:
//!
//! | what | how |
//! |---|---|
//! | system calls | a seccomp allow-list: no fork, no exec, no sockets, no signals, no ptrace, no chmod |
//! | files | Landlock: reading the library; writing in the private folder, which is removed afterwards |
//! | memory, processor, file size, open files | rlimits, which the list keeps a program from raising |
//! | wall clock, size of the folder | this process watches and kills |
//! | the rest | an empty environment, no descriptors but an empty output, a process group of its own |
//!
//! What passes must say so: a program that only ends, with whatever exit code, has failed. (A token is written when
//! the last line has run. A program that searched the interpreter's frames for it could pass without being right;
//! none can do more.)

#[cfg(target_os = "linux")]
mod linux;
mod workdir;

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;

use workdir::WorkDir;

const WALL_CLOCK: Duration = Duration::from_secs(5);
const MEMORY: u64 = 256 << 20;
const LARGEST_FILE: u64 = 1 << 20;
const OPEN_FILES: u64 = 32;

/// Between two looks at a running program.
const PAUSE: Duration = Duration::from_millis(2);

/// The program comes on standard input after the token that proves its end.
const BOOTSTRAP: &str = "\
import sys
token, program = sys.stdin.read().split('\\n', 1)
exec(compile(program, 'program', 'exec'), {'__name__': '__main__'})
open('passed', 'w').write(token)";

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("python3 is needed to run the programs of this task: {0}")]
    NoPython(String),
    #[error(
        "this system cannot confine generated programs ({0}); --unsafe-no-sandbox runs them with all rights of yours"
    )]
    Unconfined(String),
    #[error("cannot start a program in {folder}: {error}")]
    Start { folder: PathBuf, error: std::io::Error },
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// Killed: it ran too long or filled its folder.
    Killed,
}

pub struct Sandbox {
    python: Python,
    confined: bool,
}

/// The interpreter, and what it reads.
struct Python {
    program: PathBuf,
    library: Vec<PathBuf>,
}

impl Sandbox {
    /// Fails where there is no Python, or where the kernel does not hold what is promised above, which is tried.
    pub fn open() -> Result<Sandbox, SandboxError> {
        if !cfg!(target_os = "linux") {
            return Err(SandboxError::Unconfined("only Linux can, so far".into()));
        }
        let sandbox = Sandbox { python: Python::find()?, confined: true };
        match sandbox.run("pass")? {
            Outcome::Passed => {}
            _ => return Err(SandboxError::Unconfined("Python does not even start under the limits".into())),
        }
        for (escape, what) in [("open('/etc/passwd')", "files"), ("import os; os.fork()", "processes")] {
            if sandbox.run(escape)? != Outcome::Failed {
                return Err(SandboxError::Unconfined(format!("its kernel does not restrict {what}")));
            }
        }
        Ok(sandbox)
    }

    /// With nothing but limits of time and, on Linux, memory.
    pub fn open_unconfined() -> Result<Sandbox, SandboxError> {
        Ok(Sandbox { python: Python::find()?, confined: false })
    }

    /// Runs a program to its end or its limits. Errors are not the program's.
    pub fn run(&self, program: &str) -> Result<Outcome, SandboxError> {
        let folder = WorkDir::create()?;
        let start = |error| SandboxError::Start { folder: folder.path().into(), error };
        let token = token(program);
        let mut child = self.spawn(&folder, &token, program).map_err(start)?;
        let started = Instant::now();
        let in_time = loop {
            match child.try_wait().map_err(start)? {
                Some(_) => break true,
                None if started.elapsed() > WALL_CLOCK || folder.is_full() => break false,
                None => std::thread::sleep(PAUSE),
            }
        };
        kill(&mut child);
        let passed = fs::read(folder.path().join("passed")).is_ok_and(|found| found == token.as_bytes());
        Ok(match in_time {
            false => Outcome::Killed,
            true if passed => Outcome::Passed,
            true => Outcome::Failed,
        })
    }

    fn spawn(&self, folder: &WorkDir, token: &str, program: &str) -> std::io::Result<Child> {
        let input = folder.path().join("program");
        let mut stdin = File::options().read(true).write(true).create_new(true).open(&input)?;
        fs::remove_file(&input)?;
        write!(stdin, "{token}\n{program}")?;
        stdin.rewind()?;
        let mut command = Command::new(&self.python.program);
        command.args(ARGUMENTS).env_clear().current_dir(folder.path());
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        #[cfg(target_os = "linux")]
        linux::limit(&mut command, &self.python, self.confined.then_some(folder.path()))?;
        command.spawn()
    }
}

/// Isolated from the user's settings and packages, in UTF-8, writing no compiled files.
const ARGUMENTS: [&str; 7] = ["-I", "-S", "-B", "-X", "utf8", "-c", BOOTSTRAP];

/// Ends what is left of a program.
fn kill(child: &mut Child) {
    #[cfg(target_os = "linux")]
    linux::kill_group(child.id());
    // Errors mean that it has ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// Another one in every run.
fn token(program: &str) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut rng = Rng::new(&[time.as_nanos() as u64, program.as_ptr() as u64, u64::from(std::process::id())]);
    format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64())
}

impl Python {
    fn find() -> Result<Python, SandboxError> {
        let ask = "import os, sys\nprint(os.path.realpath(sys.executable))\nprint(sys.base_prefix + '/lib')\n\
                   for path in sys.path: print(path)";
        let output = Command::new("python3").args(["-I", "-S", "-c", ask]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| SandboxError::NoPython(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut paths = text.lines().map(PathBuf::from);
        match paths.next().filter(|program| output.status.success() && program.is_file()) {
            Some(program) => Ok(Python { program, library: paths.filter(|path| path.exists()).collect() }),
            None => Err(SandboxError::NoPython(format!("it ended with {}", output.status))),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
