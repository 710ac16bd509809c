//! Byte-level BPE: training, encoding, decoding, and `tokenizer.json`. Knows nothing of tensors.
//!
//! Text is cut into pieces ([`DEFAULT_PATTERN`]), each piece is its UTF-8 bytes, and bytes merge into
//! tokens in the order in which training found the merges. Every text encodes, and decoding gives it back
//! (a few imported files drop or add white space: [`Tokenizer::alterations`]).
//!
//! ```
//! use nanochat_tokenizer::{TrainOptions, train};
//! let options = TrainOptions { vocab_size: 280, ..TrainOptions::default() };
//! let tokenizer = train(["the theory of the thing", "人工智能，人工智能"].iter(), &options)?;
//! let ids = tokenizer.encode("the 人");
//! assert_eq!(tokenizer.decode(&ids), "the 人");
//! # Ok::<(), nanochat_tokenizer::TokenizerError>(())
//! ```

mod added;
mod alphabet;
mod backtrack;
mod count;
mod encode;
mod heap;
mod huggingface;
mod merge;
mod merging;
mod neighbours;
mod normalize;
mod special;
mod split;
mod stream;
mod train;
mod trie;
mod vocab;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rayon::prelude::*;

use added::{AddedToken, InText, Search, TextPart};
use backtrack::BacktrackScratch;
use encode::Bpe;
use merge::Merge;
use split::Splitter;
use vocab::Vocab;

pub use special::{NoSpecial, SPECIAL_TOKENS};
pub use split::DEFAULT_PATTERN;
pub use stream::StreamDecoder;
pub use train::{TrainOptions, train};

/// A tokenizer: text to token ids and back. Cloning is cheap; all clones share one vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    shared: Arc<TokenizerParts>,
}

#[derive(Debug)]
struct TokenizerParts {
    bpe: Bpe,
    splitter: Splitter,
    /// Whether text is first normalized to Unicode's composed form, NFC (Qwen's files require it; ours never do).
    nfc: bool,
    /// The added tokens in id order.
    added: Vec<AddedToken>,
    /// The search for added tokens in text; None if all are special, as ours are.
    in_text: Option<InText>,
}

/// The reason why a tokenizer cannot be made. Messages include their causes, so there is no source.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(
        "a vocabulary of {asked} is too small: 256 bytes and {specials} special tokens need at least {least}"
    )]
    VocabTooSmall { asked: usize, specials: usize, least: usize },
    #[error("a vocabulary of {asked} is too large; it may be at most {most}")]
    VocabTooLarge { asked: usize, most: usize },
    #[error("special token {name:?} cannot be used: {why}")]
    SpecialName { name: String, why: &'static str },
    #[error("the split pattern {pattern:?} is not a valid regex: {why}")]
    Pattern { pattern: String, why: String },
    #[error(
        "the split pattern {pattern:?} cannot be used: transformers may read `{construct}` in it differently"
    )]
    Dialect { pattern: String, construct: String },
    #[error("there is no text to train a tokenizer on")]
    NoText,
    #[error("{bytes} bytes of distinct text are more than training can index (2 GiB); read fewer characters")]
    TooMuchText { bytes: usize },
    #[error("failed to parse the tokenizer as JSON: {0}")]
    Json(serde_json::Error),
    #[error("not a tokenizer that nanochat can use: {0}")]
    Unsupported(String),
    #[error("damaged tokenizer: {0}")]
    Invalid(String),
    #[error("failed to read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    InFile { path: PathBuf, error: Box<TokenizerError> },
}

impl Tokenizer {
    /// Returns the number of ids, special tokens included (and gaps, if an imported file has some).
    pub fn vocab_size(&self) -> usize {
        self.shared.bpe.vocab.len()
    }

