//! Saves and loads checkpoints. A checkpoint is a folder that Hugging Face transformers can load, with the training
//! state in files beside the model:
//!
//! ```text
//! base_checkpoints/d4/step_000650/
//!   config.json  generation_config.json  model.safetensors
//!   tokenizer.json  tokenizer_config.json  chat_template.jinja
//!   optimizer.safetensors  train_state.json
//! ```
//!
//! It is written under a temporary name and renamed when it is complete on disk, so a folder with the final name is
//! always complete.

mod found;

use nanochat_tensor::safetensors::{self, SafetensorsError};
use nanochat_tensor::{Device, Dtype, Tensor};
use nanochat_tokenizer::{Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::found::{FoundCheckpoint, find_furthest};
use crate::files::atomic_file::{self, sync_names};
use crate::model::config::ConfigError;
use crate::model::gpt::Gpt;
use crate::model::huggingface::{self, ModelError, TokenIds};
use crate::model::optim::Optimizer;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("failed to save the checkpoint {}: {error}; what was saved before is untouched", path.display())]
    Save { path: PathBuf, error: Box<CheckpointError> },
    #[error("failed to write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("failed to delete {}: {error}", path.display())]
    Delete { path: PathBuf, error: io::Error },
    #[error("failed to read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} is damaged: {message}", path.display())]
    Damaged { path: PathBuf, message: String },
    #[error("no {what} in {}: {hint}", path.display())]
    Missing { what: String, path: PathBuf, hint: String },
    #[error(
        "the model in {} has a vocabulary of {model} tokens, but its tokenizer has {tokenizer}",
        path.display()
    )]
    Vocabulary { path: PathBuf, model: usize, tokenizer: usize },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Prefixes of the names of checkpoints that are being saved or deleted.
const SAVING: &str = "saving_";
pub(crate) const DELETING: &str = "deleting_";

/// The training stage that made a model; it determines the folder's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Base,
    Mid,
    Sft,
    Rl,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Base, Stage::Mid, Stage::Sft, Stage::Rl];

    /// Returns the name as in `nanochat train NAME` and `--source NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Base => "base",
            Stage::Mid => "mid",
            Stage::Sft => "sft",
            Stage::Rl => "rl",
        }
    }

    /// Returns the stage of a checkpoint's folder, from the name of a folder above it.
    pub fn of(folder: &Path) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| folder.iter().any(|part| part == stage.folder()))
    }

    pub fn folder(self) -> &'static str {
        match self {
            Stage::Base => "base_checkpoints",
            Stage::Mid => "mid_checkpoints",
            Stage::Sft => "chatsft_checkpoints",
            Stage::Rl => "chatrl_checkpoints",
        }
    }
}

/// The state that a stage needs to resume, besides the weights and the optimizer's tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainState {
    /// The number of steps done.
    pub step: usize,
    pub optimizer_steps: u64,
    /// The loader's position.
    pub position: Value,
    /// The stage's settings, as given.
    pub settings: Value,
    /// Seconds of training so far, over all sessions of the run.
    pub seconds: f64,
    /// Whether this step is the run's last; None in checkpoints of earlier versions.
    #[serde(default)]
    pub finished: Option<bool>,
}

impl TrainState {
    /// Whether the run has finished. If `finished` is None, the number of steps in the settings decides, and a run
    /// without one counts as finished.
    pub fn is_finished(&self) -> bool {
        let steps = self.settings["num_iterations"].as_u64();
        self.finished.unwrap_or(steps.is_none_or(|steps| self.step as u64 >= steps))
    }
}

/// A model with its tokenizer.
pub struct LoadedModel {
    pub model: Gpt,
    pub tokenizer: Tokenizer,
    pub folder: PathBuf,
}

impl LoadedModel {
    /// Moves the weights to `device`. Fails if the device has no kernels for the model's shape.
    pub fn to_device(self, device: &Device) -> Result<LoadedModel, ConfigError> {
        Ok(LoadedModel { model: self.model.to_device(device)?, ..self })
    }
}

