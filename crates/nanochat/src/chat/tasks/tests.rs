//! Tests every task on files as they are published: rendered byte for byte, and graded.

use std::fs;
use std::path::PathBuf;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::*;
use crate::conversation::{Part, PartKind};
use crate::files::lines::BadLines;

/// A folder of data sets with given files.
struct Sets(TempDir);

impl Sets {
    fn new(files: &[(&str, &str)]) -> Sets {
        let sets = Sets(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| fs::write(sets.path(path), text).unwrap());
        sets
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn try_open(&self, name: &str, split: Split) -> Result<Box<dyn Task>, TaskError> {
        let folders = Folders {
            sets: self.0.path().into(),
            world: self.0.path().join("chat_data"),
            unconfined: false,
            bad_lines: BadLines::Fail,
        };
        open(name, split, &folders)
    }

    fn open(&self, name: &str, split: Split) -> Box<dyn Task> {
        self.try_open(name, split).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self, name: &str, split: Split) -> String {
        self.try_open(name, split).err().expect("an error").to_string()
    }
}

/// A column of a parquet file: values, definition levels, repetition levels.
enum ParquetColumn {
    Texts(Vec<&'static str>, Vec<i16>, Vec<i16>),
    Numbers(Vec<i64>, Vec<i16>),
}

fn write_parquet(path: &Path, schema: &str, columns: Vec<ParquetColumn>) {
    let schema = parse_message_type(schema).unwrap().into();
    let mut writer =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut to = group.next_column().unwrap().unwrap();
        match column {
            ParquetColumn::Texts(values, definitions, repetitions) => {
                let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                let repetitions = (!repetitions.is_empty()).then_some(&repetitions[..]);
                let definitions = (!definitions.is_empty()).then_some(&definitions[..]);
                to.typed::<ByteArrayType>().write_batch(&values, definitions, repetitions).unwrap();
            }
            ParquetColumn::Numbers(values, definitions) => {
                let definitions = (!definitions.is_empty()).then_some(&definitions[..]);
                to.typed::<Int64Type>().write_batch(&values, definitions, None).unwrap();
            }
        }
        to.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn texts(task: &dyn Task, i: usize) -> [String; 2] {
    let conversation = task.conversation(i);
    conversation.validate().unwrap();
    [0, 1].map(|message| conversation.messages[message].content.text())
}

const WANTED: &str = "Multiple Choice question: Which is a fruit?\n- stone=A\n- plum=B\n- 石=C\n- =D\n\n\
                      Respond only with the letter of the correct answer.";

#[test]
fn four_choices_read_the_same_from_every_set() {
    let named = "Which is a fruit?,stone,plum,石,,B\n";
    let sets = Sets::new(&[
        ("mmlu/test/food_test.csv", named),
        ("ceval/val/food_val.csv", &format!("id,question,A,B,C,D,answer\n0,{named}")),
        (
            "ceval/dev/food_dev.csv",
            &format!("id,question,A,B,C,D,answer,explanation\n0,{},\"x\ny\"\n", named.trim()),
        ),
        ("cmmlu/test/food.csv", &format!(",Question,A,B,C,D,Answer\n0,{named}")),
    ]);
    let open =
        [("MMLU", Split::Test), ("c-eval", Split::Test), ("ceval", Split::Train), ("CMMLU", Split::Test)];
    for (name, split) in open {
        let task = sets.open(name, split);
        assert_eq!(texts(&*task, 0), [WANTED, "B"], "{name}");
        assert_eq!((task.len(), task.kind(), task.baseline()), (1, Grading::Categorical, 0.25));
        assert_eq!(task.letters(0), ["A", "B", "C", "D"]);
        assert!(task.grade(0, "B").unwrap() && !task.grade(0, "A").unwrap() && !task.grade(0, "b").unwrap());
    }
}

#[test]
fn agieval_is_one_task_or_a_part_of_it() {
    let line = |question: &str, label: &str| {
        format!(
            "{{\"passage\": null, \"question\": \"{question}\", \"options\": [\"(A)stone\", \"(B)plum\", \"(C)石\", \"(D)\"], \"label\": {label}}}\n"
        )
    };
    let fruit = "Which is a fruit?";
    let several = [line("p", r#"["A", "C"]"#), line("p", r#""A C""#), line("p", r#""AC""#)].concat();
    let sets = Sets::new(&[
        ("agieval/sat-math.jsonl", &line(fruit, "\"B\"")),
        ("agieval/sat-en.jsonl", &line(fruit, "\"B\"").replace("null", "\"On fruit. \"")),
        ("agieval/gaokao-english.jsonl", &line(fruit, "\"B\"")),
        ("agieval/gaokao-physics.jsonl", &(several + &line("问", "\"D\""))),
        (
            "agieval/gaokao-mathcloze.jsonl",
            r#"{"question": "1 + 1 =", "options": null, "label": null, "answer": "2"}"#,
        ),
    ]);
    for (name, expected) in [
        ("AGIEval", ("AGIEval", 4)),
        ("agieval_en", ("AGIEval-en", 3)),
        ("AGIEval-zh", ("AGIEval-zh", 1)),
        ("AGIEval-sat-math", ("AGIEval-sat-math", 1)),
    ] {
        let task = sets.open(name, Split::Test);
        assert_eq!((task.name(), task.len()), expected);
        assert_eq!(task.note().is_some(), ["AGIEval", "AGIEval-zh"].contains(&task.name()), "{name}");
    }
    let note = "4 of its 5 questions are left out: to fill in, or with several right answers";
    assert_eq!(sets.open("AGIEval-zh", Split::Test).note(), Some(note));
    assert_eq!(texts(&*sets.open("AGIEval-sat-math", Split::Test), 0), [WANTED, "B"]);
    let with_passage = WANTED.replace("Which", "On fruit.\nWhich");
    assert_eq!(texts(&*sets.open("AGIEval-sat-en", Split::Test), 0), [with_passage.as_str(), "B"]);
    assert!(sets.error("AGIEval-chess", Split::Test).contains("there is no task AGIEval-chess"));
    assert!(sets.error("AGIEval", Split::Train).contains("for testing alone"));
    let cloze = sets.error("AGIEval-gaokao-mathcloze", Split::Test);
    assert!(cloze.ends_with("gaokao-mathcloze.jsonl has one letter as its answer"), "{cloze}");
    fs::write(sets.path("agieval/sat-math.jsonl"), line(fruit, "\"E\"")).unwrap();
    let error = sets.error("AGIEval-en", Split::Test);
    assert!(
        error.ends_with("sat-math.jsonl, line 1: the label must be one of A, B, C, D, found \"E\""),
        "{error}"
    );
    assert!(Sets::new(&[]).error("AGIEval", Split::Test).contains("ruixiangcui/AGIEval"));
}

#[test]
fn the_hubs_mmlu_is_read_with_its_training_items_one_level_down() {
    let sets = Sets::new(&[]);
    let list =
        "REQUIRED group choices (LIST) { REPEATED group list { OPTIONAL BYTE_ARRAY element (UTF8); } }";
    let inner = format!("REQUIRED BYTE_ARRAY question (UTF8); {list} REQUIRED INT64 answer;");
    let columns = || {
        vec![
            ParquetColumn::Texts(vec!["Which is a fruit?"], vec![], vec![]),
            ParquetColumn::Texts(vec!["stone", "plum", "石", ""], vec![2; 4], vec![0, 1, 1, 1]),
            ParquetColumn::Numbers(vec![1], vec![]),
        ]
    };
    let test = sets.path("mmlu/all/test-00000-of-00001.parquet");
    write_parquet(&test, &format!("message m {{ {inner} }}"), columns());
    let train = sets.path("mmlu/auxiliary_train/train-00000-of-00001.parquet");
    write_parquet(&train, &format!("message m {{ REQUIRED group train {{ {inner} }} }}"), columns());
    for split in [Split::Train, Split::Test] {
        assert_eq!(texts(&*sets.open("MMLU", split), 0), [WANTED, "B"]);
    }
    fs::write(&test, fs::read(&test).unwrap().split_last().unwrap().1).unwrap();
    assert!(sets.error("MMLU", Split::Test).contains("test-00000-of-00001.parquet"));
}

#[test]
fn arc_keeps_its_own_labels() {
    let sets = Sets::new(&[(
        "eval_bundle/eval_data/world_knowledge/arc_challenge.jsonl",
        r#"{"query": "Question: Is ice cold?", "choices": ["no", "yes"], "gold": 1}"#,
    )]);
    let list = |name: &str| {
        format!(
            "REQUIRED group {name} (LIST) {{ REPEATED group list {{ OPTIONAL BYTE_ARRAY element (UTF8); }} }}"
        )
    };
    let schema = format!(
        "message m {{ REQUIRED BYTE_ARRAY id (UTF8); REQUIRED BYTE_ARRAY question (UTF8); \
         REQUIRED group choices {{ {} {} }} OPTIONAL BYTE_ARRAY answerKey (UTF8); }}",
        list("text"),
        list("label")
    );
    let columns = vec![
        ParquetColumn::Texts(vec!["x"], vec![], vec![]),
        ParquetColumn::Texts(vec!["Is ice cold?"], vec![], vec![]),
        ParquetColumn::Texts(vec!["yes", "no"], vec![2; 2], vec![0, 1]),
        ParquetColumn::Texts(vec!["1", "2"], vec![2; 2], vec![0, 1]),
        ParquetColumn::Texts(vec!["1"], vec![1], vec![]),
    ];
    write_parquet(&sets.path("ai2_arc/ARC-Easy/train-00000-of-00001.parquet"), &schema, columns);
    let hub = sets.open("arc-easy", Split::Train);
    let [user, answer] = texts(&*hub, 0);
    assert!(user.contains("question: Is ice cold?\n- yes=1\n- no=2\n\n") && answer == "1", "{user}");
    let bundle = sets.open("ARC-Challenge", Split::Test);
    let [user, answer] = texts(&*bundle, 0);
    assert!(user.contains("question: Is ice cold?\n- no=A\n- yes=B\n\n") && answer == "B", "{user}");
    assert!(sets.error("ARC-Challenge", Split::Train).contains("training items of ARC-Challenge are not in"));
}

#[test]
fn smoltalk_is_conversations() {
    let sets = Sets::new(&[]);
    let schema = "message m { REQUIRED group messages (LIST) { REPEATED group list { REQUIRED group element { \
                  REQUIRED BYTE_ARRAY content (UTF8); REQUIRED BYTE_ARRAY role (UTF8); } } } }";
    let columns = || {
        let contents = vec!["be kind", "你好", "好"];
        let roles = vec!["system", "user", "assistant"];
        [contents, roles].map(|texts| ParquetColumn::Texts(texts, vec![1; 3], vec![0, 1, 1])).into()
    };
    write_parquet(&sets.path("smol-smoltalk/data/train-00000-of-00002.parquet"), schema, columns());
    write_parquet(&sets.path("smol-smoltalk/data/train-00001-of-00002.parquet"), schema, columns());
    let task = sets.open("SmolTalk", Split::Train);
    assert_eq!((task.len(), task.kind()), (2, Grading::Talk));
    let roles: Vec<String> = task.conversation(1).messages.iter().map(|m| m.role.to_string()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
}

const EGGS: &str = "Ann has 16-3=<<16-3=13>>13 eggs.\nShe sells <<13*2=26>>26.\n#### 1,026";

#[test]
fn gsm8k_solutions_become_calls_and_are_graded_by_the_last_number() {
    let line = |answer: &str| serde_json::json!({"question": "Eggs?", "answer": answer}).to_string();
    let sets = Sets::new(&[("gsm8k/test.jsonl", &line(EGGS)), ("gsm8k/train.jsonl", &line("13"))]);
    let task = sets.open("gsm8k", Split::Test);
    let Content::Parts(parts) = &task.conversation(0).messages[1].content else { panic!("parts") };
    let parts: Vec<(PartKind, &str)> = parts.iter().map(|part| (part.kind, part.text.as_str())).collect();
    let expected = [
        (PartKind::Text, "Ann has 16-3="),
        (PartKind::Python, "16-3"),
        (PartKind::PythonOutput, "13"),
        (PartKind::Text, "13 eggs.\nShe sells "),
        (PartKind::Python, "13*2"),
        (PartKind::PythonOutput, "26"),
        (PartKind::Text, "26.\n#### 1,026"),
    ];
    assert_eq!(parts, expected);
    let grades = [
        ("so #### 1026", true),
        ("#### 1,026 eggs", true),
        ("#### 1,026 #### 7", true),
        ("#### 7 #### 1026", false),
        ("1026", false),
        ("#### -1026", false),
        ("#### 1026.0", false),
        ("####1026", false),
        ("", false),
    ];
    for (answer, right) in grades {
        assert_eq!(task.grade(0, answer).unwrap(), right, "{answer}");
    }
    let error = sets.error("GSM8K", Split::Train);
    assert!(
        error.ends_with("train.jsonl, line 1: the solution does not end with `#### ` and a number"),
        "{error}"
    );
}

#[test]
fn humaneval_runs_its_tests() {
    let problem = serde_json::json!({
        "prompt": "import math\n\ndef root(x):\n    \"\"\" whole root \"\"\"\n", "entry_point": "root",
        "canonical_solution": "    return math.isqrt(x)\n", "test": "def check(f):\n    assert f(17) == 4\n",
    });
    let sets = Sets::new(&[("humaneval/HumanEval.jsonl", &problem.to_string())]);
    let task = match sets.try_open("humaneval", Split::Test) {
        Err(TaskError::Sandbox(error)) => return eprintln!("skipped: {error}"),
        task => task.unwrap_or_else(|error| panic!("{error}")),
    };
    let [prompt, solution] = texts(&*task, 0);
    assert!(task.grade(0, &solution).unwrap() && !task.grade(0, &prompt).unwrap());
    assert!(task.grade(0, "```python\ndef root(x): return int(math.sqrt(x))\n```").unwrap());
    assert!(!task.grade(0, "def root(x): return 5").unwrap() && !task.grade(0, "").unwrap());
    assert!(sets.error("HumanEval", Split::Train).contains("no training items"));
}

#[test]
fn spelling_is_the_references_text_and_its_words_are_split() {
    let words: Vec<String> =
        (0..2_000).map(|i| format!("strawberr{}", char::from_u32(0x4E00 + i).unwrap())).collect();
    let sets = Sets::new(&[("words_alpha.txt", &words.join("\n"))]);
    let word_of = |task: &dyn Task, i| texts(task, i)[0].rsplit(' ').next().unwrap().to_string();
    let (train, test) =
        (sets.open("SimpleSpelling", Split::Train), sets.open("simple_spelling", Split::Test));
    assert_eq!((train.len(), test.len()), (200_000, 256));
    let all = |task: &dyn Task| (0..task.len().min(3_000)).map(|i| word_of(task, i)).collect();
    let (trained, tested): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (all(&*train), all(&*test));
    assert!(trained.is_disjoint(&tested));
    assert_eq!(trained.len() + tested.len(), 2_000);
    let word = word_of(&*train, 5);
    let [user, answer] = texts(&*train, 5);
    assert_eq!(user, format!("Spell the word: {word}"));
    assert_eq!(answer, format!("{word}:s,t,r,a,w,b,e,r,r,{}", word.chars().last().unwrap()));
    assert!(train.grade(5, &format!("{answer}\n")).unwrap() && !train.grade(6, &answer).unwrap());

    let bee = sets.open("SpellingBee", Split::Test);
    let counted = (0..bee.len()).filter(|&i| {
        let Content::Parts(parts) = &bee.conversation(i).messages[1].content else { panic!("parts") };
        let [by_hand, check, python, output, last] = parts.as_slice() else { panic!("five parts") };
        assert_eq!(check.text, "\n\nLet me double check this using Python:\n\n");
        assert_eq!(crate::conversation::calculator::calculate(&python.text).as_ref(), Some(&output.text));
        assert!(
            last.text.ends_with(&format!("\n\n#### {}", output.text)) && bee.grade(i, &last.text).unwrap()
        );
        assert!(!bee.grade(i, "#### 9").unwrap());
        assert!(tested.contains(python.text.split('\'').nth(1).unwrap()), "{}", python.text);
        let manual = format!("This gives us {}.", output.text);
        assert!(by_hand.text.ends_with(&manual), "{}", by_hand.text);
        output.text != "0"
    });
    assert!((200..256).contains(&counted.count()));
    let solution =
        (0..).map(|i| texts(&*bee, i)[1].clone()).find(|text| text.contains("count('r')")).unwrap();
    let word = solution.split('\'').nth(3).unwrap();
    let last = word.chars().last().unwrap();
    let expected = format!(
        "We are asked to find the number 'r' in the word '{word}'. Let me try a manual approach first.\n\n\
         First spell the word out:\n{word}:s,t,r,a,w,b,e,r,r,{last}\n\nThen count the occurrences of 'r':\n\
         1:s\n2:t\n3:r hit! count=1\n4:a\n5:w\n6:b\n7:e\n8:r hit! count=2\n9:r hit! count=3\n10:{last}\n\n\
         This gives us 3.\n\nLet me double check this using Python:\n\n'{word}'.count('r')3\n\n\
         Python gives us 3.\n\nMy final answer is:\n\n#### 3"
    );
    assert_eq!(solution, expected);
}

#[test]
fn spelling_needs_no_file_but_refuses_a_bad_one() {
    let without = Sets::new(&[]);
    assert!(texts(&*without.open("SpellingBee", Split::Train), 0)[1].contains("#### "));
    let bad = Sets::new(&[("words_alpha.txt", "apple\ntwo words\n")]);
    let error = bad.error("SpellingBee", Split::Test);
    assert!(
        error.ends_with("words_alpha.txt, line 2: \"two words\" is not a word of at most 45 letters"),
        "{error}"
    );
}

#[test]
fn a_users_evaluation_needs_no_code() {
    let lines = [
        r#"{"question": "q", "answer": " Yes "}"#,
        r#"{"question": "q", "answer": 1234.5, "grade": "number"}"#,
        r#"{"question": "q", "answer": ["Paris", "巴黎"], "grade": "contains"}"#,
        r#"{"messages": [{"role": "user", "content": "q"}], "answer": "^(red|blue)\\b", "grade": "regex"}"#,
    ];
    let sets = Sets::new(&[("my.jsonl", &lines.join("\n"))]);
    let task = sets.open(sets.path("my.jsonl").to_str().unwrap(), Split::Test);
    assert_eq!((task.name(), task.len(), task.kind()), ("my", 4, Grading::Generative));
    let grades = [
        (0, "Yes\n", true),
        (0, "yes", false),
        (1, "from 7 to 1,234.50 m.", true),
        (1, "1234.5 or 7", false),
        (1, "none", false),
        (2, "it is PARIS!", true),
        (2, "是巴黎", true),
        (2, "Rome", false),
        (3, "blue it is", true),
        (3, "it is blue", false),
    ];
    for (i, answer, right) in grades {
        assert_eq!(task.grade(i, answer).unwrap(), right, "{i} {answer}");
    }
    let choices = r#"{"question": "Is ice cold?", "choices": ["no", "yes"], "answer": "B"}"#;
    fs::write(sets.path("choice.jsonl"), choices).unwrap();
    let task = sets.open(sets.path("choice.jsonl").to_str().unwrap(), Split::Test);
    assert_eq!((task.kind(), task.letters(0)), (Grading::Categorical, &["A".to_string(), "B".into()][..]));
    let talk = r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]"#;
    fs::write(sets.path("talk.jsonl"), talk).unwrap();
    assert_eq!(sets.open(sets.path("talk.jsonl").to_str().unwrap(), Split::Train).kind(), Grading::Talk);
}

#[test]
fn mistakes_in_a_users_file_are_named_with_the_line() {
    let good = r#"{"question": "q", "answer": "a"}"#;
    let choice = r#"{"question": "q", "choices": ["x", "y"], "answer": "A"}"#;
    let cases = [
        (good, "{", "line 2: not JSON"),
        (good, r#"{"question": "q"}"#, "line 2: no `answer`, only question"),
        (good, r#"{"answer": "a"}"#, "line 2: no `question`"),
        (good, r#"{"question": " ", "answer": "a"}"#, "line 2: `question` is empty"),
        (good, r#"{"question": "q", "answer": []}"#, "line 2: `answer` is an empty list"),
        (good, r#"{"question": "q", "answer": "a", "grade": "vibes"}"#, "line 2: unknown grade \"vibes\""),
        (good, r#"{"question": "q", "answer": "a", "grade": "number"}"#, "line 2: \"a\" is not a number"),
        (good, r#"{"question": "q", "answer": "(", "grade": "regex"}"#, "line 2: \"(\" is not a pattern"),
        (good, r#"{"question": "q", "answer": "a{9999}{9999}", "grade": "regex"}"#, "line 2: "),
        (good, r#"{"messages": [], "answer": "a"}"#, "line 2: message 1"),
        (good, choice, "line 2: this line has choices, but the first line has none"),
        (choice, good, "line 2: no `choices`"),
        (
            choice,
            r#"{"question": "q", "choices": ["x", "y"], "answer": "C"}"#,
            "line 2: the answer must be a letter from A to B",
        ),
        (choice, r#"{"question": "q", "choices": ["x"], "answer": "A"}"#, "line 2: 1 choices"),
    ];
    let sets = Sets::new(&[]);
    let path = sets.path("bad.jsonl");
    for (first, second, expected) in cases {
        fs::write(&path, format!("{first}\n{second}\n")).unwrap();
        let error = sets.error(path.to_str().unwrap(), Split::Test);
        assert!(error.contains("bad.jsonl") && error.contains(expected), "{error}");
    }
    fs::write(&path, "\n").unwrap();
    assert!(sets.error(path.to_str().unwrap(), Split::Test).ends_with("bad.jsonl has no items"));
}

#[test]
fn mistakes_in_sets_are_named() {
    let sets = Sets::new(&[
        ("mmlu/test/a_test.csv", "q,1,2,3,4,E\n"),
        ("ceval/val/a_val.csv", "id,question,A,B,C,D\n0,q,1,2,3,4\n"),
        ("cmmlu/test/a.csv", ",Question,A,B,C,D,Answer\n0,q,1,2,3,A\n"),
        ("gsm8k/test.jsonl", ""),
        (
            "eval_bundle/eval_data/world_knowledge/arc_easy.jsonl",
            r#"{"query": "q", "choices": ["a"], "gold": 1}"#,
        ),
    ]);
    for (name, expected) in [
        ("MMLU", "a_test.csv, line 1: the answer must be a letter from A to D, found \"E\""),
        ("C-Eval", "a_val.csv, line 2: no `answer`, only id, question, A, B, C, D"),
        ("CMMLU", "a.csv, line 2: 6 fields where 7 are due"),
        ("GSM8K", "test.jsonl has no items"),
        ("ARC-Easy", "arc_easy.jsonl, line 1: `gold` must be a whole number below 1"),
        ("SmolTalk", "put the hub's HuggingFaceTB/smol-smoltalk there, as smol-smoltalk/data/test-*.parquet"),
        ("chess", "there is no task chess; choose of ARC-Easy"),
        ("world", "test.jsonl"),
    ] {
        let error = sets.error(name, Split::Test);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn world_questions_are_tasks_by_kind() {
    let sets = Sets::new(&[]);
    let made = crate::world::make::MakeOptions {
        seed: 1,
        name: "小纳".into(),
        lang: crate::text::language::TextLanguage::Mix,
        documents: 3,
        conversations: 5,
    };
    crate::world::make::make(&made, sets.0.path(), &indicatif::ProgressBar::hidden()).unwrap();
    for kind in crate::world::QuestionKind::ALL {
        let task = sets.open(&kind.to_string(), Split::Test);
        assert_eq!((task.len(), task.name()), (200, kind.to_string().as_str()));
        let [_, answer] = texts(&*task, 7);
        assert!(task.grade(7, &answer).unwrap() && !task.grade(7, "?").unwrap(), "{answer}");
        assert!(sets.error(&kind.to_string(), Split::Train).contains("for testing alone"));
    }
    assert_eq!((sets.open("world", Split::Train).len(), sets.open("world", Split::Test).len()), (5, 1));
}

#[test]
fn a_slice_is_every_so_many_items() {
    let task: std::sync::Arc<dyn Task> = Sets::new(&[]).open("SimpleSpelling", Split::Test).into();
    let indices = |range, step| {
        let slice = TaskSlice::new(task.clone(), range, step);
        (0..slice.len()).map(|i| texts(&slice, i)).collect::<Vec<_>>()
    };
    let expected = |of: &[usize]| of.iter().map(|&i| texts(&*task, i)).collect::<Vec<_>>();
    assert_eq!(indices(2..9, 3), expected(&[2, 5, 8]));
    assert_eq!(indices(254..usize::MAX, 1), expected(&[254, 255]));
    assert!(indices(300..400, 1).is_empty() && indices(5..5, 1).is_empty());
    let slice = TaskSlice::new(task.clone(), 3..5, 1);
    assert!(slice.grade(1, &texts(&*task, 4)[1]).unwrap() && !slice.grade(0, &texts(&*task, 4)[1]).unwrap());
}

#[test]
fn parts_keep_every_letter_of_a_solution() {
    for solution in [EGGS, "<<1=1>>", "a<<b>>c", "<<>>", "<<a=b=c>>d", "x << y"] {
        let text: String = gsm8k::parts(solution)
            .iter()
            .map(|Part { kind, text }| match kind {
                PartKind::Text => text.clone(),
                PartKind::Python => format!("<<{text}"),
                PartKind::PythonOutput if text.is_empty() => ">>".to_string(),
                PartKind::PythonOutput => format!("={text}>>"),
            })
            .collect();
        assert_eq!(text, solution);
    }
}
