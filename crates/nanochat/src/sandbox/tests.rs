//! Runs the attacks as root and as nobody, with all features of this kernel's Landlock and with its first version.
//! Attacks that are refused at once run one after another in one process.

mod attacks;
mod root;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::{LazyLock, Mutex};

use ::landlock::ABI;

use super::*;
use attacks::{CHEATS, CONTAINED, FORBIDDEN, FORBIDDEN_VALUES, REFUSED};

/// The sandbox, or None without Python or without a kernel that can confine it.
static SANDBOX: LazyLock<Option<Sandbox>> =
    LazyLock::new(|| Sandbox::open().inspect_err(|error| eprintln!("skipped: {error}")).ok());

/// Returns sandboxes for this kernel, for one that refuses namespaces, and for the oldest supported ones.
fn sandboxes() -> Vec<Sandbox> {
    let Some(sandbox) = &*SANDBOX else { return Vec::new() };
    let with = |own_root, landlock| Sandbox {
        own_root,
        landlock,
        confined: true,
        ..Sandbox::open_unconfined().unwrap()
    };
    vec![
        with(sandbox.own_root, linux::NEWEST),
        with(false, linux::NEWEST),
        with(false, ABI::V5),
        with(false, ABI::V1),
    ]
}

/// A process of the same user.
struct Victim(Child);

