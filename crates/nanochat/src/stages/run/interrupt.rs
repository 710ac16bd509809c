//! Ctrl-C and SIGTERM: the first asks the run to save and end, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Result;

/// What Ctrl-C and SIGTERM do from the first run of a process on.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// Set by the first one: the run under way saves and ends.
    asked: Arc<AtomicBool>,
    /// The next one ends the process: one has come already, or no run is under way.
    ends_at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// A run begins.
    pub(super) fn hold() -> Result<Interrupt> {
        static ONE: OnceLock<Interrupt> = OnceLock::new();
        let interrupt = match ONE.get() {
            Some(interrupt) => interrupt.clone(),
            None => ONE.get_or_init(Interrupt::default).registered()?,
        };
        interrupt.ends_at_once.store(interrupt.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(interrupt)
    }

    /// Whether the user has asked the run to stop.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The run has ended: the stages of a speedrun that save nothing just end.
    pub(super) fn release(&self) {
        self.ends_at_once.store(true, Ordering::Relaxed);
    }

    fn registered(&self) -> Result<Interrupt> {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the signal that sets a flag must not find it set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, self.ends_at_once.clone())?;
            signal_hook::flag::register(signal, self.ends_at_once.clone())?;
            signal_hook::flag::register(signal, self.asked.clone())?;
        }
        Ok(self.clone())
    }
}
