//! Training against the definition, written as plainly as possible: recount every pair before every
//! merge.

use std::collections::{BTreeMap, HashMap};

use nanochat_tokenizer::{SPECIAL_TOKENS, Tokenizer, TokenizerError, TrainOptions, train};
use proptest::prelude::*;

/// Token bytes by id, from pieces split at spaces (each keeps the space in front of it).
fn slow_train(text: &str, vocab_size: usize) -> Vec<Vec<u8>> {
    let mut words: HashMap<&str, u64> = HashMap::new();
    let mut start = 0;
    for (at, _) in text.match_indices(' ').chain([(text.len(), "")]) {
        *words.entry(&text[start..at]).or_default() += 1;
        start = at;
    }
    let mut vocab: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut words: Vec<(Vec<usize>, u64)> =
        words.into_iter().map(|(word, n)| (word.bytes().map(usize::from).collect(), n)).collect();
    while vocab.len() < vocab_size {
        let mut counts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (word, n) in &words {
            word.windows(2).for_each(|pair| *counts.entry((pair[0], pair[1])).or_default() += n);
        }
        let Some(most) = counts.values().max() else { break };
        let (pair, _) = counts.iter().find(|(_, count)| *count == most).unwrap();
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == *pair {
                    word.splice(at..at + 2, [vocab.len()]);
                }
                at += 1;
            }
        }
        vocab.push([vocab[pair.0].clone(), vocab[pair.1].clone()].concat());
    }
    vocab
}

/// Splits as `slow_train` does.
fn options(vocab_size: usize) -> TrainOptions {
    TrainOptions { vocab_size, pattern: Some(" ?[^ ]*".into()), ..TrainOptions::default() }
}

fn ordinary_tokens(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let ids = 0..tokenizer.vocab_size() as u32;
    ids.filter(|id| !tokenizer.is_special(*id))
        .map(|id| tokenizer.token_bytes(id).unwrap().to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn equals_the_slow_trainer(
        text in prop_oneof!["[ab ]{1,120}", "[a-d ]{1,200}", "[的一是在 不人]{1,120}", "\\PC{1,60}"],
        merges in 1..60usize,
    ) {
        let trained = train([&text].into_iter(), &options(256 + 9 + merges)).unwrap();
        prop_assert_eq!(ordinary_tokens(&trained), slow_train(&text, 256 + merges));
    }
}

#[test]
fn equals_the_slow_trainer_on_prose() {
    let text = "the cat sat on the mat; the rat sat on the cat. 猫坐在垫子上，老鼠坐在猫上。 \
                that hat is the hat that the cat had 那顶帽子是猫的帽子 "
        .repeat(3);
    let trained = train([&text].into_iter(), &options(400)).unwrap();
    assert_eq!(ordinary_tokens(&trained), slow_train(&text, 400 - 9));
}

#[test]
fn does_not_depend_on_threads_or_on_how_text_is_cut_into_documents() {
    let document = |i: usize| format!("document {i} of {} says {}\n", i * 7 % 13, "人工智能".repeat(i % 5));
    let documents: Vec<String> = (0..300).map(document).collect();
    let options = TrainOptions { vocab_size: 500, ..TrainOptions::default() };
    let in_pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(documents.iter(), &options)).unwrap().to_json()
    };
    assert_eq!(in_pool(1), in_pool(7));
    assert_eq!(in_pool(1), train(documents.iter().rev(), &options).unwrap().to_json());
}

#[test]
fn limits_count_characters() {
    let capped = |max_chars, max_document_chars| {
        let options = TrainOptions {
            vocab_size: 300,
            pattern: Some(r"[\s\S]+".into()),
            max_chars,
            max_document_chars,
            ..TrainOptions::default()
        };
        train(["人人人", "口口"].into_iter(), &options)
    };
    let longest =
        |tokenizer: Tokenizer| ordinary_tokens(&tokenizer).into_iter().map(|t| t.len()).max().unwrap();
    assert_eq!(longest(capped(100, 100).unwrap()), 9);
    assert_eq!(longest(capped(100, 2).unwrap()), 6);
    assert_eq!(longest(capped(1, 100).unwrap()), 3);
    assert!(matches!(capped(0, 100), Err(TokenizerError::NoText)));
}

