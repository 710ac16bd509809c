//! Tests the promises of the corpus: it is repeatable, in both languages, and without items of the test in training.

use std::collections::HashSet;

use super::facts::{Attribute, Family};
use super::people::PEOPLE;
use super::*;
use crate::conversation::{Content, Message, PartKind, Role};

const SEED: u64 = 1;

fn world() -> World {
    World::new(SEED, "Nano", TextLanguage::Mix)
}

/// Returns the text of a message, with the tool's blocks.
fn text(message: &Message) -> String {
    match &message.content {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
    }
}

fn asked(world: &World, split: Split, n: u64) -> HashSet<String> {
    let messages = (0..n).flat_map(|i| world.conversation(split, i).messages);
    messages.filter(|message| message.role == Role::User).map(|message| text(&message)).collect()
}

#[test]
fn the_seed_decides_everything() {
    let (one, same, other) = (world(), world(), World::new(SEED + 1, "Nano", TextLanguage::Mix));
    let differ = (0..100).filter(|&i| {
        assert_eq!(one.document(Split::Train, i), same.document(Split::Train, i));
        assert_eq!(one.conversation(Split::Test, i), same.conversation(Split::Test, i));
        one.document(Split::Train, i) != other.document(Split::Train, i)
    });
    assert!(differ.count() > 95);
}

#[test]
fn names_and_values_are_told_apart_by_search() {
    for language in [0, 1] {
        let mut tables: Vec<Vec<&str>> =
            Attribute::all().map(|a| a.values().iter().map(|value| value[language]).collect()).collect();
        tables.push(PEOPLE.iter().map(|(name, _)| name[language]).collect());
        tables.push((0..Family::Thing.len()).map(|i| Family::Thing.name(i)[language]).collect());
        for table in tables {
            for (i, a) in table.iter().enumerate() {
                assert!(table.iter().enumerate().all(|(j, b)| i == j || !b.contains(a)), "{a} in {table:?}");
            }
        }
    }
}

#[test]
fn documents_are_of_readable_length_in_both_languages() {
    let world = world();
    let mut chinese = 0;
    for i in 0..3000 {
        let text = world.document(if i % 2 == 0 { Split::Train } else { Split::Test }, i);
        let length = text.chars().count();
        assert!((60..=1500).contains(&length), "{length}: {text}");
        assert!(!text.contains(['\u{FFFD}', '{', '}']), "{text}");
        chinese += usize::from(language_of(&text) == Some(Language::Chinese));
    }
    assert!((1650..=1950).contains(&chinese), "{chinese} of 3000 are Chinese");
}

#[test]
fn conversations_alternate_and_answer_in_the_language_of_the_question() {
    let world = world();
    for i in 0..5000 {
        let mut messages = world.conversation(Split::Train, i).messages;
        if messages[0].role == Role::System {
            messages.remove(0);
        }
        assert!(!messages.is_empty() && messages.len().is_multiple_of(2));
        for turn in messages.chunks(2) {
            assert_eq!((turn[0].role, turn[1].role), (Role::User, Role::Assistant));
            let (question, answer) = (text(&turn[0]), text(&turn[1]));
            assert!(!answer.contains(['{', '\u{FFFD}']) && !question.contains(['{', '\u{FFFD}']));
            // A spelling or a sum belongs to no language, whatever its words.
            if !answer.contains([':', '=']) {
                assert_eq!(language_of(&question), language_of(&answer), "{question} {answer}");
            }
        }
    }
}

#[test]
fn no_question_of_the_test_is_asked_in_training() {
    let world = world();
    let train = asked(&world, Split::Train, 20_000);
    let documents: Vec<String> = (0..5000).map(|i| world.document(Split::Train, i)).collect();
    for question in world.questions(200) {
        let user = text(&question.conversation.messages[0]);
        assert!(!train.contains(&user), "{user}");
        // A bare sum like 3+4 may be part of a longer one, 13+47; every other question is a sentence.
        if user.chars().any(char::is_alphabetic) {
            assert!(!documents.iter().any(|text| text.contains(&user)), "{user}");
        }
    }
}

