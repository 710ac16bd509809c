//! Tests reading a bundle, the prompts byte for byte, and mistakes in its files.

use std::fs;
use std::path::Path;

use super::*;
use crate::model::config::GptConfig;
use crate::testing::{on_ranks, tokenizer};

const LIST: &str = "icl_tasks:\n-\n  label: pick\n  dataset_uri: a/pick.jsonl\n  num_fewshot: [1]\n  \
                    icl_task_type: multiple_choice\n  continuation_delimiter: \"\\nAnswer: \"\n-\n  label: who\n  \
                    dataset_uri: a/who.jsonl\n  num_fewshot: [0]\n  icl_task_type: schema\n- label: go\n  \
                    dataset_uri: go.jsonl\n  num_fewshot: [2]\n  icl_task_type: language_modeling\n  \
                    has_categories: true\n";
const META: &str = "Eval Task,Task Category,Random baseline\npick,x,50\nwho,x,50\ngo,\"x, y\",0\nother,x,\n";

fn bundle() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("eval_data/a")).unwrap();
    let write = |path: &str, text: &str| fs::write(temp.path().join(path), text).unwrap();
    write("core.yaml", LIST);
    write("eval_meta_data.csv", META);
    write(
        "eval_data/a/pick.jsonl",
        "{\"query\": \"Q1\", \"choices\": [\"no\", \"not\"], \"gold\": 1}\n\
         {\"query\": \"Q2\", \"choices\": [\"x\", \"yy\"], \"gold\": 0}\n",
    );
    write(
        "eval_data/a/who.jsonl",
        "{\"context_options\": [\"Ann so Ann\", \"Ann so Bo\"], \"continuation\": \"ran.\", \"gold\": 1}\n",
    );
    let lines = (0..4).map(|i| format!("{{\"context\": \" c{i} \", \"continuation\": \"d{i}\"}}\n"));
    write("eval_data/go.jsonl", &lines.collect::<String>());
    temp
}

/// Returns each option's text and the part of it that is scored.
fn texts(folder: &Path, label: &str, limit: usize) -> Vec<Vec<[String; 2]>> {
    let bundle = Bundle::open(folder).unwrap();
    let task = bundle.tasks.iter().find(|task| task.label == label).unwrap();
    let tokenizer = tokenizer();
    let bos = tokenizer.special("<|bos|>").unwrap();
    let option = |span: &ScoredSpan| {
        assert_eq!(span.ids[0], bos);
        [&span.ids[1..], &span.ids[span.start..]].map(|ids| tokenizer.decode(ids))
    };
    let items = bundle.items(task, limit).unwrap().unwrap();
    let prompts = prompts(&tokenizer, task, &items, &(0..items.items.len()).collect::<Vec<_>>());
    prompts.iter().map(|prompt| prompt.options.iter().map(option).collect()).collect()
}

#[test]
fn the_list_is_read_with_its_baselines() {
    let temp = bundle();
    let tasks = Bundle::open(temp.path()).unwrap().tasks;
    let expected = [
        ("pick", "a/pick.jsonl", Format::MultipleChoice, 1, "\nAnswer: ", 0.5),
        ("who", "a/who.jsonl", Format::Schema, 0, " ", 0.5),
        ("go", "go.jsonl", Format::LanguageModeling, 2, " ", 0.0),
    ];
    let expected = expected.map(|(label, file, format, num_fewshot, delimiter, baseline)| BundleTask {
        label: label.into(),
        file: file.into(),
        format,
        num_fewshot,
        delimiter: delimiter.into(),
        baseline,
    });
    assert_eq!(tasks, expected);
}

