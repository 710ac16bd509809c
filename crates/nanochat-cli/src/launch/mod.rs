//! Ranks as processes that share the work of one command, whoever started them. Each connects to the others and does
//! its part.

mod environment;
#[cfg(unix)]
mod start;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nanochat::train::stages::run::Interrupted;
use nanochat_tensor::Comm;
use nanochat_tensor::comm::{Lost, lost};
use nanochat_tensor::gpu::gpu_failure;

pub use environment::{Started, started};
#[cfg(unix)]
pub use start::start;

/// The time that a rank has to end by itself after another was lost, for example to delete a bad checkpoint.
const OWN_END: Duration = Duration::from_secs(5);

/// The error that not all ranks of a run have succeeded.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct RanksFailed {
    pub code: u8,
    /// The sentence to print; empty if rank 0 has printed it.
    sentence: String,
}

#[cfg(not(unix))]
pub fn start(_: usize, _: &[std::ffi::OsString]) -> Result<()> {
    anyhow::bail!(
        "--gpus starts processes on Unix only; start the ranks yourself, with RANK, WORLD_SIZE and MASTER_ADDR set"
    )
}

/// Connects to the other ranks, runs `work`, and tells them if it fails.
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

/// Turns NCCL's NVLink multicast (NVLS) off, unless the user has set it. It saves a tenth of an all-reduce at best, and
/// a process killed during one can leave the switches of the machine in a state that only a reset repairs.
fn leave_multicast_off() {
    const NVLS: &str = "NCCL_NVLS_ENABLE";
    if std::env::var_os(NVLS).is_none() {
        // SAFETY: called before this process has a second thread or a library that reads variables.
        unsafe { std::env::set_var(NVLS, "0") };
    }
}

/// Ends the process because another rank is lost; the working thread may hang in its GPU.
fn end(lost: &Lost) {
    thread::sleep(OWN_END);
    eprintln!("error: {lost}");
    signal_hook::low_level::exit(1)
}