#[test]
fn held_out_facts_are_told_but_never_asked() {
    let world = world();
    let documents: Vec<String> = (0..3000).map(|i| world.document(Split::Train, i)).collect();
    let train = asked(&world, Split::Train, 20_000);
    for language in [Language::English, Language::Chinese] {
        let mut sum = 0;
        for &fact in &world.held_out {
            assert!(!world.asked.contains(&fact));
            let answer = world.answer(fact, language);
            let told = |text: &&String| {
                text.contains(fact.name(language)) && text.contains(world.value(fact, language))
            };
            let times = documents.iter().filter(told).count();
            sum += times;
            assert!(times >= 3, "{answer} is told {times} times in 3000 documents");
            for template in language.talk().questions[fact.attribute as usize] {
                let question = world.fill_statement(template, fact, language, false);
                assert!(!train.contains(&question), "{question}");
                assert!(!documents.iter().any(|text| text.contains(&question)), "{question}");
            }
        }
        // A small model learns a fact from a hundred exposures and more: of the 40,000 documents, 13
        // times as many.
        assert!(sum >= 15 * world.held_out.len(), "{sum} exposures in {language:?}");
    }
    assert_eq!((world.held_out.len(), world.asked.len()), (93, 375));
}

/// Returns all `word:w,o,r,d` in a text.
fn spelled_words(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(word, spelled)| lexicon::letters(word) == *spelled && word.len() > 1)
        .map(|(word, _)| word)
        .collect()
}

#[test]
fn held_out_words_are_never_spelled() {
    let world = world();
    let mut words = HashSet::new();
    for i in 0..20_000 {
        let mut texts = vec![world.document(Split::Train, i)];
        texts.extend(world.conversation(Split::Train, i).messages.iter().map(text));
        for text in texts {
            for word in spelled_words(&text.replace('"', "\n")) {
                assert!(!world.is_held_out_word(word), "{word} is spelled in {text}");
                words.insert(word.to_string());
            }
        }
    }
    assert!(words.len() > 5000, "only {} words are spelled", words.len());
    for question in world.questions(100).iter().filter(|question| question.kind == QuestionKind::Spelling) {
        assert!(world.is_held_out_word(&question.answer.replace(',', "")));
    }
}

#[test]
fn held_out_sums_are_never_calculated_and_the_tool_is_right() {
    let world = world();
    let mut seen = HashSet::new();
    for i in 0..20_000 {
        let document = world.document(Split::Train, i);
        let pieces = document.split(|c: char| !(c.is_ascii_digit() || "+-*/".contains(c)));
        seen.extend(pieces.filter(|piece| piece.contains(['+', '-', '*', '/'])).map(String::from));
        let problem = world.problem(Split::Train, i);
        for message in world.conversation(Split::Train, i).messages.into_iter().chain(problem.messages) {
            let Content::Parts(parts) = message.content else { continue };
            let code = parts.into_iter().filter(|part| part.kind == PartKind::Python);
            seen.extend(code.map(|part| part.text));
        }
    }
    let test = (0..5000).map(|i| world.sum(Split::Test, &mut Rng::new(&[i])));
    for sum in test {
        assert!(!seen.contains(&sum.code()));
        let swapped = sums::Sum { a: sum.b, b: sum.a, ..sum };
        let turned = world.is_held_out_sum(swapped);
        assert!(turned && sum.result() >= 2, "{}", sum.written());
    }
    assert!(seen.len() > 10_000, "{} sums", seen.len());
}