/// The checkpoints of one run.
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    pub fn new(base_dir: &Path, stage: Stage, model_tag: &str) -> Checkpoints {
        Checkpoints { dir: base_dir.join(stage.folder()).join(model_tag) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn folder(&self, step: usize) -> PathBuf {
        self.dir.join(format!("step_{step:06}"))
    }

    /// Returns the steps with a complete checkpoint, in ascending order.
    pub fn steps(&self) -> Vec<usize> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step_")?.parse().ok();
        let mut steps: Vec<usize> = entries.filter_map(|entry| step(entry.file_name())).collect();
        steps.sort();
        steps
    }

    /// Saves a checkpoint and returns its folder. `optimizer` has the tensors returned by the optimizer's `tensors`.
    pub fn save(
        &self,
        model: &Gpt,
        tokenizer: &Tokenizer,
        optimizer: &[(String, Tensor)],
        state: &TrainState,
    ) -> Result<PathBuf, CheckpointError> {
        let folder = self.folder(state.step);
        let write = || self.write(&folder, model, tokenizer, optimizer, state);
        write().map_err(|error| CheckpointError::Save { path: folder.clone(), error: Box::new(error) })?;
        Ok(folder)
    }

    fn write(
        &self,
        folder: &Path,
        model: &Gpt,
        tokenizer: &Tokenizer,
        optimizer: &[(String, Tensor)],
        state: &TrainState,
    ) -> Result<(), CheckpointError> {
        let temporary = self.dir.join(format!("{SAVING}{:06}", state.step));
        let error = |error| CheckpointError::Write { path: temporary.clone(), error };
        remove_if_there(&temporary).map_err(error)?;
        let written = write_folder(&temporary, model, tokenizer, Dtype::F32).and_then(|()| {
            let tensors = optimizer.iter().map(|(name, tensor)| (name.clone(), tensor));
            safetensors::save(&temporary.join("optimizer.safetensors"), tensors, Dtype::F32)?;
            write_json(&temporary.join("train_state.json"), &json!(state))
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary); // the error that matters is the first one
        }
        written?;
        let publish = || {
            sync_names(&temporary)?;
            fs::rename(&temporary, folder)?;
            sync_names(&self.dir)
        };
        publish().map_err(error)
    }

    /// Deletes all but the last `keep` checkpoints (0 keeps all).
    pub fn prune(&self, keep: usize) -> Result<(), CheckpointError> {
        let steps = self.steps();
        let surplus = if keep == 0 { 0 } else { steps.len().saturating_sub(keep) };
        steps[..surplus].iter().try_for_each(|&step| self.delete(step))
    }

    pub fn delete(&self, step: usize) -> Result<(), CheckpointError> {
        // Renamed first, since a partly deleted folder must not look like a checkpoint.
        let (folder, doomed) = (self.folder(step), self.dir.join(format!("{DELETING}{step:06}")));
        let delete = || {
            remove_if_there(&doomed)?;
            fs::rename(&folder, &doomed)?;
            fs::remove_dir_all(&doomed)
        };
        delete().map_err(|error| CheckpointError::Delete { path: folder.clone(), error })
    }

    /// Deletes what killed processes have left half written or half deleted. A user's own files stay.
    pub fn sweep(&self) -> Result<(), CheckpointError> {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let deleted = match () {
                _ if name.starts_with(SAVING) || name.starts_with(DELETING) => fs::remove_dir_all(&path),
                _ if atomic_file::is_temporary(&name) => fs::remove_file(&path),
                _ => continue,
            };
            deleted.map_err(|error| CheckpointError::Delete { path, error })?;
        }
        Ok(())
    }

    pub fn load_state(&self, step: usize) -> Result<TrainState, CheckpointError> {
        let path = self.folder(step).join("train_state.json");
        let text =
            fs::read_to_string(&path).map_err(|error| CheckpointError::Read { path: path.clone(), error })?;
        serde_json::from_str(&text).map_err(|e| CheckpointError::Damaged { path, message: e.to_string() })
    }

    pub fn load_optimizer(
        &self,
        state: &TrainState,
        optimizer: &mut Optimizer,
    ) -> Result<(), CheckpointError> {
        let path = self.folder(state.step).join("optimizer.safetensors");
        let tensors = safetensors::load(&path)?;
        let restored = optimizer.restore(&tensors, state.optimizer_steps);
        restored.map_err(|message| CheckpointError::Damaged { path, message })
    }
}

/// Returns the folder of a checkpoint; by default, the deepest model and its last step. Fails if there is none.
pub fn find(
    base_dir: &Path,
    stage: Stage,
    model_tag: Option<&str>,
    step: Option<usize>,
) -> Result<PathBuf, CheckpointError> {
    let dir = base_dir.join(stage.folder());
    let make = match stage {
        Stage::Base => {
            "make one with `nanochat train base`, or all that a chat takes with `nanochat speedrun`".into()
        }
        stage => format!("make one with `nanochat train {}`", stage.name()),
    };
    let missing = |what: String, path: PathBuf, hint| CheckpointError::Missing { what, path, hint };
    let tag = match model_tag {
        Some(tag) => tag.to_string(),
        None => deepest_tag(&dir).ok_or_else(|| missing("model".into(), dir.clone(), make.clone()))?,
    };
    let checkpoints = Checkpoints::new(base_dir, stage, &tag);
    let steps = checkpoints.steps();
    match step.or(steps.last().copied()) {
        Some(step) if steps.contains(&step) => Ok(checkpoints.folder(step)),
        Some(step) => {
            Err(missing(format!("step {step}"), checkpoints.dir, format!("it has the steps {steps:?}")))
        }
        None => {
            let hint = match tags(&dir).join(", ") {
                tags if tags.is_empty() => make,
                tags => format!("there are {tags}"),
            };
            Err(missing(format!("model {tag}"), dir, hint))
        }
    }
}

