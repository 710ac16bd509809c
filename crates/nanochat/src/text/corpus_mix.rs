//! Mixes several corpora into one by weight: the next document always comes from the source that is furthest behind its
//! share. The order depends on the seed alone, so mixing again gives the same bytes.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use nanochat_tensor::Rng;
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::text::dataset::{DatasetError, OnBadShard, ShardWriter, Shards, Split, Written};

/// The bytes of a source's shuffle buffer.
const SHUFFLE_BYTES: usize = 64 << 20;

/// A corpus with its weight, as a user writes it: `zh=0.7:FOLDER`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MixSource {
    pub name: String,
    /// The weight, within [`WEIGHTS`]; only its ratio to the others matters.
    pub weight: f64,
    pub dir: PathBuf,
}

/// The allowed weights. Within them all sums and shares stay finite; a millionth means one document in a million.
pub const WEIGHTS: RangeInclusive<f64> = 1e-6..=1e6;

/// The unit that weights are shares of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    #[default]
    Chars,
    /// Tokens of the given tokenizer
    Tokens,
}

/// The amount that [`mix`] took from one source.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub name: String,
    pub documents: usize,
    /// The amount taken, in the mixture's unit.
    pub amount: u64,
    /// The size of all its training text, in the same unit.
    pub available: u64,
}

impl Taken {
    /// Returns how many epochs of the source were used; fractions are possible.
    pub fn epochs(&self) -> f64 {
        self.amount as f64 / self.available as f64
    }
}

impl std::str::FromStr for MixSource {
    type Err = String;

    fn from_str(text: &str) -> Result<MixSource, String> {
        let wanted = "NAME=WEIGHT:FOLDER is wanted, such as zh=0.7:corpus/zh";
        let (name, rest) = text.split_once('=').ok_or(wanted)?;
        let (weight, dir) = rest.split_once(':').ok_or(wanted)?;
        match weight.parse::<f64>() {
            Ok(_) if dir.is_empty() || name.is_empty() => Err(wanted.into()),
            Ok(weight) if WEIGHTS.contains(&weight) => {
                Ok(MixSource { name: name.into(), weight, dir: dir.into() })
            }
            Ok(_) => {
                Err(format!("the weight must be from {} to {}, not {weight}", WEIGHTS.start(), WEIGHTS.end()))
            }
            Err(_) => Err(wanted.into()),
        }
    }
}

impl TryFrom<String> for MixSource {
    type Error = String;

    fn try_from(text: String) -> Result<MixSource, String> {
        text.parse()
    }
}

impl From<MixSource> for String {
    fn from(MixSource { name, weight, dir }: MixSource) -> String {
        format!("{name}={weight}:{}", dir.display())
    }
}

impl MixSource {
    /// Returns the source as a command-line argument, with the folder's name byte for byte.
    pub fn as_argument(&self) -> OsString {
        let mut argument = OsString::from(format!("{}={}:", self.name, self.weight));
        argument.push(&self.dir);
        argument
    }
}

/// Returns the index of the source that is furthest behind its share, the first if several are. `taken` is what each
/// has given so far.
pub fn furthest_behind(weights: &[f64], taken: &[u64]) -> usize {
    let progress = |i: usize| taken[i] as f64 / weights[i];
    (0..weights.len()).min_by(|&a, &b| progress(a).total_cmp(&progress(b))).expect("a mixture has sources")
}

/// The way to measure a text in the mixture's unit.
#[derive(Clone, Copy)]
pub enum Measure<'t> {
    Chars,
    Tokens(&'t Tokenizer),
}

impl Measure<'_> {
    pub fn of(self, text: &str) -> u64 {
        match self {
            Measure::Chars => text.chars().count() as u64,
            Measure::Tokens(tokenizer) => tokenizer.encode(text).len() as u64 + 1, // and <|bos|>
        }
    }

    fn of_all(self, shards: &Shards, split: Split) -> Result<u64, DatasetError> {
        use rayon::prelude::*;
        let chunks = shards.chunks(split, Default::default());
        chunks.map(|chunk| Ok(chunk?.texts.par_iter().flatten().map(|text| self.of(text)).sum::<u64>())).sum()
    }
}

/// Options of [`mix`], on which its result depends.
pub struct MixOptions<'t> {
    pub seed: u64,
    /// The total to write, in units. None means as much as is possible without repetition.
    pub total: Option<u64>,
    pub measure: Measure<'t>,
    pub chars_per_shard: usize,
}

