//! Handles text that is not UTF-8: decodes it to UTF-8 while reading, or recognizes its encoding so that an error can
//! name it.

use std::io::{BufRead, Cursor, Read, Result};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use encoding_rs::{BIG5, Decoder, DecoderResult, GBK, UTF_8, UTF_16BE, UTF_16LE};

/// The bytes at the beginning of a file from which its encoding is determined.
const HEAD: u64 = 64 << 10;
/// The bytes of UTF-8 that are decoded at a time.
const DECODED: usize = 16 << 10;
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
/// The maximum number of malformed lines that are remembered.
const LINES_KEPT: usize = 5;

/// A character encoding of the WHATWG standard (encoding.spec.whatwg.org); GBK is read as its superset GB18030.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding(&'static encoding_rs::Encoding);

/// Text as UTF-8 or, if its encoding is unknown, as the bytes of the file.
pub struct Text {
    pub reader: Box<dyn BufRead + Send>,
    /// The encoding that `reader` decodes; None if it returns the bytes of the file.
    pub decoded_from: Option<Encoding>,
    /// The encoding that the file seems to have, if none was named.
    pub looks_like: Option<Encoding>,
    /// The malformed sequences found so far while reading from `reader`.
    pub malformed: Arc<Mutex<Malformed>>,
}

/// Byte sequences that are invalid in the encoding, read as U+FFFD.
#[derive(Debug, Default)]
pub struct Malformed {
    pub sequences: usize,
    /// The first lines with such sequences, counted from 1.
    pub lines: Vec<usize>,
}

impl Text {
    /// Makes a reader. A byte order mark decides the encoding; without one, text that is not UTF-8 is read in the
    /// encoding `named`. A UTF-8 file among others in GBK stays UTF-8: its beginning is valid UTF-8, which GBK text
    /// never is for long.
    pub fn new(mut packed: Box<dyn BufRead + Send>, named: Option<Encoding>) -> Result<Text> {
        let mut head = Vec::new();
        packed.by_ref().take(HEAD).read_to_end(&mut head)?;
        let (marked, mark) = encoding_rs::Encoding::for_bom(&head).unwrap_or((UTF_8, 0));
        let valid = is_utf8(&head);
        let decoded_from = match (marked != UTF_8, named) {
            (true, _) => Some(Encoding(marked)),
            (false, Some(named)) if mark == 0 && (head.is_ascii() || !valid || named.0 == UTF_8) => {
                Some(named)
            }
            _ => None,
        };
        // English text in UTF-16 is valid UTF-8 with a NUL after each letter.
        let foreign = decoded_from.is_none() && mark == 0 && (head.contains(&0) || !valid);
        let looks_like = if foreign { Encoding::guess(&head) } else { None };
        let mut head = Cursor::new(head);
        head.set_position(mark as u64);
        let bytes = head.chain(packed);
        let malformed = Arc::default();
        let reader: Box<dyn BufRead + Send> = match decoded_from {
            Some(encoding) => Box::new(Decoded::new(bytes, encoding, Arc::clone(&malformed))),
            None => Box::new(bytes),
        };
        Ok(Text { reader, decoded_from, looks_like, malformed })
    }
}

/// Whether these bytes are valid UTF-8; the last character may be cut.
fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

impl Encoding {
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    pub fn is_utf16(self) -> bool {
        self.0 == UTF_16LE || self.0 == UTF_16BE
    }

    /// Guesses the encoding of Chinese text: the one in which the most frequent characters are frequent. They make up a
    /// good third of any text, and a hundredth of wrongly decoded text.
    pub fn guess(bytes: &[u8]) -> Option<Encoding> {
        let bytes = &bytes[..bytes.len().min(HEAD as usize)];
        let score = |encoding: Encoding| {
            let (text, _) = encoding.0.decode_without_bom_handling(bytes);
            let considered = text.chars().filter(|c| encoding.is_utf16() || !c.is_ascii());
            let (mut all, mut common) = (0, 0);
            for c in considered {
                all += 1;
                common += usize::from(COMMON.contains(c) || matches!(c, ' '..='~' | '\n' | '\r'));
            }
            (encoding, common as f32 / f32::max(all as f32, 1.0))
        };
        let scores = [GBK, BIG5, UTF_16LE, UTF_16BE].map(|encoding| score(Encoding(encoding)));
        let best = scores.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|(_, score)| *score >= 0.15).map(|(encoding, _)| encoding)
    }
}

