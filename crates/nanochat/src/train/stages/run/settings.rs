//! The settings that all runs share, and the check of which settings a resumed run may change.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::config::{Precision, Recompute};
use crate::terminal::flag_values;

/// Settings that say where a run is kept, how it starts, and how it uses its device.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct RunSettings {
    /// Name of the run [default: d{depth}; in later stages, the deepest model's]
    #[arg(long, value_parser = tag)]
    pub model_tag: Option<String>,
    /// Save a checkpoint every N steps and at the end (0: at the end only)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 250)]
    pub save_every: usize,
    /// Keep the last K checkpoints (0: all)
    #[arg(long, value_parser = flag_values::amount, default_value_t = 2)]
    pub keep: usize,
    /// Resume the run from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Start the run over even if it has checkpoints
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Seed of every random choice: initial weights, order of conversations
    #[arg(long, value_parser = flag_values::seed, default_value_t = 42)]
    pub seed: u64,
    /// Recompute part of the activations in the backward pass instead of keeping them, to save memory
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub recompute: Recompute,
    /// Rounding of the matrix products in training on the CPU (a GPU trains in bf16)
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub precision: Precision,
    /// Record N steps, after the first two, to profile.json in the run's folder: a trace for ui.perfetto.dev (0: none)
    #[arg(long, value_name = "N", value_parser = flag_values::amount, default_value_t = 0)]
    #[serde(default)]
    pub profile: usize,
}

/// Parses a tag, which must name a single folder.
fn tag(value: &str) -> Result<String, String> {
    let fits = !value.is_empty() && !value.starts_with('.') && !value.contains(['/', '\\']);
    if fits { Ok(value.into()) } else { Err("must be a name without slashes or a dot in front".into()) }
}

/// The settings that may change when a run resumes: they do not affect what is learned. (The tag has found the run,
/// given or by default.)
const FREE: [&str; 20] = [
    "model_tag",
    "save_every",
    "keep",
    "resume",
    "overwrite",
    "eval_every",
    "eval_tokens",
    "eval_examples",
    "eval_samples",
    "eval_task",
    "eval_task_every",
    "eval_task_limit",
    "core_metric_every",
    "core_metric_max_per_task",
    "core_bundle",
    "no_core",
    "sample_every",
    "bad_shards",
    "recompute",
    "profile",
];

/// Returns all settings of a run as they are saved: a device with bf16 only (a GPU) saves bf16, whatever the CPU's
/// default.
pub(super) fn recorded(mut all: Value, only_bf16: bool) -> Result<Value> {
    if only_bf16 && all["precision"] == json!(Precision::F32) {
        bail!("a GPU trains in bf16; leave out --precision f32, or train on the CPU with --device cpu");
    }
    if only_bf16 {
        all["precision"] = json!(Precision::Bf16);
    }
    Ok(all)
}

/// Returns the settings that a resumed run must keep. On a device with bf16 only, precision is not among them, since
/// earlier versions saved there what the CPU would have used.
pub(super) fn kept(all: &Value, only_bf16: bool) -> Value {
    let mut kept = all.clone();
    if let Some(settings) = kept.as_object_mut().filter(|_| only_bf16) {
        settings.remove("precision");
    }
    kept
}

/// Returns an error that names the first setting that a resumed run has changed but must keep.
pub(super) fn refuse_changes(saved: &Value, now: &Value) -> Result<()> {
    let (Some(saved), Some(now)) = (saved.as_object(), now.as_object()) else { return Ok(()) };
    for (name, value) in now.iter().filter(|(name, _)| !FREE.contains(&name.as_str())) {
        if saved.get(name).is_some_and(|old| old != value) {
            let given = |value: &Value| match value {
                Value::Null => "its default".to_string(),
                value => value.to_string(),
            };
            bail!(
                "the run to resume was started with --{} {}, now it is {}; a resumed run keeps its settings",
                name.replace('_', "-"),
                given(&saved[name]),
                given(value)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};

    use super::*;
    use crate::train::stages::{base::BaseSettings, mid::MidSettings, rl::RlSettings, sft::SftSettings};

    #[derive(Parser)]
    struct Line<S: Args> {
        #[command(flatten)]
        settings: S,
    }

    fn names<S: Args + Serialize>() -> Vec<String> {
        let settings = json!(Line::<S>::parse_from(["train"]).settings);
        settings.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn what_may_change_is_named_as_in_a_stage() {
        let stages =
            [names::<BaseSettings>(), names::<MidSettings>(), names::<SftSettings>(), names::<RlSettings>()];
        for free in FREE {
            assert!(stages.iter().flatten().any(|name| name == free), "no stage has a setting {free}");
        }
    }

    #[test]
    fn a_gpu_run_is_recorded_in_bf16_and_refuses_another_precision() {
        let given = |precision| json!({"precision": precision, "depth": 4});
        for (asked, only_bf16, expected) in [
            (Precision::Auto, true, Precision::Bf16),
            (Precision::Bf16, true, Precision::Bf16),
            (Precision::Auto, false, Precision::Auto),
            (Precision::F32, false, Precision::F32),
            (Precision::Bf16, false, Precision::Bf16),
        ] {
            assert_eq!(recorded(given(asked), only_bf16).unwrap(), given(expected), "{asked}, {only_bf16}");
        }
        let error = recorded(given(Precision::F32), true).unwrap_err().to_string();
        assert!(error.contains("--precision f32") && error.contains("bf16"), "{error}");
    }

    #[test]
    fn a_gpu_goes_on_with_a_run_of_any_recorded_precision_and_a_cpu_does_not() {
        let now = json!({"precision": "bf16", "depth": 4});
        for saved in ["f32", "auto", "bf16"] {
            let saved = json!({"precision": saved, "depth": 4});
            assert!(refuse_changes(&saved, &kept(&now, true)).is_ok());
            assert_eq!(refuse_changes(&saved, &kept(&now, false)).is_ok(), saved == now, "{saved}");
        }
        let deeper = json!({"precision": "f32", "depth": 6});
        assert!(refuse_changes(&deeper, &kept(&now, true)).unwrap_err().to_string().contains("--depth 6"));
    }
}