    /// Returns the tokens of `text`. Names of special tokens stay plain text; names of other added tokens become those
    /// tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the tokens of `text` to `ids`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let mut scratch = BacktrackScratch::default();
        let Some(InText { given, normalized }) = &self.shared.in_text else {
            return self.encode_pieces(&self.normalized(text), &mut scratch, ids);
        };
        search(given, text, &mut |part| match part {
            TextPart::Token(id) => ids.push(id),
            TextPart::Text(text) => search(normalized, &self.normalized(text), &mut |part| match part {
                TextPart::Token(id) => ids.push(id),
                TextPart::Text(text) => self.encode_pieces(text, &mut scratch, ids),
            }),
        });
    }

    fn normalized<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.shared.nfc { normalize::nfc(text) } else { Cow::Borrowed(text) }
    }

    fn encode_pieces(&self, text: &str, scratch: &mut BacktrackScratch, ids: &mut Vec<u32>) {
        let TokenizerParts { bpe, splitter, .. } = &*self.shared;
        splitter.for_each_bytes(text, &mut |piece| bpe.encode(piece, scratch, ids));
    }

    /// Encodes texts in parallel; the results are in the same order.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// Returns the concatenated bytes of `ids`: special tokens become their names, unknown ids nothing.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| self.token_bytes(*id).unwrap_or_default()).copied().collect()
    }

    /// Decodes like `decode_bytes`, into text: invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// Returns the bytes of one token (a special token's name); None for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.shared.bpe.vocab.get(id)
    }

    /// Returns the length in bytes of each token by id, 0 for special tokens; used to compute exact bits per byte.
    pub fn byte_lengths(&self) -> Vec<u32> {
        let length = |id| if self.is_special(id) { 0 } else { self.token_bytes(id).map_or(0, <[u8]>::len) };
        (0..self.vocab_size() as u32).map(|id| length(id) as u32).collect()
    }

    pub fn is_special(&self, id: u32) -> bool {
        let added = &self.shared.added;
        added.binary_search_by_key(&id, |token| token.id).is_ok_and(|i| added[i].special)
    }

    /// Returns the id of a special token by its full name, such as `<|bos|>`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.shared.added.iter().find(|token| token.name == name).map(|token| token.id)
    }

    /// The id of a special token that there must be.
    pub fn need_special(&self, name: &'static str) -> Result<u32, NoSpecial> {
        self.special(name).ok_or(NoSpecial(name))
    }

    /// Why decoding does not give every text back, which a few imported files bring about: empty for all others.
    pub fn alterations(&self) -> Vec<&'static str> {
        let takes = |token: &AddedToken| !token.special && (token.lstrip || token.rstrip);
        let taken =
            self.shared.added.iter().any(takes).then_some("drops white space beside tokens (lstrip, rstrip)");
        self.shared.splitter.alterations().chain(taken).collect()
    }

    /// Returns the names of the special tokens, in id order.
    pub fn special_names(&self) -> impl Iterator<Item = &str> {
        self.shared.added.iter().filter(|token| token.special).map(|token| token.name.as_str())
    }

    /// Returns the same tokenizer with all of `names` as special tokens; missing ones get ids after the last.
    pub fn with_special(&self, names: &[&str]) -> Result<Tokenizer, TokenizerError> {
        let TokenizerParts { bpe, splitter, nfc, added, .. } = &*self.shared;
        let (mut vocab, mut added) = (bpe.vocab.clone(), added.clone());
        for name in names {
            match added.iter_mut().find(|token| token.name == *name) {
                Some(token) => token.special = true,
                None => {
                    let id = vocab.push(name.as_bytes());
                    added.push(AddedToken::special(id, name));
                }
            }
        }
        let merges = bpe.merges.clone();
        Tokenizer::assemble(vocab, bpe.byte_ids, merges, bpe.ignore_merges, splitter.clone(), *nfc, added)
    }

    /// Returns the tokenizer that training to a smaller vocabulary would have given: a prefix of this one, since ids
    /// follow the order of merges. Only for tokenizers that were trained here.
    pub fn with_vocab_size(&self, vocab_size: usize) -> Result<Tokenizer, TokenizerError> {
        let TokenizerParts { bpe, splitter, added, .. } = &*self.shared;
        let least = 256 + added.len();
        if vocab_size < least {
            return Err(TokenizerError::VocabTooSmall { asked: vocab_size, specials: added.len(), least });
        }
        let merges = bpe.merges.iter().zip(256..);
        if merges.clone().any(|(merge, id)| merge.merged != id)
            || 256 + bpe.merges.len() + added.len() != self.vocab_size()
        {
            return Err(TokenizerError::Unsupported("its ids are not in the order of its merges".into()));
        }
        let merges = bpe.merges[..(vocab_size - least).min(bpe.merges.len())].to_vec();
        let mut vocab = Vocab::of_bytes();
        for (_, bytes) in bpe.vocab.iter().skip(256).take(merges.len()) {
            vocab.push(bytes);
        }
        let names: Vec<String> = added.iter().map(|token| token.name.clone()).collect();
        Tokenizer::trained(vocab, bpe.byte_ids, merges, splitter.clone(), &names)
    }

    /// Makes a tokenizer from a new vocabulary, with the special tokens `names` after its last id.
    fn trained(
        mut vocab: Vocab,
        byte_ids: [u32; 256],
        merges: Vec<Merge>,
        splitter: Splitter,
        names: &[String],
    ) -> Result<Tokenizer, TokenizerError> {
        let mut add = |name: &String| AddedToken::special(vocab.push(name.as_bytes()), name);
        let added = names.iter().map(&mut add).collect();
        Tokenizer::assemble(vocab, byte_ids, merges, false, splitter, false, added)
    }

    /// Makes a tokenizer from its parts.
    fn assemble(
        vocab: Vocab,
        byte_ids: [u32; 256],
        merges: Vec<Merge>,
        ignore_merges: bool,
        splitter: Splitter,
        nfc: bool,
        mut added: Vec<AddedToken>,
    ) -> Result<Tokenizer, TokenizerError> {
        added.sort_by_key(|token| token.id);
        let special: HashSet<u32> =
            added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let mut made = byte_ids.iter().copied().chain(merges.iter().map(|merge| merge.merged));
        if let Some(id) = made.find(|id| special.contains(id)) {
            return Err(TokenizerError::Invalid(format!("plain text encodes to the special token {id}")));
        }
        check_spelling(&vocab, &added)?;
        let in_text = InText::new(&added, nfc)?;
        let aside =
            added.iter().filter(|token| !token.is_piece()).map(|token| token.id).collect::<HashSet<_>>();
        let bpe = Bpe::new(vocab, byte_ids, merges, ignore_merges, |id| aside.contains(&id));
        Ok(Tokenizer { shared: Arc::new(TokenizerParts { bpe, splitter, nfc, added, in_text }) })
    }
}

/// Visits the parts of `text`; it is a single part if there is nothing to search for.
fn search<'t>(search: &Option<Search>, text: &'t str, visit: &mut impl FnMut(TextPart<'t>)) {
    match search {
        Some(search) => search.for_each(text, visit),
        None => visit(TextPart::Text(text)),
    }
}

/// Refuses an added token that is spelled like one of the vocabulary, because a file identifies tokens by their
/// spelling.
fn check_spelling(vocab: &Vocab, added: &[AddedToken]) -> Result<(), TokenizerError> {
    let added_ids: HashSet<u32> = added.iter().map(|token| token.id).collect();
    let ordinary = vocab.iter().filter(|(id, _)| !added_ids.contains(id));
    let ids: HashMap<&[u8], u32> = ordinary.map(|(id, bytes)| (bytes, id)).collect();
    for AddedToken { name, .. } in added {
        if let Some(id) = alphabet::bytes_of(name).and_then(|bytes| ids.get(&bytes[..]).copied()) {
            let clash = format!("the special token {name:?} and token {id} are written alike");
            return Err(TokenizerError::Invalid(clash));
        }
    }
    Ok(())
}
