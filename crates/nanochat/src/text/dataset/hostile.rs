//! Tests with parquet files whose claims are false, built byte by byte.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DatasetError, OnBadShard, RowAt, Shards, Split};
use crate::files::lines::MAX_LINE;
use crate::files::table;

/// A builder of encoded Thrift structs: `.int(3, -1)` is field 3.
#[derive(Clone, Default)]
struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

impl Struct {
    fn field(mut self, id: u8, kind: u8) -> Struct {
        self.bytes.push((id - self.last) << 4 | kind);
        self.last = id;
        self
    }

    fn number(mut self, id: u8, kind: u8, value: i64) -> Struct {
        self = self.field(id, kind);
        varint(&mut self.bytes, (value << 1 ^ value >> 63) as u64);
        self
    }

    fn int(self, id: u8, value: i64) -> Struct {
        self.number(id, 5, value)
    }

    fn long(self, id: u8, value: i64) -> Struct {
        self.number(id, 6, value)
    }

    fn text(mut self, id: u8, text: &str) -> Struct {
        self = self.field(id, 8);
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend(text.as_bytes());
        self
    }

    fn inner(mut self, id: u8, inner: &Struct) -> Struct {
        self = self.field(id, 12);
        self.bytes.extend(inner.end());
        self
    }

    fn list(mut self, id: u8, kind: u8, items: &[Vec<u8>]) -> Struct {
        self = self.field(id, 9);
        self.bytes.push(0xf0 | kind);
        varint(&mut self.bytes, items.len() as u64);
        self.bytes.extend(items.concat());
        self
    }

    fn end(&self) -> Vec<u8> {
        [self.bytes.as_slice(), &[0]].concat()
    }
}

/// The claims of a file with one column of required texts.
struct Claims {
    schema: Vec<Vec<u8>>,
    rows: i64,
    codec: i64,
    unpacked: i64,
    offset: i64,
    /// The number of row groups, which all share the same pages.
    groups: usize,
}

impl Default for Claims {
    fn default() -> Claims {
        let root = Struct::default().text(4, "m").int(5, 1).end();
        let column = Struct::default().int(1, 6).int(3, 0).text(4, "text").int(6, 0).end();
        Claims { schema: vec![root, column], rows: 2, codec: 0, unpacked: 100, offset: 4, groups: 1 }
    }
}

const ZSTD: i64 = 6;

impl Claims {
    fn write(&self, path: &Path, pages: &[u8]) {
        let one = |bytes: &[u8]| -> Vec<Vec<u8>> { vec![bytes.to_vec()] };
        let meta = Struct::default()
            .int(1, 6)
            .list(2, 5, &one(&[0]))
            .list(3, 8, &one(b"\x04text"))
            .int(4, self.codec)
            .long(5, self.rows)
            .long(6, self.unpacked)
            .long(7, pages.len() as i64)
            .long(9, self.offset);
        let chunk = Struct::default().long(2, 0).inner(3, &meta).end();
        let group =
            Struct::default().list(1, 12, &one(&chunk)).long(2, self.unpacked).long(3, self.rows).end();
        let footer = Struct::default()
            .int(1, 1)
            .list(2, 12, &self.schema)
            .long(3, self.rows)
            .list(4, 12, &vec![group; self.groups])
            .end();
        let size = (footer.len() as u32).to_le_bytes();
        fs::write(path, [b"PAR1", pages, &footer, &size, b"PAR1"].concat()).unwrap();
    }
}

/// Returns a page with its header: its kind (0 data, 2 dictionary), claimed unpacked size, number of values, encoding.
fn page(kind: i64, unpacked: i64, [values, encoding]: [i64; 2], body: &[u8]) -> Vec<u8> {
    let head = Struct::default().int(1, kind).int(2, unpacked).int(3, body.len() as i64);
    let head = match kind {
        2 => head.inner(7, &Struct::default().int(1, values).int(2, encoding)),
        _ => head.inner(5, &Struct::default().int(1, values).int(2, encoding).int(3, 3).int(4, 3)),
    };
    [&head.end(), body].concat()
}

fn plain(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes(), *text].concat()).collect()
}

