//! Encodes without merging, in time linear in the piece, by choosing tokens from left to right.
//!
//! A sequence of tokens is the result of merging if and only if every two neighbours are the result of merging their
//! own bytes: the first merge across a boundary involves the same tokens, whether there is more text around them or
//! not. So the encoder takes the longest token that fits its predecessor at every position; if none fits, it replaces
//! the last token by a shorter one. No position is abandoned twice, since the tokens before it are uniquely determined.
//! The idea is that of GitHub's `bpe` crate (Antwerpen and Neubeck 2024).

use hashbrown::HashMap;

use crate::merge::{Merge, joined};
use crate::trie::Trie;
use crate::vocab::Vocab;

/// The value for no shorter token.
const NONE: u32 = u32::MAX;

/// The tokens by number: the 256 bytes, then all results of merges, in the order of the merges.
#[derive(Clone, Debug)]
pub(crate) struct Backtrack {
    trie: Trie,
    /// The two tokens that each token was merged from.
    parts: Vec<[u32; 2]>,
    merged: MergedPairs,
    /// The longest other token that is a prefix of each token.
    shorter: Vec<u32>,
    lens: Vec<u32>,
    ids: Vec<u32>,
}

/// Working memory that is reused for each piece.
#[derive(Default)]
pub(crate) struct BacktrackScratch {
    tokens: Vec<u32>,
    /// One bit per position: whether no tokens lead from there to the end.
    dead: Vec<u64>,
    /// The number of tokens tried, to measure the work.
    #[cfg(test)]
    pub tried: usize,
}

impl Backtrack {
    /// Returns None if a merge comes before one that makes its parts, because `stay_apart` relies on that order.
    /// `merges` is by rank, without duplicate pairs.
    pub fn new(vocab: &Vocab, byte_ids: &[u32; 256], merges: &[Merge]) -> Option<Backtrack> {
        let mut parts: Vec<[u32; 2]> = (0..256).map(|byte| [byte, byte]).collect();
        let mut ids = byte_ids.to_vec();
        let mut numbers: HashMap<u32, u32> = byte_ids.iter().copied().zip(0..).collect();
        let mut merged = MergedPairs::with_capacity(merges.len());
        let mut missed = hashbrown::HashSet::new();
        for merge in merges {
            let (Some(&left), Some(&right)) = (numbers.get(&merge.left), numbers.get(&merge.right)) else {
                missed.extend([merge.left, merge.right].into_iter().filter(|id| !numbers.contains_key(id)));
                continue;
            };
            // A token is reached if merging its bytes produces it. A second pair for a token that is already reached is
            // never used.
            if !numbers.contains_key(&merge.merged) && stay_apart(&parts, &merged, left, right) {
                let number = parts.len() as u32;
                merged.insert(left, right, number);
                numbers.insert(merge.merged, number);
                parts.push([left, right]);
                ids.push(merge.merged);
            }
        }
        if missed.iter().any(|id| numbers.contains_key(id)) {
            return None;
        }
        let bytes: Vec<&[u8]> = ids.iter().map(|id| vocab.get(*id).expect("bytes of a token")).collect();
        let mut entries: Vec<(&[u8], u32)> = bytes.iter().copied().zip(0..).collect();
        entries.sort_unstable();
        let trie = Trie::new(&entries);
        let shorter =
            |bytes: &&[u8]| trie.longest(&bytes[..bytes.len() - 1]).map_or(NONE, |(token, _)| token);
        let shorter = bytes.iter().map(shorter).collect();
        let lens = bytes.iter().map(|bytes| bytes.len() as u32).collect();
        Some(Backtrack { trie, parts, merged, shorter, lens, ids })
    }

    /// Appends the tokens of `piece`, which must not be empty, to `out`.
    pub fn encode(&self, piece: &[u8], scratch: &mut BacktrackScratch, out: &mut Vec<u32>) {
        let (mut token, len) = self.longest(piece);
        if len == piece.len() {
            out.push(self.ids[token as usize]);
            return;
        }
        let BacktrackScratch { tokens, dead, .. } = scratch;
        tokens.clear();
        dead.clear();
        dead.resize(piece.len() / 64 + 1, 0);
        let mut at = 0;
        loop {
            #[cfg(test)]
            {
                scratch.tried += 1;
            }
            let end = at + self.lens[token as usize] as usize;
            let fits = dead[end / 64] >> (end % 64) & 1 == 0
                && tokens.last().is_none_or(|last| stay_apart(&self.parts, &self.merged, *last, token));
            if fits {
                tokens.push(token);
                at = end;
                if at == piece.len() {
                    break;
                }
                token = self.longest(&piece[at..]).0;
            } else if self.shorter[token as usize] != NONE {
                token = self.shorter[token as usize];
            } else {
                dead[at / 64] |= 1 << (at % 64);
                token = tokens.pop().expect("every piece has tokens");
                at -= self.lens[token as usize] as usize;
            }
        }
        out.extend(tokens.iter().map(|token| self.ids[*token as usize]));
    }

    #[inline]
    fn longest(&self, text: &[u8]) -> (u32, usize) {
        self.trie.longest(text).expect("every byte is a token")
    }
}

/// Whether no merge crosses the boundary of `left` and `right` when their concatenated bytes are merged. Undoes their
/// merges, the latest first, and checks every pair of tokens that were adjacent at the boundary in between.
#[inline]
fn stay_apart(parts: &[[u32; 2]], merged: &MergedPairs, mut left: u32, mut right: u32) -> bool {
    // A merge with a lower rank would have come before the merge that was undone last.
    let mut limit = u32::MAX;
    loop {
        if merged.get(left, right).is_some_and(|merged| merged < limit) {
            return false;
        }
        if left.max(right) < 256 {
            return true;
        }
        if left > right {
            limit = left;
            left = parts[left as usize][1];
        } else {
            // The left one of two equal merges comes first: here the one across the boundary.
            limit = right + 1;
            right = parts[right as usize][0];
        }
    }
}

/// The pairs and the tokens that they merge to. Most queried pairs do not merge, and a few bits of a hash tell so
/// without a look at the table.
#[derive(Clone, Debug)]
struct MergedPairs {
    table: HashMap<u64, u32>,
    hashes: Vec<u64>,
    shift: u32,
}

impl MergedPairs {
    /// Makes a table with 16 bits per pair: one query in 16 reaches the table for nothing.
    fn with_capacity(pairs: usize) -> MergedPairs {
        let bits = (16 * pairs).max(64).next_power_of_two();
        let table = HashMap::with_capacity(pairs);
        MergedPairs { table, hashes: vec![0; bits / 64], shift: 64 - bits.ilog2() }
    }

    fn bit(&self, pair: u64) -> (usize, u32) {
        let hash = pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift;
        (hash as usize / 64, hash as u32 % 64)
    }

    fn insert(&mut self, left: u32, right: u32, merged: u32) {
        let (word, bit) = self.bit(joined(left, right));
        self.hashes[word] |= 1 << bit;
        self.table.insert(joined(left, right), merged);
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Option<u32> {
        let (word, bit) = self.bit(joined(left, right));
        match self.hashes[word] >> bit & 1 {
            0 => None,
            _ => self.table.get(&joined(left, right)).copied(),
        }
    }
}
