//! Counts the distinct pieces of a text, in parallel and in memory proportional to the distinct text.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use rayon::prelude::*;

use crate::split::Splitter;

/// The bytes of text read before their pieces are counted in parallel: enough to keep the threads busy, but small
/// compared with the counts.
const BATCH_BYTES: usize = 8 << 20;

/// The number of tables that pieces are distributed over by hash, so that threads can fill them in parallel.
const TABLES: usize = 16;

/// A piece with its hash and its number of occurrences in a batch.
type Counted<'t> = (u64, &'t str, u64);

/// The distinct pieces, concatenated in one buffer, with their counts.
#[derive(Default)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<u64>,
    index: HashTable<u32>,
}

impl Pieces {
    pub fn get(&self, i: usize) -> &[u8] {
        piece(&self.bytes, &self.ends, i)
    }

    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the total bytes of all pieces.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn add(&mut self, (hash, text, count): Counted, hasher: &DefaultHashBuilder) {
        let Pieces { bytes, ends, counts, index } = self;
        if let Some(&known) = index.find(hash, |i| piece(bytes, ends, *i as usize) == text.as_bytes()) {
            counts[known as usize] += count;
            return;
        }
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len());
        index.insert_unique(hash, counts.len() as u32, |i| hasher.hash_one(piece(bytes, ends, *i as usize)));
        counts.push(count);
    }
}

fn piece<'a>(bytes: &'a [u8], ends: &[usize], i: usize) -> &'a [u8] {
    &bytes[if i == 0 { 0 } else { ends[i - 1] }..ends[i]]
}

/// The most characters that are read, in all and of one document.
#[derive(Clone, Copy)]
pub(crate) struct CountLimits {
    pub chars: usize,
    /// The most characters read of one document.
    pub document_chars: usize,
}

/// Reads batches of text and counts their pieces. Each distinct piece is in exactly one of the tables.
pub(crate) fn count_pieces<S: AsRef<str>>(
    texts: impl Iterator<Item = S>,
    splitter: &Splitter,
    limits: CountLimits,
) -> Vec<Pieces> {
    let mut tables: Vec<Pieces> = (0..TABLES).map(|_| Pieces::default()).collect();
    let hasher = DefaultHashBuilder::default();
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    let mut chars_left = limits.chars;
    for text in texts {
        let capped = first_chars(text.as_ref(), limits.document_chars.min(chars_left)).len();
        chars_left -= text.as_ref()[..capped].chars().count();
        batch_bytes += capped;
        batch.push((text, capped));
        if batch_bytes >= BATCH_BYTES {
            count_batch(&batch, splitter, &hasher, &mut tables);
            batch.clear();
            batch_bytes = 0;
        }
        if chars_left == 0 {
            break;
        }
    }
    count_batch(&batch, splitter, &hasher, &mut tables);
    for table in &mut tables {
        table.index = HashTable::new(); // frees a third of the memory, since counting is over
    }
    tables
}

fn count_batch<S: AsRef<str>>(
    batch: &[(S, usize)],
    splitter: &Splitter,
    hasher: &DefaultHashBuilder,
    tables: &mut [Pieces],
) {
    let texts: Vec<&str> = batch.iter().map(|(text, capped)| &text.as_ref()[..*capped]).collect();
    let chunk = texts.len().div_ceil(4 * rayon::current_num_threads()).max(1);
    let counted: Vec<[Vec<Counted>; TABLES]> = texts
        .par_chunks(chunk)
        .map(|texts| {
            let mut counts: HashMap<&str, u64> = HashMap::new();
            for text in texts {
                splitter.for_each(text, &mut |piece| *counts.entry(piece).or_default() += 1);
            }
            let mut by_table: [Vec<Counted>; TABLES] = Default::default();
            for (piece, count) in counts {
                let hash = hasher.hash_one(piece.as_bytes());
                // Takes bits from the middle: a table uses the bits at both ends.
                by_table[(hash >> 32) as usize % TABLES].push((hash, piece, count));
            }
            by_table
        })
        .collect();
    tables.par_iter_mut().enumerate().for_each(|(i, table)| {
        counted.iter().flat_map(|by_table| &by_table[i]).for_each(|piece| table.add(*piece, hasher));
    });
}

/// Returns the first `n` characters of `text`.
fn first_chars(text: &str, n: usize) -> &str {
    if text.len() <= n {
        return text;
    }
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}
