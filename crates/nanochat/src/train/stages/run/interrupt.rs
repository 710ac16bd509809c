//! Handles the signals that ask a run to save and end: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), and a closed output
//! (SIGPIPE).

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use signal_hook::iterator::Signals;

use crate::terminal::output::tell;

/// The state of signal handling, which starts with the first run of a process.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// The number of the first signal, 0 if none came; the current run saves and ends.
    signal: Arc<AtomicI32>,
    /// Whether no run is active, so that any signal ends the process.
    no_run: Arc<AtomicBool>,
    /// Whether the next Ctrl-C or SIGTERM ends the process: one has come already, or no run is active.
    ends_at_once: Arc<AtomicBool>,
    /// Whether the user is told what the first signal does.
    speaks: Arc<AtomicBool>,
}

/// Starts signal handling before a process's first run. While no run is active, each of the handled signals, including
/// that of a closed output, ends the process with a nonzero code.
pub fn watch_signals() -> Result<()> {
    Interrupt::one().map(|_| ())
}

impl Interrupt {
    fn one() -> Result<Interrupt> {
        static ONE: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = ONE.get() {
            return Ok(interrupt.clone());
        }
        let interrupt = ONE.get_or_init(Interrupt::default);
        interrupt.release();
        interrupt.registered()
    }

    /// Begins a run, which signals ask to stop from now on. Only the rank that `speaks` tells the user.
    pub(super) fn hold(speaks: bool) -> Result<Interrupt> {
        let interrupt = Interrupt::one()?;
        interrupt.speaks.store(speaks, Ordering::Relaxed);
        interrupt.no_run.store(false, Ordering::Relaxed);
        interrupt.ends_at_once.store(interrupt.asked().is_some(), Ordering::Relaxed);
        Ok(interrupt)
    }

    /// Returns the signal that asked the run to stop, if any.
    pub(super) fn asked(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// Ends a run: signals end the process again, as in stages of a speedrun that save nothing.
    pub(super) fn release(&self) {
        self.no_run.store(true, Ordering::Relaxed);
        self.ends_at_once.store(true, Ordering::Relaxed);
    }

    fn registered(&self) -> Result<Interrupt> {
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the signal that sets the flag must not find it set.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                code(signal).into(),
                self.ends_at_once.clone(),
            )?;
            signal_hook::flag::register(signal, self.ends_at_once.clone())?;
        }
        // Each signal may come many times while the run saves: every write to a closed pipe sends one.
        let mut asking = vec![SIGINT, SIGTERM, SIGPIPE];
        signal_hook::flag::register_conditional_shutdown(SIGPIPE, code(SIGPIPE).into(), self.no_run.clone())?;
        if !ignores_hangup() {
            asking.push(SIGHUP); // never under nohup
            signal_hook::flag::register_conditional_shutdown(
                SIGHUP,
                code(SIGHUP).into(),
                self.no_run.clone(),
            )?;
        }
        let mut signals = Signals::new(asking)?;
        let this = self.clone();
        // The user gets the message from a thread, since a step may take minutes.
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let first = this.signal.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
                if first.is_ok() && this.speaks.load(Ordering::Relaxed) && matches!(signal, SIGINT | SIGTERM)
                {
                    tell("stopping after this step; again to quit now");
                }
            }
        })?;
        Ok(self.clone())
    }
}

/// Returns the exit code of a process that a signal ended, as in shells; SIGTERM has that of Ctrl-C, for compatibility.
pub(super) fn code(signal: i32) -> u8 {
    let signal = if signal == SIGTERM { SIGINT } else { signal };
    128 + signal as u8
}

/// Whether this process was started so that a closed terminal does not end it, such as by nohup.
pub fn ignores_hangup() -> bool {
    is_ignored(SIGHUP)
}

fn is_ignored(signal: i32) -> bool {
    #[cfg(unix)]
    // SAFETY: with no new action the call only writes the present one, for which all zeros are a value.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
    #[cfg(not(unix))]
    false
}
