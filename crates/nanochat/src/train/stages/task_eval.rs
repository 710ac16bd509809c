//! Measures tasks while a chat stage trains.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::run::{Learner, Point, Run};
use crate::chat::tasks::{self, Folders, Split, Task, TaskSlice};
use crate::engine::sampler::SampleOptions;
use crate::measure::chat_eval::{self, ChatEvalOptions};
use crate::terminal::flag_values;

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct TaskEvalArgs {
    /// Measure a task while training, such as MMLU or a .jsonl file of questions; may be repeated
    #[arg(long, value_name = "NAME|FILE")]
    #[serde(default)]
    pub eval_task: Vec<String>,
    /// Measure the tasks every N steps (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 200)]
    #[serde(default)]
    pub eval_task_every: usize,
    /// Questions of each task
    #[arg(long, value_parser = flag_values::amount, default_value_t = 1024)]
    #[serde(default)]
    pub eval_task_limit: usize,
}

/// The maximum length of a written answer, in tokens.
const MAX_TOKENS: usize = 256;

pub struct TaskEval {
    tasks: Vec<TaskSlice>,
    every: usize,
}

impl TaskEval {
    pub fn open(args: &TaskEvalArgs, base_dir: &Path) -> Result<TaskEval> {
        let open = |name: &String| {
            let task = Arc::<dyn Task>::from(tasks::open(name, Split::Test, &Folders::of(base_dir))?);
            Ok(TaskSlice::new(task, 0..args.eval_task_limit, 1))
        };
        let tasks = args.eval_task.iter().map(open).collect::<Result<_>>()?;
        Ok(TaskEval { tasks, every: args.eval_task_every })
    }

    /// Measures the tasks with greedy answers if they are due, and logs each as `accuracy NAME`.
    pub fn measure(&self, run: &mut Run, point: Point, learner: &Learner) -> Result<()> {
        let (step, due) = (point.step, point.is_due(self.every));
        let (model, tokenizer) = (&learner.model, learner.tokenizer);
        for task in self.tasks.iter().filter(|_| due) {
            let sample = SampleOptions::GREEDY;
            let options = ChatEvalOptions { max_tokens: MAX_TOKENS, samples: 1, sample, keep_wrong: 0 };
            let score = chat_eval::evaluate(model, tokenizer, task, &options, &run.comm, &|| ())?;
            run.log(step, &[(&format!("accuracy {}", score.task), score.accuracy)])?;
            let (percent, of) = (100.0 * score.accuracy, score.score.total);
            run.say(&format!("step {step}: {} {percent:.1} % of {of} right", score.task));
        }
        Ok(())
    }
}