/// Punctuation and the most frequent Chinese characters, simplified and traditional.
const COMMON: &str = "，。、：；？！“”「」（）《》的一是不了我人在有他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对\
    對生能而子那得于於着著下自之年过過发發后後作里裡用道行所然家种種事成方多经經么麼去法学學如都同现現当當没沒动動\
    面起看定天分还還进進好小部其些主样樣理心本前开開但因只从從想实實日三十二水今";

impl FromStr for Encoding {
    type Err = String;

    /// Parses a WHATWG label, or a name used by Python or Windows.
    fn from_str(name: &str) -> std::result::Result<Encoding, String> {
        let label = match name.to_ascii_lowercase().as_str() {
            "cp936" | "936" => "gbk".into(),
            "cp950" | "950" => "big5".into(),
            other => other.replace('_', "-").replace("utf-16-", "utf-16"),
        };
        match encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()) {
            Some(encoding) => Ok(Encoding(encoding)),
            None => {
                Err("no encoding is called so; some are gbk, gb18030, big5, utf-16le, utf-16be, shift_jis, \
                         euc-kr, windows-1252"
                    .into())
            }
        }
    }
}

/// A reader that decodes `source` to UTF-8.
struct Decoded<R> {
    source: R,
    decoder: Decoder,
    text: Box<[u8]>,
    /// The decoded bytes not yet returned are `text[taken..filled]`.
    taken: usize,
    filled: usize,
    ended: bool,
    line: usize,
    malformed: Arc<Mutex<Malformed>>,
}

impl<R: BufRead> Decoded<R> {
    fn new(source: R, encoding: Encoding, malformed: Arc<Mutex<Malformed>>) -> Decoded<R> {
        let decoder = encoding.0.new_decoder_without_bom_handling();
        let text = vec![0; DECODED].into();
        Decoded { source, decoder, text, taken: 0, filled: 0, ended: false, line: 1, malformed }
    }

    fn refill(&mut self) -> Result<()> {
        let bytes = self.source.fill_buf()?;
        let last = bytes.is_empty();
        let space = &mut self.text[..DECODED - REPLACEMENT.len()];
        let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(bytes, space, last);
        self.source.consume(read);
        (self.taken, self.filled) = (0, written);
        self.line += self.text[..written].iter().filter(|&&byte| byte == b'\n').count();
        match result {
            DecoderResult::InputEmpty => self.ended = last,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => {
                self.text[written..][..REPLACEMENT.len()].copy_from_slice(REPLACEMENT);
                self.filled += REPLACEMENT.len();
                self.malformed.lock().expect("no code panics while it holds this lock").add(self.line);
            }
        }
        Ok(())
    }
}

impl Malformed {
    fn add(&mut self, line: usize) {
        self.sequences += 1;
        if self.lines.len() < LINES_KEPT && self.lines.last() != Some(&line) {
            self.lines.push(line);
        }
    }
}

