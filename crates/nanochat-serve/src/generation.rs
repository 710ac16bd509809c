//! The samples of one HTTP request: submitted together, received through one channel, and cancelled when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nanochat::conversation::Part;
use nanochat::engine::sampler::Logprobs;
use nanochat::engine::{Finish, Owner, Request};
use tokio::sync::{mpsc, oneshot};

use crate::Server;
use crate::error::ApiError;
use crate::queue::{Job, SampleUpdate, Scoring, Work};
use crate::transcript::Transcript;

/// The next piece of output that a client may see.
#[derive(Default)]
pub struct Delta {
    pub sample: usize,
    pub replica: usize,
    pub parts: Vec<Part>,
    /// The token of the text and its log-probabilities, if they were requested.
    pub logprobs: Option<(u32, Logprobs)>,
    /// The same for a sampled token that the text does not show: a special token, a part of a tool call, the stop
    /// token.
    pub unseen: Option<(u32, Logprobs)>,
    /// The finish reason, in the sample's last update.
    pub finish: Option<Finish>,
}

/// The samples of one request that are being generated.
pub struct Generation {
    updates: mpsc::UnboundedReceiver<(usize, SampleUpdate)>,
    samples: Vec<Sample>,
    open: usize,
    /// The number of tokens of all samples, tool results included.
    pub tokens: usize,
}

struct Sample {
    transcript: Transcript,
    cancelled: Arc<AtomicBool>,
    over: bool,
}

impl Generation {
    /// Submits `requests` of `owner`, one per sample: all of them, or none if the queue is full.
    pub fn start(
        server: &Server,
        owner: Owner,
        requests: Vec<Request>,
        stops: &[String],
    ) -> Result<Generation, ApiError> {
        let (send, updates) = mpsc::unbounded_channel();
        let (mut samples, mut work) = (Vec::new(), Vec::new());
        for (i, request) in requests.into_iter().enumerate() {
            let cancelled = Arc::<AtomicBool>::default();
            let transcript = Transcript::new(&server.tokenizer, stops);
            work.push(Work::Generate(Job::new(owner, request, i, send.clone(), cancelled.clone())));
            samples.push(Sample { transcript, cancelled, over: false });
        }
        server.queue.push(work)?;
        Ok(Generation { updates, open: samples.len(), samples, tokens: 0 })
    }

    /// Returns the next output of any sample; None when all samples are finished.
    pub async fn next(&mut self, server: &Server) -> Option<Result<Delta, ApiError>> {
        while self.open > 0 {
            let (sample, update) = self.updates.recv().await?;
            if let Some(delta) = self.follow(sample, update, server) {
                return Some(delta);
            }
        }
        None
    }

    fn follow(
        &mut self,
        index: usize,
        update: SampleUpdate,
        server: &Server,
    ) -> Option<Result<Delta, ApiError>> {
        let sample = &mut self.samples[index];
        if sample.over {
            return None; // the sample ended at a stop string
        }
        let mut delta = Delta { sample: index, ..Delta::default() };
        match update {
            SampleUpdate::Token { replica, id, logprobs } => {
                self.tokens += 1;
                let is_text = sample.transcript.in_text() && !server.tokenizer.is_special(id);
                delta.replica = replica;
                delta.parts = sample.transcript.push(id);
                let of_token = logprobs.map(|logprobs| (id, logprobs));
                (delta.logprobs, delta.unseen) = if is_text { (of_token, None) } else { (None, of_token) };
                if sample.transcript.stopped() {
                    sample.cancelled.store(true, Ordering::Relaxed);
                    delta.finish = Some(Finish::Stop);
                }
            }
            SampleUpdate::Stop { id, logprobs } => delta.unseen = Some((id, logprobs)),
            SampleUpdate::Finished(finish) => {
                delta.parts = sample.transcript.finish();
                let stopped = sample.transcript.stopped();
                delta.finish = Some(if stopped { Finish::Stop } else { finish });
            }
            SampleUpdate::Lost => return Some(Err(ApiError::lost(server.queue.is_draining()))),
        }
        if delta.finish.is_some() {
            sample.over = true;
            self.open -= 1;
        } else if delta.parts.is_empty() && delta.logprobs.is_none() && delta.unseen.is_none() {
            return None;
        }
        Some(Ok(delta))
    }
}

/// Returns the log-probabilities of `ids[1..]` under the model, with the `top` likeliest tokens at each position.
pub async fn score(server: &Server, ids: Vec<u32>, top: usize) -> Result<Vec<Logprobs>, ApiError> {
    let (reply, scored) = oneshot::channel();
    server.queue.push(vec![Work::Score(Scoring { ids, top, reply })])?;
    match scored.await {
        Ok(scores) => Ok(scores?),
        Err(_) => Err(ApiError::lost(server.queue.is_draining())),
    }
}
