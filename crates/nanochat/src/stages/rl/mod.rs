//! Reinforcement learning on questions whose answers can be checked: GRPO as nanochat simplifies it (chat_rl.py),
//! which is nearly REINFORCE. Each step samples answers to some questions from the model itself and makes those
//! likelier that are better than the mean of their question.
//!
//! Only what the model chose is learned, the end of its answer included, and not what a tool put in. The losses are
//! averaged over all sampled tokens of the step.

mod policy;
pub mod rollouts;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use nanochat_tensor::profile::part;
use nanochat_tensor::{Comm, Device, Rng};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fit;
use super::run::{Run, RunSettings, is_due};
use super::source::SourceArgs;
use crate::batch::{Batch, Row};
use crate::checkpoint::{self, Stage};
use crate::config::GptConfig;
use crate::counted::counted;
use crate::device_sizes::DeviceSizes;
use crate::engine::Engine;
use crate::gpt::Gpt;
use crate::gpt::Rates;
use crate::metrics::{METRICS_FILE, read_metrics};
use crate::mixture::MixtureArgs;
use crate::optim::{Optimizer, ScheduleValues};
use crate::ranks;
use crate::report::{Column, Section};
use crate::sampler::SampleOptions;
use crate::schedule::Schedule;
use crate::train::{self, Diverged, StepResult};
use crate::values;
use policy::Objective;
use rollouts::{Problem, Rollout, Sampling, pass_at, read_problems, roll_out};

/// Settings of reinforcement learning.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct RlSettings {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub mixture: MixtureArgs,
    /// Questions in one step
    #[arg(long, value_parser = values::count, default_value_t = 16)]
    pub examples_per_step: usize,
    /// Answers to each question
    #[arg(long, value_parser = values::count, default_value_t = 16)]
    pub num_samples: usize,
    /// Answers in one forward pass of training [default: 8; on a GPU 32]
    #[arg(long, value_parser = values::count)]
    pub device_batch_size: Option<usize>,
    /// Times to go through the questions
    #[arg(long, value_parser = values::positive, default_value_t = 1.0)]
    pub num_epochs: f64,
    /// Steps to train; wins over the epochs
    #[arg(long, value_parser = values::steps)]
    pub num_iterations: Option<usize>,
    /// Longest answer, in tokens
    #[arg(long, value_parser = values::count, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Randomness of the answers
    #[arg(long, value_parser = values::temperature, default_value_t = 1.0)]
    pub temperature: f32,
    /// Choose each token among the K likeliest only; 0 turns this off
    #[arg(long, value_parser = values::amount, default_value_t = 50)]
    pub top_k: usize,
    /// Optimizer steps on the same answers; above 1 only the first is on policy
    #[arg(long, value_parser = values::count, default_value_t = 1)]
    pub updates_per_step: usize,
    /// Leave a token alone once its probability has changed by more than this share (PPO's clip; 0: never)
    #[arg(long, value_parser = values::share, default_value_t = 0.0)]
    pub clip_ratio: f32,
    /// Weight of the divergence from the model it started from (GRPO's KL term; 0: none)
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.0)]
    pub kl_coef: f32,
    #[command(flatten)]
    #[serde(flatten)]
    pub rates: Rates,
    /// Share of the rates to start with; they fall to 0 in a straight line
    #[arg(long, value_parser = values::at_least_zero, default_value_t = 0.05)]
    pub init_lr_frac: f32,
    /// Measure pass@k every N steps (0: at the beginning and the end only)
    #[arg(long, value_parser = values::amount, default_value_t = 60)]
    pub eval_every: usize,
    /// Held-out questions to measure on
    #[arg(long, value_parser = values::amount, default_value_t = 400)]
    pub eval_examples: usize,
    /// Answers to each of them: the largest k
    #[arg(long, value_parser = values::count, default_value_t = 8)]
    pub eval_samples: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunSettings,
}

/// What must be the same when the run goes on. (The step says which questions are next.)
#[derive(Serialize, Deserialize)]
struct Position {
    questions: usize,
    /// The model that the KL term keeps to.
    reference: PathBuf,
}

