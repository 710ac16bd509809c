//! Whatever the text, decoding gives it back, whole or token by token.

use std::sync::LazyLock;

use nanochat_tokenizer::{StreamDecoder, Tokenizer, TrainOptions, train};
use proptest::prelude::*;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let text =
        "the quick brown fox jumps over 12 lazy dogs, 敏捷的棕色狐狸跳过懒狗。The fox's dog! 狐狸和狗。\n";
    let options = TrainOptions { vocab_size: 420, ..TrainOptions::default() };
    train([text.repeat(4)].iter(), &options).unwrap()
});

proptest! {
    #[test]
    fn decode_undoes_encode(text in prop_oneof![any::<String>(), "[a-z狐狸狗 '0-9\\n]{0,80}", "(<\\|bos\\|>| |x|狗){0,9}"]) {
        let ids = TOKENIZER.encode(&text);
        prop_assert!(ids.iter().all(|id| !TOKENIZER.is_special(*id)));
        prop_assert_eq!(TOKENIZER.decode(&ids), text.clone());
        let lengths = TOKENIZER.byte_lengths();
        prop_assert_eq!(ids.iter().map(|id| lengths[*id as usize] as usize).sum::<usize>(), text.len());
        let again = Tokenizer::from_json(&TOKENIZER.to_json()).unwrap();
        prop_assert_eq!(again.encode(&text), ids);
    }

    #[test]
    fn streaming_equals_decoding(ids in proptest::collection::vec(0..421u32, 0..60)) {
        let mut stream = StreamDecoder::new(&TOKENIZER);
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text += &stream.finish();
        prop_assert_eq!(text, TOKENIZER.decode(&ids));
    }

    #[test]
    fn streamed_text_is_never_broken(text in "[狐狸a👩‍🚀é]{1,30}") {
        let mut stream = StreamDecoder::new(&TOKENIZER);
        // Byte by byte, the finest cut there is; byte tokens have the ids of their bytes.
        let parts: Vec<String> = text.bytes().map(|byte| stream.push(u32::from(byte))).collect();
        prop_assert!(parts.iter().all(|part| !part.contains(char::REPLACEMENT_CHARACTER)));
        prop_assert_eq!(parts.concat(), text);
        prop_assert_eq!(stream.finish(), "");
    }
}

#[test]
fn a_cut_character_shows_at_the_end_only() {
    let mut stream = StreamDecoder::new(&TOKENIZER);
    let shown: Vec<String> = "人".bytes().take(2).map(|byte| stream.push(u32::from(byte))).collect();
    assert_eq!((shown.concat().as_str(), stream.finish().as_str()), ("", "\u{FFFD}"));
    assert_eq!(stream.finish(), "");
}

#[test]
fn special_and_unknown_ids() {
    let bos = TOKENIZER.special("<|bos|>").unwrap();
    assert_eq!(TOKENIZER.decode(&[bos, 4_000_000, u32::from(b'a')]), "<|bos|>a");
    assert_eq!(TOKENIZER.token_bytes(4_000_000), None);
    assert!(!TOKENIZER.is_special(4_000_000));
}

#[test]
fn a_batch_keeps_its_order() {
    let texts: Vec<String> = (0..500).map(|i| format!("fox {i} 狐狸")).collect();
    let one_by_one: Vec<Vec<u32>> = texts.iter().map(|text| TOKENIZER.encode(text)).collect();
    assert_eq!(TOKENIZER.encode_batch(&texts), one_by_one);
}

#[test]
fn megabytes_without_a_space() {
    for text in ["a".repeat(1 << 20), "狐狸".repeat(1 << 18), " ".repeat(1 << 20), "!?".repeat(1 << 19)] {
        assert_eq!(TOKENIZER.decode(&TOKENIZER.encode(&text)), text);
    }
}
