//! Byte-level BPE encoding of one piece: start from its bytes, and while any neighbours form a known
//! pair, merge the pair of the lowest rank, the leftmost of equals (Sennrich, Haddow and Birch 2016).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::vocab::Vocab;

/// Pieces up to this many bytes merge by scanning an array, which the CPU does faster than it keeps a
/// heap; longer ones by a heap, so that a megabyte without a space takes n log n.
const SCAN_LIMIT: usize = 128;

/// No pair: above every real (rank, id).
const NO_MERGE: u64 = u64::MAX;

/// A merge: the tokens `left` and `right` become the token `merged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub left: u32,
    pub right: u32,
    pub merged: u32,
}

/// The merges and what encoding needs to look up.
#[derive(Clone, Debug)]
pub(crate) struct Bpe {
    pub vocab: Vocab,
    pub byte_ids: [u32; 256],
    /// By rank.
    pub merges: Vec<Merge>,
    /// A piece that is a token becomes that token, even if no merges lead to it (Llama 3).
    pub ignore_merges: bool,
    /// left and right in one number → rank and merged id in one number, whose minimum is the next merge.
    pairs: HashMap<u64, u64>,
    /// Tokens by their bytes: a piece that is a whole token needs no merging.
    whole: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

/// Two numbers as one, ordered by the first.
fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Working memory, kept from piece to piece.
#[derive(Default)]
pub(crate) struct Scratch {
    ids: Vec<u32>,
    merges: Vec<u64>,
}

impl Bpe {
    /// `excluded(id)`: tokens that text must not become (special ones).
    pub fn new(
        vocab: Vocab,
        byte_ids: [u32; 256],
        merges: Vec<Merge>,
        ignore_merges: bool,
        excluded: impl Fn(u32) -> bool,
    ) -> Bpe {
        let pair = |(rank, merge): (usize, &Merge)| {
            (joined(merge.left, merge.right), joined(rank as u32, merge.merged))
        };
        let pairs = merges.iter().enumerate().map(pair).collect();
        let (whole, hasher) = (HashTable::new(), DefaultHashBuilder::default());
        let mut bpe = Bpe { vocab, byte_ids, merges, ignore_merges, pairs, whole, hasher, longest: 0 };
        bpe.index_whole_tokens(excluded);
        bpe
    }

    /// Enters the tokens that their own bytes merge to. In a vocabulary made by training that is every
    /// token; an imported file may hold others, whose pieces must go through the merges.
    fn index_whole_tokens(&mut self, excluded: impl Fn(u32) -> bool) {
        let (mut scratch, mut merged) = (Scratch::default(), Vec::new());
        let mut whole = HashTable::with_capacity(self.vocab.len());
        for (id, bytes) in self.vocab.iter().filter(|(id, _)| !excluded(*id)) {
            merged.clear();
            self.merge(bytes, &mut scratch, &mut merged);
            if self.ignore_merges || merged == [id] {
                let rehash = |id: &u32| self.hasher.hash_one(self.vocab.get(*id));
                whole.insert_unique(self.hasher.hash_one(Some(bytes)), id, rehash);
                self.longest = self.longest.max(bytes.len());
            }
        }
        self.whole = whole;
    }

    /// Appends the tokens of one piece to `out`.
    pub fn encode(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        match self.whole_token(piece) {
            Some(id) => out.push(id),
            None => self.merge(piece, scratch, out),
        }
    }

    fn whole_token(&self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(Some(piece));
        self.whole.find(hash, |id| self.vocab.get(*id) == Some(piece)).copied()
    }

