//! Reads the header of a page: its length and the kind of its values.

use parquet::basic::Encoding;
use parquet::errors::Result;

use super::no;
use super::thrift::{I32, STRUCT, Thrift};

/// The maximum values of a page; a hostile one may claim more nulls than there is time for.
const MAX_VALUES: usize = 1 << 24;

#[derive(Clone, Copy, Debug)]
pub struct PageHead {
    /// The page's bytes in the file.
    pub packed: usize,
    pub unpacked: usize,
    pub values: usize,
    pub encoding: Encoding,
    pub kind: PageKind,
}

#[derive(Clone, Copy, Debug)]
pub enum PageKind {
    Dictionary,
    /// A data page, with the encodings of its levels.
    Data {
        definition: Encoding,
        repetition: Encoding,
    },
    /// A data page of version 2, with the bytes of its levels, which are never packed.
    DataV2 {
        nulls: usize,
        rows: usize,
        definition: usize,
        repetition: usize,
        is_packed: bool,
    },
    /// An index page, which a reader of all rows does not need.
    Index,
}

impl PageHead {
    /// Reads a header and returns it with its length in bytes, or None if `bytes` do not hold a whole one.
    pub fn read(bytes: &[u8]) -> Option<(Result<PageHead>, usize)> {
        let mut thrift = Thrift(bytes);
        let (mut page, mut kinds) = (HeadNumbers::default(), [HeadNumbers::default(); 3]);
        thrift.fields(|id, kind, thrift| match (id, kind) {
            (5, STRUCT) => kinds[0].read(thrift),
            (7, STRUCT) => kinds[1].read(thrift),
            (8, STRUCT) => kinds[2].read(thrift),
            _ => page.take(id, kind, thrift),
        })?;
        Some((PageHead::of(page, kinds), bytes.len() - thrift.0.len()))
    }

    fn of(page: HeadNumbers, [data, dictionary, data_v2]: [HeadNumbers; 3]) -> Result<PageHead> {
        let (numbers, encoding_at) = match page.get(1)? {
            0 => (data, 2),
            2 => (dictionary, 2),
            3 => (data_v2, 4),
            _ => {
                return Ok(PageHead {
                    kind: PageKind::Index,
                    values: 0,
                    encoding: Encoding::PLAIN,
                    ..PageHead::sizes(page)?
                });
            }
        };
        let head = PageHead {
            values: numbers.get(1)?,
            encoding: encoding(numbers.get(encoding_at)?)?,
            kind: match page.get(1)? {
                0 => PageKind::Data {
                    definition: encoding(numbers.get(3)?)?,
                    repetition: encoding(numbers.get(4)?)?,
                },
                2 => PageKind::Dictionary,
                _ => PageKind::DataV2 {
                    nulls: numbers.get(2)?,
                    rows: numbers.get(3)?,
                    definition: numbers.get(5)?,
                    repetition: numbers.get(6)?,
                    is_packed: numbers.0[7] != Some(0), // packed by default
                },
            },
            ..PageHead::sizes(page)?
        };
        match head.values > MAX_VALUES {
            true => Err(no(format!("a page of {} bytes claims {} values", head.unpacked, head.values))),
            false => Ok(head),
        }
    }

    fn sizes(page: HeadNumbers) -> Result<PageHead> {
        let (unpacked, packed) = (page.get(2)?, page.get(3)?);
        Ok(PageHead { packed, unpacked, values: 0, encoding: Encoding::PLAIN, kind: PageKind::Index })
    }
}

/// The integers and flags of a struct by field number; of a repeated field, the last.
#[derive(Clone, Copy, Default)]
struct HeadNumbers([Option<i64>; 8]);

impl HeadNumbers {
    fn read(&mut self, thrift: &mut Thrift) -> Option<bool> {
        thrift.fields(|id, kind, thrift| self.take(id, kind, thrift))?;
        Some(true)
    }

    fn take(&mut self, id: i64, kind: u8, thrift: &mut Thrift) -> Option<bool> {
        let Some(number) = usize::try_from(id).ok().and_then(|id| self.0.get_mut(id)) else {
            return Some(false);
        };
        match kind {
            1 | 2 => *number = Some(i64::from(kind == 1)), // a flag's value is its type
            I32 => *number = Some(thrift.int()?),
            _ => {
                *number = None;
                return Some(false);
            }
        }
        Some(true)
    }

    fn get(&self, id: usize) -> Result<usize> {
        let number = self.0[id].and_then(|number| i32::try_from(number).ok()?.try_into().ok());
        number.ok_or_else(|| no("the head of a page is damaged"))
    }
}

fn encoding(number: usize) -> Result<Encoding> {
    #[expect(deprecated, reason = "old files have it for levels, and columns without levels may name it")]
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        4 => Encoding::BIT_PACKED,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        other => {
            return Err(no(format!(
                "a page is in encoding {other} of parquet, which is not read; write it plainly"
            )));
        }
    })
}
