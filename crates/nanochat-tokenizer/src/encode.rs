//! Byte-level BPE encoding of one piece. The definition: start from its bytes, and while any neighbours form a known
//! pair, merge the pair of the lowest rank, the leftmost of equals (Sennrich, Haddow and Birch 2016). `backtrack.rs`
//! finds the same tokens without merging.

use hashbrown::HashMap;

use crate::backtrack::{Backtrack, BacktrackScratch};
use crate::heap::{self, Ranks};
use crate::merge::{Merge, joined};
use crate::vocab::Vocab;

/// The merges and what encoding needs to look up.
#[derive(Clone, Debug)]
pub(crate) struct Bpe {
    pub vocab: Vocab,
    pub byte_ids: [u32; 256],
    /// The merges by rank.
    pub merges: Vec<Merge>,
    /// Whether a piece that is a token becomes that token even if no merges produce it (Llama 3).
    pub ignore_merges: bool,
    method: Method,
    /// The tokens by their bytes, only filled if merges are ignored.
    whole: HashMap<Vec<u8>, u32>,
}

#[derive(Clone, Debug)]
enum Method {
    /// For every vocabulary made by training, here or elsewhere.
    Backtrack(Backtrack),
    Heap(Ranks),
}

impl Bpe {
    /// Makes an encoder. No piece becomes a token for which `excluded(id)` is true.
    pub fn new(
        vocab: Vocab,
        byte_ids: [u32; 256],
        merges: Vec<Merge>,
        ignore_merges: bool,
        excluded: impl Fn(u32) -> bool,
    ) -> Bpe {
        let pair = |merge: &Merge| joined(merge.left, merge.right);
        // If a pair is listed twice its last rank counts, as in `tokenizers`.
        let ranks: Ranks =
            (merges.iter().zip(0..)).map(|(merge, rank)| (pair(merge), joined(rank, merge.merged))).collect();
        let counts = |(merge, rank): &(&Merge, u32)| ranks[&pair(merge)] == joined(*rank, merge.merged);
        let by_rank: Vec<Merge> = merges.iter().zip(0..).filter(counts).map(|(merge, _)| *merge).collect();
        let method = match Backtrack::new(&vocab, &byte_ids, &by_rank) {
            Some(backtrack) => Method::Backtrack(backtrack),
            None => Method::Heap(ranks),
        };
        let tokens = vocab.iter().filter(|(id, _)| ignore_merges && !excluded(*id));
        let whole = tokens.map(|(id, bytes)| (bytes.to_vec(), id)).collect();
        Bpe { vocab, byte_ids, merges, ignore_merges, method, whole }
    }

