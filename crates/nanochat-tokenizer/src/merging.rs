//! BPE training: merges the most frequent pair of neighbouring tokens, again and again.
//!
//! All distinct pieces are in one array of symbols, one slot per byte. A token occupies as many slots as it has bytes:
//! the first holds its id, the last the distance to the first, so that both neighbours of a token are found without
//! links. Pieces of equal counts are adjacent, so that a few runs give the count of every slot.
//!
//! The positions of a pair are listed only while the pair is frequent enough to be merged soon: its count never grows
//! once its younger token is made, so a pair below a threshold (the floor) stays below it. When no pair above the floor
//! is left, the floor is lowered and the array is scanned again: two or three times for a large vocabulary. Most pairs
//! are rare and never listed. That takes about 14 bytes of memory per byte of distinct text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::ops::Range;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use rayon::prelude::*;

use crate::TokenizerError;
use crate::count::Pieces;
use crate::merge::Merge;
use crate::neighbours::{Neighbours, Occurrences};
use crate::vocab::Vocab;

type Pair = (u32, u32);

/// Between two pieces. Ids stay below `BACK`.
const END: u32 = u32::MAX;
/// Marks all slots of a token except the first. In its last slot the other bits are the distance to the first.
const BACK: u32 = 1 << 31;

/// The number of slots that are prefetched, as many as a processor has outstanding memory reads.
const AHEAD: usize = 32;

/// The state of the training.
pub(crate) struct Merging {
    symbols: Vec<u32>,
    /// Runs of pieces with the same count: (first slot, count).
    runs: Vec<(u32, u64)>,
    vocab: Vocab,
    /// Every pair that occurs at least `floor` times, except those that may not merge.
    pairs: HashMap<Pair, Occurrences>,
    floor: u64,
    /// The pairs, most frequent first, then smallest. An entry whose count is too high is corrected when it is popped.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
    before: Neighbours,
    after: Neighbours,
}

impl Merging {
    pub fn new(tables: Vec<Pieces>) -> Result<Merging, TokenizerError> {
        let mut order: Vec<(u64, u32, u32)> = Vec::new();
        for (t, table) in tables.iter().enumerate() {
            order.extend(table.counts().iter().enumerate().map(|(i, count)| (*count, t as u32, i as u32)));
        }
        let bytes = tables.iter().map(Pieces::num_bytes).sum::<usize>();
        let slots = bytes + order.len() + 1;
        if slots >= BACK as usize {
            return Err(TokenizerError::TooMuchText { bytes });
        }
        order.par_sort_unstable_by_key(|(count, ..)| Reverse(*count));
        let (mut symbols, mut runs): (_, Vec<(u32, u64)>) = (Vec::with_capacity(slots), Vec::new());
        symbols.push(END);
        for (count, table, i) in order {
            if runs.last().is_none_or(|(_, last)| *last != count) {
                runs.push((symbols.len() as u32, count));
            }
            symbols.extend(tables[table as usize].get(i as usize).iter().map(|byte| u32::from(*byte)));
            symbols.push(END);
        }
        Ok(Merging {
            symbols,
            runs,
            vocab: Vocab::of_bytes(),
            pairs: HashMap::new(),
            floor: u64::MAX,
            queue: BinaryHeap::new(),
            before: Neighbours::default(),
            after: Neighbours::default(),
        })
    }

    /// Merges until the vocabulary has `vocab_size` tokens or no pair is left. Never makes one of the `reserved`
    /// tokens, which tokenizer.json would write like a special token.
    pub fn run(mut self, vocab_size: usize, reserved: &HashSet<Vec<u8>>) -> (Vocab, Vec<Merge>) {
        let mut merges = Vec::with_capacity(vocab_size - 256);
        while self.vocab.len() < vocab_size
            && let Some(pair) = self.most_frequent()
        {
            let token = |id| self.vocab.get(id).expect("a token of the pair");
            let bytes = [token(pair.0), token(pair.1)].concat();
            if reserved.contains(&bytes) {
                self.pairs.remove(&pair);
                continue;
            }
            let merged = self.vocab.push(&bytes);
            merges.push(Merge { left: pair.0, right: pair.1, merged });
            self.merge(pair, merged);
        }
        (self.vocab, merges)
    }

    fn most_frequent(&mut self) -> Option<Pair> {
        loop {
            while let Some((claimed, Reverse(pair))) = self.queue.pop() {
                match self.pairs.get(&pair).map(|occurrences| occurrences.count) {
                    Some(count) if count == claimed => return Some(pair),
                    Some(count) => self.queue.push((count, Reverse(pair))),
                    None => {}
                }
            }
            if self.floor == 1 {
                return None;
            }
            self.list_pairs();
        }
    }

