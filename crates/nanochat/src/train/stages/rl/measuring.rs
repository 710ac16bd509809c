//! Measures a model during reinforcement learning: how often one of several answers to a held-out question is right.

use anyhow::Result;

use super::Rl;
use super::rollouts::{Problem, Rollout, pass_at};
use crate::report::metrics::{METRICS_FILE, read_metrics};
use crate::terminal::counted::counted;
use crate::train::stages::run::Run;

/// The first random stream of held-out answers, far from those of training.
const EVAL_STREAMS: u64 = 1 << 40;
/// The number of held-out answers in the report.
const SHOWN: usize = 6;

impl Rl<'_> {
    /// Measures pass@1, 2, 4, … on held-out questions, logs them and adds them to the run's section.
    pub(super) fn evaluate(&mut self, run: &mut Run, step: usize) -> Result<()> {
        let n = self.settings.eval_samples;
        let problems: Vec<&Problem> = self.held_out.iter().collect();
        let groups = self.answer(&problems, n, EVAL_STREAMS, &run.comm)?;
        let right = |group: &Vec<Rollout>| group.iter().filter(|answer| answer.reward > 0.0).count();
        let right: Vec<usize> = groups.iter().map(right).collect();
        let ks = std::iter::successors(Some(1), |k| Some(2 * k)).take_while(|&k| k <= n);
        let share = |k| right.iter().map(|&c| pass_at(k, c, n)).sum::<f64>() / right.len() as f64;
        let values: Vec<(String, f64)> = ks.map(|k| (format!("pass@{k}"), share(k))).collect();
        let named: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        run.log(step, &named)?;
        let said: String = named.iter().map(|(name, value)| format!(" {name} {value:.3}")).collect();
        run.say(&format!("step {step}:{said} on {}", counted(problems.len(), "held-out question")));
        for (name, value) in values {
            run.section.metrics.insert(name, value.into());
        }
        let line = |(problem, group): (&&Problem, &Vec<Rollout>)| {
            let mark = if group[0].reward > 0.0 { "✓" } else { "✗" };
            format!("- {mark} {} → {}", problem.question, group[0].text).replace('\n', " ") + "\n"
        };
        run.section.text = Some(problems.iter().zip(&groups).take(SHOWN).map(line).collect());
        Ok(())
    }
}

/// Adds the measurements before the first step to the report, for comparison. An earlier process may have made them.
pub(super) fn note_beginning(run: &mut Run) -> Result<()> {
    let metrics = read_metrics(&run.checkpoints.dir().join(METRICS_FILE))?;
    let beginning = metrics.into_iter().filter(|line| line.step == 0).flat_map(|line| line.values);
    for (name, value) in beginning.filter(|(name, _)| name.starts_with("pass@")) {
        run.section.results.insert(format!("{name} before"), value);
    }
    Ok(())
}
