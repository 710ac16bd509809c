//! Ranks as processes. `--gpus N` starts one for each GPU of this machine and looks after them; a process that is a
//! rank, whoever started it, meets the others and does its part.

mod environment;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nanochat::stages::run::Interrupted;
use nanochat_tensor::Comm;
use nanochat_tensor::comm::{Lost, lost};
use nanochat_tensor::cuda::gpu_failure;
use ring::rand::{SecureRandom, SystemRandom};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use environment::{Started, started};

/// How long a rank that hears of a loss may take to end by its own: to delete a bad checkpoint, say.
const OWN_END: Duration = Duration::from_secs(5);
/// How long ranks may go on when one of them has failed, before they are killed.
const GRACE: Duration = Duration::from_secs(20);

/// A run whose ranks have not all succeeded.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct RanksFailed {
    pub code: u8,
    /// Empty where rank 0 has said all that there is to say.
    sentence: String,
}

/// Meets the other ranks, does `work` as one of them, and tells them if it fails.
pub fn take_part(started: Option<Started>, work: impl FnOnce(&Comm) -> Result<()>) -> Result<()> {
    let Some(Started { place, .. }) = started else { return work(&Comm::alone()) };
    leave_multicast_off();
    let comm = Comm::join(&place, Arc::new(end))?;
    if !comm.is_first() {
        crate::output::silence();
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| work(&comm)));
    let failure = match &outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => (!error.is::<Interrupted>()).then(|| format!("{error:#}")),
        Err(panic) => Some(gpu_failure(&**panic).unwrap_or("a bug in nanochat").to_string()),
    };
    comm.leave(failure.as_deref());
    outcome.unwrap_or_else(|panic| match lost(&*panic) {
        Some(lost) => Err(lost.clone().into()),
        None => resume_unwind(panic),
    })
}

/// NCCL's multicast over NVLink (NVLS) saves a tenth of an all-reduce at best, and a process killed in the midst of it can leave the switches
/// of the machine in a state that only a reset mends: off, unless somebody wants it.
fn leave_multicast_off() {
    const NVLS: &str = "NCCL_NVLS_ENABLE";
    if std::env::var_os(NVLS).is_none() {
        // SAFETY: called before this process has another thread, or a library that reads variables.
        unsafe { std::env::set_var(NVLS, "0") };
    }
}

/// Another rank is lost. The thread at work may hang in its GPU, so the process ends without it.
fn end(lost: &Lost) {
    thread::sleep(OWN_END);
    eprintln!("error: {lost}");
    signal_hook::low_level::exit(1)
}

/// Runs `nanochat` with `args` as `count` ranks of this machine, until all have ended.
pub fn run(count: usize, args: &[String]) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let shared = Shared { count, port: free_port()?, secret: secret(), args };
    let mut ranks: Vec<Rank> = Vec::new();
    for rank in 0..count {
        match shared.start(rank) {
            Ok(child) => ranks.push(Rank { child, ended: None }),
            Err(error) => {
                ranks.iter_mut().for_each(|rank| drop(rank.child.kill()));
                return Err(error);
            }
        }
    }
    let mut failed: Option<(usize, ExitStatus, Instant)> = None;
    while ranks.iter().any(|rank| rank.ended.is_none()) {
        for signal in signals.pending() {
            ranks.iter().filter(|rank| rank.ended.is_none()).for_each(|rank| send(&rank.child, signal));
        }
        for (number, rank) in ranks.iter_mut().enumerate().filter(|(_, rank)| rank.ended.is_none()) {
            rank.ended = rank.child.try_wait()?;
            if let Some(status) = rank.ended.filter(|status| !status.success() && failed.is_none()) {
                failed = Some((number, status, Instant::now()));
            }
        }
        if failed.is_some_and(|(_, _, since)| since.elapsed() > GRACE) {
            ranks.iter_mut().filter(|rank| rank.ended.is_none()).for_each(|rank| drop(rank.child.kill()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    failed.map_or(Ok(()), |(rank, status, _)| Err(failure(rank, status).into()))
}

struct Rank {
    child: Child,
    ended: Option<ExitStatus>,
}

/// What all ranks are started with.
struct Shared<'a> {
    count: usize,
    port: u16,
    secret: String,
    args: &'a [String],
}

impl Shared<'_> {
    /// Rank 0 speaks as this process would; of the others errors alone are shown, each line after its rank.
    fn start(&self, rank: usize) -> Result<Child> {
        let program = std::env::current_exe().context("failed to find this program's own file")?;
        let threads = thread::available_parallelism()?.get();
        let mut command = Command::new(program);
        command.args(&self.args[1..]).stdin(Stdio::null());
        let number = |number: usize| number.to_string();
        command.envs([("RANK", number(rank)), ("LOCAL_RANK", number(rank))]);
        command.envs([("WORLD_SIZE", number(self.count)), ("LOCAL_WORLD_SIZE", number(self.count))]);
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", self.port.to_string());
        command.env("NANOCHAT_SECRET", &self.secret).env_remove("TORCHELASTIC_USE_AGENT_STORE");
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", number((threads / self.count).max(1)));
        }
        if rank > 0 {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        }
        end_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("failed to start rank {rank}"))?;
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    eprintln!("[rank {rank}] {line}");
                }
            });
        }
        Ok(child)
    }
}

/// The rank whose end was the first that was no success: a signal is named here, since the rank itself could say nothing.
fn failure(rank: usize, status: ExitStatus) -> RanksFailed {
    use std::os::unix::process::ExitStatusExt;
    let sentence = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("rank {rank} was killed by signal {signal}, so the others have ended too")
        }
        (None, Some(130)) => String::new(), // all were asked to end
        (None, _) if rank == 0 => String::new(),
        (None, code) => {
            let code = code.unwrap_or(1);
            format!("rank {rank} ended with code {code}, for the reason above, so the others have ended too")
        }
    };
    RanksFailed { code: status.code().map_or(1, |code| code as u8), sentence }
}

/// A port that is free now; rank 0 takes it a moment later.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// 256 random bits, as hexadecimal digits.
fn secret() -> String {
    let mut bits = [0u8; 32];
    SystemRandom::new().fill(&mut bits).expect("the system gives random numbers");
    bits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A group of its own, since Ctrl-C reaches it from here; and SIGTERM, if this process is killed.
fn end_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only this call is made, which changes a property of the process.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

fn send(child: &Child, signal: i32) {
    // SAFETY: a child that has not been waited for keeps its number.
    unsafe { libc::kill(child.id() as i32, signal) };
}