fn read(path: &Path) -> Result<Vec<String>, DatasetError> {
    Shards::open_validation(path, OnBadShard::Refuse)?.texts(Split::Val).collect()
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("hostile.parquet");
    (temp, path)
}

#[track_caller]
fn refused(path: &Path, part: &str) {
    let error = read(path).unwrap_err().to_string();
    assert!(error.contains("hostile.parquet") && error.contains(part), "{error}");
}

#[test]
fn the_file_that_tells_the_truth_is_read() {
    let (_temp, path) = file();
    let body = plain(&["猫".as_bytes(), b"two"]);
    Claims::default().write(&path, &page(0, body.len() as i64, [2, 0], &body));
    assert_eq!(read(&path).unwrap(), ["猫", "two"]);
    let packed = zstd::encode_all(&body[..], 1).unwrap();
    Claims { codec: ZSTD, ..Claims::default() }.write(&path, &page(0, body.len() as i64, [2, 0], &packed));
    assert_eq!(read(&path).unwrap(), ["猫", "two"]);
}

#[test]
fn pages_that_lie_about_what_they_hold_are_refused() {
    let (_temp, path) = file();
    let body = plain(&[b"one", b"two"]);
    let (long, most) = (body.len() as i64, i64::from(i32::MAX));
    let zstd = || Claims { codec: ZSTD, ..Claims::default() };
    let packed = zstd::encode_all(&body[..], 1).unwrap();
    zstd().write(&path, &page(0, most, [2, 0], &packed));
    refused(&path, "take 2048 MiB of memory at once, more than 640");
    zstd().write(&path, &page(0, 1 << 28, [2, 0], &packed));
    refused(&path, "a page of 268435456 bytes unpacks to 14");
    for kind in [0, 2] {
        Claims::default().write(&path, &page(kind, long, [most, 0], &body));
        refused(&path, "claims 2147483647 values");
    }
    zstd().write(&path, &page(2, long, [1 << 24, 0], &packed)); // 32 bytes for each
    refused(&path, "take 640 MiB of memory");
    Claims::default().write(&path, &page(2, long, [long, 0], &body));
    refused(&path, "");
    Claims::default().write(&path, &page(0, long, [2, 12], &body));
    refused(&path, "encoding 12 of parquet");
    // A field that occurs twice, and a field of the wrong type.
    let head = Struct::default().int(1, 0).int(2, long).int(3, long);
    let mut again = head.bytes;
    again.extend([0x05, 4]); // field 2, its number written out
    varint(&mut again, 2 * most as u64);
    Claims::default().write(&path, &[&again[..], &[0]].concat());
    refused(&path, "the head of a page is damaged");
    Claims::default().write(&path, &Struct::default().int(1, 0).text(2, "").end());
    refused(&path, "the head of a page is damaged");
}

/// Pages of sixteen megabytes of one letter that claim to have a hundred bytes.
#[test]
fn no_packing_unpacks_past_what_its_page_claims() {
    let (_temp, path) = file();
    let zeros = vec![b'0'; 16 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &zeros).unwrap();
    for (codec, packed) in [
        (1, snap::raw::Encoder::new().compress_vec(&zeros).unwrap()),
        (2, gzip.finish().unwrap()),
        (4, [91, 255, 255, 15, 64, 2, 38, 30, 11, 36, 247, 254, 1].to_vec()), // one megabyte, by pyarrow
        (5, lz4_flex::block::compress(&zeros)),
        (6, zstd::encode_all(&zeros[..], 1).unwrap()),
        (7, lz4_flex::block::compress(&zeros)),
    ] {
        Claims { codec, ..Claims::default() }.write(&path, &page(0, 100, [2, 0], &packed));
        refused(&path, "a page of 100 bytes");
    }
    Claims { codec: 3, ..Claims::default() }.write(&path, &page(0, 100, [2, 0], b"lzo"));
    refused(&path, "packed by LZO; write it with zstd");
}

#[test]
fn a_document_may_be_as_long_as_a_line() {
    let (_temp, path) = file();
    for (length, is_read) in [(MAX_LINE as usize, true), (MAX_LINE as usize + 1, false)] {
        let body = plain(&[&vec![b'0'; length]]);
        let packed = zstd::encode_all(&body[..], 1).unwrap();
        Claims { rows: 1, codec: ZSTD, ..Claims::default() }
            .write(&path, &page(0, body.len() as i64, [1, 0], &packed));
        match is_read {
            true => assert_eq!(read(&path).unwrap()[0].len(), length),
            false => refused(&path, "a document is longer than 64 MiB"),
        }
    }
}

