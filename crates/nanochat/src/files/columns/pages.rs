//! Iterates over the pages of one column in a row group for the parquet crate's readers. Each page is checked against
//! limits before it is read, and before the crate allocates what it claims.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::schema::types::ColumnDescPtr;

use super::budget::{Budget, Held};
use super::page_head::{PageHead, PageKind};
use super::unpack::unpack;
use super::{delta, no};
use crate::files::lines::MAX_LINE;

/// The bytes read, in turn, until they hold a whole header: writers need a hundred, but statistics may contain whole
/// texts.
const HEADS: [u64; 4] = [512, 8 << 10, 128 << 10, 1 << 20];
/// The bytes that the crate holds for a value in a dictionary or a list: a reference of 32 bytes and its levels.
const VALUE_BYTES: usize = 40;

pub struct Pages {
    file: Arc<File>,
    /// The offset of the next page, or of its body once `head` is read.
    at: u64,
    end: u64,
    head: Option<PageHead>,
    codec: Compression,
    column: ColumnDescPtr,
    /// A dictionary that was read while rows were skipped.
    dictionary: Option<Page>,
    budget: Budget,
    dictionary_memory: Option<Held>,
    /// The memory of the last page of each encoding, which the crate keeps.
    encoding_memory: [Option<Held>; 10],
    /// The memory that the row `list_row` has taken so far, since a list may span pages.
    list_memory: Vec<Held>,
    list_row: usize,
}

impl Pages {
    pub fn new(file: Arc<File>, chunk: &ColumnChunkMetaData, budget: Budget) -> Result<Pages> {
        let first = chunk.data_page_offset();
        // Some writers give offset 0 for a dictionary that does not exist.
        let dictionary = chunk.dictionary_page_offset().filter(|&at| at > 0 && at < first);
        let at = u64::try_from(dictionary.unwrap_or(first)).ok();
        let end =
            at.zip(u64::try_from(chunk.compressed_size()).ok()).and_then(|(at, size)| at.checked_add(size));
        let len = file.metadata()?.len();
        let (Some(at), Some(end)) = (at, end.filter(|&end| end <= len)) else {
            return Err(no("it is shorter than it says"));
        };
        let (codec, column) = (chunk.compression(), chunk.column_descr_ptr());
        let (encoding_memory, list_row) = (Default::default(), budget.row());
        Ok(Pages {
            file,
            at,
            end,
            head: None,
            codec,
            column,
            dictionary: None,
            budget,
            dictionary_memory: None,
            encoding_memory,
            list_memory: Vec::new(),
            list_row,
        })
    }

    /// Skips whole pages while they have at most `rows` rows, and returns the number of rows skipped. The column has
    /// one value per row.
    pub fn pass(&mut self, rows: usize) -> Result<usize> {
        let mut passed = 0;
        while let Some(head) = self.peek()? {
            match head.kind {
                PageKind::Dictionary => self.dictionary = self.get_next_page()?,
                _ if head.values > rows - passed => break,
                _ => {
                    passed += head.values;
                    self.skip_next_page()?;
                }
            }
        }
        Ok(passed)
    }

    /// Returns the header of the next page that has values, without moving past it.
    fn peek(&mut self) -> Result<Option<PageHead>> {
        while self.head.is_none() && self.at < self.end {
            let (head, length) = self.read_head()?;
            self.at += length;
            if head.packed as u64 > self.end - self.at {
                return Err(no("it is shorter than it says"));
            }
            match head.kind {
                PageKind::Dictionary => self.head = Some(head),
                PageKind::Data { .. } | PageKind::DataV2 { .. } if head.values > 0 => self.head = Some(head),
                _ => self.at += head.packed as u64,
            }
        }
        Ok(self.head)
    }

