//! `nanochat tok`: trains, measures and inspects a tokenizer.

mod eval;
mod languages;
mod render;
mod show;
mod sizes;

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nanochat::files::atomic_file;
use nanochat::report::{Section, log_tokenizer};
use nanochat::terminal::escape;
use nanochat::terminal::flag_values;
use nanochat::text::dataset::{OnBadShard, Shards, Split};
use nanochat_tokenizer::{DEFAULT_PATTERN, SPECIAL_TOKENS, Tokenizer, TrainOptions, train};

/// Train, measure and inspect a tokenizer
#[derive(Debug, Subcommand)]
pub enum TokCommand {
    /// Train a byte-level BPE tokenizer on the training shards
    Train(TrainArgs),
    /// Measure compression on several kinds of text, also for other tokenizers
    Eval(eval::EvalArgs),
    /// Compare vocabulary sizes by language: one training, one table
    Sizes(sizes::SizesArgs),
    /// Turn text into token ids
    Encode(EncodeArgs),
    /// Turn token ids into text
    Decode(DecodeArgs),
    /// Print the vocabulary in readable form, with counts of its kinds of tokens
    Show(show::ShowArgs),
    /// Print conversations as the model sees them, with trained tokens in colour
    Render(render::RenderArgs),
    /// Import a tokenizer.json made elsewhere (GPT-2, Llama 3, Qwen, … : any byte-level BPE)
    Import(ImportArgs),
}

impl TokCommand {
    /// Whether the command writes a tokenizer.
    pub fn makes(&self) -> bool {
        matches!(self, TokCommand::Train(_) | TokCommand::Import(_))
    }
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Vocabulary size: 256 bytes, merges and special tokens. Suggested: 65536 for English, 40000 for Chinese, 50000
    /// for both
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = TrainOptions::default().vocab_size)]
    vocab_size: usize,
    /// Stop reading after this many characters
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = TrainOptions::default().max_chars)]
    max_chars: usize,
    /// Read at most this many characters of each document
    #[arg(long, value_parser = flag_values::large::<usize>, default_value_t = TrainOptions::default().max_document_chars)]
    doc_cap: usize,
    /// Your own split pattern (regex): merges never cross the pieces that it cuts [default: GPT-4's, with digits in
    /// ones and twos]
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// Your own special tokens, such as '<|zh_start|>'; they get ids after nanochat's nine
    #[arg(long = "special", value_name = "NAME", num_args = 1..)]
    extra_special: Vec<String>,
    #[command(flatten)]
    texts: TrainingTexts,
}

/// The text that a tokenizer is trained on.
#[derive(Debug, Args)]
struct TrainingTexts {
    /// Folder of parquet shards; the last one is for validation and is not read [default: base_data of the base
    /// directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Several folders by weight, such as zh=0.5:corpus/zh en=0.5:corpus/en, measured in bytes, until each has been
    /// read once; shorter ones are repeated
    #[arg(long, value_name = "NAME=WEIGHT:DIR", num_args = 1.., conflicts_with = "data")]
    mix: Vec<nanochat::text::corpus_mix::MixSource>,
    /// How to treat a shard that cannot be read
    #[arg(long, value_enum, default_value_t)]
    bad_shards: OnBadShard,
}

/// A folder of shards with its name and weight.
struct Corpus {
    name: String,
    shards: Shards,
    weight: f64,
}

impl TrainingTexts {
    fn open(&self, base_dir: &Path) -> anyhow::Result<Vec<Corpus>> {
        if self.mix.is_empty() {
            let shards =
                Shards::open(&self.data.clone().unwrap_or_else(|| data_dir(base_dir)), self.bad_shards)?;
            return Ok(vec![Corpus { name: "val".into(), shards, weight: 1.0 }]);
        }
        let open = |source: &nanochat::text::corpus_mix::MixSource| {
            let shards = Shards::open(&source.dir, self.bad_shards)?;
            Ok(Corpus { name: source.name.clone(), shards, weight: source.weight })
        };
        self.mix.iter().map(open).collect()
    }
}