/// Encodes numbers in DELTA_BINARY_PACKED, all with 32 bits.
fn deltas(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = vec![128, 1, 4];
    varint(&mut bytes, numbers.len() as u64);
    varint(&mut bytes, u64::from(numbers[0]) << 1);
    let differences: Vec<u32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    for block in differences.chunks(128) {
        bytes.push(0); // the smallest difference
        bytes.extend([32; 4]);
        let filled = block.iter().copied().chain(std::iter::repeat(0)).take(block.len().next_multiple_of(32));
        bytes.extend(filled.flat_map(u32::to_le_bytes));
    }
    bytes
}

#[test]
fn differences_that_claim_more_than_they_have_are_refused() {
    let (_temp, path) = file();
    let lengths = [128, 1, 4, 128, 128, 128, 128, 128, 32, 0]; // 2^40 of them, all the same
    for encoding in [6, 7] {
        Claims::default().write(&path, &page(0, 10, [2, encoding], &lengths));
        refused(&path, "coded by differences is damaged");
    }
    let numbers = |numbers: [u32; 2]| deltas(&numbers);
    for (prefixes, rests, part) in [
        ([0, 1], [1, 1], ""),
        ([0, 9], [1, 1], ""),
        ([0, 0], [1, 9], "damaged"),
        ([0, 0], [1, u32::MAX], "damaged"),
        ([0, 65 << 20], [1, 1], "a document is longer"),
    ] {
        let body = [numbers(prefixes), numbers(rests), b"ab".to_vec()].concat();
        Claims::default().write(&path, &page(0, body.len() as i64, [2, 7], &body));
        match read(&path) {
            Ok(texts) => assert_eq!((prefixes, texts), ([0, 1], vec!["a".to_string(), "ab".into()])),
            Err(_) => refused(&path, part),
        }
    }
}

#[test]
fn footers_that_lie_are_refused() {
    let (_temp, path) = file();
    let body = plain(&[b"one", b"two"]);
    let pages = page(0, body.len() as i64, [2, 0], &body);
    let group = |children| Struct::default().int(3, 0).text(4, "g").int(5, children).end();
    let leaf = Claims::default().schema[1].clone();
    let root = Claims::default().schema[0].clone();
    let deep: Vec<Vec<u8>> = [vec![root.clone()], vec![group(1); 9_000], vec![leaf.clone()]].concat();
    Claims { schema: deep, ..Claims::default() }.write(&path, &pages);
    refused(&path, "nested deeper");
    let wide = vec![Struct::default().text(4, "m").int(5, i64::from(i32::MAX)).end(), leaf.clone()];
    Claims { schema: wide, ..Claims::default() }.write(&path, &pages);
    refused(&path, "nested deeper");
    Claims { schema: vec![leaf; 1_000_000], ..Claims::default() }.write(&path, &pages);
    refused(&path, "it has 1000000 columns");
    for (claims, part) in [
        (Claims { rows: i64::MAX, ..Claims::default() }, "do not hold 9223372036854775807 rows"),
        (Claims { rows: 3, ..Claims::default() }, "ends early"),
        (Claims { groups: 100, ..Claims::default() }, "shorter than its columns"),
        (Claims { rows: -1, ..Claims::default() }, ""),
        (Claims { offset: -9, ..Claims::default() }, ""),
        (Claims { offset: i64::MAX, ..Claims::default() }, ""),
        (Claims { unpacked: -9, ..Claims::default() }, ""),
    ] {
        claims.write(&path, &pages);
        match part {
            "" => drop(read(&path)), // an error or the texts
            part => refused(&path, part),
        }
    }
    let shards = Shards::open_validation(&path, OnBadShard::Refuse);
    assert!(shards.is_ok_and(|shards| shards.passed(Split::Val, RowAt::default()) == 0.0));
    fs::write(&path, b"PAR1\0\0\0\x40PAR1").unwrap();
    refused(&path, "does not end as parquet files do");
    // A footer of 32 MB in a file that is large enough.
    fs::write(&path, [&vec![0x1c; 32 << 20][..], &(32u32 << 20).to_le_bytes(), b"PAR1"].concat()).unwrap();
    refused(&path, "footer of 32 MB");
    fs::write(&path, [&vec![0x1c; 1 << 20][..], &(1u32 << 20).to_le_bytes(), b"PAR1"].concat()).unwrap();
    refused(&path, "footer is damaged");
}

