//! Tests ranks as separate processes, started by `--gpus`, as by torchrun and SLURM, and on two machines; ranks that
//! are killed, and ranks that never connect. Slow tier.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;

/// Four micro-batches of two rows per step: one of three ranks has two of them. In f32, since in bf16 sums in another
/// order are sometimes rounded to another value.
const STEPS: &str = "train base --depth 2 --max-seq-len 64 --device-batch-size 2 --total-batch-size 512 \
    --eval-tokens 512 --eval-every 10 --sample-every 0 --sample-prompt x --num-iterations 20 --save-every 10 \
    --precision f32";
const SECRET: &str = "known to the ranks of this test";

fn losses(base: &Path, tag: &str) -> Vec<f64> {
    let lines = metrics(&base.join("base_checkpoints").join(tag));
    lines
        .iter()
        .flat_map(|line| [&line["loss"], &line["val_bpb"]])
        .filter_map(|value| value.as_f64())
        .collect()
}

/// Asserts that the run `tag` equals the run `alone`, except for rounding.
#[track_caller]
fn assert_like_alone(base: &Path, tag: &str) {
    let (one, many) = (losses(base, "alone"), losses(base, tag));
    assert_eq!((one.len(), many.len()), (23, 23), "{tag}");
    for (step, (one, many)) in one.iter().zip(&many).enumerate() {
        assert!((one - many).abs() < 1e-3 * one, "{tag}: value {step} is {many}, alone {one}");
    }
}

fn alone(base: &Path) {
    run(base, &format!("{STEPS} --model-tag alone"));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts `nanochat LINE` like a cluster's launcher, with these variables only.
fn started(base: &Path, line: &str, program: &[&str], variables: &[(&str, String)]) -> Child {
    let binary = assert_cmd::cargo::cargo_bin("nanochat");
    let mut command = match program {
        [] => Command::new(binary),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(binary);
            command
        }
    };
    command.args(line.split_whitespace()).envs(variables.iter().map(|(name, value)| (name, value)));
    command.env("NANOCHAT_BASE_DIR", base).env("RAYON_NUM_THREADS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn torchrun(rank: usize, world_size: usize, master: &str, port: u16) -> Vec<(&'static str, String)> {
    let numbers = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world_size)];
    let mut variables: Vec<_> = numbers.map(|(name, number)| (name, number.to_string())).into();
    variables.extend([("MASTER_ADDR", master.into()), ("MASTER_PORT", port.to_string())]);
    variables.push(("NANOCHAT_SECRET", SECRET.into()));
    variables
}

#[track_caller]
fn all_succeed(ranks: Vec<Child>) {
    for (rank, (status, said)) in ranks.into_iter().map(ended).enumerate() {
        assert!(status.success(), "rank {rank}: {said}");
    }
}

#[test]
fn every_launcher_gives_the_losses_of_one_process() {
    if !slow("every_launcher_gives_the_losses_of_one_process") {
        return;
    }
    let base = prepared();
    let base = base.path();
    alone(base);
    for ranks in [2, 4] {
        run(base, &format!("--device cpu --gpus {ranks} {STEPS} --model-tag g{ranks}"));
        assert_like_alone(base, &format!("g{ranks}"));
        let port = free_port();
        let line = format!("{STEPS} --model-tag t{ranks}");
        all_succeed(
            (0..ranks).map(|r| started(base, &line, &[], &torchrun(r, ranks, "127.0.0.1", port))).collect(),
        );
        assert_like_alone(base, &format!("t{ranks}"));
    }
    let slurm = |rank: usize| {
        let numbers = [("SLURM_PROCID", rank), ("SLURM_LOCALID", rank), ("SLURM_STEP_NUM_TASKS", 3)];
        let mut variables: Vec<_> = numbers.map(|(name, number)| (name, number.to_string())).into();
        variables.push(("SLURM_STEP_NODELIST", "localhost".into()));
        // Jobs that differ in the last four digits of their ids also differ in their ports.
        variables.push(("SLURM_JOB_ID", std::process::id().to_string()));
        variables
    };
    let line = format!("{STEPS} --model-tag s3");
    all_succeed((0..3).map(|rank| started(base, &line, &[], &slurm(rank))).collect());
    assert_like_alone(base, "s3");
}

