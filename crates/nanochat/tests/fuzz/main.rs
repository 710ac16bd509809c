//! Fuzzes the readers of files from others: each accepts or refuses randomly changed files without a panic, without
//! hanging, within 1 GiB.
//!
//! Each target runs in its own process for 20 s if NANOCHAT_SLOW=1 is set, and otherwise not at all. To run it longer
//! by hand:
//!
//! ```sh
//! NANOCHAT_FUZZ_SECONDS=600 cargo test --release -p nanochat --test fuzz -- --nocapture
//! ```

mod mutate;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nanochat_tensor::Rng;
use targets::{TARGETS, Target};

/// The time after which an input counts as hanging. An input takes milliseconds; on an idle machine a tenth of this
/// would already be a bug.
const HANG: Duration = Duration::from_secs(20);
/// The maximum address space in KiB, which exceeds the memory really used.
const MEMORY_KIB: u64 = 1 << 20;

#[test]
fn tokenizer_files() {
    fuzz("tokenizer");
}

#[test]
fn model_configurations() {
    fuzz("config");
}

#[test]
fn heads_of_safetensors() {
    fuzz("safetensors");
}

#[test]
fn parquet_files() {
    fuzz("parquet");
}

#[test]
fn conversations() {
    fuzz("conversation");
}

/// Runs `target` in a process with little memory. An input that crashes it is kept and named.
fn fuzz(target: &str) {
    let seconds = std::env::var("NANOCHAT_FUZZ_SECONDS").ok();
    let slow = std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1");
    let Some(seconds) = seconds.or(slow.then(|| "20".to_string())) else {
        eprintln!("the fuzzer of {target} was skipped: it runs with NANOCHAT_SLOW=1");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let limited = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_its_own", "--nocapture"])
        .env("NANOCHAT_FUZZ_TARGET", target)
        .env("NANOCHAT_FUZZ_SECONDS", seconds)
        .env("NANOCHAT_FUZZ_FOLDER", folder.path())
        // Each arena and each thread would reserve 64 MiB and 2 MiB of address space.
        .env("MALLOC_ARENA_MAX", "1")
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    if !output.status.success() {
        let number = fs::read_to_string(folder.path().join("number")).unwrap_or_default();
        let number: u64 = number.trim().parse().expect("the fuzzer died before its first input");
        let kept = std::env::temp_dir().join(format!("fuzz-{target}-{number}"));
        fs::write(&kept, input(find(target), number)).unwrap();
        panic!("input {number} of {target} ended the reader; it is in {}", kept.display());
    }
}

fn find(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}

/// The process that `fuzz` starts; without its environment variable it does nothing.
#[test]
fn in_a_process_of_its_own() {
    let Ok(name) = std::env::var("NANOCHAT_FUZZ_TARGET") else { return };
    let folder = PathBuf::from(std::env::var("NANOCHAT_FUZZ_FOLDER").unwrap());
    let seconds: u64 = std::env::var("NANOCHAT_FUZZ_SECONDS").unwrap().parse().expect("seconds");
    std::thread::spawn(abort_when_it_hangs);
    let (inputs, accepted) = run(find(&name), &folder, Duration::from_secs(seconds));
    eprintln!("{name}: {inputs} inputs, {accepted} of them accepted");
    // A fuzzer whose inputs are all valid or all invalid finds nothing.
    assert!(accepted > 0 && accepted < inputs, "{accepted} of {inputs} inputs were accepted");
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn run(target: &Target, folder: &Path, time: Duration) -> (u64, u64) {
    for seed in (target.seeds)().iter().enumerate() {
        assert!((target.accepts)(seed.1, folder), "seed {} of {} is refused", seed.0, target.name);
    }
    let (start, mut accepted) = (Instant::now(), 0);
    let mut number = 0;
    while start.elapsed() < time {
        number += 1;
        NUMBER.store(number, Ordering::Relaxed);
        fs::write(folder.join("number"), number.to_string()).unwrap();
        accepted += u64::from((target.accepts)(&input(target, number), folder));
    }
    (number, accepted)
}

/// Returns input `number` of a target, which is the same in every process.
fn input(target: &Target, number: u64) -> Vec<u8> {
    let seeds = (target.seeds)();
    let mut rng = Rng::new(&[number]);
    let seed = rng.choose(seeds).clone();
    (target.mutate)(&seed, seeds, &mut rng)
}

fn abort_when_it_hangs() {
    let mut last = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let number = NUMBER.load(Ordering::Relaxed);
        if number != last.0 {
            last = (number, Instant::now());
        } else if last.1.elapsed() > HANG {
            eprintln!("input {number} took more than {HANG:?}");
            std::process::abort();
        }
    }
}
