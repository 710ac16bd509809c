//! Measures CORE while a base model trains. If tasks are missing from the bundle, it measures the mean of the others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nanochat_tensor::Comm;
use serde::{Deserialize, Serialize};

use super::run::{Learner, Point, Run};
use crate::measure::core_eval::{self, Bundle};
use crate::terminal::escape;
use crate::terminal::flag_values;
use crate::terminal::output::tell;

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct CoreMetricArgs {
    /// Compute CORE every N steps if there is a bundle (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 2000)]
    #[serde(default)]
    pub core_metric_every: usize,
    /// Maximum items of each task for CORE (0: all)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 500)]
    #[serde(default)]
    pub core_metric_max_per_task: usize,
    /// Folder of the CORE bundle, as for `eval core` [default: {base-dir}/eval_bundle]
    #[arg(long, value_name = "FOLDER", value_parser = flag_values::kept_path)]
    #[serde(default)]
    pub core_bundle: Option<PathBuf>,
    /// Do not measure CORE even if there is a bundle
    #[arg(long)]
    #[serde(default)]
    pub no_core: bool,
}

pub struct CoreMetric {
    bundle: Option<Bundle>,
    every: usize,
    max_per_task: usize,
}

impl CoreMetric {
    /// Opens the bundle and reads every task once, so that a mistake in a file is found before training.
    pub fn open(args: &CoreMetricArgs, base_dir: &Path, comm: &Comm) -> Result<CoreMetric> {
        let (every, max_per_task) = (args.core_metric_every, args.core_metric_max_per_task);
        let folder = args.core_bundle.clone().unwrap_or_else(|| base_dir.join("eval_bundle"));
        let mut bundle = None;
        if !args.no_core && args.core_bundle.is_none() && !folder.exists() {
            if comm.is_first() {
                let sentence = format!("CORE is not computed: there is no {}", folder.display());
                tell(&escape::line(&sentence));
            }
        } else if !args.no_core {
            let there = Bundle::open(&folder).context("--no-core trains without CORE")?;
            for task in &there.tasks {
                there.items(task, max_per_task)?;
            }
            bundle = Some(there);
        }
        Ok(CoreMetric { bundle, every, max_per_task })
    }

    /// Measures CORE if it is due, and adds it to the run's metrics and report section.
    pub fn measure(&self, run: &mut Run, point: Point, learner: &Learner) -> Result<()> {
        let (step, due) = (point.step, point.is_due_after_start(self.every));
        let (model, tokenizer) = (&learner.model, learner.tokenizer);
        let Some(bundle) = self.bundle.as_ref().filter(|_| due) else { return Ok(()) };
        let scores = core_eval::evaluate(model, tokenizer, bundle, self.max_per_task, &run.comm, |_| ())?;
        run.log(step, &[(scores.metric(), scores.mean)])?;
        let cropped = scores.cropped_items();
        let said = cropped.as_ref().map_or(String::new(), |items| format!(", {items} cropped"));
        run.say(&format!("step {step}: {} {:.4}{said}", scores.name(), scores.mean));
        run.section.metrics.insert(scores.name(), scores.mean.into());
        run.section.results.insert("few-shot items cropped".into(), cropped.into());
        Ok(())
    }
}