/// Trains on the corpora by weight; also returns the bytes read.
fn train_on(corpora: &[Corpus], options: &TrainOptions) -> anyhow::Result<(Tokenizer, u64)> {
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} tokenizer: {bytes} of text read, {bytes_per_sec}",
    )?);
    let sources: Vec<(Shards, f64)> = corpora.iter().map(|c| (c.shards.clone(), c.weight)).collect();
    let mut failure = None;
    let texts = nanochat::text::corpus_mix::texts(&sources).map_while(|text| match text {
        Ok(text) => Some(text),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let trained = train(texts.inspect(|text| progress.inc(text.len() as u64)), options);
    let read = progress.position();
    progress.finish_and_clear();
    match failure {
        Some(error) => Err(error.into()),
        None => Ok((trained?, read)),
    }
}

/// The tokenizer to use.
#[derive(Debug, Args)]
struct TokenizerSource {
    /// A tokenizer.json, or a folder with one [default: tokenizer/tokenizer.json of the base directory]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EncodeArgs {
    /// Text to encode; without it, standard input is read to its end, final newline included
    text: Option<String>,
    #[command(flatten)]
    source: TokenizerSource,
}

#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Token ids to decode; without them, standard input is read, with ids separated by spaces, commas or newlines
    ids: Vec<String>,
    #[command(flatten)]
    source: TokenizerSource,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A tokenizer.json, or a folder with one
    file: PathBuf,
}

/// Runs one `nanochat tok` command; output files are written to `base_dir`.
pub fn run(command: TokCommand, base_dir: &Path) -> anyhow::Result<()> {
    match command {
        TokCommand::Train(args) => train_tokenizer(&args, base_dir),
        TokCommand::Eval(args) => eval::run(&args, base_dir),
        TokCommand::Sizes(args) => sizes::run(&args, base_dir),
        TokCommand::Encode(args) => encode(&args, base_dir),
        TokCommand::Decode(args) => decode(&args, base_dir),
        TokCommand::Show(args) => show::run(&args, base_dir),
        TokCommand::Render(args) => render::run(&args, base_dir),
        TokCommand::Import(args) => import(&args, base_dir),
    }
}

/// Returns the path of the project's own tokenizer.
pub fn tokenizer_path(base_dir: &Path) -> PathBuf {
    base_dir.join("tokenizer/tokenizer.json")
}

/// Returns the folder of shards under the base directory.
fn data_dir(base_dir: &Path) -> PathBuf {
    base_dir.join("base_data")
}

impl TokenizerSource {
    fn load(&self, base_dir: &Path) -> anyhow::Result<Tokenizer> {
        tokenizer_at(self.tokenizer.as_deref(), base_dir)
    }
}

/// Opens the tokenizer in `file` (or folder), or that of the base directory.
pub fn tokenizer_at(file: Option<&Path>, base_dir: &Path) -> anyhow::Result<Tokenizer> {
    if let Some(file) = file {
        return read_tokenizer(file);
    }
    let path = tokenizer_path(base_dir);
    if !path.exists() {
        bail!(
            "there is no tokenizer at {}; make one with `nanochat tok train`, or name one with --tokenizer",
            path.display()
        );
    }
    read_tokenizer(&path)
}

/// Reads a tokenizer.json, or the one in a model folder.
fn read_tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    Ok(Tokenizer::from_file(&path)?)
}

fn save_tokenizer(tokenizer: &Tokenizer, base_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = tokenizer_path(base_dir);
    atomic_file::write(&path, tokenizer.to_json().as_bytes())
        .with_context(|| format!("failed to write {}", path.display()))?;
    log_tokenizer(base_dir, None)?; // deletes the section of the previous tokenizer
    Ok(path)
}