impl Victim {
    fn start() -> Victim {
        Victim(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a program that runs each of these and ends normally if any of them does.
fn any_of(programs: &[String]) -> String {
    let programs = serde_json::to_string(programs).unwrap();
    format!(
        "worked = []\nfor program in {programs}:\n  try: exec(program, {{}})\n  except BaseException: continue\n  \
         worked.append(program)\nassert worked"
    )
}

#[test]
fn attacks_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let victim = temp.path().join("victim");
    fs::write(&victim, "unharmed").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&victim).unwrap();
    let mut process = Victim::start();
    let fill = |program: &&str| {
        let folder = temp.path().to_str().unwrap();
        program
            .replace("{victim}", victim.to_str().unwrap())
            .replace("{folder}", folder)
            .replace("{pid}", &process.0.id().to_string())
    };
    let programs: Vec<String> = REFUSED.iter().map(fill).collect();
    if SANDBOX.is_none() {
        return;
    }
    for sandbox in sandboxes() {
        if sandbox.outcome_of(&any_of(&programs)).unwrap() == Outcome::Failed {
            continue;
        }
        let works = |program: &&String| sandbox.outcome_of(program).unwrap() == Outcome::Passed;
        let worked: Vec<&String> = programs.iter().filter(works).collect();
        let Sandbox { own_root, landlock, .. } = sandbox;
        assert!(worked.is_empty(), "with {landlock:?} of Landlock, own root: {own_root}, work: {worked:#?}");
    }
    // No attack has ended the process before the next one ran.
    let with_a_harmless_one = [programs, vec!["pass".into()]].concat();
    assert_eq!(sandboxes()[0].outcome_of(&any_of(&with_a_harmless_one)).unwrap(), Outcome::Passed);
    assert!(process.is_alive());
    let after = fs::metadata(&victim).unwrap();
    let facts = |file: &fs::Metadata| (file.mode(), file.uid(), file.gid(), file.mtime(), file.nlink());
    assert_eq!(facts(&after), facts(&before));
    assert_eq!(fs::read(&victim).unwrap(), b"unharmed");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    assert!(!std::env::temp_dir().join("escaped").exists());
}

#[test]
fn attacks_by_system_calls_are_refused_by_number_and_by_argument() {
    let mut calls: Vec<Vec<i64>> = FORBIDDEN.iter().map(|&call| vec![call, 0, 0, 0, 0]).collect();
    for &(call, argument, values) in FORBIDDEN_VALUES {
        for &value in values {
            let mut call = vec![call, 0, 0, 0, 0];
            call[1 + argument] = value.into();
            calls.push(call);
        }
    }
    // EPERM is 1; any other error would show that the kernel has started the call.
    let attempt = |calls: &[Vec<i64>]| {
        format!(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor call in {calls:?}:\n  ctypes.set_errno(0)\n  \
             if libc.syscall(*map(ctypes.c_long, call)) >= 0 or ctypes.get_errno() != 1: break\nelse: raise OSError"
        )
    };
    for sandbox in sandboxes() {
        if sandbox.outcome_of(&attempt(&calls)).unwrap() != Outcome::Failed {
            for call in &calls {
                let outcome = sandbox.outcome_of(&attempt(std::slice::from_ref(call))).unwrap();
                assert_eq!(outcome, Outcome::Failed, "{call:?}");
            }
            panic!("together they do more than each of them");
        }
        // The same code succeeds with an allowed call.
        let yield_ = vec![vec![libc::SYS_sched_yield, 0]];
        assert_eq!(sandbox.outcome_of(&attempt(&yield_)).unwrap(), Outcome::Passed);
    }
}

#[test]
fn attacks_on_what_there_is_are_contained() {
    let Some(sandbox) = &*SANDBOX else { return };
    let programs = Mutex::new(CONTAINED.iter());
    let run_all = || {
        while let Some(program) = { programs.lock().unwrap().next() } {
            assert_ne!(sandbox.outcome_of(program).unwrap(), Outcome::Passed, "{program}");
        }
    };
    std::thread::scope(|scope| (0..16).for_each(|_| drop(scope.spawn(run_all))));
    assert_eq!(sandbox.outcome_of("pass").unwrap(), Outcome::Passed);
}

#[test]
fn attacks_on_the_test_do_not_pass_it() {
    let Some(sandbox) = &*SANDBOX else { return };
    let outcome =
        |code, test| sandbox.run(&Trial { code, function: "f", prompt: "", imports: "", test }).unwrap();
    // Passes if any of three ways to test does.
    let test = "\
def equal(f): assert f() == 2 and abs(f() - 2) == 0
def unequal(f):
    if f() != 2 or not f(): raise ValueError
def caught(f):
    value = None
    try: value = f()
    except BaseException: pass
    assert value == 2
def check(f):
    for test in (equal, unequal, caught):
        try: test(f)
        except Exception: continue
        return
    assert False";
    for code in CHEATS {
        assert_eq!(outcome(code, test), Outcome::Failed, "{code}");
    }
    assert_eq!(outcome("def f(): return 2", test), Outcome::Passed);
    // A test that expects an exception gets none if the process ends.
    let raises = "def check(f):\n  try: f()\n  except Exception: return\n  assert False";
    assert_eq!(outcome("import os\ndef f(): os._exit(0)", raises), Outcome::Failed);
    assert_eq!(outcome("def f(): raise ValueError", raises), Outcome::Passed);
}

/// Root and other users are confined in the same way. Nothing is left in the folder for temporary files.
#[test]
fn plain_users_are_confined_alike() {
    if SANDBOX.is_none() || fs::metadata("/proc/self").unwrap().uid() != 0 {
        return; // not root: the other tests have done it
    }
    let (output, left) = as_nobody(&["sandbox::tests::attacks", "sandbox::tests::root"]);
    assert!(output.contains("8 passed"), "{output}");
    assert_eq!(left, 0);
}

/// Runs tests of this file with a temporary folder of their own. Returns their output and the number of files that they
/// leave in it.
fn as_nobody(arguments: &[&str]) -> (String, usize) {
    let temp = tempfile::tempdir().unwrap();
    let all = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(temp.path(), all.clone()).unwrap();
    let (tests, folder) = (temp.path().join("tests"), temp.path().join("temporary"));
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, all).unwrap();
    let mut command = Command::new(tests);
    command
        .args(arguments)
        .arg("--nocapture")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", &folder);
    let output = command.current_dir("/").uid(65_534).gid(65_534).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (text.into(), fs::read_dir(folder).unwrap().count())
}

/// On kernels that support it, Landlock alone forbids what the list of system calls also forbids.
#[test]
fn newer_kernels_keep_signals_and_abstract_sockets_inside() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    // SAFETY: asks for a number only.
    let known = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) };
    if SANDBOX.is_none() || known < 6 {
        return eprintln!("skipped: this kernel knows version {known} of Landlock");
    }
    let victim = Victim::start();
    let name = format!("nanochat-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let python = Python::find().unwrap();
    let works = |program: &str, newest| {
        let ruleset = linux::ruleset(&python, Path::new("/"), newest).unwrap();
        let ruleset: OwnedFd = Option::from(ruleset).unwrap();
        let mut command = Command::new(&python.program);
        command.args(["-I", "-S", "-c", program]).stderr(Stdio::null());
        let confine = move || {
            // SAFETY: plain system calls; the descriptor is open.
            unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                assert_eq!(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0), 0);
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(confine) };
        command.status().unwrap().success()
    };
    let signal = format!("import os; os.kill({}, 0)", victim.0.id());
    let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')");
    for attack in [signal, connect] {
        assert!(works(&attack, ABI::V5) && !works(&attack, linux::NEWEST), "{attack}");
    }
}