impl<R: BufRead> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        while self.taken == self.filled && !self.ended {
            self.refill()?;
        }
        Ok(&self.text[self.taken..self.filled])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZH: &str = "春天来了，院子里的桃花开得正好。老人坐在树下，给孩子们讲很久以前的故事。\n故事里有一条会说话的河。\n";
    const TRADITIONAL: &str =
        "漢字簡化以前，臺灣與香港的書籍都用繁體字印刷。圖書館裡還藏著許多舊書，讀者可以慢慢翻看。\n";

    fn named(name: &str) -> Option<Encoding> {
        Some(name.parse().unwrap())
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn gbk(text: &str) -> Vec<u8> {
        GBK.encode(text).0.into_owned()
    }

    /// Returns the text, its encoding, and what was malformed. The input comes three bytes at a time.
    fn read(bytes: &[u8], name: Option<Encoding>) -> (Vec<u8>, Option<&'static str>, usize, Vec<usize>) {
        let packed = std::io::BufReader::with_capacity(3, Cursor::new(bytes.to_vec()));
        let Text { mut reader, decoded_from, malformed, .. } = Text::new(Box::new(packed), name).unwrap();
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        let malformed = malformed.lock().unwrap();
        (text, decoded_from.map(Encoding::name), malformed.sequences, malformed.lines.clone())
    }

    #[test]
    fn text_is_decoded_by_its_mark_or_by_name() {
        let long = ZH.repeat(3_000);
        let big5 = BIG5.encode(TRADITIONAL).0.into_owned();
        let [le, be] =
            [u16::to_le_bytes, u16::to_be_bytes].map(|bytes| utf16(&format!("\u{feff}{ZH}"), bytes));
        let check = |bytes: &[u8], name, text: &str, decoded_from: Option<&'static str>| {
            assert_eq!(read(bytes, name), (text.as_bytes().to_vec(), decoded_from, 0, vec![]));
        };
        check(&gbk(&long), named("gbk"), &long, Some("GBK"));
        check(&big5, named("Big5"), TRADITIONAL, Some("Big5"));
        check(&le, None, ZH, Some("UTF-16LE"));
        check(&be, named("gbk"), ZH, Some("UTF-16BE"));
        check(&be[2..], named("utf_16_be"), ZH, Some("UTF-16BE"));
        check(b"plain", named("cp936"), "plain", Some("GBK"));
        // A UTF-8 file among files of another encoding.
        check(long.as_bytes(), named("gbk"), &long, None);
        check(b"\xef\xbb\xbfmarked", named("gbk"), "marked", None);
        check(b"", named("gbk"), "", Some("GBK"));
        assert_eq!(read(b"caf\xe9", None).0, b"caf\xe9", "bytes in an unknown encoding stay as they are");
        assert!("utf-7".parse::<Encoding>().is_err() && "hz-gb-2312".parse::<Encoding>().is_err());
    }

    #[test]
    fn malformed_bytes_are_counted_with_their_lines() {
        let mut bytes = gbk("一行\n二行\n");
        bytes.splice(2..2, [0xff]);
        bytes.extend([0x81, b'\n', 0x81, 0x20, b'\n', 0xb0]);
        let text = "一\u{fffd}行\n二行\n\u{fffd}\n\u{fffd} \n\u{fffd}".as_bytes().to_vec();
        assert_eq!(read(&bytes, named("gbk")), (text, Some("GBK"), 4, vec![1, 3, 4, 5]));
    }

    #[test]
    fn chinese_is_recognised_in_five_encodings_and_other_bytes_in_none() {
        let name = |bytes: &[u8]| Encoding::guess(bytes).map(Encoding::name);
        assert_eq!(name(&gbk(ZH)), Some("GBK"));
        assert_eq!(name(&gbk(TRADITIONAL)), Some("GBK"));
        assert_eq!(name(&gbk("你好")), Some("GBK"));
        assert_eq!(name(&BIG5.encode(TRADITIONAL).0), Some("Big5"));
        for text in [ZH, TRADITIONAL, "plain English"] {
            assert_eq!(name(&utf16(text, u16::to_le_bytes)), Some("UTF-16LE"));
            assert_eq!(name(&utf16(text, u16::to_be_bytes)), Some("UTF-16BE"));
        }
        let noise: Vec<u8> = (0..4_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let russian = encoding_rs::WINDOWS_1251.encode("Проверка русского текста").0;
        for bytes in [&b"caf\xe9 latin"[..], &russian, &noise, b""] {
            assert_eq!(name(bytes), None, "{bytes:?}");
        }
    }
}
