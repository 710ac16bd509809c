//! The last stage, which takes the documents of all files: it cleans, counts, shuffles, splits and writes them.

use nanochat_tensor::Rng;

use super::{FileKind, IngestOptions, Ingested, InputFile};
use crate::files::file_error::FileError;
use crate::text::dataset::{DatasetError, ShardWriter, Split};

/// The bytes of the shuffle buffer.
const SHUFFLE_BYTES: usize = 256 << 20;

pub struct IngestSink {
    writer: ShardWriter,
    report: Ingested,
    shuffle: Option<Shuffle>,
    /// One document in this many is for validation.
    val_every: usize,
    written: usize,
    kind: FileKind,
}

struct Shuffle {
    rng: Rng,
    held: Vec<String>,
    bytes: usize,
}

impl IngestSink {
    pub fn new(writer: ShardWriter, options: &IngestOptions) -> IngestSink {
        let shuffle = options.seed.map(|seed| Shuffle { rng: Rng::new(&[seed, 1]), held: vec![], bytes: 0 });
        let val_every = (1.0 / options.val_share).round() as usize;
        let report = Ingested::default();
        IngestSink { writer, report, shuffle, val_every, written: 0, kind: FileKind::Text }
    }

    /// Announces that the next documents come from `file`.
    pub fn start(&mut self, file: &InputFile) {
        self.kind = file.kind;
        self.report.kinds.entry(file.kind).or_default().files += 1;
    }

    pub fn add(&mut self, text: &str) -> Result<(), FileError> {
        let text = text.trim_start_matches('\u{feff}');
        let nuls = text.bytes().filter(|&byte| byte == 0).count();
        let text = if nuls > 0 { text.replace('\0', "") } else { text.to_owned() };
        self.report.nuls += nuls;
        if text.trim().is_empty() {
            self.report.blank += 1;
            return Ok(());
        }
        self.report.kinds.entry(self.kind).or_default().documents += 1;
        let Some(shuffle) = &mut self.shuffle else { return self.write(&text) };
        shuffle.bytes += text.len();
        shuffle.held.push(text);
        while let Some(shuffle) = &mut self.shuffle
            && shuffle.bytes > SHUFFLE_BYTES
        {
            let text = shuffle.draw();
            self.write(&text)?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Ingested, DatasetError> {
        while let Some(shuffle) = &mut self.shuffle
            && !shuffle.held.is_empty()
        {
            let text = shuffle.draw();
            self.write(&text)?;
        }
        Ok(Ingested { written: self.writer.finish()?, ..self.report })
    }

    fn write(&mut self, text: &str) -> Result<(), FileError> {
        let split = if self.written.is_multiple_of(self.val_every) { Split::Val } else { Split::Train };
        self.written += 1;
        self.writer.push(split, text)
    }
}

impl Shuffle {
    fn draw(&mut self) -> String {
        let text = self.held.swap_remove(self.rng.below(self.held.len()));
        self.bytes -= text.len();
        text
    }
}
