//! Detects the language of a text, as an ISO 639-1 code if there is one: by script for Chinese, Japanese and Korean, by
//! letter trigrams (whatlang) for the others.

use serde::{Deserialize, Serialize};

/// The characters of a sample; more rarely change the answer but cost time in proportion.
const SAMPLE: usize = 1_000;

/// The languages that a model is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextLanguage {
    En,
    Zh,
    /// English and Chinese
    #[value(alias = "mixed")]
    Mix,
}

/// A language and the share of the text's letters that are in its script.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected {
    /// `zh`, `en`, …; `und` where there are too few letters to tell.
    pub code: &'static str,
    /// The share of the sampled letters in its script, 0 to 1.
    pub share: f32,
}

/// Detects the language of `text` from up to [`SAMPLE`] characters at its beginning and as many from its middle.
pub fn detect(text: &str) -> Detected {
    let middle = (text.len() / 2..).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let sample: String = match text.len() > 8 * SAMPLE {
        true => text.chars().take(SAMPLE).chain(text[middle..].chars().take(SAMPLE)).collect(),
        false => text.chars().take(2 * SAMPLE).collect(),
    };
    let (mut han, mut kana, mut hangul, mut letters) = (0, 0, 0, 0);
    for c in sample.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '\u{3040}'..='\u{30ff}' => kana += 1,
            '\u{ac00}'..='\u{d7a3}' | '\u{1100}'..='\u{11ff}' => hangul += 1,
            c if is_han(c) => han += 1,
            _ => {}
        }
    }
    let share = |n: usize| n as f32 / letters.max(1) as f32;
    // A Han character carries as much as a word of four or five letters, so a quarter of the letters is most of a text.
    if 4 * (han + kana + hangul) > letters && letters > 0 {
        return match () {
            () if hangul > han + kana => Detected { code: "ko", share: share(hangul) },
            () if 10 * kana > han + kana => Detected { code: "ja", share: share(han + kana) },
            () => Detected { code: "zh", share: share(han) },
        };
    }
    match whatlang::detect(&sample) {
        Some(info) => Detected { code: short_code(info.lang()), share: share(letters - han - kana - hangul) },
        None => Detected { code: "und", share: 0.0 },
    }
}

/// Whether `c` is a Chinese character: a unified ideograph, an extension or a compatibility ideograph.
pub fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' | '〇')
}

fn short_code(language: whatlang::Lang) -> &'static str {
    match language.code() {
        "eng" => "en",
        "cmn" => "zh",
        "fra" => "fr",
        "deu" => "de",
        "spa" => "es",
        "por" => "pt",
        "ita" => "it",
        "nld" => "nl",
        "rus" => "ru",
        "ukr" => "uk",
        "pol" => "pl",
        "tur" => "tr",
        "vie" => "vi",
        "ind" => "id",
        "ara" => "ar",
        "hin" => "hi",
        "tha" => "th",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_of_plain_sentences() {
        for (code, text) in [
            ("zh", "今天天气很好，我们一起去公园散步。"),
            ("zh", "使用 Rust 写的程序，用 cargo build 就能编译。"),
            ("ja", "今日はとても天気がいいので、公園を散歩しましょう。"),
            ("ko", "오늘은 날씨가 아주 좋아서 공원에 갔습니다."),
            ("en", "The weather is fine today, so we went for a walk in the park."),
            ("de", "Das Wetter ist heute schön, deshalb gehen wir im Park spazieren."),
            ("und", "12345 ---- !!!"),
            ("und", ""),
        ] {
            assert_eq!(detect(text).code, code, "{text}");
        }
        let mixed = detect("这是一句中文 and some English");
        assert!(mixed.code == "zh" && mixed.share < 0.4, "{mixed:?}");
    }
}
