//! What a parquet file claims about itself, held to bounds before the parquet crate allocates for it: how deep its
//! schema is, what its pages unpack to, how many values they hold. [`Bounded`] stands between the file and the crate.

use std::fs::File;
use std::io::{self, BufReader, Error, Read, Seek, SeekFrom};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::shard::reason;
use super::thrift::{I32, LIST, STRUCT, Thrift};

/// A thousand row groups of a hundred columns take 10 MB.
const MAX_FOOTER: u64 = 16 << 20;
const MAX_COLUMNS: u64 = 10_000;
const MAX_NESTING: usize = 64;
/// Writers need a hundred bytes; statistics may have whole texts in them.
const MAX_HEADER: u64 = 1 << 20;
/// Writers cut pages at one MB, or after a batch of documents.
const MAX_PAGE: i64 = 512 << 20;
/// Text packs to a tenth of its size; a page that unpacks to far more is made to fill the memory.
const MAX_UNPACKED: i64 = 4 << 20;
const MAX_RATIO: i64 = 200;
const MAX_VALUES: i64 = 1 << 24;
/// The crate makes room for the lengths of such pages, or repeats their texts, before it has seen them.
const DELTA_LENGTH: i64 = 6;
const DELTA_TEXT: i64 = 7;

/// A file whose footer is checked when it is opened, and each page before it is read.
pub struct Bounded {
    file: File,
    len: u64,
}

impl Bounded {
    pub fn new(file: File) -> std::result::Result<Bounded, String> {
        let len = file.metadata().map_err(|error| error.to_string())?.len();
        let bounded = Bounded { file, len };
        bounded.check_footer().map_err(reason)?;
        Ok(bounded)
    }

    fn check_footer(&self) -> Result<()> {
        let Some(tail) = self.len.checked_sub(8) else { return Err(no("it is too short")) };
        let tail = self.get_bytes(tail, 8)?;
        let footer = u64::from(u32::from_le_bytes(tail[..4].try_into().expect("four bytes")));
        if &tail[4..] != b"PAR1" || footer + 8 > self.len {
            return Err(no("it does not end as parquet files do; was it fetched whole?"));
        }
        if footer > MAX_FOOTER {
            return Err(no(format!("its footer of {} MB describes more than a file of text", footer >> 20)));
        }
        let footer = self.get_bytes(self.len - 8 - footer, footer as usize)?;
        let mut schema = Ok(());
        let whole = Thrift(&footer).fields(|id, kind, thrift| {
            if id != 2 {
                return Some(false);
            }
            if schema.is_ok() {
                schema = check_schema(kind, thrift)?;
            }
            Some(true)
        });
        schema?;
        whole.ok_or_else(|| no("its footer is damaged"))
    }
}

/// Of the page that begins at `start`.
fn check_page(mut file: &File, start: u64) -> Result<()> {
    // Nearly all are this short; a longer one is read a second time.
    for most in [512, MAX_HEADER] {
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(most).read_to_end(&mut head)?;
        if let Some(header) = PageHeader::read(&head) {
            return header.check();
        }
    }
    Err(no("the head of a page is damaged"))
}

