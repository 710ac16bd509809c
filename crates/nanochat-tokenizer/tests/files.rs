//! tokenizer.json: what is read, what is refused, and that a refusal names its reason.

use nanochat_tokenizer::{SPECIAL_TOKENS, Tokenizer, TrainOptions, train};
use proptest::prelude::*;
use serde_json::{Value, json};

/// GPT-2's alphabet, made here a second time: printable Latin-1 first, the rest from U+0100 on.
fn alphabet() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut rest = 256..;
    let stand_in = |byte| if printable(byte) { byte } else { rest.next().unwrap() };
    (0..256).map(stand_in).map(|c| char::from_u32(c).unwrap().to_string()).collect()
}

/// A small GPT-2: bytes in its own order of ids, three merges, and the end of text in the vocabulary.
fn gpt2() -> Value {
    let mut vocab = serde_json::Map::new();
    for (byte, c) in alphabet().into_iter().enumerate() {
        vocab.insert(c, json!(255 - byte));
    }
    for (token, id) in [("he", 256), ("Ġt", 259), ("Ġthe", 258), ("<|endoftext|>", 257)] {
        vocab.insert(token.into(), json!(id));
    }
    json!({
        "added_tokens": [{"id": 257, "content": "<|endoftext|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["Ġ t", "h e", ["Ġt", "he"]]},
    })
}

fn read(file: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(&file.to_string()).map_err(|error| error.to_string())
}

#[test]
fn reads_a_file_with_ids_in_any_order() {
    let tokenizer = read(&gpt2()).unwrap();
    assert_eq!(tokenizer.encode("he the"), [256, 258]);
    assert_eq!(tokenizer.encode("a"), [255 - 97]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.special("<|endoftext|>")), (260, Some(257)));
    assert_eq!(tokenizer.byte_lengths()[256..], [2, 0, 4, 2]);
    // GPT-2's pattern keeps digits together and contractions in lower case only.
    let saved = tokenizer.to_json();
    assert_eq!(Tokenizer::from_json(&saved).unwrap().to_json(), saved);
    assert!(tokenizer.encode("<|endoftext|>").len() > 5);
}

#[test]
fn missing_special_tokens_go_behind_the_last_id() {
    let tokenizer = read(&gpt2()).unwrap().with_special(&SPECIAL_TOKENS).unwrap();
    assert_eq!((tokenizer.special("<|bos|>"), tokenizer.special("<|output_end|>")), (Some(260), Some(268)));
    let again = tokenizer.with_special(&SPECIAL_TOKENS).unwrap();
    assert_eq!(again.vocab_size(), 269);
    assert_eq!(Tokenizer::from_json(&again.to_json()).unwrap().encode("he the"), [256, 258]);
}

#[test]
fn ignore_merges_takes_a_whole_piece() {
    let mut file = gpt2();
    file["model"]["vocab"]["cat"] = json!(260);
    assert_eq!(read(&file).unwrap().encode("cat").len(), 3);
    file["model"]["ignore_merges"] = json!(true);
    assert_eq!(read(&file).unwrap().encode("cat"), [260]);
}

#[test]
fn nfc_is_honoured() {
    let mut file = gpt2();
    assert_eq!(read(&file).unwrap().encode("e\u{301}").len(), 3);
    file["normalizer"] = json!({"type": "NFC"});
    let tokenizer = read(&file).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("e\u{301}")), "é");
    assert_eq!(Tokenizer::from_json(&tokenizer.to_json()).unwrap().encode("e\u{301}").len(), 2);
}

#[test]
fn several_split_steps_apply_in_order() {
    let mut file = gpt2();
    let split = |regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"});
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true}, split("h"),
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]});
    assert_eq!(read(&file).unwrap().encode("he").len(), 2);
}

#[test]
fn holes_have_no_bytes() {
    let mut file = gpt2();
    file["model"]["vocab"]["cat"] = json!(300);
    let tokenizer = read(&file).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_bytes(299)), (301, None));
    assert_eq!(tokenizer.decode(&[299, 300]), "cat");
    assert_eq!(tokenizer.byte_lengths()[298..], [0, 0, 3]);
}

/// Changes one thing in a good file and expects an error with these words.
fn refused(words: &str, change: impl Fn(&mut Value)) {
    let mut file = gpt2();
    change(&mut file);
    let error = read(&file).expect_err(words);
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

#[test]
fn other_kinds_are_refused_by_name() {
    refused("WordPiece", |f| f["model"]["type"] = json!("WordPiece"));
    refused("Unigram", |f| f["model"] = json!({"type": "Unigram", "vocab": [["a", 0.1]]}));
    refused("suffixes", |f| f["model"]["end_of_word_suffix"] = json!("</w>"));
    refused("Lowercase", |f| f["normalizer"] = json!({"type": "Lowercase"}));
    refused("Strip", |f| f["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Strip"}]}));
    refused("Metaspace", |f| f["pre_tokenizer"] = json!({"type": "Metaspace"}));
    refused("ByteLevel", |f| f["pre_tokenizer"] = Value::Null);
    refused("ByteLevel", |f| f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": []}));
    refused("`add_prefix_space`", |f| f["pre_tokenizer"] = json!({"type": "ByteLevel"}));
    refused("decoder Metaspace", |f| f["decoder"] = json!({"type": "Metaspace"}));
}

