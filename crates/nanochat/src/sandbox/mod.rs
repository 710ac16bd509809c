//! Runs Python code written by a model so that it can do no harm, and says whether it is correct.
//!
//! A program is a process that may compute, read Python's own library and use a private folder. On Linux the kernel
//! enforces that, even for root:
//!
//! | what | how |
//! |---|---|
//! | system calls | a seccomp allow-list, also of arguments: no fork, no exec, no sockets, no signals, no ptrace, no chmod |
//! | files | Landlock: reading the library; writing in the private folder, which is removed afterwards |
//! | all other files, even for stat | a root folder of its own without them, where the kernel grants it |
//! | other processes | Landlock again, from version 6 on (Linux 6.12): no signals, no abstract sockets |
//! | memory, processor, file size, open files | rlimits, which the list keeps a program from raising |
//! | wall clock, size of the folder | this process watches and kills |
//! | this process killed | the kernel kills the program; the next sandbox to open sweeps its folder |
//! | the rest | an empty environment, no descriptors but two pipes, a process group of its own |
//!
//! The function is tested from a second process, which is confined in the same way and knows the test and the right
//! results. Arguments and results pass between the two as plain values: None, bool, int, float, complex, str, bytes,
//! list, tuple, set, dict, range, Decimal, Fraction, iterators. A program therefore finds no test to skip, cannot
//! replace a built-in function of the test, and gains nothing from an object whose `__eq__` is always true: only the
//! right values pass. Any other returned object equals nothing, and changes to the arguments stay in the program.
//!
//! Not covered: a program can list the system's libraries. Where the kernel grants no user namespaces (in most
//! containers; to ordinary users of Ubuntu), the program has the machine's root folder, and stat tells it whether any
//! path exists, with size and dates, which Landlock does not cover. But it cannot pass this on to anybody. It can use
//! up its limits. It can answer from a table if it has memorized the test.

#[cfg(target_os = "linux")]
mod linux;
mod process;
mod workdir;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use process::{OutputMark, Process};
use workdir::WorkDir;

const WALL_CLOCK: Duration = Duration::from_secs(5);
const MEMORY: u64 = 256 << 20;
const LARGEST_FILE: u64 = 1 << 20;
const OPEN_FILES: u64 = 32;

/// The time allowed for Python to start, which takes 0.05 s. A machine busier than this gives no verdict about a
/// program.
const STARTING: Duration = Duration::from_secs(60);

/// The pause between two checks of a running program.
const PAUSE: Duration = Duration::from_millis(2);

const PROGRAM: &str = concat!(include_str!("values.py"), include_str!("program.py"));
const TEST: &str = concat!(include_str!("values.py"), include_str!("test.py"));

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("python3 is needed to run the programs of this task: {0}")]
    NoPython(String),
    #[error(
        "this system cannot confine generated programs ({0}); --unsafe-no-sandbox runs them with all rights of yours"
    )]
    Unconfined(String),
    #[error("cannot start a program in {}: {error}", folder.display())]
    Start { folder: PathBuf, error: std::io::Error },
    #[error("python3 ended before it ran a program, which says nothing about the program: {0}")]
    NotStarted(String),
    #[error(
        "the test of {0} gives it what cannot reach another process; numbers, text, lists, tuples, sets and dicts can"
    )]
    NotPlain(String),
}

/// A function written by a model, and its test.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    /// The code that defines the function.
    pub code: &'a str,
    pub function: &'a str,
    /// Code that the test may use besides the function. If it is not valid Python by itself, only `imports` is used.
    pub prompt: &'a str,
    pub imports: &'a str,
    /// The code that defines `check`, which raises an exception if the given function is wrong.
    pub test: &'a str,
}

/// The way in which a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    /// The program was killed: it ran too long or filled its folder.
    Killed,
}

pub struct Sandbox {
    python: Python,
    confined: bool,
    /// Whether a program gets a root folder of its own.
    own_root: bool,
    /// The newest version of Landlock that is used; tests lower it to imitate older kernels.
    #[cfg(target_os = "linux")]
    landlock: landlock::ABI,
}

/// The interpreter, and the folders of its library.
struct Python {
    program: PathBuf,
    library: Vec<PathBuf>,
}

