//! The scores of few-shot tasks, and the decision whether their mean may be called CORE.

use serde::{Deserialize, Serialize};

use crate::measure::score::Score;
use crate::terminal::counted::counted;

/// The tasks of CORE, as the reference's core.yaml lists them.
pub const CORE_TASKS: [&str; 22] = [
    "hellaswag_zeroshot",
    "jeopardy",
    "bigbench_qa_wikidata",
    "arc_easy",
    "arc_challenge",
    "copa",
    "commonsense_qa",
    "piqa",
    "openbook_qa",
    "lambada_openai",
    "hellaswag",
    "winograd",
    "winogrande",
    "bigbench_dyck_languages",
    "agi_eval_lsat_ar",
    "bigbench_cs_algorithms",
    "bigbench_operators",
    "bigbench_repeat_copy_logic",
    "squad",
    "coqa",
    "boolq",
    "bigbench_language_identification",
];

/// The scores of those tasks of a bundle that were run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreScores {
    /// The mean over `tasks` of the accuracy above guessing.
    pub mean: f64,
    /// The same value, if the tasks are exactly those of CORE; the mean of other tasks is not comparable to published
    /// scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<f64>,
    /// The number of items of all tasks that exceeded the model's maximum length, so that their beginning was cut off.
    pub cropped: usize,
    /// The missing files of the bundle.
    pub missing: Vec<String>,
    pub tasks: Vec<TaskScore>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskScore {
    pub label: String,
    pub score: Score,
    pub accuracy: f64,
    /// The 95 % confidence interval of the accuracy.
    pub interval: [f64; 2],
    pub centered: f64,
    /// The number of items that exceeded the model's maximum length, so that their beginning was cut off.
    pub cropped: usize,
}

impl CoreScores {
    /// Makes the scores of at least one task.
    pub fn of(tasks: Vec<TaskScore>, missing: Vec<String>) -> CoreScores {
        let mean = tasks.iter().map(|task| task.centered).sum::<f64>() / tasks.len() as f64;
        let mut labels: Vec<&str> = tasks.iter().map(|task| task.label.as_str()).collect();
        let mut all = CORE_TASKS;
        labels.sort_unstable();
        all.sort_unstable();
        let cropped = tasks.iter().map(|task| task.cropped).sum();
        CoreScores { mean, core: (labels == all).then_some(mean), cropped, missing, tasks }
    }

    /// Returns the name of the mean in text.
    pub fn name(&self) -> String {
        match self.core {
            Some(_) => "CORE".into(),
            None => format!("mean of {}, not CORE", counted(self.tasks.len(), "task")),
        }
    }

    /// Returns the name of the mean in metrics.jsonl.
    pub fn metric(&self) -> &'static str {
        if self.core.is_some() { "CORE" } else { "core_mean" }
    }

    /// Counts the cropped items in words, "3 of 80 items"; None if all items fitted.
    pub fn cropped_items(&self) -> Option<String> {
        let all: usize = self.tasks.iter().map(|task| task.score.total).sum();
        (self.cropped > 0).then(|| format!("{} of {}", self.cropped, counted(all, "item")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(labels: &[&str]) -> CoreScores {
        let task = |label: &&str| TaskScore {
            label: label.to_string(),
            score: Score { right: 1, total: 2 },
            accuracy: 0.5,
            interval: [0.0, 1.0],
            centered: 0.5,
            cropped: 0,
        };
        CoreScores::of(labels.iter().map(task).collect(), Vec::new())
    }

    #[test]
    fn core_is_the_mean_of_its_22_tasks_and_of_no_others() {
        let whole = scores(&CORE_TASKS);
        assert_eq!((whole.name().as_str(), whole.metric(), whole.core), ("CORE", "CORE", Some(0.5)));
        let with = |change: &dyn Fn(&mut Vec<&str>)| {
            let mut labels = CORE_TASKS.to_vec();
            change(&mut labels);
            scores(&labels)
        };
        for (other, name) in [
            (with(&|labels| labels.truncate(21)), "mean of 21 tasks, not CORE"),
            (with(&|labels| labels.truncate(1)), "mean of 1 task, not CORE"),
            (with(&|labels| labels[21] = "poems"), "mean of 22 tasks, not CORE"),
            (with(&|labels| labels[21] = "squad"), "mean of 22 tasks, not CORE"),
            (with(&|labels| labels.push("poems")), "mean of 23 tasks, not CORE"),
        ] {
            assert_eq!((other.name().as_str(), other.metric(), other.core), (name, "core_mean", None));
            let json = serde_json::to_value(&other).unwrap();
            assert!(json["mean"] == 0.5 && json.get("core").is_none(), "{json}");
        }
        assert_eq!(with(&|labels| labels.reverse()).name(), "CORE");
    }
}
