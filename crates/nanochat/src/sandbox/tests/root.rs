//! Tests that a program sees nothing outside its private root and has no rights in it, and that it is confined equally
//! without one.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::attacks::HIDDEN;
use super::*;

/// In a private root a program finds only what it needs. In the machine's root `stat` reveals all files.
#[test]
fn attacks_that_look_around_find_nothing() {
    let Some(sandbox) = SANDBOX.as_ref().filter(|sandbox| sandbox.own_root) else {
        return eprintln!("skipped: no root of its own");
    };
    let temp = tempfile::tempdir().unwrap();
    let secret = temp.path().join("secret");
    fs::write(&secret, "x").unwrap();
    let fill = |program: &&str| {
        let folder = temp.path().to_str().unwrap();
        program.replace("{secret}", secret.to_str().unwrap()).replace("{folder}", folder)
    };
    let programs: Vec<String> = HIDDEN.iter().map(fill).collect();
    let works = |program: &&String| sandbox.outcome_of(program).unwrap() == Outcome::Passed;
    if works(&&any_of(&programs)) {
        panic!("these work: {:#?}", programs.iter().filter(works).collect::<Vec<_>>());
    }
    // No attack has ended the process before the next one ran, and in the machine's root they work.
    assert!(works(&&any_of(&[programs.clone(), vec!["pass".into()]].concat())));
    let sandbox = Sandbox { own_root: false, confined: true, ..Sandbox::open_unconfined().unwrap() };
    assert_eq!(sandbox.outcome_of(&programs[0]).unwrap(), Outcome::Passed);
}

/// The rights needed to make the root are lost afterwards, even for root.
#[test]
fn attacks_have_no_rights_in_a_root_of_their_own() {
    let Some(sandbox) = SANDBOX.as_ref().filter(|sandbox| sandbox.own_root) else {
        return eprintln!("skipped: no root of its own");
    };
    let folder = WorkDir::create().unwrap();
    let (_calls, to_program) = std::io::pipe().unwrap();
    let (results, _to_test) = std::io::pipe().unwrap();
    let code = "import os, time; os.write(2, b's'); time.sleep(60)";
    let mut process = sandbox.start(code, &json!({}), (results, to_program), &folder).unwrap();
    let since = Instant::now();
    while !fs::read(format!("/proc/{}/cmdline", process.id())).is_ok_and(|line| line.ends_with(b"(60)\0")) {
        assert!(since.elapsed() < STARTING && !process.has_ended().unwrap(), "{}", process.last_words());
        std::thread::sleep(PAUSE);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_string()
    };
    for rights in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(of(rights), "0".repeat(16), "{rights}");
    }
    assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1".into(), "2".into()));
}

/// The process that the next test starts; without its environment variable it does nothing.
#[test]
fn opens() {
    if std::env::var_os("NANOCHAT_TEST_OPENS").is_none() {
        return;
    }
    let sandbox = Sandbox::open().unwrap();
    assert!(!sandbox.own_root);
    assert_eq!(sandbox.outcome_of("import os; os.stat('/'); open('a', 'w')").unwrap(), Outcome::Passed);
}

/// Covers systems that refuse the namespaces, such as most containers, and those that refuse their use, such as Ubuntu.
#[test]
fn without_a_root_of_its_own_a_program_is_confined_as_well() {
    if SANDBOX.is_none() {
        return;
    }
    for call in [libc::SYS_unshare, libc::SYS_mount, libc::SYS_pivot_root] {
        let rules = [(call, Vec::new())].into();
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
        let filter: BpfProgram = filter.try_into().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "sandbox::tests::root::opens", "--nocapture"])
            .env("NANOCHAT_TEST_OPENS", "1");
        // SAFETY: the closure makes system calls only.
        unsafe {
            command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other))
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{call}: {text}");
    }
}