fn train_tokenizer(args: &TrainArgs, base_dir: &Path) -> anyhow::Result<()> {
    let corpora = args.texts.open(base_dir)?;
    let options = TrainOptions {
        vocab_size: args.vocab_size,
        pattern: args.pattern.clone(),
        extra_special: args.extra_special.clone(),
        max_chars: args.max_chars,
        max_document_chars: args.doc_cap,
    };
    let start = Instant::now();
    let (tokenizer, read) = train_on(&corpora, &options)?;
    let path = save_tokenizer(&tokenizer, base_dir)?;
    report_training(&tokenizer, args.vocab_size, read, start.elapsed().as_secs_f64());
    let mut section = Section { seconds: start.elapsed().as_secs_f64(), ..Section::new("Tokenizer") };
    section.settings.insert("vocabulary".into(), tokenizer.vocab_size().into());
    section.settings.insert("pattern".into(), args.pattern.as_deref().unwrap_or(DEFAULT_PATTERN).into());
    section.results.insert("bytes read".into(), read.into());
    for Corpus { name, shards, .. } in &corpora {
        let texts = eval::sample(shards, Split::Val, 1_000_000)?;
        let (bytes, tokens) = eval::compression(&tokenizer, &texts);
        let bytes_per_token = bytes as f64 / tokens as f64;
        let name = if name == "val" { "validation" } else { name };
        println!("{name:<12} {bytes_per_token:.3} bytes per token");
        section.results.insert(format!("bytes per token of {name} text"), bytes_per_token.into());
    }
    println!("wrote        {}", path.display());
    Ok(log_tokenizer(base_dir, Some(section))?)
}

fn report_training(tokenizer: &Tokenizer, asked: usize, read: u64, seconds: f64) {
    let size = tokenizer.vocab_size();
    if size < asked {
        eprintln!(
            "warning: the text has pairs for {size} tokens only, not for {asked}; the tokenizer has {size}, \
             and models made with it will too"
        );
    }
    println!("vocabulary   {size} tokens, {} of them special", tokenizer.special_names().count());
    let megabytes = read as f64 / 1e6;
    println!("time         {seconds:.1} s for {megabytes:.1} MB ({:.1} MB/s)", megabytes / seconds);
}

fn encode(args: &EncodeArgs, base_dir: &Path) -> anyhow::Result<()> {
    let tokenizer = args.source.load(base_dir)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => stdin_text()?,
    };
    let ids: Vec<String> = tokenizer.encode(&text).iter().map(u32::to_string).collect();
    writeln!(std::io::stdout(), "{}", ids.join(" "))?;
    Ok(())
}

fn stdin_text() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("failed to read standard input")?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8: byte {at} begins no character; convert it first, for example with iconv")
    })
}

fn decode(args: &DecodeArgs, base_dir: &Path) -> anyhow::Result<()> {
    let tokenizer = args.source.load(base_dir)?;
    let words = if args.ids.is_empty() { stdin_text()? } else { args.ids.join(" ") };
    let words = words.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|word| !word.is_empty());
    let ids = words.map(|word| known_id(&tokenizer, word)).collect::<anyhow::Result<Vec<u32>>>()?;
    let mut stdout = std::io::stdout();
    let bytes = tokenizer.decode_bytes(&ids);
    // In a pipe the exact bytes, so that decode inverts encode; escapes and a newline only on a terminal.
    match stdout.is_terminal() {
        true => writeln!(stdout, "{}", escape::text(&String::from_utf8_lossy(&bytes)))?,
        false => stdout.write_all(&bytes)?,
    }
    Ok(())
}

fn known_id(tokenizer: &Tokenizer, word: &str) -> anyhow::Result<u32> {
    let id: u32 = word.parse().ok().with_context(|| format!("{word:?} is not a token id"))?;
    if tokenizer.token_bytes(id).is_none() {
        bail!("there is no token {id}; ids go from 0 to {}", tokenizer.vocab_size().saturating_sub(1));
    }
    Ok(id)
}

fn import(args: &ImportArgs, base_dir: &Path) -> anyhow::Result<()> {
    let found = read_tokenizer(&args.file)?;
    let missing: Vec<&str> =
        SPECIAL_TOKENS.into_iter().filter(|name| found.special(name).is_none()).collect();
    let tokenizer = found.with_special(&SPECIAL_TOKENS)?;
    if !tokenizer.alterations().is_empty() {
        let why = tokenizer.alterations().join(", ");
        eprintln!("warning: this tokenizer {why}: decoding does not give every text back");
    }
    let path = save_tokenizer(&tokenizer, base_dir)?;
    println!(
        "vocabulary   {} tokens, {} of them special",
        tokenizer.vocab_size(),
        tokenizer.special_names().count()
    );
    if !missing.is_empty() {
        println!("added        {}", missing.join(" "));
    }
    println!("wrote        {}", path.display());
    Ok(())
}