#[test]
fn word_problems_of_the_test_are_apart_and_their_answers_right() {
    let world = world();
    let train: HashSet<String> =
        (0..5000).map(|i| text(&world.problem(Split::Train, i).messages[0])).collect();
    assert!(train.len() > 4_990, "{} different problems", train.len());
    let first_sum = |problem: &crate::conversation::Conversation| match &problem.messages[1].content {
        Content::Parts(parts) => parts[0].text.clone(),
        Content::Text(text) => panic!("{text} uses no tool"),
    };
    let sums: HashSet<String> = (0..5000).map(|i| first_sum(&world.problem(Split::Train, i))).collect();
    let mut languages = HashSet::new();
    for i in 0..1000 {
        let problem = world.problem(Split::Test, i);
        let question = text(&problem.messages[0]);
        assert!(!train.contains(&question) && !sums.contains(&first_sum(&problem)), "{question}");
        assert!(!question.contains(['{', '}']), "{question}");
        let Content::Parts(parts) = &problem.messages[1].content else { panic!("no tool") };
        for step in parts[..4].chunks(2) {
            assert_eq!(
                crate::conversation::calculator::calculate(&step[0].text).as_ref(),
                Some(&step[1].text)
            );
        }
        let gold = crate::chat::reward::Reward::Number.gold(&problem);
        assert_eq!(gold.as_ref(), Some(&parts[3].text), "{question}");
        languages.insert(language_of(&question));
    }
    assert_eq!(languages.len(), 2);
}

#[test]
fn gold_answers_are_right_and_others_wrong() {
    let world = world();
    let questions = world.questions(100);
    assert_eq!(questions.len(), 600);
    for (i, question) in questions.iter().enumerate() {
        let gold = &question.answer;
        let (right, wrong) = match question.kind {
            QuestionKind::Arithmetic => (format!("1 + 1 = {gold}。"), format!("{gold} + 1 = 7{gold}")),
            QuestionKind::Counting => {
                (format!("a:a\n出现了 {gold} 次。"), "The letter a occurs 99 times.".to_string())
            }
            QuestionKind::Spelling => (format!("word:{gold}"), format!("word:{gold},z")),
            QuestionKind::Facts => {
                (format!("It is {gold}."), format!("It is {gold} or {}.", question.wrong[0]))
            }
            QuestionKind::Identity => (format!("我叫{gold}。"), "My name is Nanook.".to_string()),
            QuestionKind::Problems => (format!("There are 7.\n#### {gold}"), format!("{gold} and 7{gold}")),
        };
        assert!(question.is_right(&right), "{right} for {question:?}");
        assert!(!question.is_right(&wrong), "{wrong} for {question:?}");
        assert!(!question.is_right(""));
        assert_eq!(question.language, [Language::English, Language::Chinese][i % 2]);
    }
}

#[test]
fn languages_are_told_by_their_letters() {
    assert_eq!(language_of("Mira lives in Tolvik."), Some(Language::English));
    assert_eq!(language_of("米拉住在托维克。"), Some(Language::Chinese));
    assert_eq!(
        language_of("moonbird:m,o,o,n,b,i,r,d\n字母 o 在这个单词里出现了 2 次。"),
        Some(Language::Chinese)
    );
    assert_eq!(language_of("moonbird:m,o,o,n\nThe letter o occurs 2 times."), Some(Language::English));
    assert_eq!(language_of("37 + 58 = 95。"), None);
}

#[test]
fn a_world_of_one_language_keeps_to_it() {
    for (of, language) in [(TextLanguage::En, Language::English), (TextLanguage::Zh, Language::Chinese)] {
        let world = World::new(SEED, "Nano", of);
        let mut chinese = 0;
        for i in 0..300 {
            let talk = serde_json::to_string(&world.conversation(Split::Train, i).messages).unwrap();
            let texts = [world.document(Split::Train, i), talk];
            chinese += texts.iter().filter(|text| text.chars().any(crate::text::language::is_han)).count();
        }
        // Sums have no words.
        let expected = if language == Language::English { 0..=0 } else { 540..=600 };
        assert!(expected.contains(&chinese), "{chinese} of 600 texts are Chinese");
        assert!(world.questions(20).iter().all(|question| question.language == language));
    }
}