    fn read_head(&self) -> Result<(PageHead, u64)> {
        for most in HEADS {
            let bytes = self.bytes(self.at, most.min(self.end - self.at) as usize)?;
            if let Some((head, length)) = PageHead::read(&bytes) {
                return Ok((head?, length as u64));
            }
        }
        Err(no("the head of a page is damaged"))
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the body of a page, levels before values, and the memory it takes.
    fn body(&self, head: &PageHead) -> Result<(Vec<u8>, Held)> {
        let (levels, is_packed) = match head.kind {
            PageKind::DataV2 { definition, repetition, is_packed, .. } => {
                (definition + repetition, is_packed)
            }
            _ => (0, true),
        };
        let of_packed = self.budget.take(head.packed)?;
        if self.codec == Compression::UNCOMPRESSED || !is_packed {
            return Ok((self.bytes(self.at, head.packed)?, of_packed));
        }
        let of_unpacked = self.budget.take(head.unpacked)?;
        if levels > head.packed || levels > head.unpacked {
            return Err(no("the head of a page is damaged"));
        }
        let packed = self.bytes(self.at, head.packed)?;
        let mut unpacked = vec![0; head.unpacked];
        unpacked[..levels].copy_from_slice(&packed[..levels]);
        unpack(self.codec, &packed[levels..], &mut unpacked[levels..])?;
        Ok((unpacked, of_unpacked))
    }

    /// Checks a delta-encoded page, and returns the bytes that the crate allocates for its numbers and, in a list, for
    /// its repeated texts.
    fn check_delta(&self, head: &PageHead, body: &[u8]) -> Result<usize> {
        let fixed = self.column.physical_type() != Type::BYTE_ARRAY;
        match head.encoding {
            Encoding::DELTA_BINARY_PACKED => {}
            Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY if !fixed => {}
            Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY => {
                return Err(no("values of one length are coded by differences; write them plainly"));
            }
            _ => return Ok(0),
        }
        let (damaged, most) = (|| no("a page coded by differences is damaged"), head.values as u64);
        let mut values = self.values(head, body).ok_or_else(damaged)?;
        if head.encoding != Encoding::DELTA_BYTE_ARRAY {
            return match delta::count(values).filter(|&count| count <= most) {
                Some(count) => Ok(4 * count as usize),
                None => Err(damaged()),
            };
        }
        let prefixes = delta::numbers(&mut values, most).ok_or_else(damaged)?;
        let rests = delta::numbers(&mut values, most).ok_or_else(damaged)?;
        if prefixes.count != rests.count {
            return Err(damaged());
        }
        if prefixes.largest.max(rests.largest) > MAX_LINE {
            return Err(no(format!("a document is longer than {} MiB", MAX_LINE >> 20)));
        }
        let texts = if self.is_list() { prefixes.sum.saturating_add(rests.sum) } else { 0 };
        Ok(usize::try_from(texts).unwrap_or(usize::MAX).saturating_add(8 * head.values))
    }

    /// Returns the part of a body after the levels.
    fn values<'a>(&self, head: &PageHead, mut body: &'a [u8]) -> Option<&'a [u8]> {
        match head.kind {
            PageKind::DataV2 { definition, repetition, .. } => body.get(definition + repetition..),
            PageKind::Data { definition, repetition } => {
                for (level, encoding) in
                    [(self.column.max_rep_level(), repetition), (self.column.max_def_level(), definition)]
                {
                    if level > 0 {
                        let (length, rest) = body.split_first_chunk::<4>()?;
                        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                        body = rest.get(length..).filter(|_| encoding == Encoding::RLE)?;
                    }
                }
                Some(body)
            }
            _ => None,
        }
    }

    fn is_list(&self) -> bool {
        self.column.max_rep_level() > 0
    }

    fn read(&mut self, head: PageHead) -> Result<Page> {
        let (body, mut held) = self.body(&head)?;
        let of_values = VALUE_BYTES * head.values;
        if matches!(head.kind, PageKind::Dictionary) {
            held.grow(of_values)?;
            self.dictionary_memory = Some(held);
        } else {
            let of_delta = self.check_delta(&head, &body)?;
            match self.is_list() {
                true => self.hold_list(of_values.saturating_add(of_delta))?,
                false => held.grow(of_delta)?,
            }
            self.encoding_memory[head.encoding as usize] = Some(held);
        }
        Ok(page(head, body.into()))
    }

    fn hold_list(&mut self, bytes: usize) -> Result<()> {
        if self.list_row != self.budget.row() {
            self.list_row = self.budget.row();
            let before = self.list_memory.len().saturating_sub(1);
            self.list_memory.drain(..before); // the row may have begun in the previous page
        }
        self.list_memory.push(self.budget.take(bytes)?);
        Ok(())
    }
}

fn page(head: PageHead, buf: Bytes) -> Page {
    let (num_values, encoding) = (head.values as u32, head.encoding);
    match head.kind {
        PageKind::Dictionary | PageKind::Index => {
            Page::DictionaryPage { buf, num_values, encoding, is_sorted: false }
        }
        PageKind::Data { definition, repetition } => Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: definition,
            rep_level_encoding: repetition,
            statistics: None,
        },
        PageKind::DataV2 { nulls, rows, definition, repetition, is_packed } => Page::DataPageV2 {
            buf,
            num_values,
            encoding,
            num_nulls: nulls as u32,
            num_rows: rows as u32,
            def_levels_byte_len: definition as u32,
            rep_levels_byte_len: repetition as u32,
            is_compressed: is_packed,
            statistics: None,
        },
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        if let Some(dictionary) = self.dictionary.take() {
            return Ok(Some(dictionary));
        }
        let Some(head) = self.peek()? else { return Ok(None) };
        let page = self.read(head)?;
        self.skip_next_page()?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.peek()?.map(|head| PageMetadata {
            num_rows: match head.kind {
                PageKind::DataV2 { rows, .. } => Some(rows),
                _ => None,
            },
            num_levels: Some(head.values).filter(|_| !matches!(head.kind, PageKind::Dictionary)),
            is_dict: matches!(head.kind, PageKind::Dictionary),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if let Some(head) = self.peek()? {
            self.at += head.packed as u64;
            self.head = None;
        }
        Ok(())
    }
}