#[test]
fn ordinary_programs_pass_and_wrong_ones_fail() {
    for sandbox in sandboxes() {
        for (program, expected) in [
            ("", Outcome::Passed),
            (
                "import math, re, typing, json, datetime, random, hashlib, collections, decimal, heapq, bisect, string",
                Outcome::Passed,
            ),
            ("print('人' * 100_000); assert len('人') == 1", Outcome::Passed),
            (
                "import sys; sys.stdout.write('x'); sys.stderr.write('y'); assert sys.stdin.read() == ''",
                Outcome::Passed,
            ),
            ("open('a', 'w').write('x'); assert open('a').read() == 'x'", Outcome::Passed),
            ("import os; open('b', 'w'); os.unlink('b'); open(os.devnull, 'w').write('x')", Outcome::Passed),
            ("x = [0] * 10_000_000; del x; y = [str(i) for i in range(100_000)]", Outcome::Passed),
            ("import time; time.sleep(0.01); time.time(); import random; random.random()", Outcome::Passed),
            ("assert __name__ == '__main__'", Outcome::Passed),
            ("assert 1 == 2", Outcome::Failed),
            ("input()", Outcome::Failed),
            ("def f(:", Outcome::Failed),
            ("raise KeyboardInterrupt", Outcome::Failed),
        ] {
            assert_eq!(sandbox.outcome_of(program).unwrap(), expected, "{program}");
        }
    }
}

#[test]
fn values_go_to_the_function_and_back_as_they_are() {
    let Some(sandbox) = &*SANDBOX else { return };
    let test = "\
from decimal import Decimal
from fractions import Fraction
def check(f):
    for value in (None, True, 1, -5, 2 ** 70, -2 ** 9000, 1.5, -0.0, float('inf'), '人\\ud800\\n\"', b'x\\xff', 1j, [], (),
                  [1, (2, [])], {1: 'a', (1, 2): {3}}, set(), {1.5}, frozenset({1}), range(3), Decimal('1.10'), Fraction(1, 3)):
        same = f(value)
        assert repr(same) == repr(value) and type(same) is type(value) and f(x=value) == value
    nan = f(float('nan'))
    assert nan != nan and list(f(iter([1, 2]))) == [1, 2] and f(iter([])) != []
    argument = [1]
    f(argument)
    assert argument == [1] and f(helper(2)) == 3";
    let outcome = |code, prompt, test| {
        sandbox.run(&Trial { code, function: "f", prompt, imports: "import math", test })
    };
    let helper = "def helper(x):\n    return x + 1\n\ndef f(x):\n    ''' echo '''\n";
    assert_eq!(outcome("def f(x): return x", helper, test).unwrap(), Outcome::Passed);
    // If the prompt is not valid Python by itself, its imports are still used.
    let test = "def check(f): assert f(math.pi) > 3";
    assert_eq!(outcome("def f(x): return x", "import math\ndef f(x):", test).unwrap(), Outcome::Passed);
    // A value that is not plain equals nothing, and ends nothing when the test passes it back.
    let test = "def check(f):\n  assert f(f(1)) != f(1)";
    assert_eq!(outcome("def f(x): return object()", "", test).unwrap(), Outcome::Passed);
    let error = outcome("def f(x): return 1", "", "def check(f): f(object())").unwrap_err();
    assert!(
        error.to_string().starts_with("the test of f gives it what cannot reach another process"),
        "{error}"
    );
}

#[test]
fn what_could_not_be_started_is_not_called_wrong() {
    let run = |program: &str, confined| {
        let python = Python { program: program.into(), library: Vec::new() };
        let sandbox = Sandbox { python, confined, own_root: confined, landlock: linux::NEWEST };
        sandbox.outcome_of("pass").unwrap_err().to_string()
    };
    for confined in [false, true] {
        let error = run("/nowhere/python3", confined);
        assert!(error.starts_with("cannot start a program in ") && error.contains("No such file"), "{error}");
    }
    let error = run("/bin/true", false);
    assert!(error.ends_with("says nothing about the program: without a word"), "{error}");
    // A Python that fails while starting says why.
    let error = run("/bin/cat", false);
    assert!(error.contains("says nothing about the program: ") && error.contains("cat"), "{error}");
}

