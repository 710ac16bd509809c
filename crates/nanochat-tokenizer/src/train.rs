//! Training a byte-level BPE: count the distinct pieces of the text (`count.rs`), then merge the most
//! frequent pair of neighbouring tokens, again and again, until the vocabulary is full (`merging.rs`).

use hashbrown::HashSet;

use crate::alphabet::bytes_of;
use crate::count::{CountLimits, count_pieces};
use crate::merging::Merging;
use crate::special::special_names;
use crate::split::{DEFAULT_PATTERN, Splitter};
use crate::vocab::MAX_VOCAB;
use crate::{Tokenizer, TokenizerError};

/// The options of training; the defaults are the reference's.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The vocabulary size: 256 bytes, merges and special tokens.
    pub vocab_size: usize,
    /// A split pattern other than the default (see `DEFAULT_PATTERN`).
    pub pattern: Option<String>,
    /// The user's own special tokens, after nanochat's nine.
    pub extra_special: Vec<String>,
    /// The number of characters after which reading stops.
    pub max_chars: usize,
    /// The most characters that are read of one document.
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
    let splitter = Splitter::new(options.pattern.as_deref().unwrap_or(DEFAULT_PATTERN))?;
    let limits = CountLimits { chars: options.max_chars, document_chars: options.max_document_chars };
    let pieces = count_pieces(texts, &splitter, limits);
    if pieces.iter().all(|table| table.counts().is_empty()) {
        return Err(TokenizerError::NoText);
    }
    let reserved: HashSet<Vec<u8>> = names.iter().filter_map(|name| bytes_of(name)).collect();
    let (vocab, merges) = Merging::new(pieces)?.run(options.vocab_size - names.len(), &reserved);
    let byte_ids = std::array::from_fn(|byte| byte as u32);
    Tokenizer::trained(vocab, byte_ids, merges, splitter, &names)
}
