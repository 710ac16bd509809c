//! A small built-in test of Chinese: the next line of a classical poem, the idiom that a sentence describes, and
//! translations in both directions. Each item has one right choice among four. Base models are scored by likelihood
//! (`eval core --bundle zh`), chat models by the letter they choose (`eval chat --task poems`, …).
//!
//! The lines of verse are in the public domain; everything else was written for this test.

use std::io;
use std::path::Path;

use nanochat_tensor::Rng;
use serde_json::json;

use crate::files::atomic_file;

const CHOICES: usize = 4;

/// A task of the Chinese sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChineseTask {
    Poems,
    Idioms,
    ToChinese,
    ToEnglish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChineseItem {
    /// The text before the answer.
    pub query: String,
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub gold: usize,
}

impl ChineseTask {
    pub const ALL: [ChineseTask; 4] =
        [ChineseTask::Poems, ChineseTask::Idioms, ChineseTask::ToChinese, ChineseTask::ToEnglish];

    pub fn name(self) -> &'static str {
        match self {
            ChineseTask::Poems => "poems",
            ChineseTask::Idioms => "idioms",
            ChineseTask::ToChinese => "translation-zh",
            ChineseTask::ToEnglish => "translation-en",
        }
    }

    /// Returns all items. Wrong choices are the answers of other items; for poems, only lines with the same number of
    /// characters.
    pub fn items(self) -> Vec<ChineseItem> {
        let text = match self {
            ChineseTask::Poems => include_str!("poems.tsv"),
            ChineseTask::Idioms => include_str!("idioms.tsv"),
            ChineseTask::ToChinese | ChineseTask::ToEnglish => include_str!("translations.tsv"),
        };
        let pairs = text.lines().map(|line| line.split_once('\t').expect("two columns"));
        let pairs: Vec<(String, String)> = match self {
            ChineseTask::Poems => {
                pairs.map(|(line, next)| (format!("{line}，"), format!("{next}。"))).collect()
            }
            ChineseTask::Idioms => {
                pairs.map(|(says, idiom)| (format!("{says}，这叫"), format!("{idiom}。"))).collect()
            }
            ChineseTask::ToChinese => {
                pairs.map(|(zh, en)| (format!("英语：{en}\n汉语："), zh.to_string())).collect()
            }
            ChineseTask::ToEnglish => {
                pairs.map(|(zh, en)| (format!("汉语：{zh}\n英语："), en.to_string())).collect()
            }
        };
        (0..pairs.len()).map(|i| self.item(&pairs, i)).collect()
    }

    fn item(self, pairs: &[(String, String)], i: usize) -> ChineseItem {
        let rng = &mut Rng::new(&[self as u64, i as u64]);
        let (query, right) = &pairs[i];
        let chars = |text: &str| if self == ChineseTask::Poems { text.chars().count() } else { 0 };
        let mut others: Vec<&String> = pairs.iter().map(|(_, answer)| answer).collect();
        others.retain(|answer| *answer != right && chars(answer) == chars(right));
        rng.shuffle(&mut others);
        others.truncate(CHOICES - 1);
        let gold = rng.below(CHOICES);
        others.insert(gold, right);
        ChineseItem { query: query.clone(), choices: others.into_iter().cloned().collect(), gold }
    }
}

/// Writes the test into `folder` as a bundle in CORE's format. Translation tasks have three few-shot examples, the
/// others none.
pub fn write_bundle(folder: &Path) -> io::Result<()> {
    let (mut list, mut meta) = ("icl_tasks:\n".to_string(), "Eval Task,Random baseline\n".to_string());
    for kind in ChineseTask::ALL {
        let (name, shots) =
            (kind.name(), if matches!(kind, ChineseTask::Poems | ChineseTask::Idioms) { 0 } else { 3 });
        list += &format!(
            "- label: {name}\n  dataset_uri: {name}.jsonl\n  num_fewshot: [{shots}]\n  icl_task_type: multiple_choice\n  continuation_delimiter: \"\"\n"
        );
        meta += &format!("{name},{}\n", 100 / CHOICES);
        let line = |ChineseItem { query, choices, gold }: ChineseItem| {
            json!({"query": query, "choices": choices, "gold": gold}).to_string() + "\n"
        };
        let lines: String = kind.items().into_iter().map(line).collect();
        atomic_file::write(&folder.join("eval_data").join(format!("{name}.jsonl")), lines.as_bytes())?;
    }
    atomic_file::write(&folder.join("core.yaml"), list.as_bytes())?;
    atomic_file::write(&folder.join("eval_meta_data.csv"), meta.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::core_eval::Bundle;

    #[test]
    fn each_item_has_one_right_answer_among_four() {
        for kind in ChineseTask::ALL {
            let items = kind.items();
            assert!(items.len() >= 30, "{kind:?}: {}", items.len());
            let mut golds = [0; CHOICES];
            for item in &items {
                golds[item.gold] += 1;
                let mut choices = item.choices.clone();
                choices.sort();
                choices.dedup();
                assert_eq!(choices.len(), CHOICES, "{item:?}");
            }
            assert!(golds.iter().all(|n| *n > 1), "{kind:?}: {golds:?}");
        }
        let first = &ChineseTask::Poems.items()[0];
        assert_eq!(
            (first.query.as_str(), first.choices[first.gold].as_str()),
            ("床前明月光，", "疑是地上霜。")
        );
        assert!(first.choices.iter().all(|choice| choice.chars().count() == 6));
    }

    #[test]
    fn the_bundle_is_one_that_core_reads() {
        let temp = tempfile::tempdir().unwrap();
        write_bundle(temp.path()).unwrap();
        let bundle = Bundle::open(temp.path()).unwrap();
        assert_eq!(bundle.tasks.len(), 4);
        for (task, kind) in bundle.tasks.iter().zip(ChineseTask::ALL) {
            let items = bundle.items(task, 0).unwrap().unwrap();
            assert_eq!((task.label.as_str(), items.items.len()), (kind.name(), kind.items().len()));
            assert_eq!(task.baseline, 0.25);
        }
    }
}