    fn merge(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { ids, merges } = scratch;
        ids.clear();
        ids.extend(piece.iter().map(|byte| self.byte_ids[usize::from(*byte)]));
        merges.clear();
        merges.extend(ids.windows(2).map(|pair| self.find(pair[0], pair[1])));
        if piece.len() <= SCAN_LIMIT {
            self.merge_by_scan(ids, merges);
            out.extend_from_slice(ids);
        } else {
            merges.push(NO_MERGE);
            self.merge_by_heap(ids, merges, out);
        }
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> u64 {
        self.pairs.get(&joined(left, right)).copied().unwrap_or(NO_MERGE)
    }

    /// `merges[i]` is the merge of `ids[i]` and `ids[i + 1]`; both shrink with every merge.
    fn merge_by_scan(&self, ids: &mut Vec<u32>, merges: &mut Vec<u64>) {
        while let Some((at, &merge)) = merges.iter().enumerate().min_by_key(|(_, merge)| **merge)
            && merge != NO_MERGE
        {
            ids[at] = merge as u32;
            ids.remove(at + 1);
            merges.remove(at);
            if at > 0 {
                merges[at - 1] = self.find(ids[at - 1], ids[at]);
            }
            if at < merges.len() {
                merges[at] = self.find(ids[at], ids[at + 1]);
            }
        }
    }

    /// Tokens as a linked list over the positions of their first bytes, merges in a heap of (rank,
    /// position). An entry whose position has another merge by now is stale and skipped.
    fn merge_by_heap(&self, ids: &mut [u32], merges: &mut [u64], out: &mut Vec<u32>) {
        let n = ids.len();
        let mut next: Vec<u32> = (1..=n as u32).collect();
        let mut prev: Vec<u32> = (0..n as u32).map(|i| i.saturating_sub(1)).collect();
        let entry = |at: usize, merge: u64| (merge & !0xFFFF_FFFF) | at as u64;
        let known = merges.iter().enumerate().filter(|(_, merge)| **merge != NO_MERGE);
        let mut heap: BinaryHeap<Reverse<u64>> =
            known.map(|(at, merge)| Reverse(entry(at, *merge))).collect::<Vec<_>>().into();
        while let Some(Reverse(popped)) = heap.pop() {
            let at = popped as u32 as usize;
            if merges[at] == NO_MERGE || entry(at, merges[at]) != popped {
                continue;
            }
            let right = next[at] as usize;
            ids[at] = merges[at] as u32;
            merges[right] = NO_MERGE;
            next[at] = next[right];
            if let Some(back) = prev.get_mut(next[at] as usize) {
                *back = at as u32;
            }
            let neighbours = if at > 0 { [prev[at] as usize, at] } else { [at, at] };
            for left in neighbours {
                merges[left] = match ids.get(next[left] as usize) {
                    Some(right) => self.find(ids[left], *right),
                    None => NO_MERGE,
                };
                if merges[left] != NO_MERGE {
                    heap.push(Reverse(entry(left, merges[left])));
                }
            }
        }
        let mut at = 0;
        while at < n {
            out.push(ids[at]);
            at = next[at] as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tokens over a, b, c with a rank order that is not the id order, and chains of overlaps.
    fn bpe() -> Bpe {
        let mut vocab = Vocab::of_bytes();
        let byte_ids = std::array::from_fn(|byte| byte as u32);
        let words =
            [("a", "b"), ("b", "c"), ("a", "a"), ("ab", "c"), ("aa", "aa"), ("c", "ab"), ("abc", "abc")];
        let mut merges = Vec::new();
        for (left, right) in words {
            let id = |vocab: &Vocab, word: &str| {
                vocab.iter().find(|(_, bytes)| *bytes == word.as_bytes()).unwrap().0
            };
            let (left_id, right_id) = (id(&vocab, left), id(&vocab, right));
            let merged = vocab.push(format!("{left}{right}").as_bytes());
            merges.push(Merge { left: left_id, right: right_id, merged });
        }
        merges.swap(0, 1);
        Bpe::new(vocab, byte_ids, merges, false, |_| false)
    }

    /// The definition: lowest rank, leftmost, again and again.
    fn slow(bpe: &Bpe, piece: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = piece.iter().map(|byte| u32::from(*byte)).collect();
        loop {
            let position = |merge: &Merge| ids.windows(2).position(|pair| pair == [merge.left, merge.right]);
            let Some((merge, at)) = bpe.merges.iter().find_map(|merge| Some((merge, position(merge)?)))
            else {
                return ids;
            };
            ids.splice(at..at + 2, [merge.merged]);
        }
    }

    proptest! {
        #[test]
        fn scan_and_heap_follow_the_definition(piece in "[abc]{1,200}") {
            let (bpe, mut heaped, mut encoded) = (bpe(), Vec::new(), Vec::new());
            let expected = slow(&bpe, piece.as_bytes());
            let mut ids: Vec<u32> = piece.bytes().map(u32::from).collect();
            let mut merges: Vec<u64> = ids.windows(2).map(|pair| bpe.find(pair[0], pair[1])).collect();
            let (mut heap_ids, mut heap_merges) = (ids.clone(), [&merges[..], &[NO_MERGE]].concat());
            bpe.merge_by_heap(&mut heap_ids, &mut heap_merges, &mut heaped);
            bpe.merge_by_scan(&mut ids, &mut merges);
            bpe.encode(piece.as_bytes(), &mut Scratch::default(), &mut encoded);
            prop_assert_eq!(&ids, &expected);
            prop_assert_eq!(&heaped, &expected);
            prop_assert_eq!(&encoded, &expected);
        }
    }

    #[test]
    fn only_tokens_that_merges_reach_are_whole() {
        let bpe = bpe();
        // "ab" + "c" never happens, since "bc" merges first.
        assert_eq!(bpe.whole_token(b"bc"), Some(257));
        assert_eq!(bpe.whole_token(b"abc"), None);
        let lenient = Bpe::new(bpe.vocab.clone(), bpe.byte_ids, bpe.merges.clone(), true, |id| id == 257);
        assert_eq!((lenient.whole_token(b"abc"), lenient.whole_token(b"bc")), (Some(259), None));
    }

    #[test]
    fn a_megabyte_without_a_space_takes_no_quadratic_time() {
        let (bpe, mut ids) = (bpe(), Vec::new());
        let start = std::time::Instant::now();
        bpe.encode(&b"abcaab".repeat(200_000), &mut Scratch::default(), &mut ids);
        let quick = start.elapsed().as_secs() < 5;
        assert!(quick && ids.iter().map(|id| bpe.vocab.get(*id).unwrap().len()).sum::<usize>() == 1_200_000);
    }
}