    /// Appends the tokens of one piece to `out`.
    #[inline]
    pub fn encode(&self, piece: &[u8], scratch: &mut BacktrackScratch, out: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(id) = self.whole.get(piece)
        {
            out.push(*id);
            return;
        }
        match &self.method {
            Method::Backtrack(backtrack) => backtrack.encode(piece, scratch, out),
            Method::Heap(ranks) => {
                let bytes = piece.iter().map(|byte| self.byte_ids[usize::from(*byte)]).collect();
                heap::encode(ranks, bytes, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(vocab: &Vocab, bytes: &[u8]) -> Option<u32> {
        vocab.iter().find(|(_, token)| *token == bytes).map(|(id, _)| id)
    }

    /// Returns a vocabulary from pairs of tokens; each merge gives the numbers of its parts among the tokens before it.
    /// Ids decrease, so that they differ from ranks.
    fn bpe(choices: &[(usize, usize)], shuffle: impl Fn(&mut Vec<Merge>)) -> Bpe {
        let mut tokens: Vec<Vec<u8>> = vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        let mut parts = Vec::new();
        for (left, right) in choices {
            let (left, right) = (left % tokens.len(), right % tokens.len());
            let bytes = [&tokens[left][..], &tokens[right]].concat();
            let merged = tokens.iter().position(|token| *token == bytes).unwrap_or_else(|| {
                tokens.push(bytes);
                tokens.len() - 1
            });
            parts.push([left, right, merged]);
        }
        let last = 255 + tokens.len() as u32 - 3;
        let mut vocab = Vocab::default();
        (tokens[3..].iter().rev()).for_each(|bytes| _ = vocab.push(bytes));
        (0..=255).for_each(|byte| _ = vocab.push(&[byte]));
        let byte_ids = std::array::from_fn(|byte| last - 255 + byte as u32);
        let id = |number: usize| token(&vocab, &tokens[number]).unwrap();
        let mut merges: Vec<Merge> =
            parts.iter().map(|[l, r, m]| Merge { left: id(*l), right: id(*r), merged: id(*m) }).collect();
        shuffle(&mut merges);
        Bpe::new(vocab, byte_ids, merges, false, |_| false)
    }

    /// Encodes by the definition: lowest rank, leftmost, again and again.
    fn slow(bpe: &Bpe, piece: &[u8]) -> Vec<u32> {
        let mut ids: Vec<u32> = piece.iter().map(|byte| bpe.byte_ids[usize::from(*byte)]).collect();
        let rank = |pair: &[u32]| bpe.merges.iter().rposition(|merge| pair == [merge.left, merge.right]);
        let next =
            |ids: &[u32]| ids.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
        while let Some((rank, at)) = next(&ids) {
            ids.splice(at..at + 2, [bpe.merges[rank].merged]);
        }
        ids
    }

    fn encode(bpe: &Bpe, piece: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        bpe.encode(piece, &mut BacktrackScratch::default(), &mut ids);
        ids
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn follows_the_definition(
            choices in proptest::collection::vec(any::<(usize, usize)>(), 0..30),
            pieces in proptest::collection::vec("[abc]{1,60}|a{1,40}|(ab|abc){1,20}", 8),
        ) {
            let bpe = bpe(&choices, |_| {});
            for piece in pieces {
                prop_assert_eq!(encode(&bpe, piece.as_bytes()), slow(&bpe, piece.as_bytes()));
            }
        }

        #[test]
        fn follows_the_definition_with_merges_in_any_order(
            choices in proptest::collection::vec(any::<(usize, usize)>(), 0..12),
            (from, to) in any::<(usize, usize)>(),
            piece in "[abc]{1,40}|a{1,40}",
        ) {
            let bpe = bpe(&choices, |merges| {
                if !merges.is_empty() {
                    let merge = merges.remove(from % merges.len());
                    merges.insert(to % (merges.len() + 1), merge);
                }
            });
            prop_assert_eq!(encode(&bpe, piece.as_bytes()), slow(&bpe, piece.as_bytes()));
        }
    }

    #[test]
    fn a_merge_before_its_parts_is_done_by_the_heap() {
        let bpe = bpe(&[(0, 1), (3, 2), (4, 4)], |merges| merges.rotate_left(1));
        assert!(matches!(bpe.method, Method::Heap(_)));
        assert_eq!(encode(&bpe, b"abcabcab"), slow(&bpe, b"abcabcab"));
    }

    #[test]
    fn a_piece_that_is_a_token_can_ignore_merges() {
        // "ab" + "c" never occurs, since "bc" merges first.
        let bpe = bpe(&[(1, 2), (0, 1), (4, 2)], |_| {});
        let abc = token(&bpe.vocab, b"abc").unwrap();
        assert_eq!(encode(&bpe, b"abc").len(), 2);
        let lenient = |excluded| {
            Bpe::new(bpe.vocab.clone(), bpe.byte_ids, bpe.merges.clone(), true, |id| id == excluded)
        };
        assert_eq!(encode(&lenient(u32::MAX), b"abc"), [abc]);
        assert_eq!(encode(&lenient(abc), b"abc").len(), 2);
    }

    /// Returns the number of tokens tried per byte of `piece`.
    fn work(bpe: &Bpe, piece: &[u8]) -> f64 {
        let mut scratch = BacktrackScratch::default();
        bpe.encode(piece, &mut scratch, &mut Vec::new());
        scratch.tried as f64 / piece.len() as f64
    }

    #[test]
    fn the_work_is_linear_in_the_piece() {
        // Runs that double again and again, and words with misleading prefixes.
        let choices = [(0, 0), (3, 3), (4, 4), (5, 5), (6, 0), (0, 1), (6, 8), (2, 0), (10, 1)];
        let runs = bpe(&choices, |_| {});
        assert!(matches!(runs.method, Method::Backtrack(_)));
        for unit in ["a", "ab", "aab", "aaaaaaab", "caab", "abcaab", "aaaaaaaaaaaaaaaaab"] {
            let of = |bytes: usize| work(&runs, &unit.as_bytes().repeat(bytes / unit.len()));
            let (short, long) = (of(1 << 12), of(1 << 18));
            assert!(
                long > 0.0 && long < 4.0 && long < 1.1 * short + 0.01,
                "{unit}: {short} a byte, then {long}"
            );
        }
    }
}