/// First part of the keys of the questions' shuffles.
const QUESTIONS: u64 = 3;
/// Streams of held-out answers begin here, far from those of training.
const EVAL_STREAMS: u64 = 1 << 40;
/// Of a step: all are kept until it has learned from them.
const MOST_ANSWERS: usize = 1_000_000;
/// Held-out answers that the report shows.
const SHOWN: usize = 6;

pub fn run(settings: &RlSettings, base_dir: &Path, device: &Device, comm: &Comm) -> Result<()> {
    let (questions, samples) = (settings.examples_per_step, settings.num_samples);
    if questions * samples > MOST_ANSWERS {
        bail!(
            "--examples-per-step {questions} with --num-samples {samples} are more than {MOST_ANSWERS} answers a step"
        );
    }
    let tag = settings.run.model_tag.as_deref();
    let source = settings.source.load(base_dir, tag, &[Stage::Sft, Stage::Mid])?;
    let (tokenizer, context) = (source.tokenizer, source.model.config.sequence_len);
    let mixtures = settings.mixture.open("rl", base_dir)?;
    let read = |mixture| read_problems(mixture, &tokenizer, context, settings.max_new_tokens);
    let ((problems, left_out), (mut held_out, _)) = (read(&mixtures[0])?, read(&mixtures[1])?);
    held_out.truncate(settings.eval_examples);
    let longest = problems.iter().chain(&held_out).map(|problem| problem.prompt.len()).max().unwrap_or(0);
    let sizes = GptConfig { sequence_len: longest + settings.max_new_tokens, ..source.model.config };
    let rows = device_batch_size(settings, device);
    fit::check(&sizes, rows, settings.run.recompute, device, comm.world_size())?;
    let questions = problems.len();
    let num_iterations = num_iterations(settings, questions)?;

    let mut run = Run::open(base_dir, Stage::Rl, &source.tag, &settings.run, settings, device, comm)?;
    run.say(&format!("starting from {}", source.folder.display()));
    run.say_unused(&[&mixtures[0], &mixtures[1]]);
    if mixtures[0].is_weighed() {
        run.say("weights are not used: an answer counts by its reward");
    }
    let new_optimizer = |model: &Gpt| Optimizer::new(model, settings.rates, 0.0, comm);
    let (mut model, optimizer, position) = run.restore(&tokenizer, device, || source.model, new_optimizer)?;
    model.recompute = settings.run.recompute;
    model.recipe = settings.run.precision.recipe(&model.device());
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
    let mut section = Section { column: Some(Column::Rl), ..Section::new("Reinforcement learning") };
    section.results.insert("questions".into(), questions.into());
    run.show_progress("rl", num_iterations);
    let answers = settings.examples_per_step * settings.num_samples;
    let (engine, longest, tokenizer) = (None, sizes.sequence_len, &tokenizer);
    let mut learner = Learner { settings, tokenizer, model, optimizer, reference, engine, answers, longest };

    for step in run.first_step()..=num_iterations {
        let last = step == num_iterations;
        if run.is_save_due(step, last) {
            run.save(step, &learner.model, tokenizer, &learner.optimizer, json!(position))?;
        }
        if run.is_interrupted() && !last {
            return Err(run.interrupted(step));
        }
        let due = step == 0 || last || is_due(step, settings.eval_every);
        if due && !held_out.is_empty() {
            learner.evaluate(&mut run, step, &held_out, &mut section)?;
        }
        if last {
            break;
        }
        run.begin_step(step, device);
        let asked = questions_of(step, &problems, settings);
        learner.step(&mut run, step, &asked, schedule.at(step))?;
    }
    if comm.is_first() {
        note_beginning(&run, &mut section)?;
    }
    run.finish(base_dir, section)
}

fn device_batch_size(settings: &RlSettings, device: &Device) -> usize {
    settings.device_batch_size.unwrap_or(DeviceSizes::of(device).rows)
}

