//! Parquet files made to lie, byte by byte.

use std::fs;
use std::path::Path;

use super::*;

/// Thrift structs as they are written: `.int(3, -1)` is field 3.
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

/// What a file of one column of required texts says of itself.
struct Claims {
    schema: Vec<Vec<u8>>,
    rows: i64,
    codec: i64,
    unpacked: i64,
    offset: i64,
}

impl Default for Claims {
    fn default() -> Claims {
        let root = Struct::default().text(4, "m").int(5, 1).end();
        let column = Struct::default().int(1, 6).int(3, 0).text(4, "text").int(6, 0).end();
        Claims { schema: vec![root, column], rows: 2, codec: 0, unpacked: 100, offset: 4 }
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
            .list(4, 12, &one(&group))
            .end();
        let size = (footer.len() as u32).to_le_bytes();
        fs::write(path, [b"PAR1", pages, &footer, &size, b"PAR1"].concat()).unwrap();
    }
}

/// A page and its head: its kind (0 data, 2 dictionary), what it claims to unpack to, how many values, which encoding.
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

fn read(path: &Path) -> Result<Vec<String>, DataError> {
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
    Claims { codec: 2, ..Claims::default() }.write(&path, &page(0, long, [2, 0], b"gzip"));
    refused(&path, "zstd and snappy");
    let packed = zstd::encode_all(&body[..], 1).unwrap();
    zstd().write(&path, &page(0, most, [2, 0], &packed));
    refused(&path, "a page of 2047 MB is too large");
    zstd().write(&path, &page(0, 1 << 28, [2, 0], &packed));
    refused(&path, "unpack to 268435456 are no text");
    // A bomb: what it claims for the whole column is little, and the page is as large as it says.
    let zeros = vec![b'0'; 64 << 20];
    let bomb = zstd::encode_all(&plain(&[&zeros])[..], 1).unwrap();
    Claims { rows: 1, ..zstd() }.write(&path, &page(0, (64 << 20) + 4, [1, 0], &bomb));
    refused(&path, "are no text");
    for kind in [0, 2] {
        Claims::default().write(&path, &page(kind, long, [most, 0], &body));
        refused(&path, "claims 2147483647 values");
    }
    Claims::default().write(&path, &page(2, long, [long, 0], &body));
    refused(&path, "claims 14 values");
    // A stream of 2^40 lengths, all the same, in a few bytes.
    for encoding in [6, 7] {
        Claims::default().write(&path, &page(0, 9, [2, encoding], &[128, 1, 4, 128, 128, 128, 128, 128, 32]));
        refused(&path, "coded by differences");
    }
    // A field given twice, and one of another type than it has.
    let head = Struct::default().int(1, 0).int(2, long).int(3, long);
    let mut again = head.bytes;
    again.extend([0x05, 4]); // field 2, its number written out
    varint(&mut again, 2 * most as u64);
    Claims::default().write(&path, &[&again[..], &[0]].concat());
    refused(&path, "too large");
    Claims::default().write(&path, &Struct::default().int(1, 0).text(2, "").end());
    refused(&path, "the head of a page is damaged");
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
        (Claims { rows: i64::MAX, ..Claims::default() }, "ends early"),
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
    // A footer of 32 MB in a file that has as much.
    fs::write(&path, [&vec![0x1c; 32 << 20][..], &(32u32 << 20).to_le_bytes(), b"PAR1"].concat()).unwrap();
    refused(&path, "footer of 32 MB");
    fs::write(&path, [&vec![0x1c; 1 << 20][..], &(1u32 << 20).to_le_bytes(), b"PAR1"].concat()).unwrap();
    refused(&path, "footer is damaged");
}

/// A dictionary of one long text and a thousand rows that are it: ten gigabytes' worth in a small file.
#[test]
fn rows_that_repeat_a_long_text_come_few_at_a_time() {
    let (_temp, path) = file();
    let mut rng = nanochat_tensor::Rng::new(&[1]);
    let letter = |i| if i % 64 == 0 { b'a' + rng.below(26) as u8 } else { b'a' };
    let text: Vec<u8> = (0..10 << 20).map(letter).collect();
    let dictionary = plain(&[&text]);
    let packed = zstd::encode_all(&dictionary[..], 1).unwrap();
    let indices = zstd::encode_all(&[1u8, 0xd0, 0x0f, 0][..], 1).unwrap(); // width 1; 1,000 times 0
    let pages =
        [page(2, dictionary.len() as i64, [1, 0], &packed), page(0, 4, [1_000, 8], &indices)].concat();
    Claims { rows: 1_000, codec: ZSTD, ..Claims::default() }.write(&path, &pages);
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    let shards = Shards::open_validation(&path, OnBadShard::Refuse).unwrap();
    let mut rows = 0;
    for chunk in shards.chunks(Split::Val, RowAt::default()).take(10) {
        let chunk = chunk.unwrap();
        assert_eq!((chunk.at.row, chunk.texts.len()), (rows, 2));
        rows += 2;
    }
}