impl Sandbox {
    /// Opens a confined sandbox. Fails if there is no Python, or if trial programs show that the kernel does not
    /// enforce the rules above.
    pub fn open() -> Result<Sandbox, SandboxError> {
        if !cfg!(target_os = "linux") {
            return Err(SandboxError::Unconfined("only Linux can, so far".into()));
        }
        let mut sandbox = Sandbox { confined: true, own_root: true, ..Sandbox::open_unconfined()? };
        // Tests the root folder with a program, since Ubuntu grants the namespaces but forbids their use.
        let first = sandbox.outcome_of("pass").or_else(|_| {
            sandbox.own_root = false;
            sandbox.outcome_of("pass")
        });
        match first {
            Ok(Outcome::Passed) => {}
            Ok(_) => return Err(SandboxError::Unconfined("Python does not run under the limits".into())),
            Err(SandboxError::NotStarted(why)) => {
                let reason = format!("Python does not even start under the limits: {why}");
                return Err(SandboxError::Unconfined(reason));
            }
            Err(error) => return Err(error),
        }
        for (escape, what) in [("open('/etc/passwd')", "files"), ("import os; os.fork()", "processes")] {
            if sandbox.outcome_of(escape)? != Outcome::Failed {
                return Err(SandboxError::Unconfined(format!("its kernel does not restrict {what}")));
            }
        }
        Ok(sandbox)
    }

    /// Opens a sandbox that only limits time and, on Linux, memory.
    pub fn open_unconfined() -> Result<Sandbox, SandboxError> {
        WorkDir::sweep(&std::env::temp_dir());
        Ok(Sandbox {
            python: Python::find()?,
            confined: false,
            own_root: false,
            #[cfg(target_os = "linux")]
            landlock: linux::NEWEST,
        })
    }

    /// Runs a program and its test until they end or exceed their limits. An error is never the program's fault.
    pub fn run(&self, trial: &Trial) -> Result<Outcome, SandboxError> {
        let Trial { code, function, prompt, imports, test } = trial;
        let folder = WorkDir::create()?;
        let failed = |error| SandboxError::Start { folder: folder.path().into(), error };
        let (calls, to_program) = std::io::pipe().map_err(failed)?;
        let (results, to_test) = std::io::pipe().map_err(failed)?;
        // The test starts first and waits; the program finds no trace of it in the folder.
        let job = json!({"function": function, "prompt": prompt, "imports": imports, "test": test});
        let mut test = self.start(TEST, &job, (results, to_program), &folder).map_err(failed)?;
        let job = json!({"code": code, "function": function});
        let mut program = self.start(PROGRAM, &job, (calls, to_test), &folder).map_err(failed)?;
        if !in_time(&mut program, &mut test, &folder).map_err(failed)? {
            return Ok(Outcome::Killed);
        }
        for process in [&mut test, &mut program] {
            if process.mark().map_err(failed)? == OutputMark::None {
                return Err(SandboxError::NotStarted(process.last_words()));
            }
        }
        match test.mark().map_err(failed)? {
            OutputMark::Passed => Ok(Outcome::Passed),
            OutputMark::NotPlain => Err(SandboxError::NotPlain(function.to_string())),
            _ => Ok(Outcome::Failed),
        }
    }

    /// Runs a program that defines no function; it passes if it runs to its end.
    fn outcome_of(&self, program: &str) -> Result<Outcome, SandboxError> {
        let code = format!("{program}\ndef has_ended(): return True");
        let test = "def check(has_ended): assert has_ended() is True";
        self.run(&Trial { code: &code, function: "has_ended", prompt: "", imports: "", test })
    }
}

/// Waits for the end of the test. Returns false if the processes ran too long or filled the folder. The clock starts
/// when both have started.
fn in_time(program: &mut Process, test: &mut Process, folder: &WorkDir) -> std::io::Result<bool> {
    let mut since = Instant::now();
    let mut started = false;
    while !test.has_ended()? {
        if !started && program.mark()? != OutputMark::None && test.mark()? != OutputMark::None {
            (started, since) = (true, Instant::now());
        }
        match started {
            false if since.elapsed() > STARTING => {
                return Err(std::io::Error::other(format!("Python took more than {STARTING:?} to start")));
            }
            true if since.elapsed() > WALL_CLOCK => return Ok(false),
            _ if folder.is_full() => return Ok(false),
            _ => std::thread::sleep(PAUSE),
        }
    }
    Ok(true)
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