fn num_iterations(settings: &RlSettings, questions: usize) -> Result<usize> {
    let per_step = settings.examples_per_step;
    let asked = settings.num_epochs * questions as f64;
    match settings.num_iterations.unwrap_or((asked / per_step as f64) as usize) {
        0 => bail!(
            "a step takes {per_step} questions, but {} times {} is less; say --num-epochs {}, or lower --examples-per-step",
            settings.num_epochs,
            counted(questions, "question"),
            per_step.div_ceil(questions.max(1))
        ),
        iterations if iterations as u64 > values::MOST_STEPS => {
            bail!(
                "--num-epochs {} are {iterations:.2e} steps, and {} are the most",
                settings.num_epochs,
                values::MOST_STEPS
            )
        }
        iterations => Ok(iterations),
    }
}

/// What was measured before the first step, maybe by an earlier process, to compare with.
fn note_beginning(run: &Run, section: &mut Section) -> Result<()> {
    let metrics = read_metrics(&run.checkpoints.dir().join(METRICS_FILE))?;
    let beginning = metrics.into_iter().filter(|line| line.step == 0).flat_map(|line| line.values);
    for (name, value) in beginning.filter(|(name, _)| name.starts_with("pass@")) {
        section.results.insert(format!("{name} before"), value);
    }
    Ok(())
}

/// The questions of a step, of an endless sequence that is shuffled anew for each epoch.
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

/// What learns.
struct Learner<'a> {
    settings: &'a RlSettings,
    tokenizer: &'a Tokenizer,
    model: Gpt,
    optimizer: Optimizer,
    reference: Option<Gpt>,
    /// Kept on a GPU, where it holds weights of its own.
    engine: Option<Engine<'a>>,
    /// Answers that are sampled at a time.
    answers: usize,
    /// Tokens of the longest answer together with its question.
    longest: usize,
}

impl Learner<'_> {
    /// Answers questions and learns from the answers.
    fn step(
        &mut self,
        run: &mut Run,
        step: usize,
        problems: &[&Problem],
        scheduled: ScheduleValues,
    ) -> Result<()> {
        let started = Instant::now();
        let stream = (step * problems.len()) as u64;
        let samples = self.settings.num_samples;
        let groups = part("answering", || self.answer(problems, samples, stream, &run.comm))?;
        let generated = started.elapsed().as_secs_f64();
        let answers = || groups.iter().flatten();
        let n = answers().count() as f64;
        let tokens = answers().map(sampled_tokens).sum::<usize>();
        let reward = answers().map(|answer| f64::from(answer.reward)).sum::<f64>() / n;
        let mixed = groups.iter().filter(|group| is_mixed(group)).count() as f64 / groups.len() as f64;

        let updated =
            self.update(groups, tokens, scheduled).map_err(|diverged| run.diverged(step, diverged))?;
        let (length, seconds) = (tokens as f64 / n, started.elapsed().as_secs_f64());
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

    fn answer(
        &mut self,
        problems: &[&Problem],
        samples: usize,
        stream: u64,
        comm: &Comm,
    ) -> Result<Vec<Vec<Rollout>>> {
        let mut engine = match self.engine.take() {
            Some(mut engine) => {
                engine.refresh(&self.model);
                engine
            }
            None => rollouts::engine(&self.model, Some(self.tokenizer), self.answers, self.longest),
        };
        let sampling = self.sampling(samples);
        let groups = roll_out(&mut engine, self.tokenizer, problems, sampling, stream, comm)?;
        // The update is about to change the model's weights: while an engine shares them, they would be copied.
        self.engine = Some(engine).filter(|engine| !engine.shares_weights());
        Ok(groups)
    }

    /// Nothing (None) where no question had both better and worse answers.
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
        let device_batch_size = device_batch_size(settings, &self.model.device());
        let batches = batches(&answers, device_batch_size, &self.model, self.optimizer.comm());
        if answers.is_empty() {
            return Ok(None);
        }
        let on_policy = settings.updates_per_step == 1 && self.reference.is_none();
        let nll = |model: &Gpt| -> Vec<Vec<f32>> {
            batches.iter().map(|(batch, sampled)| policy::nll(model, batch, sampled)).collect()
        };
        let old = if on_policy { Vec::new() } else { nll(&self.model) };
        let reference = self.reference.as_ref().map(nll);
        let mut result = None;
        for _ in 0..settings.updates_per_step {
            let weighted = |(i, (batch, sampled)): (usize, &(Batch, Vec<bool>))| {
                let mut batch = batch.clone();
                if !on_policy {
                    // Without a KL term its coefficient is 0, and any reference will do.
                    let reference = reference.as_ref().unwrap_or(&old);
                    objective.reweigh(&self.model, &mut batch, sampled, &old[i], &reference[i]);
                }
                batch
            };
            let batches: Vec<Batch> = batches.iter().enumerate().map(weighted).collect();
            let (model, optimizer) = (&mut self.model, &mut self.optimizer);
            result = Some(train::step_over(tokens as f32, model, optimizer, &batches, scheduled)?);
        }
        Ok(result)
    }

    fn sampling(&self, samples: usize) -> Sampling {
        let RlSettings { temperature, top_k, max_new_tokens, ref run, .. } = *self.settings;
        let options = SampleOptions { temperature, top_k, seed: run.seed, ..SampleOptions::default() };
        Sampling { samples, max_new_tokens, options }
    }

    /// pass@1, 2, 4, … of held-out questions, logged and into the section.
    fn evaluate(
        &mut self,
        run: &mut Run,
        step: usize,
        problems: &[Problem],
        section: &mut Section,
    ) -> Result<()> {
        let n = self.settings.eval_samples;
        let problems: Vec<&Problem> = problems.iter().collect();
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
            section.metrics.insert(name, value.into());
        }
        let line = |(problem, group): (&&Problem, &Vec<Rollout>)| {
            let mark = if group[0].reward > 0.0 { "✓" } else { "✗" };
            format!("- {mark} {} → {}", problem.question, group[0].text).replace('\n', " ") + "\n"
        };
        section.text = Some(problems.iter().zip(&groups).take(SHOWN).map(line).collect());
        Ok(())
    }
}

