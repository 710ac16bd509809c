//! Writes a corpus as parquet shards. The folder is renamed at the end, so it is either complete or absent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::{DatasetError, Split};
use crate::files::columns::reason;
use crate::files::file_error::{FileError, at};
use crate::files::lines::MAX_LINE;
use crate::files::partial_dir::PartialDir;

/// The characters of a shard: small enough for one download, large enough that a full run has a few hundred files (as
/// in nanochat).
pub const CHARS_PER_SHARD: usize = 250_000_000;
/// The maximum rows of a row group. Ranks take whole row groups in turn, so a shard needs many.
const ROWS_PER_GROUP: usize = 1_024;
/// The maximum bytes of a row group, which ends early if documents are long, so that memory holds few of them.
const BYTES_PER_GROUP: usize = 64 << 20;
const SCHEMA: &str = "message schema { REQUIRED BYTE_ARRAY text (STRING); }";

/// A writer that puts documents into training shards of a given size and one validation shard, which gets the last
/// name. If it is dropped before [`ShardWriter::finish`], nothing is left on disk.
pub struct ShardWriter {
    dir: PartialDir,
    chars_per_shard: usize,
    train: Option<ShardFile>,
    val: ShardFile,
    written: Written,
}

/// The counts of what was written, including the validation shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub shards: usize,
    pub train_documents: usize,
    pub val_documents: usize,
    pub chars: usize,
}

impl ShardWriter {
    /// Starts a corpus in `dir`, which must not exist or must be empty.
    pub fn create(dir: &Path, chars_per_shard: usize) -> Result<ShardWriter, FileError> {
        let dir = PartialDir::create(dir)?;
        let val = ShardFile::create(dir.path().join("validation"))?;
        Ok(ShardWriter { dir, chars_per_shard, train: None, val, written: Written::default() })
    }

    /// Returns the unfinished folder, for files beside the shards.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn push(&mut self, split: Split, text: &str) -> Result<(), FileError> {
        if text.len() as u64 > MAX_LINE {
            // No reader would accept it.
            let reason = format!("a document is longer than {} MiB; split it", MAX_LINE >> 20);
            return Err(FileError::Write { path: self.dir.path().into(), reason });
        }
        let chars = text.chars().count();
        self.written.chars += chars;
        if split == Split::Val {
            self.written.val_documents += 1;
            return self.val.push(text, chars);
        }
        self.written.train_documents += 1;
        if self.train.as_ref().is_some_and(|shard| shard.chars + chars > self.chars_per_shard) {
            self.close_train()?;
        }
        if self.train.is_none() {
            self.train = Some(ShardFile::create(self.shard_path(self.written.shards))?);
        }
        self.train.as_mut().expect("opened above").push(text, chars)
    }

    /// Closes the last files and renames the folder to its final name.
    pub fn finish(mut self) -> Result<Written, DatasetError> {
        let Written { train_documents: train, val_documents: val, .. } = self.written;
        if train == 0 || val == 0 {
            return Err(DatasetError::TooFewDocuments { train, val, left_out: String::new() });
        }
        self.close_train()?;
        let last = self.shard_path(self.written.shards);
        self.val.close()?;
        self.written.shards += 1;
        fs::rename(&self.val.path, &last).map_err(at(&last))?;
        self.dir.commit()?;
        Ok(self.written)
    }

    fn close_train(&mut self) -> Result<(), FileError> {
        if let Some(mut shard) = self.train.take() {
            shard.close()?;
            self.written.shards += 1;
        }
        Ok(())
    }

    fn shard_path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("shard_{index:05}.parquet"))
    }
}

/// A file being written; rows are collected until they fill a row group.
struct ShardFile {
    path: PathBuf,
    writer: SerializedFileWriter<File>,
    rows: Vec<ByteArray>,
    /// The bytes of `rows`.
    bytes: usize,
    chars: usize,
}

impl ShardFile {
    fn create(path: PathBuf) -> Result<ShardFile, FileError> {
        let file = File::create(&path).map_err(at(&path))?;
        ShardFile::over(path, file)
    }

    fn over(path: PathBuf, file: File) -> Result<ShardFile, FileError> {
        let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is a constant"));
        let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_dictionary_enabled(false) // documents do not repeat
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties))
            .map_err(|error| write_error(&path, error))?;
        Ok(ShardFile { path, writer, rows: Vec::with_capacity(ROWS_PER_GROUP), bytes: 0, chars: 0 })
    }

    fn push(&mut self, text: &str, chars: usize) -> Result<(), FileError> {
        self.rows.push(text.into());
        self.bytes += text.len();
        self.chars += chars;
        let is_full = self.rows.len() == ROWS_PER_GROUP || self.bytes >= BYTES_PER_GROUP;
        if is_full { self.write_row_group() } else { Ok(()) }
    }

    fn write_row_group(&mut self) -> Result<(), FileError> {
        let mut write = || {
            let mut group = self.writer.next_row_group()?;
            let mut column = group.next_column()?.expect("the schema has one column");
            column.typed::<ByteArrayType>().write_batch(&self.rows, None, None)?;
            column.close()?;
            group.close()
        };
        write().map_err(|error| write_error(&self.path, error))?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    fn close(&mut self) -> Result<(), FileError> {
        if !self.rows.is_empty() {
            self.write_row_group()?;
        }
        self.writer.finish().map_err(|error| write_error(&self.path, error))?;
        self.writer.inner().sync_all().map_err(at(&self.path))
    }
}

fn write_error(path: &Path, error: parquet::errors::ParquetError) -> FileError {
    FileError::Write { path: path.into(), reason: reason(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut shard = ShardFile::over("shard_00000.parquet".into(), full).unwrap();
        shard.push("text", 4).unwrap();
        let message = shard.close().unwrap_err().to_string();
        assert!(message.contains("shard_00000.parquet") && message.contains("No space left"), "{message}");
    }
}
