//! The single queue in front of all replicas. It is bounded, so that a busy server refuses requests instead of letting
//! them wait too long.
//!
//! A replica takes work when it has room, so no request waits for one replica while another is idle. Cancellation needs
//! no message: a client that leaves drops the receiving end, and the holder of the job notices.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nanochat::engine::sampler::Logprobs;
use nanochat::engine::{Finish, Owner, Request, RequestError};
use tokio::sync::{mpsc, oneshot};

/// An event of one sample.
#[derive(Debug)]
pub enum SampleUpdate {
    Token {
        replica: usize,
        id: u32,
        logprobs: Option<Logprobs>,
    },
    /// The stop token, if log-probabilities were requested.
    Stop {
        id: u32,
        logprobs: Logprobs,
    },
    Finished(Finish),
    /// The server gave the sample up: it is shutting down, or a replica failed.
    Lost,
}

/// One sample to generate. Its updates always end with `Finished` or `Lost`.
pub struct Job {
    /// The owner of the cached prefixes that the sample may reuse.
    pub owner: Owner,
    pub request: Request,
    pub sample: usize,
    pub arrived: Instant,
    updates: mpsc::UnboundedSender<(usize, SampleUpdate)>,
    cancelled: Arc<AtomicBool>,
    over: bool,
}

impl Job {
    pub fn new(
        owner: Owner,
        request: Request,
        sample: usize,
        updates: mpsc::UnboundedSender<(usize, SampleUpdate)>,
        cancelled: Arc<AtomicBool>,
    ) -> Job {
        Job { owner, request, sample, arrived: Instant::now(), updates, cancelled, over: false }
    }

    /// Whether the client has left or cancelled.
    pub fn is_abandoned(&self) -> bool {
        self.updates.is_closed() || self.cancelled.load(Ordering::Relaxed)
    }

    pub fn send(&mut self, update: SampleUpdate) {
        self.over |= matches!(update, SampleUpdate::Finished(_) | SampleUpdate::Lost);
        let _ = self.updates.send((self.sample, update)); // fails if the client has left
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.over {
            self.send(SampleUpdate::Lost);
        }
    }
}

/// A request for the log-probabilities of a given text.
pub struct Scoring {
    pub ids: Vec<u32>,
    pub top: usize,
    pub reply: oneshot::Sender<Result<Vec<Logprobs>, RequestError>>,
}

pub enum Work {
    Generate(Job),
    Score(Scoring),
}

impl Work {
    fn is_abandoned(&self) -> bool {
        match self {
            Work::Generate(job) => job.is_abandoned(),
            Work::Score(scoring) => scoring.reply.is_closed(),
        }
    }
}

/// The reason why work was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    Closed,
}

pub struct Queue {
    limit: usize,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// The number of running replicas.
    replicas: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// Whether new work is refused while queued work is still done.
    draining: bool,
    /// Whether replicas must give up all their work.
    aborted: bool,
}

impl Queue {
    pub fn new(limit: usize) -> Queue {
        Queue { limit, waiting: Mutex::default(), arrived: Condvar::new(), replicas: AtomicUsize::new(0) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds all of `work`, or nothing if it does not fit.
    pub fn push(&self, work: Vec<Work>) -> Result<(), Refused> {
        let mut waiting = self.waiting();
        if waiting.draining || self.replicas() == 0 {
            return Err(Refused::Closed);
        }
        if waiting.work.len() + work.len() > self.limit {
            waiting.work.retain(|work| !work.is_abandoned());
        }
        if waiting.work.len() + work.len() > self.limit {
            return Err(Refused::Full);
        }
        waiting.work.extend(work);
        self.arrived.notify_all();
        Ok(())
    }

    /// Takes at most `room` pieces of work; an idle replica blocks until there is one. Returns None when it must stop.
    pub fn take(&self, room: usize, idle: bool) -> Option<Vec<Work>> {
        let mut waiting = self.waiting();
        loop {
            if waiting.aborted {
                return None;
            }
            waiting.work.retain(|work| !work.is_abandoned());
            if !idle || !waiting.work.is_empty() {
                let room = room.min(waiting.work.len());
                return Some(waiting.work.drain(..room).collect());
            }
            if waiting.draining {
                return None;
            }
            // A client that leaves does not wake this thread, so it checks once a second for work to drop.
            let wait = self.arrived.wait_timeout(waiting, Duration::from_secs(1));
            waiting = wait.map_or_else(|poisoned| poisoned.into_inner().0, |(waiting, _)| waiting);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting().work.len()
    }

    pub fn replicas(&self) -> usize {
        self.replicas.load(Ordering::Relaxed)
    }

    pub fn replica_started(&self) {
        self.replicas.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a replica. When the last one ends, the queued work is dropped, since nobody would do it.
    pub fn replica_ended(&self) {
        let mut waiting = self.waiting();
        if self.replicas.fetch_sub(1, Ordering::Relaxed) == 1 {
            waiting.work.clear();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.waiting().draining
    }

    /// Refuses new work from now on.
    pub fn drain(&self) {
        self.waiting().draining = true;
        self.arrived.notify_all();
    }

    /// Gives up all queued and running work.
    pub fn abort(&self) {
        let mut waiting = self.waiting();
        (waiting.draining, waiting.aborted) = (true, true);
        waiting.work.clear();
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanochat::engine::sampler::SampleOptions;

    fn job(updates: &mpsc::UnboundedSender<(usize, SampleUpdate)>) -> Work {
        let options = SampleOptions::default();
        let request = Request { prompt: vec![0], samples: 1, max_tokens: 1, options, stream: 0 };
        Work::Generate(Job::new(0, request, 0, updates.clone(), Arc::default()))
    }

    #[test]
    fn takes_in_all_or_nothing_and_forgets_those_who_left() {
        let queue = Queue::new(3);
        queue.replica_started();
        let (here, mut seen) = mpsc::unbounded_channel();
        let (left, gone) = mpsc::unbounded_channel();
        assert_eq!(queue.push(vec![job(&here), job(&left)]), Ok(()));
        assert_eq!(queue.push(vec![job(&here), job(&here)]), Err(Refused::Full));
        assert_eq!(queue.len(), 2);
        drop(gone);
        assert_eq!(queue.push(vec![job(&here), job(&here)]), Ok(()));
        assert_eq!(queue.take(2, true).unwrap().len(), 2);
        queue.drain();
        assert_eq!(queue.push(vec![job(&here)]), Err(Refused::Closed));
        assert_eq!(queue.take(9, false).unwrap().len(), 1);
        assert!(queue.take(9, true).is_none());
        let lost = std::iter::from_fn(|| seen.try_recv().ok());
        assert!(lost.count() >= 5, "every job that was dropped says so");
    }

    #[test]
    fn what_waits_is_lost_with_the_last_replica() {
        let queue = Queue::new(3);
        let (here, mut seen) = mpsc::unbounded_channel();
        assert_eq!(queue.push(vec![job(&here)]), Err(Refused::Closed));
        assert!(matches!(seen.try_recv(), Ok((0, SampleUpdate::Lost))));
        queue.replica_started();
        queue.push(vec![job(&here)]).unwrap();
        queue.replica_ended();
        assert!(matches!(seen.try_recv(), Ok((0, SampleUpdate::Lost))));
    }
}
