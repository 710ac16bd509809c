//! `--gpus N`: starts and supervises one process for each GPU of this machine. Signals are forwarded to all, and when
//! one fails the others are ended.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nanochat::train::stages::run::ignores_hangup;
use ring::rand::{SecureRandom, SystemRandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::RanksFailed;

/// The exit codes of a rank that has saved and ended: after Ctrl-C or SIGTERM, SIGHUP, or a closed output pipe.
const INTERRUPTED: [i32; 3] = [130, 129, 141];
/// The time that ranks may continue after one of them failed, before they are killed.
const GRACE: Duration = Duration::from_secs(20);

/// Runs `nanochat` with `args` as `count` ranks on this machine, until all have ended.
pub fn start(count: usize, args: &[OsString]) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !ignores_hangup() {
        signals.add_signal(SIGHUP)?;
    }
    let shared = RankSettings { count, port: free_port()?, secret: secret(), args };
    let mut ranks = Ranks::default();
    for rank in 0..count {
        ranks.0.push(shared.start(rank)?);
    }
    let (mut failed, mut first_failure, mut interrupted) = (Vec::new(), None, None);
    while ranks.left().next().is_some() {
        for signal in signals.pending() {
            ranks.left().for_each(|(_, rank)| send(&rank.child, signal));
        }
        for (number, rank) in ranks.left() {
            rank.ended = rank.child.try_wait()?;
            if let Some(status) = rank.ended.filter(|status| !status.success()) {
                match status.code().filter(|code| INTERRUPTED.contains(code)) {
                    Some(code) => interrupted = Some(code),
                    None => failed.push((number, status)),
                }
            }
        }
        if !failed.is_empty() && first_failure.get_or_insert_with(Instant::now).elapsed() > GRACE {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    drop(ranks); // kills those still running
    // A killed rank is the cause of the others' failures, in whatever order they end.
    let killed = failed.iter().find(|(_, status)| status.signal().is_some());
    match killed.or(failed.first()) {
        Some(&(rank, status)) => Err(failure(rank, status).into()),
        None => match interrupted {
            Some(code) => Err(RanksFailed { code: code as u8, sentence: String::new() }.into()),
            None => Ok(()),
        },
    }
}

/// The processes, in order of rank.
#[derive(Default)]
struct Ranks(Vec<Rank>);

struct Rank {
    child: Child,
    ended: Option<ExitStatus>,
    /// The thread that prints its stderr, with its rank.
    echo: Option<JoinHandle<()>>,
}

impl Ranks {
    /// Returns those that are still running.
    fn left(&mut self) -> impl Iterator<Item = (usize, &mut Rank)> {
        self.0.iter_mut().enumerate().filter(|(_, rank)| rank.ended.is_none())
    }
}

/// No rank outlives this process, whatever happens.
impl Drop for Ranks {
    fn drop(&mut self) {
        for (_, rank) in self.left() {
            let _ = rank.child.kill().and_then(|()| rank.child.wait()); // it may have ended just now
        }
        for echo in self.0.iter_mut().filter_map(|rank| rank.echo.take()) {
            let _ = echo.join();
        }
    }
}

/// The settings that all ranks are started with.
struct RankSettings<'a> {
    count: usize,
    port: u16,
    secret: String,
    args: &'a [OsString],
}

impl RankSettings<'_> {
    /// Starts a rank. Rank 0 prints as a single process would; other ranks print only errors, each line with the rank.
    fn start(&self, rank: usize) -> Result<Rank> {
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
        let echo = child.stderr.take().map(|stderr| {
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    eprintln!("[rank {rank}] {line}");
                }
            })
        });
        Ok(Rank { child, ended: None, echo })
    }
}

/// Returns the error for the rank that failed first. A signal is named here, since the rank could not print it.
fn failure(rank: usize, status: ExitStatus) -> RanksFailed {
    let sentence = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("rank {rank} was killed by signal {signal}, so the others have ended too")
        }
        (None, _) if rank == 0 => String::new(),
        (None, code) => {
            let code = code.unwrap_or(1);
            format!("rank {rank} ended with code {code}, for the reason above, so the others have ended too")
        }
    };
    RanksFailed { code: status.code().map_or(1, |code| code as u8), sentence }
}

/// Returns a port that is free now; rank 0 binds it a moment later.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Returns 256 random bits as hexadecimal digits.
fn secret() -> String {
    let mut bits = [0u8; 32];
    SystemRandom::new().fill(&mut bits).expect("the system gives random numbers");
    bits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives the child its own process group, since this process forwards Ctrl-C, and SIGTERM if this process is killed.
fn end_with_parent(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec there is only this call, which sets a property of the process.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

fn send(child: &Child, signal: i32) {
    // SAFETY: a child that has not been waited for keeps its process id.
    unsafe { libc::kill(child.id() as i32, signal) };
}