/// Mixes the training text of `sources` into the new folder `out` until the total is written; a source that runs out
/// starts over. The validation text is mixed from the validation shards in the same way, without repetition. Progress
/// counts units.
pub fn mix(
    sources: &[MixSource],
    out: &Path,
    options: &MixOptions,
    progress: &ProgressBar,
) -> Result<(Vec<Taken>, Written), DatasetError> {
    let open = |source: &MixSource| Shards::open(&source.dir, OnBadShard::Refuse);
    let opened: Vec<Shards> = sources.iter().map(open).collect::<Result<_, _>>()?;
    let mut writer = ShardWriter::create(out, options.chars_per_shard)?;
    let taken = mix_split(sources, &opened, Split::Train, options, progress, &mut writer)?;
    let validation = MixOptions { total: None, ..*options };
    mix_split(sources, &opened, Split::Val, &validation, &ProgressBar::hidden(), &mut writer)?;
    Ok((taken, writer.finish()?))
}

fn mix_split(
    sources: &[MixSource],
    opened: &[Shards],
    split: Split,
    options: &MixOptions,
    progress: &ProgressBar,
    writer: &mut ShardWriter,
) -> Result<Vec<Taken>, DatasetError> {
    let measure = options.measure;
    let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
    let available: Vec<u64> =
        opened.iter().map(|shards| measure.of_all(shards, split)).collect::<Result<_, _>>()?;
    let total = options.total.unwrap_or_else(|| without_repetition(&weights, &available));
    progress.set_length(total);
    let key = |i: usize| [options.seed, i as u64, split as u64];
    let mut readers: Vec<Documents> =
        opened.iter().enumerate().map(|(i, shards)| Documents::new(shards.clone(), split, key(i))).collect();
    let (mut amounts, mut documents) = (vec![0; sources.len()], vec![0; sources.len()]);
    while amounts.iter().sum::<u64>() < total {
        let i = furthest_behind(&weights, &amounts);
        let text = readers[i].next_text()?;
        let amount = measure.of(&text);
        (amounts[i], documents[i]) = (amounts[i] + amount, documents[i] + 1);
        writer.push(split, &text)?;
        progress.inc(amount);
    }
    let taken = |i: usize| Taken {
        name: sources[i].name.clone(),
        documents: documents[i],
        amount: amounts[i],
        available: available[i],
    };
    Ok((0..sources.len()).map(taken).collect())
}

/// Returns the size of the largest mixture that uses every source at most once.
fn without_repetition(weights: &[f64], available: &[u64]) -> u64 {
    let all: f64 = weights.iter().sum();
    let totals = weights.iter().zip(available).map(|(weight, available)| *available as f64 * all / weight);
    totals.fold(f64::INFINITY, f64::min) as u64
}

/// Iterates over the training texts of several sources by weight until each has been read once; sources that end sooner
/// start over. Tokenizers are trained on these texts. There are no tokens yet, so weights are measured in bytes: a
/// token has 4 to 5 bytes in both English and Chinese, while its number of characters differs by a factor of two.
pub fn texts(sources: &[(Shards, f64)]) -> impl Iterator<Item = Result<String, DatasetError>> {
    let weights: Vec<f64> = sources.iter().map(|(_, weight)| *weight).collect();
    let mut readers: Vec<_> = sources.iter().map(|(shards, _)| shards.texts(Split::Train)).collect();
    let mut taken = vec![0; readers.len()];
    let mut read_once = vec![false; readers.len()];
    std::iter::from_fn(move || {
        loop {
            let i = furthest_behind(&weights, &taken);
            if let Some(text) = readers[i].next() {
                taken[i] += text.as_ref().map_or(0, |text| text.len() as u64);
                return Some(text);
            }
            read_once[i] = true;
            if read_once.iter().all(|once| *once) {
                return None;
            }
            readers[i] = sources[i].0.texts(Split::Train);
        }
    })
}

/// The endless stream of one source's documents, shuffled anew each epoch.
struct Documents {
    shards: Shards,
    split: Split,
    key: [u64; 3],
    epoch: u64,
    reader: Box<dyn Iterator<Item = Result<String, DatasetError>>>,
    rng: Rng,
    held: Vec<String>,
    held_bytes: usize,
}

impl Documents {
    fn new(shards: Shards, split: Split, key: [u64; 3]) -> Documents {
        let reader = Box::new(shards.texts(split));
        let rng = Rng::new(&[key[0], key[1], key[2], 0]);
        Documents { shards, split, key, epoch: 0, reader, rng, held: Vec::new(), held_bytes: 0 }
    }