#[test]
fn evaluations_of_several_ranks_say_what_one_says() {
    if !slow("evaluations_of_several_ranks_say_what_one_says") {
        return;
    }
    let (base, questions) = with_chat_model();
    let chat = format!("eval chat --task {} --json", questions.display());
    for line in ["eval bpb --device-batch-size 2 --eval-tokens 1024 --json", &chat] {
        let alone = output(nanochat(base.path(), line));
        assert!(alone.starts_with('{') || alone.starts_with('['), "{alone}");
        for ranks in [2, 3] {
            let many = output(nanochat(base.path(), &format!("--device cpu --gpus {ranks} {line}")));
            assert_eq!(many, alone, "{ranks} ranks of `{line}`");
        }
    }
}

/// Returns the child processes of a process, by rank.
fn ranks_of(parent: &Child, count: usize) -> Vec<u32> {
    let id = parent.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let ids: Vec<u32> = children.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let is_rank = |id: &u32, rank: usize| {
        let variables = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        variables.split(|&byte| byte == 0).any(|variable| variable == format!("RANK={rank}").as_bytes())
    };
    (0..count).map(|rank| *ids.iter().find(|id| is_rank(id, rank)).expect("a process of each rank")).collect()
}

#[test]
fn a_killed_rank_is_named_and_the_run_goes_on_with_fewer() {
    if !slow("a_killed_rank_is_named_and_the_run_goes_on_with_fewer") {
        return;
    }
    let base = prepared();
    let base = base.path();
    let steps = STEPS.replace("--num-iterations 20", "--num-iterations 300");
    run(base, &format!("{steps} --model-tag alone"));
    for victim in [0, 2] {
        let tag = format!("killed{victim}");
        let mut child = start(base, &format!("--device cpu --gpus 3 {steps} --model-tag {tag}"));
        let log = base.join("base_checkpoints").join(&tag).join("metrics.jsonl");
        assert!(wait_for_lines(&mut child, &log, 60), "{}", ended(child).1);
        let ranks = ranks_of(&child, 3);
        let killed = Instant::now();
        let status = Command::new("kill").args(["-9", &ranks[victim].to_string()]).status().unwrap();
        assert!(status.success());
        let (status, said) = ended(child);
        assert!(killed.elapsed() < Duration::from_secs(60), "{:?}", killed.elapsed());
        assert_eq!(status.code(), Some(1), "{said}");
        println!("{said}");
        assert!(said.contains(&format!("rank {victim} was killed by signal 9")), "{said}");
        assert!(said.contains(&format!("error: rank {victim} is gone")), "{said}");
        assert!(!ranks.iter().any(|id| Path::new(&format!("/proc/{id}/exe")).exists()), "{ranks:?} are left");
        run(base, &format!("--device cpu --gpus 2 {steps} --model-tag {tag} --resume"));
        let (one, many) = (losses(base, "alone"), losses(base, &tag));
        assert_eq!(one.len(), many.len());
        let (one, many) = (one.last().unwrap(), many.last().unwrap());
        assert!((one - many).abs() < 1e-2 * one, "{tag} ends at {many}, alone at {one}");
    }
}

#[test]
fn ctrl_c_saves_once_and_all_ranks_end() {
    if !slow("ctrl_c_saves_once_and_all_ranks_end") {
        return;
    }
    let base = prepared();
    let base = base.path();
    let steps = STEPS.replace("--num-iterations 20", "--num-iterations 10000");
    for name in ["INT", "TERM"] {
        let mut child = start(base, &format!("--device cpu --gpus 2 {steps} --model-tag {name}"));
        let log = base.join("base_checkpoints").join(name).join("metrics.jsonl");
        assert!(wait_for_lines(&mut child, &log, 15), "{}", ended(child).1);
        signal(&child, name);
        let (status, said) = ended(child);
        assert_eq!(status.code(), Some(130), "{said}");
        assert_eq!(said.matches("Go on with: ").count(), 1, "{said}");
        assert!(said.lines().last().unwrap().contains(" --resume"), "{said}");
        assert!(!said.contains("error:"), "{said}");
    }
}

