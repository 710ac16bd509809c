//! Attacks. Each program ends normally if, and only if, its attack worked: `Passed` is a hole.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::sync::{LazyLock, Mutex};

use super::*;

/// None where there is no Python, or a kernel that cannot confine it.
static SANDBOX: LazyLock<Option<Sandbox>> =
    LazyLock::new(|| Sandbox::open().inspect_err(|error| eprintln!("skipped: {error}")).ok());

/// Fail at once. `{victim}` is a file outside that its owner may do all with, `{folder}` its folder.
const REFUSED: [&str; 49] = [
    // other processes
    "import os; os.fork()",
    "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "import os; assert os.system('true') == 0",
    "import __main__, os; os.execv('/bin/sh', ['sh', '-c', 'printf ' + __main__.token + ' > passed'])",
    "import __main__, os, sys; os.execv('/usr/bin/python3', ['python3', '-c', 'open(\"passed\",\"w\").write(\"' + __main__.token + '\")'])",
    "import ctypes; assert ctypes.CDLL(None).syscall(57) >= 0", // fork
    "import ctypes; assert ctypes.CDLL(None).syscall(58) >= 0", // vfork
    "import ctypes; assert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0", // clone
    "import ctypes; assert ctypes.CDLL(None).syscall(0x40000000 + 57) >= 0", // fork by the x32 numbers
    "import ctypes; assert ctypes.CDLL(None).syscall(319, b'x', 0) >= 0", // memfd_create, to run code from
    "import _thread, time; _thread.start_new_thread(print, ())",
    // signals and debuggers
    "import os; os.kill({pid}, 0)",
    "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "import os; os.kill(-1, 0)",
    "import os; os.killpg(0, 0)",
    "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "import ctypes; assert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",
    "open('/proc/{pid}/mem', 'rb')",
    "open('/proc/{pid}/environ', 'rb').read()",
    "open('/proc/self/maps').read()",
    "import os; os.listdir('/proc/self/fd')",
    "import os; os.setsid()",
    // the network
    "import socket; socket.socket()",
    "import socket; socket.socketpair()",
    "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) >= 0", // io_uring
    // files
    "open('/etc/passwd').read()",
    "import os; os.listdir('{folder}')",
    "import os; os.listdir('/root')",
    "import os; os.listdir('/home')",
    "open('{victim}').read()",
    "open('{victim}', 'w')",
    "open('../escaped', 'w')",
    "open('/dev/null', 'w')",
    "open('/dev/tty', 'w')",
    "import os; os.chmod('{victim}', 0o777)",
    "import os; os.chown('{victim}', 1, 1)",
    "import os; os.utime('{victim}', (0, 0))",
    "import os; os.truncate('{victim}', 0)",
    "import os; os.unlink('{victim}')",
    "import os; os.link('{victim}', 'mine')",
    "import os; os.symlink('{victim}', 'mine'); open('mine').read()",
    "import os; open('mine', 'w'); os.rename('mine', '{victim}')",
    "import os; os.mkfifo('fifo')",
    "import os; os.mkdir('deeper')",
    "import os; os.chroot('.')",
    "import ctypes; assert ctypes.CDLL(None).syscall(272, 0x10000000) == 0", // unshare, as a new user
    "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, None) == 0",
    // what it has been given
    "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
];

