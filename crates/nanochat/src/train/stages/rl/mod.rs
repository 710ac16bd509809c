//! Reinforcement learning on questions whose answers can be checked: GRPO as simplified by nanochat (chat_rl.py), which
//! is close to REINFORCE. Each step samples answers to some questions from the model and makes those likelier that are
//! better than the mean of their question.
//!
//! Only tokens that the model chose are learned, including the end of its answer, but not the output of tools. The
//! losses are averaged over all sampled tokens of the step.

mod advantage;
mod measuring;
mod policy;
pub mod rollouts;
mod settings;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Device, Rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::advantage::{batches, weighted_by_advantage};
use self::advantage::{is_mixed, sampled_tokens};
use self::measuring::note_beginning;
use self::policy::Objective;
use self::rollouts::{Problem, Rollout, read_problems, roll_out};
pub use self::settings::RlSettings;
use super::fit;
use super::run::{Learner, Point, Run, Training};
use crate::engine::Engine;
use crate::model::batch::Batch;
use crate::model::checkpoint::{self, Stage};
use crate::model::config::GptConfig;
use crate::model::gpt::Gpt;
use crate::model::optim::ScheduleValues;
use crate::terminal::counted::counted;
use crate::train::schedule::Schedule;
use crate::train::{self, Diverged, StepResult};

/// The facts that must stay the same when a run resumes. (The step determines the next questions.)
#[derive(Serialize, Deserialize)]
struct Position {
    questions: usize,
    /// The reference model of the KL term.
    reference: PathBuf,
}

/// The first part of the random keys that shuffle the questions.
const QUESTIONS: u64 = 3;

pub fn run(settings: &RlSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    settings.check()?;
    let tag = settings.run.model_tag.as_deref();
    let source = settings.source.load(base_dir, tag, &[Stage::Sft, Stage::Mid])?;
    let (tokenizer, context) = (source.tokenizer, source.model.config.sequence_len);
    let mixtures = settings.mixture.open("rl", base_dir)?;
    let read = |mixture| read_problems(mixture, &tokenizer, context, settings.max_new_tokens);
    let ((problems, left_out), (mut held_out, _)) = (read(&mixtures[0])?, read(&mixtures[1])?);
    held_out.truncate(settings.eval_examples);
    let longest = problems.iter().chain(&held_out).map(|problem| problem.prompt.len()).max().unwrap_or(0);
    let sizes = GptConfig { sequence_len: longest + settings.max_new_tokens, ..source.model.config };
    fit::check(&sizes, settings.rows(device), settings.run.recompute, device, comm.world_size())?;
    let questions = problems.len();
    let num_iterations = settings.steps(questions)?;

    let mut run = Run::open(base_dir, Stage::Rl, &source.tag, &settings.run, settings, device, comm)?;
    run.say(&format!("starting from {}", source.folder.display()));
    run.say_unused(&[&mixtures[0], &mixtures[1]]);
    if mixtures[0].is_weighed() {
        run.say("weights are not used: an answer counts by its reward");
    }
    let (learner, position) = run.restore(&tokenizer, || source.model, settings.rates, 0.0)?;
    let position = position.unwrap_or(Position { questions, reference: source.folder });
    if position.questions != questions {
        bail!("the run was started with {} questions, but now there are {questions}", position.questions);
    }
    let reference = match settings.kl_coef > 0.0 {
        true => Some(checkpoint::load_folder(&position.reference)?.model.to_device(device)?),
        false => None,
    };
    let schedule = Schedule::Linear { num_iterations, init_lr_frac: settings.init_lr_frac };
    run.say(&format!(
        "{}: {} ({left_out} too long), {} of {} with {} each",
        source.tag,
        counted(questions, "question"),
        counted(num_iterations, "step"),
        settings.examples_per_step,
        counted(settings.num_samples, "answer")
    ));
    run.section.results.insert("questions".into(), questions.into());
    run.show_progress(num_iterations);
    run.train(Rl {
        settings,
        learner,
        reference,
        engine: None,
        problems: &problems,
        held_out: &held_out,
        position,
        schedule,
        num_iterations,
        longest: sizes.sequence_len,
    })
}

struct Rl<'a> {
    settings: &'a RlSettings,
    learner: Learner<'a>,
    /// The reference model of the KL term.
    reference: Option<Gpt>,
    /// The engine, kept between steps on a GPU, where it has its own copy of the weights.
    engine: Option<Engine<'a>>,
    problems: &'a [Problem<'a>],
    held_out: &'a [Problem<'a>],
    position: Position,
    schedule: Schedule,
    num_iterations: usize,
    /// The maximum tokens of a question together with its answer.
    longest: usize,
}