fn sampled_tokens(answer: &Rollout) -> usize {
    answer.sampled.iter().filter(|&&sampled| sampled).count()
}

fn mean_reward(group: &[Rollout]) -> f32 {
    group.iter().map(|answer| answer.reward).sum::<f32>() / group.len() as f32
}

/// Whether some answers are better than others: the only groups there is something to learn from.
fn is_mixed(group: &[Rollout]) -> bool {
    group.iter().any(|answer| answer.reward != group[0].reward)
}

/// The answers with their advantages as weights of the sampled tokens. Those of groups that are not mixed
/// have an advantage of 0 and are wanted `all` for a KL term only.
pub fn weighted_by_advantage(groups: Vec<Vec<Rollout>>, all: bool) -> Vec<Rollout> {
    let mut answers = Vec::new();
    for mut group in groups.into_iter().filter(|group| all || is_mixed(group)) {
        let mean = mean_reward(&group);
        for answer in &mut group {
            let advantage = answer.reward - mean;
            let weights = answer.sampled.iter().map(|&sampled| if sampled { advantage } else { 0.0 });
            answer.row.weights = weights.collect();
        }
        answers.extend(group);
    }
    answers
}

/// Padded batches of up to `rows` answers, and which of their targets were sampled: this rank's.
pub fn batches(answers: &[Rollout], rows: usize, model: &Gpt, comm: &Comm) -> Vec<(Batch, Vec<bool>)> {
    let (context, device) = (model.config.sequence_len, model.device());
    let padded = |answers: &[Rollout], weights: &dyn Fn(&Rollout) -> Vec<f32>| {
        let row = |answer: &Rollout| Row { ids: answer.row.ids.clone(), weights: weights(answer) };
        let all: Vec<Row> = answers.iter().map(row).collect();
        Batch::padded(&all, context, 0).regular(&device, rows, context)
    };
    let batch = |answers: &[Rollout]| {
        let marks = |answer: &Rollout| answer.sampled.iter().map(|&s| f32::from(u8::from(s))).collect();
        let sampled = padded(answers, &marks).weights.into_iter().map(|mark| mark > 0.0).collect();
        (padded(answers, &|answer| answer.row.weights.clone()), sampled)
    };
    let chunks: Vec<&[Rollout]> = answers.chunks(rows).collect();
    ranks::mine(comm, chunks.len()).map(|i| batch(chunks[i])).collect()
}
