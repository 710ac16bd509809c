//! Selects the model that a chat stage starts from.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::model::checkpoint::{self, FoundCheckpoint, Stage};
use crate::model::gpt::Gpt;
use crate::terminal::flag_values;

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct SourceArgs {
    /// Stage of the model to start from [default: the latest earlier stage that the run has been through]
    #[arg(long, value_enum)]
    pub source: Option<Stage>,
    /// Step of the model to start from [default: the last one of a finished run]
    #[arg(long, value_parser = flag_values::amount)]
    pub step: Option<usize>,
}

pub struct StartingModel {
    pub model: Gpt,
    pub tokenizer: Tokenizer,
    pub folder: PathBuf,
    /// The name of the run, which this stage's run will share.
    pub tag: String,
}

impl SourceArgs {
    /// Loads the model of the first of `stages` that has one. Fails if its run has not finished and no step is given.
    pub fn load(&self, base_dir: &Path, tag: Option<&str>, stages: &[Stage]) -> Result<StartingModel> {
        let stages = match self.source {
            Some(stage) if !stages.contains(&stage) => {
                let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
                bail!(
                    "--source {} cannot be what this stage starts from; it may be {}",
                    stage.name(),
                    names.join(" or ")
                );
            }
            Some(stage) => vec![stage],
            None => stages.to_vec(),
        };
        let folder = checkpoint::find_first(base_dir, &stages, tag, self.step)?;
        if let Some(found) =
            FoundCheckpoint::of(&folder).filter(|found| self.step.is_none() && !found.finished)
        {
            let FoundCheckpoint { stage, tag, step, .. } = &found;
            bail!(
                "the {0} run {tag} has not finished: its last checkpoint is of step {step}; finish it with `nanochat train {0}` and --resume, or say --source {0} --step {step} to start from there",
                stage.name()
            );
        }
        let name = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let Some(tag) = name.map(String::from) else {
            bail!("the run of {} has a name that is not UTF-8; rename its folder", folder.display());
        };
        let loaded = checkpoint::load_folder(&folder)?;
        Ok(StartingModel { model: loaded.model, tokenizer: loaded.tokenizer, folder, tag })
    }
}