/// Finds a checkpoint like [`find`], in the first of `stages` that has the model. Without a tag, it takes the deepest
/// model of all `stages`.
pub fn find_first(
    base_dir: &Path,
    stages: &[Stage],
    model_tag: Option<&str>,
    step: Option<usize>,
) -> Result<PathBuf, CheckpointError> {
    let depth = |tag: &String| tag.strip_prefix('d').and_then(|depth| depth.parse::<usize>().ok());
    let deepest = stages.iter().filter_map(|stage| deepest_tag(&base_dir.join(stage.folder())));
    // Equally deep models are told apart by their stage: the first one wins.
    let deepest = deepest.rev().max_by_key(depth);
    let tag = model_tag.or(deepest.as_deref());
    let has =
        |stage: &&Stage| tag.is_some_and(|tag| !Checkpoints::new(base_dir, **stage, tag).steps().is_empty());
    // If no stage has the model, the error of the earliest stage tells how to make one.
    let first = stages.iter().find(|stage| **stage == Stage::Base).unwrap_or(&stages[0]);
    let stage = stages.iter().find(has).unwrap_or(first);
    find(base_dir, *stage, tag, step)
}

fn tags(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let has_steps = |path: &Path| !(Checkpoints { dir: path.into() }).steps().is_empty();
    let tagged = entries.filter(|entry| has_steps(&entry.path()));
    let mut tags: Vec<String> = tagged.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    tags.sort();
    tags
}

/// Returns the tags in order: first those like d4 and d12, the deepest first; then others, the last changed first.
fn deepest_first(dir: &Path) -> Vec<String> {
    let depth = |tag: &String| tag.strip_prefix('d').and_then(|depth| depth.parse::<usize>().ok());
    let changed = |tag: &String| fs::metadata(dir.join(tag)).and_then(|m| m.modified()).ok();
    let mut tags = tags(dir);
    tags.sort_by_cached_key(|tag| Reverse((depth(tag), changed(tag))));
    tags
}

fn deepest_tag(dir: &Path) -> Option<String> {
    deepest_first(dir).into_iter().next()
}

/// Loads a model folder of any origin. Fails if the vocabularies of model and tokenizer differ in size.
pub fn load_folder(folder: &Path) -> Result<LoadedModel, CheckpointError> {
    if !folder.is_dir() {
        let (what, hint) =
            ("model folder".into(), "a folder with config.json and model.safetensors is needed".into());
        return Err(CheckpointError::Missing { what, path: folder.into(), hint });
    }
    let model = huggingface::load_model(folder)?;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
    if tokenizer.vocab_size() != model.config.vocab_size {
        let (path, tokenizer) = (folder.into(), tokenizer.vocab_size());
        return Err(CheckpointError::Vocabulary { path, model: model.config.vocab_size, tokenizer });
    }
    Ok(LoadedModel { model, tokenizer, folder: folder.into() })
}

/// Writes a folder with all files that transformers loads. Creates the folder if it does not exist.
pub fn write_folder(
    folder: &Path,
    model: &Gpt,
    tokenizer: &Tokenizer,
    dtype: Dtype,
) -> Result<(), CheckpointError> {
    let error = |path: &Path| {
        let path = path.to_path_buf();
        move |error| CheckpointError::Write { path, error }
    };
    fs::create_dir_all(folder).map_err(error(folder))?;
    let ids = TokenIds::of(tokenizer);
    write_json(&folder.join("config.json"), &huggingface::config_json(&model.config, ids, dtype))?;
    write_json(&folder.join("generation_config.json"), &huggingface::generation_config_json(ids))?;
    let tokenizer_config = huggingface::tokenizer_config_json(&model.config);
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config)?;
    let template = folder.join("chat_template.jinja");
    atomic_file::write(&template, huggingface::CHAT_TEMPLATE.as_bytes()).map_err(error(&template))?;
    let vocabulary = folder.join("tokenizer.json");
    atomic_file::write(&vocabulary, tokenizer.to_json().as_bytes()).map_err(error(&vocabulary))?;
    Ok(huggingface::save_weights(folder, model, dtype)?)
}

fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value always serializes");
    let error = |error| CheckpointError::Write { path: path.into(), error };
    atomic_file::write(path, text.as_bytes()).map_err(error)
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
