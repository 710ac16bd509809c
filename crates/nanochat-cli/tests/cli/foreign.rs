//! Tests model folders written by other programs: the same answers, or one sentence that names what is not supported.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::common::*;

/// Returns an exported folder, and its config.json.
fn exported(base: &Path) -> (PathBuf, Map<String, Value>) {
    let folder = base.join("theirs");
    run(base, &format!("export {}", folder.display()));
    let config = read_config(&folder);
    (folder, config)
}

fn read_config(folder: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// Writes `config` with other values, or without a key.
fn write_config(folder: &Path, config: &Map<String, Value>, changes: Value) {
    let mut config = config.clone();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::String(text) if text == "removed" => drop(config.shift_remove(key)),
            value => drop(config.insert(key.clone(), value.clone())),
        }
    }
    fs::write(folder.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
}

fn answer(base: &Path, folder: &Path) -> String {
    output(nanochat(base, &format!("chat -m {} -p hello --temperature 0 --max-tokens 20", folder.display())))
}

#[test]
fn a_rope_theta_counts_wherever_it_stands() {
    let base = with_model();
    let (folder, config) = exported(base.path());
    write_config(
        &folder,
        &config,
        json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 50.0 } }),
    );
    let inside = answer(base.path(), &folder);
    write_config(
        &folder,
        &config,
        json!({ "rope_parameters": "removed", "rope_theta": 50.0, "rope_scaling": null }),
    );
    assert_eq!(answer(base.path(), &folder), inside);
    write_config(&folder, &config, json!({ "rope_theta": 50.0 }));
    let parts = ["config.json", "rope_theta is both 50 and 10000"];
    refuses(base.path(), &format!("chat -m {} -p x", folder.display()), &parts);
}

#[test]
fn what_a_model_was_trained_with_stays_with_it() {
    let base = with_model();
    let checkpoint = base.path().join("base_checkpoints/m/step_000009");
    let changes = json!({ "rms_norm_eps": 1e-6, "rope_parameters": { "rope_theta": 100_000.0 } });
    write_config(&checkpoint, &read_config(&checkpoint), changes);
    run(base.path(), &format!("{TINY_SFT} --num-iterations 2"));
    let made = checkpoints(&base.path().join("chatsft_checkpoints/m")).pop().unwrap();
    let config = read_config(&made);
    assert_eq!(config["rms_norm_eps"].to_string(), "1e-6");
    assert_eq!(config["rope_parameters"]["rope_theta"], 100_000.0);
}

#[test]
fn configs_of_other_models_are_refused_by_the_name_of_the_key() {
    let base = with_model();
    let (folder, config) = exported(base.path());
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0 });
    for (changes, said) in [
        (json!({ "final_logit_softcapping": null }), "final_logit_softcapping is null"),
        (json!({ "rope_parameters": yarn }), "rope_parameters.rope_type is \"yarn\""),
        (json!({ "tie_word_embeddings": true }), "tied embeddings are not supported"),
        (json!({ "is_causal": false }), "has the key is_causal"),
        (
            json!({ "hidden_size": 1_u64 << 31, "intermediate_size": 1_u64 << 33, "head_dim": null }),
            "hidden_size must be at most",
        ),
        (json!({ "vocab_size": 1_000_000 }), "has shape [320, 64] instead of [1000000, 64]"),
    ] {
        write_config(&folder, &config, changes);
        refuses(base.path(), &format!("chat -m {} -p x", folder.display()), &["theirs", said]);
    }
}

#[test]
fn weights_are_found_in_several_files_and_pickles_are_named() {
    let base = with_model();
    let (folder, _) = exported(base.path());
    let whole = answer(base.path(), &folder);
    let (single, shard) = (folder.join("model.safetensors"), "model-00001-of-00001.safetensors");
    let bytes = fs::read(&single).unwrap();
    let (header, _) = bytes[8..].split_at(u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let file_of = |file: &str| -> Map<String, Value> {
        header.keys().filter(|name| *name != "__metadata__").map(|name| (name.clone(), file.into())).collect()
    };
    let index = folder.join("model.safetensors.index.json");
    fs::rename(&single, folder.join(shard)).unwrap();
    fs::write(&index, json!({ "metadata": {}, "weight_map": file_of(shard) }).to_string()).unwrap();
    assert_eq!(answer(base.path(), &folder), whole);
    let chat = format!("chat -m {} -p x", folder.display());
    fs::write(&index, json!({ "weight_map": file_of("../model.safetensors") }).to_string()).unwrap();
    refuses(base.path(), &chat, &["index.json", "\"../model.safetensors\" is not the name of a file"]);
    fs::rename(folder.join(shard), folder.join("pytorch_model.bin")).unwrap();
    fs::remove_file(index).unwrap();
    refuses(base.path(), &chat, &["pytorch_model.bin is a pickle", "model.save_pretrained"]);
}