#[test]
fn what_would_change_ids_is_refused_by_name() {
    let step = |step: Value| {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [step, bytes]})
    };
    let split = |regex| step(json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}));
    refused("BertPreTokenizer", |f| f["pre_tokenizer"] = step(json!({"type": "BertPreTokenizer"})));
    refused("Metaspace", |f| f["pre_tokenizer"] = step(json!({"type": "Metaspace"})));
    refused("twice (ByteLevel)", |f| f["pre_tokenizer"] = step(f["pre_tokenizer"].clone()));
    refused("`\\w`", |f| f["pre_tokenizer"] = split(r"\w+"));
    refused("`^`", |f| f["pre_tokenizer"] = split("^a"));
    refused("`Sideways`", |f| {
        f["pre_tokenizer"] = step(json!({"type": "Punctuation", "behavior": "Sideways"}));
    });
    refused("`locale`", |f| f["pre_tokenizer"] = step(json!({"type": "Digits", "locale": "zh"})));
    refused("more than 32 steps", |f| {
        f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "Digits"}); 33]})
    });
    refused("version of the file is \"2.0\"", |f| f["version"] = json!("2.0"));
    refused("truncation", |f| f["truncation"] = json!({"max_length": 512}));
    refused("padding", |f| f["padding"] = json!({"strategy": "BatchLongest"}));
    refused("post_processor Cut", |f| f["post_processor"] = json!({"type": "Cut"}));
    refused("the key \"vowels\"", |f| f["vowels"] = json!(true));
    refused("the key \"cache\"", |f| f["model"]["cache"] = json!(1));
    refused("dropped at random", |f| f["model"]["dropout"] = json!(0.1));
    refused("`fuzzy`", |f| f["added_tokens"][0]["fuzzy"] = json!(true));
    refused("tokenizers would give it 260", |f| {
        f["added_tokens"] = json!([f["added_tokens"][0], {"id": 270, "content": "<x>", "special": true}]);
    });
    refused("once they are normalized", |f| {
        f["normalizer"] = json!({"type": "NFC"});
        let added = |id, content| json!({"id": id, "content": content, "normalized": true});
        f["added_tokens"] = json!([added(260, "x\u{e9}"), added(261, "xe\u{301}")]);
    });
    refused("written like the byte 0x20", |f| f["added_tokens"] = json!([{"id": 255 - 32, "content": "Ġ"}]));
}

#[test]
fn what_changes_no_id_is_taken() {
    let mut file = gpt2();
    for (key, value) in
        [("unk_token", json!("<unk>")), ("fuse_unk", json!(true)), ("byte_fallback", json!(true))]
    {
        file["model"][key] = value;
    }
    file["model"]["dropout"] = json!(0.0);
    file["model"]["end_of_word_suffix"] = json!("");
    file["post_processor"] =
        json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing"}]});
    file["decoder"] = json!({"type": "ByteLevel", "add_prefix_space": true});
    file["normalizer"] = json!({"type": "Sequence", "normalizers": []});
    file["model"]["merges"] = json!(["#version: 0.2", "Ġ t", "h e", "Ġt he"]);
    assert_eq!(read(&file).unwrap().encode("he the"), [256, 258]);
}

#[test]
fn damage_is_refused() {
    refused("id 256 is taken", |f| f["model"]["vocab"]["cat"] = json!(256));
    refused("too large", |f| f["model"]["vocab"]["cat"] = json!(4_294_967_295u32));
    refused("u32", |f| f["model"]["vocab"]["cat"] = json!(4_294_967_296u64));
    refused("u32", |f| f["model"]["vocab"]["cat"] = json!(-1));
    refused("needs \"q\u{17f}\"", |f| f["model"]["merges"] = json!(["q\u{17f} t"]));
    refused("needs \"hx\"", |f| f["model"]["merges"] = json!(["h x"]));
    refused("not two tokens", |f| f["model"]["merges"] = json!(["he"]));
    refused("alphabet", |f| f["model"]["vocab"]["中"] = json!(300));
    refused("byte 0x61", |f| _ = f["model"]["vocab"].as_object_mut().unwrap().remove("a"));
    refused("two ids", |f| f["added_tokens"][0]["id"] = json!(400));
    refused("listed twice", |f| f["added_tokens"] = json!([f["added_tokens"][0], f["added_tokens"][0]]));
    refused("valid regex", |f| {
        f["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": false}]})
    });
}

#[test]
fn text_cannot_forge_a_special_token() {
    let special = |id, name| json!([{"id": id, "content": name, "special": true}]);
    refused("special token 256", |f| f["added_tokens"] = special(256, "he"));
    refused("special token 158", |f| f["added_tokens"] = special(158, "a"));
}

#[test]
fn truncated_files_are_refused() {
    let json =
        train(["some text some"].into_iter(), &TrainOptions { vocab_size: 270, ..TrainOptions::default() })
            .unwrap()
            .to_json();
    for end in (0..json.len()).step_by(97).filter(|end| json.is_char_boundary(*end)) {
        assert!(Tokenizer::from_json(&json[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_file_is_read_and_errors_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let missing = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(missing.contains("failed to read") && missing.contains("tokenizer.json"), "{missing}");
    std::fs::write(&path, "{").unwrap();
    let broken = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(broken.contains("tokenizer.json"), "{broken}");
    let tokenizer = read(&gpt2()).unwrap();
    std::fs::write(&path, tokenizer.to_json()).unwrap();
    assert_eq!(Tokenizer::from_file(&path).unwrap().encode("he the"), [256, 258]);
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(at in 0..2_000usize, byte in any::<u8>()) {
        let mut bytes = gpt2().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_json(&String::from_utf8_lossy(&bytes)) {
            let text = "he the cat 人";
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
        }
    }
}