impl Training for Rl<'_> {
    fn learner(&self) -> &Learner<'_> {
        &self.learner
    }

    fn position(&self) -> Value {
        json!(self.position)
    }

    fn is_done(&self, step: usize) -> bool {
        step >= self.num_iterations
    }

    fn measure(&mut self, run: &mut Run, point: Point) -> Result<()> {
        let due = point.step == 0 || point.is_due(self.settings.eval_every);
        if due && !self.held_out.is_empty() {
            self.evaluate(run, point.step)?;
        }
        if point.last && run.comm.is_first() {
            note_beginning(run)?;
        }
        Ok(())
    }

    /// Samples answers to the step's questions and learns from them.
    fn step(&mut self, run: &mut Run, step: usize) -> Result<()> {
        let asked = questions_of(step, self.problems, self.settings);
        let stream = (step * asked.len()) as u64;
        let samples = self.settings.num_samples;
        let groups = part("answering", || self.answer(&asked, samples, stream, &run.comm))?;
        let generated = run.step_seconds();
        let answers = || groups.iter().flatten();
        let n = answers().count() as f64;
        let tokens = answers().map(sampled_tokens).sum::<usize>();
        let reward = answers().map(|answer| f64::from(answer.reward)).sum::<f64>() / n;
        let mixed = groups.iter().filter(|group| is_mixed(group)).count() as f64 / groups.len() as f64;

        let scheduled = self.schedule.at(step);
        let updated =
            self.update(groups, tokens, scheduled).map_err(|diverged| run.diverged(step, diverged))?;
        let (length, seconds) = (tokens as f64 / n, run.step_seconds());
        let mut values = vec![
            ("reward", reward),
            ("answer_tokens", length),
            ("mixed_groups", mixed),
            ("lr_multiplier", f64::from(scheduled.lr_multiplier)),
            ("tokens_per_second", tokens as f64 / seconds),
        ];
        if let Some(StepResult { loss, grad_norm }) = updated {
            values.extend([("policy_loss", f64::from(loss)), ("grad_norm", f64::from(grad_norm))]);
        }
        let message = format!(
            "reward {reward:.3} · {length:.0} tokens an answer · {:.0} % of questions mixed · {seconds:.1} s, {generated:.1} of them answering",
            100.0 * mixed
        );
        run.log_rollouts(step, &values, message)
    }
}

impl Rl<'_> {
    /// Samples answers to `problems` as `[problem][sample]`; `stream` is the first random stream.
    fn answer(
        &mut self,
        problems: &[&Problem],
        samples: usize,
        stream: u64,
        comm: &Comm,
    ) -> Result<Vec<Vec<Rollout>>> {
        let mut engine = match self.engine.take() {
            Some(mut engine) => {
                engine.refresh(&self.learner.model);
                engine
            }
            None => {
                let answers = self.settings.examples_per_step * self.settings.num_samples;
                rollouts::engine(&self.learner.model, Some(self.learner.tokenizer), answers, self.longest)
            }
        };
        let sampling = self.settings.sampling(samples);
        let groups = roll_out(&mut engine, self.learner.tokenizer, problems, sampling, stream, comm)?;
        // The update changes the model's weights next; as long as an engine shares them, they would be copied.
        self.engine = Some(engine).filter(|engine| !engine.shares_weights());
        Ok(groups)
    }

    /// Learns from a step's answers. Returns None if no question had both better and worse answers.
    fn update(
        &mut self,
        groups: Vec<Vec<Rollout>>,
        tokens: usize,
        scheduled: ScheduleValues,
    ) -> Result<Option<StepResult>, Diverged> {
        let settings = self.settings;
        let objective = Objective { clip_ratio: settings.clip_ratio, kl_coef: settings.kl_coef };
        let mut answers = weighted_by_advantage(groups, settings.kl_coef > 0.0);
        answers.sort_by_key(|answer| answer.row.ids.len());
        let Learner { model, optimizer, .. } = &mut self.learner;
        let batches = batches(&answers, settings.rows(&model.device()), model, optimizer.comm());
        if answers.is_empty() {
            return Ok(None);
        }
        let on_policy = settings.updates_per_step == 1 && self.reference.is_none();
        let nll = |model: &Gpt| -> Vec<Vec<f32>> {
            batches.iter().map(|(batch, sampled)| policy::nll(model, batch, sampled)).collect()
        };
        let old = if on_policy { Vec::new() } else { nll(model) };
        let reference = self.reference.as_ref().map(nll);
        let mut result = None;
        for _ in 0..settings.updates_per_step {
            let weighted = |(i, (batch, sampled)): (usize, &(Batch, Vec<bool>))| {
                let mut batch = batch.clone();
                if !on_policy {
                    // Without a KL term its coefficient is 0, so any reference will do.
                    let reference = reference.as_ref().unwrap_or(&old);
                    objective.reweigh(model, &mut batch, sampled, &old[i], &reference[i]);
                }
                batch
            };
            let batches: Vec<Batch> = batches.iter().enumerate().map(weighted).collect();
            result = Some(train::step_over(tokens as f32, model, optimizer, &batches, scheduled)?);
        }
        Ok(result)
    }
}

/// Returns the questions of a step from an endless sequence that is shuffled anew each epoch.
fn questions_of<'p>(step: usize, problems: &'p [Problem<'p>], settings: &RlSettings) -> Vec<&'p Problem<'p>> {
    let (n, count) = (problems.len(), settings.examples_per_step);
    let shuffled = |epoch| {
        let mut order: Vec<usize> = (0..n).collect();
        Rng::new(&[QUESTIONS, settings.run.seed, epoch as u64]).shuffle(&mut order);
        order
    };
    let (mut epoch, mut order) = (step * count / n, shuffled(step * count / n));
    let question = |i: usize| {
        if i / n != epoch {
            (epoch, order) = (i / n, shuffled(i / n));
        }
        &problems[order[i % n]]
    };
    (step * count..(step + 1) * count).map(question).collect()
}