#[test]
fn options_are_scored_from_where_they_differ() {
    let temp = bundle();
    let pick = texts(temp.path(), "pick", 0);
    let of = |text: &str| pick.iter().find(|options| options[0][0].ends_with(text)).unwrap();
    // The first is a prefix of the second: it has no tokens of its own.
    let first = of("Q1\nAnswer: no");
    assert_eq!(first[0], ["Q2\nAnswer: x\n\nQ1\nAnswer: no", ""]);
    assert_eq!(first[1], ["Q2\nAnswer: x\n\nQ1\nAnswer: not", "t"]);
    assert_eq!(of("Q2\nAnswer: x")[1], ["Q1\nAnswer: not\n\nQ2\nAnswer: yy", "yy"]);
}

#[test]
fn endings_are_scored_over_what_is_common() {
    let temp = bundle();
    let who = &texts(temp.path(), "who", 0)[0];
    assert_eq!(who[0], ["Ann so Ann ran.", " ran."]);
    assert_eq!(who[1], ["Ann so Bo ran.", " ran."]);
}

#[test]
fn continuations_follow_examples_that_python_would_draw() {
    let temp = bundle();
    let go = texts(temp.path(), "go", 0);
    // random.Random(1337) makes 1 0 3 2 of 0 1 2 3; Random(1234 + i).sample of the three others draws the examples.
    let expected = [
        ("c3 d3\n\nc0 d0\n\nc1 d1", " d1"),
        ("c2 d2\n\nc3 d3\n\nc0 d0", " d0"),
        ("c2 d2\n\nc0 d0\n\nc3 d3", " d3"),
        ("c1 d1\n\nc0 d0\n\nc2 d2", " d2"),
    ];
    let found: Vec<(&str, &str)> = go.iter().map(|options| (&*options[0][0], &*options[0][1])).collect();
    assert_eq!(found, expected);
    assert_eq!(texts(temp.path(), "go", 3).len(), 3);
}

#[test]
fn scores_are_centered_and_what_is_missing_is_named() {
    let temp = bundle();
    let model = Gpt::init(GptConfig::from_depth(1, 265, 64).unwrap(), 0);
    let bundle = Bundle::open(temp.path()).unwrap();
    let scores = evaluate(&model, &tokenizer(), &bundle, 0, &Comm::alone(), |_| ()).unwrap();
    // In an untrained model all options are equal and the first wins; NaN also wins as the first, since nothing is less
    // than it.
    let found: Vec<(&str, usize, f64)> =
        scores.tasks.iter().map(|task| (&*task.label, task.score.right, task.centered)).collect();
    assert_eq!(found, [("pick", 1, 0.0), ("who", 0, -1.0), ("go", 0, 0.0)]);
    assert!((scores.mean + 1.0 / 3.0).abs() < 1e-9 && scores.missing.is_empty() && scores.cropped == 0);
    for world in [2, 5] {
        for ranks in
            on_ranks(world, |comm| evaluate(&model, &tokenizer(), &bundle, 0, &comm, |_| ()).unwrap())
        {
            assert_eq!(format!("{ranks:?}"), format!("{scores:?}"), "{world} ranks");
        }
    }
    fs::remove_file(temp.path().join("eval_data/a/who.jsonl")).unwrap();
    let scores = evaluate(&model, &tokenizer(), &bundle, 0, &Comm::alone(), |_| ()).unwrap();
    assert_eq!((scores.missing.as_slice(), scores.mean), (&["a/who.jsonl".to_string()][..], 0.0));
}