    fn next_text(&mut self) -> Result<String, DatasetError> {
        loop {
            while self.held_bytes < SHUFFLE_BYTES
                && let Some(text) = self.reader.next()
            {
                let text = text?;
                self.held_bytes += text.len();
                self.held.push(text);
            }
            if !self.held.is_empty() {
                let text = self.held.swap_remove(self.rng.below(self.held.len()));
                self.held_bytes -= text.len();
                return Ok(text);
            }
            self.epoch += 1;
            let [seed, source, split] = self.key;
            self.rng = Rng::new(&[seed, source, split, self.epoch]);
            self.reader = Box::new(self.shards.texts(self.split)); // without any text it returns an error
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn source(root: &Path, name: &str, weight: f64, documents: usize, text: &str) -> MixSource {
        let dir = root.join(name);
        let mut writer = ShardWriter::create(&dir, 20_000).unwrap();
        for i in 0..documents {
            writer.push(if i % 20 == 0 { Split::Val } else { Split::Train }, &format!("{i} {text}")).unwrap();
        }
        writer.finish().unwrap();
        MixSource { name: name.into(), weight, dir }
    }

    fn run(sources: &[MixSource], out: &Path, seed: u64, total: Option<u64>) -> (Vec<Taken>, Vec<String>) {
        let options = MixOptions { seed, total, measure: Measure::Chars, chars_per_shard: 30_000 };
        let (taken, _) = mix(sources, out, &options, &ProgressBar::hidden()).unwrap();
        let shards = Shards::open(out, OnBadShard::Refuse).unwrap();
        (taken, shards.texts(Split::Train).map(Result::unwrap).collect())
    }

    #[test]
    fn shares_hold_all_along_and_one_seed_gives_one_corpus() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let zh = source(temp.path(), "zh", 0.7, 400, &"汉字".repeat(100));
        let en = source(temp.path(), "en", 0.3, 1_200, &"word ".repeat(30));
        let sources = [zh, en];
        let (taken, texts) = run(&sources, &path("a"), 1, Some(150_000));
        let zh_chars = |texts: &[String]| -> usize {
            texts.iter().filter(|text| text.contains('字')).map(|text| text.chars().count()).sum()
        };
        for n in [50, 200, texts.len()] {
            let all: usize = texts[..n].iter().map(|text| text.chars().count()).sum();
            let share = zh_chars(&texts[..n]) as f64 / all as f64;
            assert!((share - 0.7).abs() < 0.02, "{share} of {n}");
        }
        // 105,000 characters come from 77 thousand of Chinese, 45,000 from 176 thousand of English.
        assert!((taken[0].epochs() - 1.37).abs() < 0.03, "{}", taken[0].epochs());
        assert!((taken[1].epochs() - 0.25).abs() < 0.02, "{}", taken[1].epochs());
        run(&sources, &path("b"), 1, Some(150_000));
        let (_, other) = run(&sources, &path("c"), 2, Some(150_000));
        assert_ne!(texts, other);
        for entry in fs::read_dir(path("a")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(fs::read(path("a").join(&name)).unwrap() == fs::read(path("b").join(&name)).unwrap());
        }
    }

    #[test]
    fn without_a_total_nothing_repeats_and_a_small_source_is_used_up() {
        let temp = tempfile::tempdir().unwrap();
        let sources =
            [source(temp.path(), "a", 1.0, 100, "short"), source(temp.path(), "b", 1.0, 900, "other")];
        let (taken, mut texts) = run(&sources, &temp.path().join("out"), 3, None);
        assert!(
            taken[0].epochs() > 0.98 && taken[0].epochs() <= 1.02 && taken[1].epochs() < 0.2,
            "{taken:?}"
        );
        let n = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), n);
    }

    #[test]
    fn a_tokenizer_reads_by_weight_until_every_source_was_read() {
        let temp = tempfile::tempdir().unwrap();
        let sources =
            [source(temp.path(), "a", 3.0, 100, "aaaaaaaa"), source(temp.path(), "b", 1.0, 900, "bbbbbbbb")];
        let opened: Vec<(Shards, f64)> = sources
            .iter()
            .map(|source| (Shards::open(&source.dir, OnBadShard::Refuse).unwrap(), source.weight))
            .collect();
        let all: Vec<String> = texts(&opened).map(Result::unwrap).collect();
        let a = all.iter().filter(|text| text.contains('a')).count();
        let b = all.len() - a; // its numbers have a digit more
        assert!(b == 855 && (3.0..3.4).contains(&(a as f64 / b as f64)), "{a} and {b}");
    }

    #[test]
    fn sources_are_written_as_name_weight_folder() {
        let source = "zh=0.7:data/a:b".parse::<MixSource>().unwrap();
        assert_eq!((source.name.as_str(), source.weight, &source.dir), ("zh", 0.7, &"data/a:b".into()));
        assert_eq!(String::from(source), "zh=0.7:data/a:b");
        for bad in ["zh", "zh=0.7", "zh=0:x", "zh=nan:x", "=1:x", "zh=1:", "zh=-1:x"] {
            assert!(bad.parse::<MixSource>().is_err(), "{bad}");
        }
        for weight in ["1e-308", "inf", "1e308", "1e999", "0", "nan"] {
            let error = format!("zh={weight}:x").parse::<MixSource>().unwrap_err();
            assert!(error.contains("the weight must be from 0.000001 to 1000000, not"), "{error}");
        }
    }
}
