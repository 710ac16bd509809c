//! Training a byte-level BPE: count the distinct pieces of the text, then merge the most frequent pair
//! of neighbouring tokens, again and again, until the vocabulary is full.
//!
//! All distinct pieces lie in one array of symbols, one slot per byte. A token occupies as many slots as
//! it has bytes: its id in the first, and in the last the way back to the first, so that both neighbours
//! of a token are found without links. With the piece of every slot (for its count) and the positions
//! of every pair, that is about 30 bytes of memory per byte of distinct text (measured on Chinese, pair table
//! included).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use hashbrown::hash_map::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashSet, HashTable};
use rayon::prelude::*;

use crate::encode::Merge;
use crate::huggingface::bytes_of;
use crate::special::special_names;
use crate::split::{DEFAULT_PATTERN, Splitter};
use crate::vocab::{MAX_VOCAB, Vocab};
use crate::{Tokenizer, TokenizerError};

/// What to train; the defaults are the reference's.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Tokens in all: 256 bytes, merges, special tokens.
    pub vocab_size: usize,
    /// A split pattern other than the default (see `DEFAULT_PATTERN`).
    pub pattern: Option<String>,
    /// Own special tokens, after nanochat's nine.
    pub extra_special: Vec<String>,
    /// Stop reading after this many characters.
    pub max_chars: usize,
    /// Of one document, read no more than this.
    pub max_document_chars: usize,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            vocab_size: 65_536,
            pattern: None,
            extra_special: Vec::new(),
            max_chars: 10_000_000_000,
            max_document_chars: 10_000,
        }
    }
}

/// Text read before its pieces are counted in parallel: enough to keep the threads busy, little enough
/// to stay small beside the counts.
const BATCH_BYTES: usize = 32 << 20;

/// Trains a tokenizer. The result depends on the options and the text alone, not on threads or hashes: of
/// pairs with equal counts the smaller (left id, right id) merges first. When the text runs out of pairs
/// the vocabulary stays smaller than asked for; compare `Tokenizer::vocab_size`.
pub fn train<S: AsRef<str>>(
    texts: impl Iterator<Item = S>,
    options: &TrainOptions,
) -> Result<Tokenizer, TokenizerError> {
    let names = special_names(&options.extra_special)?;
    let least = 256 + names.len();
    if options.vocab_size < least {
        return Err(TokenizerError::VocabTooSmall {
            asked: options.vocab_size,
            specials: names.len(),
            least,
        });
    }
    if options.vocab_size > MAX_VOCAB {
        return Err(TokenizerError::VocabTooLarge { asked: options.vocab_size, most: MAX_VOCAB });
    }
    let splitter = Splitter::new(&[options.pattern.as_deref().unwrap_or(DEFAULT_PATTERN)])?;
    let pieces = count_pieces(texts, &splitter, options);
    if pieces.counts.is_empty() {
        return Err(TokenizerError::NoText);
    }
    let reserved: HashSet<Vec<u8>> = names.iter().filter_map(|name| bytes_of(name)).collect();
    let (vocab, merges) = Merging::new(pieces)?.run(options.vocab_size - names.len(), &reserved);
    let byte_ids = std::array::from_fn(|byte| byte as u32);
    Tokenizer::trained(vocab, byte_ids, merges, splitter, &names)
}

/// Distinct pieces, end to end in one buffer, with their counts.
#[derive(Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<u64>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Pieces {
    fn add(&mut self, piece: &[u8], count: u64) {
        let Pieces { bytes, ends, counts, index, hasher } = self;
        let stored = |i: u32| {
            let start = if i == 0 { 0 } else { ends[i as usize - 1] };
            &bytes[start..ends[i as usize]]
        };
        let hash = hasher.hash_one(piece);
        if let Some(&known) = index.find(hash, |i| stored(*i) == piece) {
            counts[known as usize] += count;
            return;
        }
        index.insert_unique(hash, counts.len() as u32, |i| hasher.hash_one(stored(*i)));
        bytes.extend_from_slice(piece);
        ends.push(bytes.len());
        counts.push(count);
    }
}

/// Reads batches of text and counts each one's pieces in parallel.
fn count_pieces<S: AsRef<str>>(
    texts: impl Iterator<Item = S>,
    splitter: &Splitter,
    options: &TrainOptions,
) -> Pieces {
    let (mut pieces, mut batch, mut batch_bytes) = (Pieces::default(), Vec::new(), 0);
    let mut chars_left = options.max_chars;
    for text in texts {
        let capped = first_chars(text.as_ref(), options.max_document_chars.min(chars_left)).len();
        chars_left -= text.as_ref()[..capped].chars().count();
        batch_bytes += capped;
        batch.push((text, capped));
        if batch_bytes >= BATCH_BYTES {
            count_batch(&batch, splitter, &mut pieces);
            batch.clear();
            batch_bytes = 0;
        }
        if chars_left == 0 {
            break;
        }
    }
    count_batch(&batch, splitter, &mut pieces);
    pieces
}

fn count_batch<S: AsRef<str>>(batch: &[(S, usize)], splitter: &Splitter, pieces: &mut Pieces) {
    let texts: Vec<&str> = batch.iter().map(|(text, capped)| &text.as_ref()[..*capped]).collect();
    let chunk = texts.len().div_ceil(4 * rayon::current_num_threads()).max(1);
    let counted: Vec<HashMap<&str, u64>> = texts
        .par_chunks(chunk)
        .map(|texts| {
            let mut counts: HashMap<&str, u64> = HashMap::new();
            for text in texts {
                splitter.for_each(text, &mut |piece| *counts.entry(piece).or_default() += 1);
            }
            counts
        })
        .collect();
    for (piece, count) in counted.into_iter().flatten() {
        pieces.add(piece.as_bytes(), count);
    }
}