/// Returns ten megabytes of text. A thousand rows that repeat it are ten gigabytes in a small file.
fn ten_megabytes() -> Vec<u8> {
    let mut rng = nanochat_tensor::Rng::new(&[1]);
    let letter = |i| if i % 64 == 0 { b'a' + rng.below(26) as u8 } else { b'a' };
    (0..10 << 20).map(letter).collect()
}

/// Encodes the repeated text in two ways: as a dictionary of one text, and as texts that share a prefix with the one
/// before.
fn repeated(text: &[u8], levels: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let (dictionary, length) = (plain(&[text]), text.len() as u32);
    let indices = [levels, &[1, 0xd0, 0x0f, 0]].concat(); // width 1; 1,000 times 0
    let by_dictionary = [
        page(2, dictionary.len() as i64, [1, 0], &zstd::encode_all(&dictionary[..], 1).unwrap()),
        page(0, indices.len() as i64, [1_000, 8], &zstd::encode_all(&indices[..], 1).unwrap()),
    ];
    let (mut prefixes, mut rests) = ([length; 1_000], [0; 1_000]);
    (prefixes[0], rests[0]) = (0, length);
    let body = [levels, &deltas(&prefixes), &deltas(&rests), text].concat();
    let by_differences = page(0, body.len() as i64, [1_000, 7], &zstd::encode_all(&body[..], 1).unwrap());
    [("dictionary", by_dictionary.concat()), ("differences", by_differences)]
}

#[test]
fn rows_that_repeat_a_long_text_come_few_at_a_time() {
    let (_temp, path) = file();
    for (way, pages) in repeated(&ten_megabytes(), &[]) {
        Claims { rows: 1_000, codec: ZSTD, ..Claims::default() }.write(&path, &pages);
        assert!(fs::metadata(&path).unwrap().len() < 1 << 20, "{way}");
        let shards = Shards::open_validation(&path, OnBadShard::Refuse).unwrap();
        for first in [0, 900] {
            let mut rows = first;
            for chunk in shards.chunks(Split::Val, RowAt { row: first, ..RowAt::default() }).take(5) {
                let chunk = chunk.unwrap();
                assert_eq!((chunk.at.row, chunk.texts.len()), (rows, 2), "{way}");
                rows += 2;
            }
        }
        let mut rows = table::rows(&path).unwrap();
        assert_eq!(rows.nth(20).unwrap().unwrap().text("text").unwrap().len(), 10 << 20, "{way}");
    }
}

#[test]
fn a_row_that_lists_a_long_text_a_thousand_times_is_refused() {
    let (_temp, path) = file();
    // All values belong to one row: repetition levels 0, then 999 times 1; definition levels 1.
    let repetition = [2, 0, 0xce, 0x0f, 1];
    let definition = [0xd0, 0x0f, 1];
    let levels = [&[5, 0, 0, 0], &repetition[..], &[3, 0, 0, 0], &definition].concat();
    let root = Claims::default().schema[0].clone();
    let list = Struct::default().int(1, 6).int(3, 2).text(4, "text").int(6, 0).end();
    let claims = Claims { schema: vec![root, list], rows: 1, codec: ZSTD, ..Claims::default() };
    for (way, pages) in repeated(b"short", &levels) {
        claims.write(&path, &pages);
        let row = table::rows(&path).unwrap().next().unwrap().unwrap();
        assert_eq!(row.strings("text").unwrap(), vec!["short"; 1_000], "{way}");
    }
    let expected = ["longer than 128 MiB", "MiB of memory at once"];
    for ((way, pages), part) in repeated(&ten_megabytes(), &levels).into_iter().zip(expected) {
        claims.write(&path, &pages);
        let error = table::rows(&path).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains(part), "{way}: {error}");
    }
}