#[test]
fn an_item_is_cropped_if_an_option_is_longer_than_the_model() {
    let temp = bundle();
    let bundle = Bundle::open(temp.path()).unwrap();
    let lengths = |label: &str| -> Vec<usize> {
        let task = bundle.tasks.iter().find(|task| task.label == label).unwrap();
        let items = bundle.items(task, 0).unwrap().unwrap();
        let all: Vec<usize> = (0..items.items.len()).collect();
        let longest = |prompt: &Prompt| prompt.options.iter().map(|span| span.ids.len()).max().unwrap();
        prompts(&tokenizer(), task, &items, &all).iter().map(longest).collect()
    };
    // All tokens but the last take a position; there are ten times as many positions as in training.
    let longest = lengths("pick").into_iter().max().unwrap();
    for (sequence_len, fits) in [(2, false), ((longest - 1).div_ceil(10), true)] {
        let model = Gpt::init(GptConfig::from_depth(1, 265, sequence_len).unwrap(), 0);
        assert_eq!(model.max_positions(), 10 * sequence_len);
        let scores = evaluate(&model, &tokenizer(), &bundle, 0, &Comm::alone(), |_| ()).unwrap();
        let too_long = |label| lengths(label).iter().filter(|&&n| n - 1 > 10 * sequence_len).count();
        let found: Vec<usize> = scores.tasks.iter().map(|task| task.cropped).collect();
        assert_eq!(found, ["pick", "who", "go"].map(too_long), "{sequence_len}");
        assert_eq!((scores.cropped, found[0] == 0), (found.iter().sum(), fits));
    }
}

#[test]
fn pythons_min_decides_about_options_without_a_loss() {
    assert_eq!(lowest(&[1.0, f64::NAN, 0.5]), 2);
    assert_eq!(lowest(&[1.0, f64::NAN]), 0);
    assert_eq!(lowest(&[f64::NAN, 0.5]), 0);
    assert_eq!(lowest(&[2.0, 1.0, 1.0]), 1);
}

#[test]
fn mistakes_in_a_bundle_are_named() {
    let error = |change: (&str, &str)| {
        let temp = bundle();
        if change.1.is_empty() {
            fs::remove_file(temp.path().join(change.0)).unwrap();
        } else {
            fs::write(temp.path().join(change.0), change.1).unwrap();
        }
        let model = Gpt::init(GptConfig::from_depth(1, 265, 8).unwrap(), 0);
        let bundle = Bundle::open(temp.path());
        bundle
            .and_then(|bundle| evaluate(&model, &tokenizer(), &bundle, 0, &Comm::alone(), |_| ()))
            .unwrap_err()
            .to_string()
    };
    let cases = [
        (("core.yaml", ""), "it has core.yaml and eval_data/"),
        (("eval_meta_data.csv", ""), "it has eval_meta_data.csv"),
        (
            ("eval_meta_data.csv", "Eval Task,Random baseline\npick,50\n"),
            "does not say what guessing gets in who",
        ),
        (
            ("eval_meta_data.csv", "Eval Task,x\npick,50\n"),
            "eval_meta_data.csv, line 2: no `Random baseline`",
        ),
        (("core.yaml", "a:\n- label: x\n  what\n"), "core.yaml, line 3: neither `key: value` nor `-`"),
        (("core.yaml", "a:\n- label: x\n"), "core.yaml, line 2: the task has no `dataset_uri`"),
        (("core.yaml", &LIST.replace("schema", "dance")), "unknown icl_task_type dance"),
        (("core.yaml", &LIST.replace("[2]", "[two]")), "num_fewshot two is not a number"),
        (("core.yaml", &LIST.replace("a/who", "../who")), "leads out of eval_data/"),
        (("eval_data/go.jsonl", "{\"context\": \"c\", \"continuation\": \"d\"}\n"), "so it needs 3 items; "),
        (("eval_data/go.jsonl", "{\"context\": \"c\"}\n"), "go.jsonl, line 1: no `continuation`"),
        (
            ("eval_data/a/who.jsonl", "{\"context_options\": [], \"continuation\": \"d\", \"gold\": 0}\n"),
            "whole number below 0",
        ),
        (
            ("eval_data/a/pick.jsonl", "{\"query\": \"c\", \"choices\": [\"a\"], \"gold\": 1}\n"),
            "pick.jsonl, line 1: `gold` must be",
        ),
    ];
    for (change, expected) in cases {
        let error = error(change);
        assert!(error.contains(expected), "{error}");
    }
}