#[test]
fn a_rank_that_never_comes_is_named_and_a_stranger_disturbs_nobody() {
    if !slow("a_rank_that_never_comes_is_named_and_a_stranger_disturbs_nobody") {
        return;
    }
    let base = prepared();
    let base = base.path();
    let port = free_port();
    let line = format!("--rank-timeout 3 {STEPS} --model-tag never");
    let came = [0, 1].map(|rank| started(base, &line, &[], &torchrun(rank, 3, "127.0.0.1", port)));
    for (status, said) in came.map(ended) {
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("error: rank 2 has not come within 3 s"), "{said}");
    }

    let line = format!("{STEPS} --model-tag strange");
    let first = started(base, &line, &[], &torchrun(0, 2, "127.0.0.1", port));
    let mut stranger = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    stranger.write_all(&[0x16; 500]).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer); // refused, so the socket closes
    assert_eq!(answer.len(), 48);
    let mut thief = torchrun(1, 2, "127.0.0.1", port);
    thief.last_mut().unwrap().1 = "what the thief believes".into();
    let (status, said) = ended(started(base, &line, &[], &thief));
    assert!(status.code() == Some(1) && said.contains("NANOCHAT_SECRET differs"), "{said}");
    all_succeed(vec![first, started(base, &line, &[], &torchrun(1, 2, "127.0.0.1", port))]);
}

#[test]
fn ranks_meet_among_seventy_strangers_who_send_a_byte_now_and_then() {
    if !slow("ranks_meet_among_seventy_strangers_who_send_a_byte_now_and_then") {
        return;
    }
    let base = prepared();
    let port = free_port();
    let line = format!("--rank-timeout 10 {STEPS} --model-tag drip");
    let first = started(base.path(), &line, &[], &torchrun(0, 2, "127.0.0.1", port));
    let mut strangers = Vec::new();
    while strangers.len() < 70 {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stranger) => strangers.push(stranger),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    // They reconnect whenever they are closed, so that rank 0 has them before and after the other rank connects.
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for stranger in &mut strangers {
                    if stranger.write_all(b"x").is_err()
                        && let Ok(again) = TcpStream::connect(("127.0.0.1", port))
                    {
                        *stranger = again;
                    }
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        std::thread::sleep(Duration::from_secs(2));
        // Ranks that have not connected within 10 s end with a sentence.
        let ranks = vec![first, started(base.path(), &line, &[], &torchrun(1, 2, "127.0.0.1", port))];
        let ended: Vec<_> = ranks.into_iter().map(ended).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for (rank, (status, said)) in ended.into_iter().enumerate() {
            assert!(status.success(), "rank {rank}: {said}");
        }
    });
}

/// A network namespace that acts as a separate machine.
struct Machine(String);

impl Machine {
    fn new(number: usize) -> Machine {
        let name = format!("nanochat-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Machine(name)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[track_caller]
fn ip(line: &str) {
    let status = Command::new("ip").args(line.split_whitespace()).status();
    assert!(status.is_ok_and(|status| status.success()), "`ip {line}` failed: it needs root and iproute2");
}

#[test]
fn two_machines_find_each_other_by_the_address_of_rank_0() {
    if !slow("two_machines_find_each_other_by_the_address_of_rank_0") {
        return;
    }
    let (base, nodes) = (prepared(), [Machine::new(0), Machine::new(1)]);
    let base = base.path();
    let [a, b] = &nodes;
    ip(&format!("link add nc0 netns {} type veth peer name nc1 netns {}", a.0, b.0));
    for (number, Machine(name)) in nodes.iter().enumerate() {
        ip(&format!("-n {name} addr add 10.77.0.{}/24 dev nc{number}", number + 1));
        ip(&format!("-n {name} link set nc{number} up"));
    }
    alone(base);
    let line = format!("{STEPS} --model-tag nodes");
    let rank = |rank: usize| {
        // Two ranks per machine.
        let place = torchrun(rank, 4, "10.77.0.1", 29_500);
        started(base, &line, &["ip", "netns", "exec", &nodes[rank / 2].0], &place)
    };
    all_succeed((0..4).map(rank).collect());
    assert_like_alone(base, "nodes");

    let mut open = torchrun(1, 2, "10.77.0.1", 29_500);
    open.retain(|(name, _)| *name != "NANOCHAT_SECRET");
    let (_, said) = ended(started(base, &line, &["ip", "netns", "exec", &nodes[1].0], &open));
    assert!(said.contains("10.77.0.1, another machine; set NANOCHAT_SECRET"), "{said}");
}