#[test]
fn folders_of_the_dead_are_swept_and_those_of_the_living_stay() {
    let living = WorkDir::create().unwrap();
    let dead = living.path().with_file_name(format!("nanochat-program-dead-{}", std::process::id()));
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("large"), "x").unwrap();
    WorkDir::sweep(living.path().parent().unwrap());
    assert!(living.path().exists() && !dead.exists());
    assert_eq!(fs::metadata(living.path()).unwrap().mode() & 0o777, 0o700);
    let path = living.path().to_path_buf();
    drop(living);
    assert!(!path.exists());
}

/// The process that the next test starts and kills; without its environment variable it does nothing.
#[test]
fn sleeps() {
    let Some(sandbox) = SANDBOX.as_ref().filter(|_| std::env::var_os("NANOCHAT_TEST_SLEEPS").is_some())
    else {
        return;
    };
    let _ = sandbox.outcome_of("import time; time.sleep(600)");
}

#[test]
fn a_killed_evaluation_leaves_no_program_and_no_folder() {
    if SANDBOX.is_none() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "sandbox::tests::sleeps"])
        .env("TMPDIR", temp.path())
        .env("NANOCHAT_TEST_SLEEPS", "1");
    let mut evaluation = command.stdout(Stdio::null()).spawn().unwrap();
    let folder = || fs::read_dir(temp.path()).unwrap().flatten().next().map(|entry| entry.path());
    // The processes in the folder, which is another one while the sandbox opens.
    let running = || {
        let Some(folder) = folder() else { return 0 };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder))
            .count()
    };
    let wait_for = |processes: usize, seconds: u64| {
        let since = Instant::now();
        while running() != processes {
            assert!(since.elapsed().as_secs() < 60, "{} processes, not {processes}", running());
            std::thread::sleep(10 * PAUSE);
        }
        std::thread::sleep(Duration::from_secs(seconds));
    };
    wait_for(2, 1);
    wait_for(2, 0);
    evaluation.kill().unwrap();
    evaluation.wait().unwrap();
    wait_for(0, 0);
    assert!(folder().is_some());
    WorkDir::sweep(temp.path());
    assert_eq!(folder(), None);
}

#[test]
fn without_confinement_time_and_memory_are_limited() {
    let Ok(sandbox) = Sandbox::open_unconfined() else { return };
    let outcome = |program| sandbox.outcome_of(program).unwrap();
    assert_eq!(outcome("open('/etc/passwd').read()"), Outcome::Passed);
    assert_eq!(outcome("x = bytearray(1 << 30)"), Outcome::Failed);
    let orphan = "import os, time\nif os.fork() == 0: time.sleep(60)";
    assert_eq!(outcome(orphan), Outcome::Passed);
    let started = Instant::now();
    assert_eq!(outcome("import os\nos.fork()\nwhile True: pass"), Outcome::Killed);
    assert!(started.elapsed() < 3 * WALL_CLOCK);
}

/// The pipes connect the two processes, and this process holds no end of them: a training run takes SIGPIPE as the
/// death of its own reader and would stop. This thread blocks the signal, so that one raised by a write stays pending
/// and visible.
#[test]
fn programs_that_end_before_they_read_send_this_process_no_sigpipe() {
    let Ok(sandbox) = Sandbox::open_unconfined() else { return };
    hold_sigpipe_back();
    let ending =
        ["import os; os._exit(0)", "import os; os.close(0); os.close(1)", "def f(x): raise SystemExit"];
    let test = "def check(f):\n  f('x' * 1000000)\n  raise ValueError";
    for code in ending.iter().chain(&["def f(x): return x"]) {
        let code = &format!("{code}\n{}", "#".repeat(1 << 20)); // more than a pipe holds
        let trial = Trial { code, function: "f", prompt: "", imports: "", test };
        assert_eq!(sandbox.run(&trial).unwrap(), Outcome::Failed);
        assert!(!sigpipe_came(), "{code:.40}");
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    drop(reader);
    let broken = std::io::Write::write(&mut writer, b"x").unwrap_err();
    assert_eq!((broken.kind(), sigpipe_came()), (std::io::ErrorKind::BrokenPipe, true), "none would be seen");
}

fn hold_sigpipe_back() {
    // SAFETY: all zeros are an empty set, which lives here; the mask is of this thread alone.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut signals, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
    }
}

fn sigpipe_came() -> bool {
    // SAFETY: all zeros are an empty set, which lives here and is written before it is read.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut signals);
        libc::sigismember(&signals, libc::SIGPIPE) == 1
    }
}