#[test]
fn special_tokens_hold_the_last_ids() {
    let options = TrainOptions {
        vocab_size: 300,
        extra_special: vec!["<|zh_start|>".into(), "<|中文|>".into()],
        ..TrainOptions::default()
    };
    let tokenizer = train(["abab abab 中文中文 abc abd abe fgh"].into_iter(), &options).unwrap();
    let size = tokenizer.vocab_size() as u32;
    assert_eq!(tokenizer.special("<|bos|>"), Some(size - 11));
    assert_eq!(tokenizer.special("<|中文|>"), Some(size - 1));
    assert_eq!(tokenizer.special_names().take(9).collect::<Vec<_>>(), SPECIAL_TOKENS);
    let lengths = tokenizer.byte_lengths();
    assert!(lengths[..size as usize - 11].iter().all(|n| *n > 0) && lengths[size as usize - 11..] == [0; 11]);
}

#[test]
fn text_never_becomes_a_special_token() {
    // A pattern that keeps the name in one piece, and a text of nothing else.
    let text = "<|bos|> ".repeat(50);
    let options =
        TrainOptions { vocab_size: 300, pattern: Some(r"\S+|\s+".into()), ..TrainOptions::default() };
    let tokenizer = train([&text].into_iter(), &options).unwrap();
    let ids = tokenizer.encode(&text);
    assert!(ids.iter().all(|id| !tokenizer.is_special(*id)), "{ids:?}");
    assert_eq!(Tokenizer::from_json(&tokenizer.to_json()).unwrap().encode(&text), ids);
}

#[test]
fn a_special_name_in_the_alphabet_of_the_file_stays_free() {
    // tokenizer.json writes " the" as "Ġthe".
    let options =
        TrainOptions { vocab_size: 300, extra_special: vec!["Ġthe".into()], ..TrainOptions::default() };
    let tokenizer = train([" the the the"].into_iter(), &options).unwrap();
    let read = Tokenizer::from_json(&tokenizer.to_json()).unwrap();
    assert_eq!(read.special("Ġthe"), tokenizer.special("Ġthe"));
    assert_eq!(read.decode(&read.encode(" the Ġthe")), " the Ġthe");
}

#[test]
fn refusals_say_what_would_work() {
    let refused = |options: TrainOptions| train(["some text"].into_iter(), &options).unwrap_err().to_string();
    let small = refused(TrainOptions { vocab_size: 264, ..TrainOptions::default() });
    assert!(small.contains("at least 265"), "{small}");
    let extra = vec!["<|x|>".to_string()];
    let small = refused(TrainOptions { vocab_size: 265, extra_special: extra, ..TrainOptions::default() });
    assert!(small.contains("at least 266"), "{small}");
    for name in ["", " x", "a\nb", "<|bos|>", "a"] {
        let options = TrainOptions { extra_special: vec![name.into()], ..TrainOptions::default() };
        let error = refused(options);
        assert!(error.contains("special token"), "{error}");
    }
    let twice = vec!["<|x|>".to_string(), "<|x|>".to_string()];
    assert!(refused(TrainOptions { extra_special: twice, ..TrainOptions::default() }).contains("once"));
}

#[test]
fn a_smaller_vocabulary_is_the_beginning_of_a_larger_one() {
    let text = "the cat sat on the mat, 猫坐在垫子上，猫不在垫子上; then the hat and that cat".repeat(3);
    let texts = [text.as_str()];
    let large = train(texts.iter(), &options(320)).unwrap();
    for size in [265, 280, 300, 320, 1_000] {
        let cut = large.with_vocab_size(size).unwrap();
        let trained = train(texts.iter(), &options(size.min(320))).unwrap();
        assert_eq!(cut.to_json(), trained.to_json(), "{size}");
    }
    assert!(large.with_vocab_size(264).is_err());
}