/// Spend what there is, or end in odd ways.
const CONTAINED: [&str; 18] = [
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "open('passed', 'w').write('x'); import os; os._exit(0)",
    "import ctypes; ctypes.string_at(0)",
    "import os; os.abort()",
    "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "x = bytearray(1 << 30)",
    "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "print(9 ** 9 ** 9)",
    "open('large', 'wb').write(bytes(2 << 20))",
    "files = [open(str(i), 'w') for i in range(1000)]",
    "i = 0\nwhile True:\n  i += 1\n  with open(str(i), 'wb') as f: f.write(bytes(1 << 18))",
    "while True: pass",
    "import time; time.sleep(60)",
    "while True: print('x' * 10_000)",
    "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "import signal, time\nfor s in (1, 2, 3, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "import os\nfor fd in range(3, 256):\n  try: os.fstat(fd)\n  except OSError: continue\n  break\nelse: raise Exception('none is open')",
];

#[test]
fn attacks_are_contained() {
    let Some(sandbox) = &*SANDBOX else { return };
    let temp = tempfile::tempdir().unwrap();
    let victim = temp.path().join("victim");
    fs::write(&victim, "unharmed").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&victim).unwrap();
    let pid = std::process::id().to_string();
    let fill = |program: &str| {
        let folder = temp.path().to_str().unwrap();
        program
            .replace("{victim}", victim.to_str().unwrap())
            .replace("{folder}", folder)
            .replace("{pid}", &pid)
    };
    let programs = Mutex::new(REFUSED.iter().chain(&CONTAINED));
    let run_all = || {
        while let Some(program) = { programs.lock().unwrap().next() } {
            assert_ne!(sandbox.run(&fill(program)).unwrap(), Outcome::Passed, "{program}");
        }
    };
    std::thread::scope(|scope| (0..16).for_each(|_| drop(scope.spawn(run_all))));
    let after = fs::metadata(&victim).unwrap();
    let facts = |file: &fs::Metadata| (file.mode(), file.uid(), file.gid(), file.mtime(), file.nlink());
    assert_eq!(facts(&after), facts(&before));
    assert_eq!(fs::read(&victim).unwrap(), b"unharmed");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    assert!(!std::env::temp_dir().join("escaped").exists());
    assert_eq!(sandbox.run("pass").unwrap(), Outcome::Passed);
    let left = fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("nanochat-program-{pid}-")));
    assert_eq!(
        left.filter(|folder| fs::read_dir(folder.path()).is_ok_and(|mut f| f.next().is_some())).count(),
        0
    );
}

/// Root is confined like anybody else, and anybody else like root.
#[test]
fn attacks_by_a_plain_user_are_contained() {
    if SANDBOX.is_none() || fs::metadata("/proc/self").unwrap().uid() != 0 {
        return; // not root: the other test has done it
    }
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tests = temp.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    let mut command = Command::new(tests);
    command.args(["--exact", "sandbox::tests::attacks_are_contained", "--nocapture"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn ordinary_programs_pass_and_wrong_ones_fail() {
    let Some(sandbox) = &*SANDBOX else { return };
    for (program, expected) in [
        ("", Outcome::Passed),
        (
            "import math, re, typing, json, datetime, random, hashlib, collections, decimal, heapq",
            Outcome::Passed,
        ),
        ("print('人' * 100_000); assert len('人') == 1", Outcome::Passed),
        ("open('a', 'w').write('x'); assert open('a').read() == 'x'", Outcome::Passed),
        ("import os; os.unlink('passed') if os.path.exists('passed') else None", Outcome::Passed),
        ("x = [0] * 10_000_000", Outcome::Passed),
        ("assert __name__ == '__main__'", Outcome::Passed),
        ("assert 1 == 2", Outcome::Failed),
        ("input()", Outcome::Failed),
        ("def f(:", Outcome::Failed),
        ("raise KeyboardInterrupt", Outcome::Failed),
    ] {
        assert_eq!(sandbox.run(program).unwrap(), expected, "{program}");
    }
}

#[test]
fn without_confinement_time_and_memory_are_limited() {
    let Ok(sandbox) = Sandbox::open_unconfined() else { return };
    assert_eq!(sandbox.run("open('/etc/passwd').read()").unwrap(), Outcome::Passed);
    assert_eq!(sandbox.run("x = bytearray(1 << 30)").unwrap(), Outcome::Failed);
    let orphan = "import os, time\nif os.fork() == 0: time.sleep(60)";
    assert_eq!(sandbox.run(orphan).unwrap(), Outcome::Passed);
    let started = Instant::now();
    assert_eq!(sandbox.run("import os\nos.fork()\nwhile True: pass").unwrap(), Outcome::Killed);
    assert!(started.elapsed() < 2 * WALL_CLOCK);
}