/// The schema is one list, the children of each group after it, and the crate follows it by recursion.
fn check_schema(kind: u8, thrift: &mut Thrift) -> Option<Result<()>> {
    let (_, n) = thrift.list().filter(|(item, _)| kind == LIST && *item == STRUCT)?;
    if n > MAX_COLUMNS {
        return Some(Err(no(format!("it has {n} columns"))));
    }
    let mut open: Vec<i64> = Vec::new(); // children to come, of each group around
    for _ in 0..n {
        let mut children = 0;
        thrift.fields(|id, kind, thrift| {
            if id != 5 {
                return Some(false);
            }
            children = Some(()).filter(|()| kind == I32).and_then(|()| thrift.int())?;
            Some(true)
        })?;
        if children > MAX_COLUMNS as i64 || open.len() > MAX_NESTING {
            return Some(Err(no("its columns are nested deeper than any text needs")));
        }
        if let Some(around) = open.last_mut() {
            *around -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        while open.last().is_some_and(|&left| left <= 0) {
            open.pop();
        }
    }
    Some(Ok(()))
}

/// Of a field given twice, the larger.
#[derive(Default)]
struct PageHeader {
    unpacked: i64,
    packed: i64,
    values: i64,
    encodings: Vec<i64>,
    is_dictionary: bool,
}

impl PageHeader {
    fn read(bytes: &[u8]) -> Option<PageHeader> {
        let mut header = PageHeader { packed: i64::MAX, ..PageHeader::default() };
        Thrift(bytes).fields(|id, kind, thrift| {
            let is_right = matches!((id, kind), (1..=4, I32) | (5..=8, STRUCT) | (9.., _));
            match id {
                _ if !is_right => return None,
                2 => header.unpacked = thrift.int()?.max(header.unpacked),
                3 => header.packed = thrift.int()?.min(header.packed),
                5 | 7 | 8 => header.read_kind(id, thrift)?,
                _ => return Some(false),
            }
            Some(true)
        })?;
        Some(header)
    }

    /// Of a data page (5; 8 in its second version) or a dictionary (7).
    fn read_kind(&mut self, page: i64, thrift: &mut Thrift) -> Option<()> {
        self.is_dictionary |= page == 7;
        let encoding = if page == 8 { 4 } else { 2 };
        let numbers = match page {
            5 => 1..=4,
            7 => 1..=2,
            _ => 1..=6,
        };
        thrift.fields(|id, kind, thrift| {
            if !numbers.contains(&id) {
                return Some(false);
            }
            let value = Some(()).filter(|()| kind == I32).and_then(|()| thrift.int())?;
            if id == encoding {
                self.encodings.push(value);
            } else {
                self.values = self.values.max(value);
            }
            Some(true)
        })
    }

    fn check(&self) -> Result<()> {
        let PageHeader { unpacked, packed, values, .. } = *self;
        if unpacked > MAX_PAGE {
            return Err(no(format!(
                "a page of {} MB is too large; write it with smaller ones",
                unpacked >> 20
            )));
        }
        if unpacked > MAX_UNPACKED && unpacked / MAX_RATIO > packed {
            return Err(no(format!("{packed} bytes that unpack to {unpacked} are no text")));
        }
        // Each text of a dictionary has a length of four bytes before it.
        if values > MAX_VALUES || (self.is_dictionary && values > unpacked / 4) {
            return Err(no(format!("a page of {unpacked} bytes claims {values} values")));
        }
        if self.encodings.iter().any(|&encoding| [DELTA_LENGTH, DELTA_TEXT].contains(&encoding)) {
            return Err(no("its text is coded by differences; write it plainly or with a dictionary"));
        }
        Ok(())
    }
}

fn no(reason: impl Into<String>) -> ParquetError {
    ParquetError::External(Error::other(reason.into()).into())
}

impl Length for Bounded {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Bounded {
    type T = Beginning;

    /// The crate asks for the last eight bytes, and for the beginning of each page.
    fn get_read(&self, start: u64) -> Result<Beginning> {
        let of_page = start != self.len - 8;
        Ok(Beginning { file: self.file.try_clone()?, start, of_page, reader: None })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(no("it is shorter than it says"));
        }
        self.file.get_bytes(start, length)
    }
}

/// Bytes from `start` on. A page is checked when the first one is read: the crate asks for readers that it does not use.
pub struct Beginning {
    file: File,
    start: u64,
    of_page: bool,
    reader: Option<BufReader<File>>,
}

impl Read for Beginning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                if self.of_page {
                    check_page(&self.file, self.start).map_err(|error| Error::other(reason(error)))?;
                }
                self.reader.insert(self.file.get_read(self.start).map_err(Error::other)?)
            }
        };
        reader.read(buffer)
    }
}
