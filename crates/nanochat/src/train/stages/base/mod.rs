//! Base pretraining: next-token prediction over the shards (nanochat's base_train.py).

mod measuring;
mod settings;

use std::path::Path;

use anyhow::{Context, Result, bail};
use nanochat_tensor::{Comm, Device};
use nanochat_tokenizer::Tokenizer;
use serde_json::{Value, json};

use self::measuring::{Validation, evaluate, log_epochs, samples, validations};
pub use self::settings::{BaseSettings, grad_accum_steps};
use self::settings::{corpora, num_iterations};
use super::core_metric::CoreMetric;
use super::fit;
use super::run::{Learner, Point, Run, Training, micro_batches};
use crate::model::batch::Batch;
use crate::model::checkpoint::Stage;
use crate::model::gpt::Gpt;
use crate::terminal::counted::counted;
use crate::text::dataloader::{DataLoader, DataLoaderError, LoaderState};
use crate::text::dataset::{Shards, Split};
use crate::train::schedule::Schedule;

pub fn run(settings: &BaseSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let (settings, rows, total_batch_size) = settings.sized_for(device);
    let settings = &settings;
    let tokenizer_path = base_dir.join("tokenizer").join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&tokenizer_path)
        .context("base training needs a tokenizer: `nanochat tok train`")?;
    let ramps = settings.warmup_ratio + settings.warmdown_ratio;
    if ramps > 1.0 {
        bail!("--warmup-ratio and --warmdown-ratio add up to {ramps}; together they may be at most 1");
    }
    let config = settings.model.config(settings.depth, tokenizer.vocab_size(), rows[1])?;
    let grad_accum_steps = grad_accum_steps(total_batch_size, rows[0].saturating_mul(rows[1]))?;
    fit::check(&config, rows[0], settings.run.recompute, device, comm.world_size())?;
    let num_iterations = num_iterations(settings, &config, total_batch_size)?;
    let corpora = corpora(settings, base_dir)?;
    let validations = validations(settings, &corpora)?;
    let core = CoreMetric::open(&settings.core, base_dir, comm)?;

    let tag = settings.run.model_tag.clone().unwrap_or_else(|| format!("d{}", settings.depth));
    let mut run = Run::open(base_dir, Stage::Base, &tag, &settings.run, settings, device, comm)?;
    let new_model = || Gpt::init(config, settings.run.seed);
    let (learner, position) = run.restore(&tokenizer, new_model, settings.rates, settings.grad_clip)?;
    let loader = DataLoader::mixed(&corpora, Split::Train, &tokenizer, rows, position.as_ref(), comm)?;
    let schedule = Schedule::Trapezoid {
        num_iterations,
        warmup_ratio: settings.warmup_ratio,
        warmdown_ratio: settings.warmdown_ratio,
        final_lr_frac: settings.final_lr_frac,
    };
    let tokens = num_iterations as u64 * total_batch_size as u64;
    run.say(&format!(
        "{tag}: {:.2}M parameters, vocabulary {}, {} of {total_batch_size} tokens ({:.2}M in all, {} a step)",
        config.params() as f64 / 1e6,
        config.vocab_size,
        counted(num_iterations, "step"),
        tokens as f64 / 1e6,
        counted(grad_accum_steps, "micro-batch"),
    ));
    run.note_idle(grad_accum_steps);
    run.section.results.insert("parameters".into(), config.params().into());
    run.section.results.insert("tokens".into(), tokens.into());
    run.show_progress(num_iterations);
    let mut feeder = Feeder { loader, comm: comm.clone(), grad_accum_steps, num_iterations };
    let fed = feeder.feed(run.first_step())?;
    run.train(Base {
        settings,
        learner,
        feeder,
        fed,
        schedule,
        corpora,
        validations,
        core,
        rows,
        total_batch_size,
    })
}

struct Base<'a> {
    settings: &'a BaseSettings,
    learner: Learner<'a>,
    feeder: Feeder,
    fed: Fed,
    schedule: Schedule,
    corpora: Vec<(Shards, f64)>,
    validations: Vec<Validation>,
    core: CoreMetric,
    rows: [usize; 2],
    total_batch_size: usize,
}

/// Takes the micro-batches of a step while the GPU computes the previous step.
struct Feeder {
    loader: DataLoader,
    comm: Comm,
    grad_accum_steps: usize,
    num_iterations: usize,
}

/// This rank's micro-batches of a step, and the loader's position before them, which is what a checkpoint saves.
struct Fed {
    position: LoaderState,
    micro_batches: Vec<Batch>,
}

impl Feeder {
    /// Returns the data of step `step`; after the last step there are no micro-batches.
    fn feed(&mut self, step: usize) -> Result<Fed, DataLoaderError> {
        let position = self.loader.state();
        let n = if step < self.num_iterations { self.grad_accum_steps } else { 0 };
        let micro_batches = micro_batches(&self.comm, n, || self.loader.next_batch())?;
        Ok(Fed { position, micro_batches })
    }
}

impl Training for Base<'_> {
    fn learner(&self) -> &Learner<'_> {
        &self.learner
    }

    fn position(&self) -> Value {
        json!(self.fed.position)
    }

    fn is_done(&self, step: usize) -> bool {
        step >= self.feeder.num_iterations
    }

    fn measure(&mut self, run: &mut Run, point: Point) -> Result<()> {
        let (settings, step) = (self.settings, point.step);
        if point.is_due(settings.eval_every) {
            run.section.metrics =
                evaluate(run, step, &self.learner, &self.validations, self.rows, settings.eval_tokens)?;
            let epochs = log_epochs(run, step, settings, &self.corpora, &self.fed.position)?;
            run.section.results.insert("epochs".into(), epochs.into());
        }
        self.core.measure(run, point, &self.learner)?;
        if point.is_due_after_start(settings.sample_every) {
            // The other ranks wait at the next step.
            let lines = match run.comm.is_first() {
                true => samples(&self.learner, &settings.sample_prompt),
                false => Vec::new(),
            };
            lines.iter().for_each(|line| run.say(&format!("  {line}")));
            run.section.text = Some(lines.iter().map(|line| format!("- {line}\n")).collect());
        }
        Ok(())
    }

    fn step(&mut self, run: &mut Run, step: usize) -> Result<()> {
        let (feeder, micro_batches) = (&mut self.feeder, &self.fed.micro_batches);
        let scheduled = self.schedule.at(step);
        let next = || feeder.feed(step + 1);
        self.fed =
            run.learn(step, &mut self.learner, micro_batches, self.total_batch_size, scheduled, next)??;
        Ok(())
    }
}