/// The first `n` characters of `text`.
fn first_chars(text: &str, n: usize) -> &str {
    if text.len() <= n {
        return text;
    }
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}

type Pair = (u32, u32);

/// How often a pair occurs, and where it did when it was entered: some positions may be stale.
#[derive(Default)]
struct Occurrences {
    count: u64,
    positions: Vec<u32>,
}

/// Between two pieces. Ids stay below `BACK`.
const END: u32 = u32::MAX;
/// Marks the last slot of a token of several bytes; the rest of the slot is the way to its first one.
const BACK: u32 = 1 << 31;

/// The state of merging.
struct Merging {
    symbols: Vec<u32>,
    /// The piece that a slot belongs to.
    piece_of: Vec<u32>,
    counts: Vec<u64>,
    vocab: Vocab,
    pairs: HashMap<Pair, Occurrences>,
    /// Most frequent first, then smallest. Counts only fall once a pair is entered, so an entry that
    /// claims too much is corrected when it comes up.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Merging {
    fn new(pieces: Pieces) -> Result<Merging, TokenizerError> {
        let slots = pieces.bytes.len() + pieces.counts.len() + 1;
        if slots >= BACK as usize {
            return Err(TokenizerError::TooMuchText { bytes: pieces.bytes.len() });
        }
        let Pieces { bytes, ends, counts, .. } = pieces;
        let (mut symbols, mut piece_of) = (Vec::with_capacity(slots), Vec::with_capacity(slots));
        symbols.push(END);
        piece_of.push(0);
        let mut start = 0;
        for (piece, end) in ends.into_iter().enumerate() {
            symbols.extend(bytes[start..end].iter().map(|byte| u32::from(*byte)));
            symbols.push(END);
            piece_of.resize(symbols.len(), piece as u32);
            start = end;
        }
        let (vocab, pairs, queue) = (Vocab::of_bytes(), HashMap::new(), BinaryHeap::new());
        let mut merging = Merging { symbols, piece_of, counts, vocab, pairs, queue };
        let mut found = Vec::new();
        for at in 1..merging.symbols.len() - 1 {
            let (left, right) = (merging.symbols[at], merging.symbols[at + 1]);
            if left != END && right != END {
                merging.enter((left, right), at, &mut found);
            }
        }
        merging.enqueue(found);
        Ok(merging)
    }

    /// Merges until the vocabulary has `vocab_size` tokens or no pair is left. Never makes one of the
    /// `reserved` tokens: tokenizer.json would write it like a special token.
    fn run(mut self, vocab_size: usize, reserved: &HashSet<Vec<u8>>) -> (Vocab, Vec<Merge>) {
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
        while let Some((claimed, Reverse(pair))) = self.queue.pop() {
            match self.pairs.get(&pair).map(|occurrences| occurrences.count) {
                Some(count) if count == claimed => return Some(pair),
                Some(count) => self.queue.push((count, Reverse(pair))),
                None => {}
            }
        }
        None
    }

    /// Replaces `pair` by `merged` wherever it stands.
    fn merge(&mut self, pair: Pair, merged: u32) {
        let (left, right) = pair;
        let mut positions = self.pairs.remove(&pair).expect("a pair of the queue").positions;
        // In a run of one token (aaaa) occurrences overlap: left to right, as in encoding.
        if left == right {
            positions.sort_unstable();
        }
        let (len, merged_len) = (self.token_len(left), self.token_len(merged));
        let mut found = Vec::new();
        for at in positions {
            let at = at as usize;
            if self.symbols[at] != left || self.symbols[at + len] != right {
                continue; // stale: one of the two has merged with its other neighbour
            }
            let (before, after) = (self.token_before(at), at + merged_len);
            let next = self.symbols[after];
            if let Some(before) = before {
                self.leave((self.symbols[before], left), at);
                self.enter((self.symbols[before], merged), before, &mut found);
            }
            if next != END {
                self.leave((right, next), at);
                self.enter((merged, next), at, &mut found);
            }
            self.symbols[at + len] = BACK | 1; // no longer the start of a token; overwritten if it is the end
            self.symbols[at] = merged;
            self.symbols[after - 1] = BACK | (merged_len - 1) as u32;
        }
        self.enqueue(found);
    }

    /// Start of the token that ends before `at`, none at the start of a piece.
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

    /// Counts one more occurrence of `pair`, at `at`; a pair not seen before goes into `found`.
    fn enter(&mut self, pair: Pair, at: usize, found: &mut Vec<Pair>) {
        let occurrences = match self.pairs.entry(pair) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                found.push(pair);
                new.insert(Occurrences::default())
            }
        };
        occurrences.count += self.counts[self.piece_of[at] as usize];
        occurrences.positions.push(at as u32);
    }

    /// Counts one occurrence of `pair` less; at zero the pair is forgotten. The pair being merged is
    /// forgotten already.
    fn leave(&mut self, pair: Pair, at: usize) {
        if let Entry::Occupied(mut known) = self.pairs.entry(pair) {
            known.get_mut().count -= self.counts[self.piece_of[at] as usize];
            if known.get().count == 0 {
                known.remove();
            }
        }
    }

    fn enqueue(&mut self, found: Vec<Pair>) {
        for pair in found {
            if let Some(occurrences) = self.pairs.get(&pair) {
                self.queue.push((occurrences.count, Reverse(pair)));
            }
        }
    }
}
