//! Functions that the tests of several modules share.

use std::thread;

use nanochat_tensor::Comm;
use nanochat_tensor::comm::in_process;
use nanochat_tokenizer::{Tokenizer, TrainOptions, train};

/// Returns a tokenizer of 256 bytes and the nine special tokens, without merges.
pub fn tokenizer() -> Tokenizer {
    let options = TrainOptions { vocab_size: 265, ..TrainOptions::default() };
    train(["any text"].iter(), &options).expect("265 is the smallest vocabulary")
}

/// Runs `work` on every rank at once, a thread each, and returns the results in the order of the ranks.
pub fn on_ranks<T: Send>(world: usize, work: impl Fn(Comm) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let start = |comm| scope.spawn(|| work(comm));
        let threads: Vec<_> = in_process(world).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank failed")).collect()
    })
}
