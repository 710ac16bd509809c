//! The samples of one HTTP request on their way: submitted together, followed through one channel, given up when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nanochat::conversation::Part;
use nanochat::engine::{Finish, Owner, Request};
use nanochat::sampler::Logprobs;
use tokio::sync::{mpsc, oneshot};

use crate::Server;
use crate::error::ApiError;
use crate::queue::{Job, Scoring, Update, Work};
use crate::transcript::Transcript;

/// What a client may see next.
#[derive(Default)]
pub struct Said {
    pub sample: usize,
    pub replica: usize,
    pub parts: Vec<Part>,
    /// Of a token of the text, where log-probabilities were asked for.
    pub logprobs: Option<(u32, Logprobs)>,
    /// The same of a drawn token that the text does not show: a mark, a part of a tool call, the token that stopped it.
    pub unseen: Option<(u32, Logprobs)>,
    /// Set in the sample's last one.
    pub finish: Option<Finish>,
}

pub struct Generation {
    updates: mpsc::UnboundedReceiver<(usize, Update)>,
    samples: Vec<Sample>,
    open: usize,
    /// Tokens of all samples, tool results included.
    pub tokens: usize,
}

struct Sample {
    transcript: Transcript,
    cancelled: Arc<AtomicBool>,
    over: bool,
}

impl Generation {
    /// Submits `requests` of `owner`, one sample each: all of them, or none where the queue is full.
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

    /// None: all samples are over.
    pub async fn next(&mut self, server: &Server) -> Option<Result<Said, ApiError>> {
        while self.open > 0 {
            let (sample, update) = self.updates.recv().await?;
            if let Some(said) = self.follow(sample, update, server) {
                return Some(said);
            }
        }
        None
    }

    fn follow(&mut self, index: usize, update: Update, server: &Server) -> Option<Result<Said, ApiError>> {
        let sample = &mut self.samples[index];
        if sample.over {
            return None; // after a stop string
        }
        let mut said = Said { sample: index, ..Said::default() };
        match update {
            Update::Token { replica, id, logprobs } => {
                self.tokens += 1;
                let is_text = sample.transcript.in_text() && !server.tokenizer.is_special(id);
                said.replica = replica;
                said.parts = sample.transcript.push(id);
                let of_token = logprobs.map(|logprobs| (id, logprobs));
                (said.logprobs, said.unseen) = if is_text { (of_token, None) } else { (None, of_token) };
                if sample.transcript.stopped() {
                    sample.cancelled.store(true, Ordering::Relaxed);
                    said.finish = Some(Finish::Stop);
                }
            }
            Update::Stop { id, logprobs } => said.unseen = Some((id, logprobs)),
            Update::Finished(finish) => {
                said.parts = sample.transcript.finish();
                let stopped = sample.transcript.stopped();
                said.finish = Some(if stopped { Finish::Stop } else { finish });
            }
            Update::Lost => return Some(Err(ApiError::lost(server.queue.is_draining()))),
        }
        if said.finish.is_some() {
            sample.over = true;
            self.open -= 1;
        } else if said.parts.is_empty() && said.logprobs.is_none() && said.unseen.is_none() {
            return None;
        }
        Some(Ok(said))
    }
}

/// Log-probabilities of `ids[1..]` under the model.
pub async fn score(server: &Server, ids: Vec<u32>, top: usize) -> Result<Vec<Logprobs>, ApiError> {
    let (reply, scored) = oneshot::channel();
    server.queue.push(vec![Work::Score(Scoring { ids, top, reply })])?;
    match scored.await {
        Ok(scores) => Ok(scores?),
        Err(_) => Err(ApiError::lost(server.queue.is_draining())),
    }
}
