//! What asks a run to save and end: Ctrl-C, SIGTERM, a terminal that closes (SIGHUP), and output that nobody reads any
//! more (SIGPIPE).

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use signal_hook::iterator::Signals;

use crate::terminal::output::tell;

/// What signals do from the first run of a process on.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// The first signal: the run under way saves and ends.
    signal: Arc<AtomicI32>,
    /// A signal ends the process: no run is under way.
    no_run: Arc<AtomicBool>,
    /// The next Ctrl-C or SIGTERM ends the process: one has come already, or no run is under way.
    ends_at_once: Arc<AtomicBool>,
    /// The user is told what the first one does.
    speaks: Arc<AtomicBool>,
}

/// For a process that makes something, before its first run: from here on a reader that has gone ends it with a code that
/// is not 0, and so does every other signal.
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

    /// A run begins. Of several ranks the one that `speaks` answers the user.
    pub(super) fn hold(speaks: bool) -> Result<Interrupt> {
        let interrupt = Interrupt::one()?;
        interrupt.speaks.store(speaks, Ordering::Relaxed);
        interrupt.no_run.store(false, Ordering::Relaxed);
        interrupt.ends_at_once.store(interrupt.asked().is_some(), Ordering::Relaxed);
        Ok(interrupt)
    }

    /// The signal that asked the run to stop.
    pub(super) fn asked(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// The run has ended: the stages of a speedrun that save nothing just end.
    pub(super) fn release(&self) {
        self.no_run.store(true, Ordering::Relaxed);
        self.ends_at_once.store(true, Ordering::Relaxed);
    }

    fn registered(&self) -> Result<Interrupt> {
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that sets a flag must not find it set.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                code(signal).into(),
                self.ends_at_once.clone(),
            )?;
            signal_hook::flag::register(signal, self.ends_at_once.clone())?;
        }
        // Each may come many times while the run saves: a write into a broken pipe sends one.
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
        // A step may take minutes: the answer must not wait for its end.
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

/// The code of a process that a signal has ended, as shells say it; SIGTERM's is Ctrl-C's, as ever.
pub(super) fn code(signal: i32) -> u8 {
    let signal = if signal == SIGTERM { SIGINT } else { signal };
    128 + signal as u8
}

/// Whether this process was started so that a closed terminal does not end it, as by nohup.
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