    /// Lowers the floor and lists the pairs above it: a first scan bounds each pair's count by that of all pairs with
    /// the same hash, a second one counts and lists those whose bound reaches the floor.
    fn list_pairs(&mut self) {
        self.pairs = HashMap::new();
        let parts = self.parts(rayon::current_num_threads());
        let bits = (self.symbols.len() / 16).next_power_of_two().ilog2().clamp(10, 22);
        let bucket = |(left, right): Pair| {
            let pair = u64::from(left) << 32 | u64::from(right);
            (pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize
        };
        let bounds: Vec<Vec<u64>> = (parts.par_iter())
            .map(|part| {
                let mut bounds = vec![0; 1 << bits];
                self.visit_pairs(part.clone(), |pair, _, count| bounds[bucket(pair)] += count);
                bounds
            })
            .collect();
        let bound = |bucket: usize| bounds.iter().map(|bounds| bounds[bucket]).sum::<u64>();
        let most = (0..1 << bits).map(bound).max().unwrap_or(0);
        // The square root lowers the floor fast while few pairs are above it, and slowly where most pairs are.
        let floor = most.isqrt().min(self.floor / 2).max(1);
        let reaches: Vec<bool> = (0..1 << bits).map(|bucket| bound(bucket) >= floor).collect();
        drop(bounds);
        let listed: Vec<HashMap<Pair, Occurrences>> = (parts.par_iter())
            .map(|part| {
                let mut pairs: HashMap<Pair, Occurrences> = HashMap::new();
                self.visit_pairs(part.clone(), |pair, at, count| {
                    if reaches[bucket(pair)] {
                        let occurrences = pairs.entry(pair).or_default();
                        occurrences.count += count;
                        occurrences.positions.push(at);
                    }
                });
                pairs
            })
            .collect();
        for (pair, part) in listed.into_iter().flatten() {
            let occurrences = self.pairs.entry(pair).or_default();
            occurrences.count += part.count;
            match occurrences.positions.is_empty() {
                true => occurrences.positions = part.positions,
                false => occurrences.positions.extend(part.positions),
            }
        }
        self.pairs.retain(|_, occurrences| occurrences.count >= floor);
        self.queue = self.pairs.iter().map(|(pair, known)| (known.count, Reverse(*pair))).collect();
        self.floor = floor;
    }

    /// Returns about `n` ranges of slots of equal size, each of whole pieces.
    fn parts(&self, n: usize) -> Vec<Range<usize>> {
        let slots = self.symbols.len();
        let piece_end = |at: usize| at + self.symbols[at..].iter().position(|s| *s == END).unwrap_or(0);
        let cuts: Vec<usize> = (0..=n).map(|i| piece_end(i * (slots - 1) / n)).collect();
        cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
    }

    /// Visits the pairs of `slots` in order, each with its position and the count of its piece.
    fn visit_pairs(&self, slots: Range<usize>, mut visit: impl FnMut(Pair, u32, u64)) {
        let (mut left, mut left_at, mut run) = (END, 0, (0, 0));
        for at in slots {
            let symbol = self.symbols[at];
            if symbol == END {
                left = END;
                continue;
            }
            if symbol & BACK != 0 {
                continue;
            }
            if left != END {
                if left_at >= run.0 {
                    run = self.run_at(left_at);
                }
                visit((left, symbol), left_at, run.1);
            }
            (left, left_at) = (symbol, at as u32);
        }
    }

    /// Returns the end of the run of the slot `at`, and the count of its pieces.
    fn run_at(&self, at: u32) -> (u32, u64) {
        let next = self.runs.partition_point(|(start, _)| *start <= at);
        (self.runs.get(next).map_or(u32::MAX, |(start, _)| *start), self.runs[next - 1].1)
    }

    /// Replaces `pair` by `merged` everywhere, from left to right as in encoding (of aaa the first two merge).
    fn merge(&mut self, pair: Pair, merged: u32) {
        let (left, right) = pair;
        let positions = self.pairs.remove(&pair).expect("a pair of the queue").positions;
        let (len, merged_len) = (self.token_len(left), self.token_len(merged));
        let mut run = (0, 0);
        for (i, position) in positions.iter().copied().enumerate() {
            if i % AHEAD == 0 {
                self.read_ahead(&positions[i..positions.len().min(i + AHEAD)], merged_len);
            }
            let at = position as usize;
            if self.symbols[at] != left || self.symbols[at + len] != right {
                continue; // stale: one of the two has merged with its other neighbour
            }
            if position >= run.0 {
                run = self.run_at(position);
            }
            if let Some(before) = self.token_before(at) {
                self.before.see(self.symbols[before], before as u32, run.1);
            }
            let next = self.symbols[at + merged_len];
            if next != END {
                self.after.see(next, position, run.1);
            }
            self.symbols[at + len] = BACK | 1; // no longer the start of a token; overwritten if it is the end
            self.symbols[at] = merged;
            self.symbols[at + merged_len - 1] = BACK | (merged_len - 1) as u32;
        }
        // In abab the pair (ab, a) is added by the first merge and removed by the second, so additions are done first.
        for (next, seen) in self.after.take(self.floor) {
            self.leave((right, next), seen.count);
            self.enter((merged, next), seen);
        }
        for (before, seen) in self.before.take(self.floor) {
            self.leave((before, left), seen.count);
            self.enter((before, merged), seen);
        }
    }

    /// Loads slots into the cache, all at once: branches on missing slots would wait for memory one after the other.
    fn read_ahead(&self, positions: &[u32], merged_len: usize) {
        let both_ends = |at: usize| self.symbols[at - 1] ^ self.symbols[at + merged_len];
        black_box(positions.iter().fold(0, |all, at| all ^ both_ends(*at as usize)));
    }

    /// Returns the start of the token that ends before `at`; None at the start of a piece.
    fn token_before(&self, at: usize) -> Option<usize> {
        match self.symbols[at - 1] {
            END => None,
            symbol if symbol & BACK != 0 => Some(at - 1 - (symbol & !BACK) as usize),
            _ => Some(at - 1),
        }
    }

    fn token_len(&self, id: u32) -> usize {
        self.vocab.get(id).map_or(0, <[u8]>::len)
    }

    /// Adds a new pair, if it reaches the floor.
    fn enter(&mut self, pair: Pair, seen: Occurrences) {
        if seen.count >= self.floor {
            self.queue.push((seen.count, Reverse(pair)));
            self.pairs.insert(pair, seen);
        }
    }

    /// Reduces the count of `pair`, and drops it below the floor. The pair being merged is already dropped.
    fn leave(&mut self, pair: Pair, count: u64) {
        if let Entry::Occupied(mut known) = self.pairs.entry(pair) {
            known.get_mut().count -= count;
            if known.get().count < self.floor {
                known.remove();
            }
        }
    }
}
