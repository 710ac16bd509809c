use std::fs;
use std::path::Path;

use nanochat_tensor::Dtype;
use nanochat_tensor::safetensors;

use super::*;
use crate::model::gpt::Gpt;

const IDS: TokenIds = TokenIds { bos: 0, eos: 1 };
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn write_folder(folder: &Path) -> Gpt {
    let model = Gpt::init(GptConfig::from_depth(2, 40, 16).unwrap(), 3);
    save_weights(folder, &model, Dtype::F32).unwrap();
    write_config(folder, &config_json(&model.config, IDS, Dtype::F32));
    model
}

fn write_config(folder: &Path, config: &Value) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Writes some tensors of a model to a file, under their names in transformers.
fn write_tensors(path: &Path, model: &Gpt, belongs: impl Fn(&str) -> bool) {
    let tensors = model.params().into_iter().map(|(name, _, weight)| (tensor_name(&name), weight));
    safetensors::save(path, tensors.filter(|(name, _)| belongs(name)), Dtype::F32).unwrap();
}

/// Writes a model folder with the weights in two files and an index: the first layer, and all the rest.
fn write_shards(folder: &Path) -> (Gpt, Value) {
    let model = write_folder(folder);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let in_first = |name: &str| name.contains("layers.0.");
    write_tensors(&folder.join(ONE), &model, in_first);
    write_tensors(&folder.join(TWO), &model, |name| !in_first(name));
    let names = model.params().into_iter().map(|(name, ..)| tensor_name(&name));
    let file_of = |name: String| (name.clone(), Value::from(if in_first(&name) { ONE } else { TWO }));
    let weight_map: serde_json::Map<String, Value> = names.map(file_of).collect();
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    write_index(folder, &index);
    (model, index)
}

fn write_index(folder: &Path, index: &Value) {
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[track_caller]
fn assert_same(folder: &Path, model: &Gpt) {
    let loaded = load_model(folder).unwrap();
    assert_eq!(loaded.config, model.config);
    for ((name, _, a), (_, _, b)) in model.params().into_iter().zip(loaded.params()) {
        assert_eq!(a.data(), b.data(), "{name}");
    }
}

fn refusal(folder: &Path) -> String {
    load_model(folder).err().expect("refused").to_string()
}

#[test]
fn a_model_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = write_folder(dir.path());
    assert_same(dir.path(), &model);
    model.config.rms_norm_eps = 1e-6;
    model.config.rope_theta = 123_456.0;
    let config = config_json(&model.config, IDS, Dtype::F32);
    assert_eq!(config["rms_norm_eps"].to_string(), "1e-6");
    write_config(dir.path(), &config);
    assert_same(dir.path(), &model);
}

#[test]
fn sizes_that_transformers_leaves_out_are_its_defaults() {
    let dir = tempfile::tempdir().unwrap();
    write_config(
        dir.path(),
        &json!({ "model_type": "nanochat", "hidden_size": 2_048, "num_attention_heads": 16 }),
    );
    let config = read_config(dir.path()).unwrap();
    assert_eq!((config.n_layer, config.n_kv_head, config.vocab_size), (12, 16, 50_304));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0));
}

#[test]
fn other_models_and_other_sizes_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = write_folder(dir.path());
    let good = config_json(&model.config, IDS, Dtype::F32);
    let message = |key: &str, value: Value| {
        let mut json = good.clone();
        json[key] = value;
        write_config(dir.path(), &json);
        refusal(dir.path())
    };
    assert!(message("model_type", "llama".into()).contains("model_type is \"llama\""));
    let said = message("vocab_size", 41.into());
    assert!(said.contains("lm_head.weight has shape [40, 128] instead of [41, 128]"), "{said}");
    assert!(message("num_hidden_layers", 3.into()).contains("layers.2.mlp.fc1.weight is missing"));
    assert!(message("num_hidden_layers", 1.into()).contains("belongs to no part"));
    assert!(message("hidden_size", (-1).into()).contains("hidden_size is -1"));
    assert!(message("num_key_value_heads", 5.into()).contains("do not divide"));
    assert!(message("intermediate_size", 8192.into()).contains("intermediate_size"));
    assert!(message("tie_word_embeddings", true.into()).contains("tied embeddings"));
    fs::write(dir.path().join("config.json"), r#"{"model_type": "nanochat", "rms_norm_eps": NaN}"#).unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(matches!(load_model(dir.path()), Err(ModelError::Read { .. })));
}

/// Each of these sizes would end the process, or take a minute, if it were believed.
#[test]
fn sizes_beyond_memory_are_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let model = write_folder(dir.path());
    let good = config_json(&model.config, IDS, Dtype::F32);
    for (key, value, said) in [
        ("hidden_size", 1_u64 << 31, "intermediate_size"),
        ("num_hidden_layers", 4_000_000_000, "number of layers must be at most"),
        ("num_attention_heads", 1 << 31, "num_attention_heads is"),
        ("vocab_size", (1 << 32) - 1, "vocabulary size must be at most"),
        ("vocab_size", 1 << 24, "has shape [40, 128] instead of [16777216, 128]"),
        ("max_position_embeddings", 50_000_000, "sequence length must be at most"),
        ("max_position_embeddings", u64::MAX, "max_position_embeddings is"),
    ] {
        let mut json = good.clone();
        json[key] = value.into();
        write_config(dir.path(), &json);
        let refusal = refusal(dir.path());
        assert!(refusal.contains(said), "{key} {value}: {refusal}");
    }
    let long = GptConfig { sequence_len: 1 << 24, ..model.config };
    let refusal = weights::check_memory(dir.path(), &long, Some(8e9)).unwrap_err().to_string();
    assert!(refusal.contains("needs 85.9 GB of memory, and this machine has 8.0"), "{refusal}");
    assert!(weights::check_memory(dir.path(), &model.config, Some(8e9)).is_ok());
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = write_shards(dir.path());
    assert_same(dir.path(), &model);
}

#[test]
fn an_index_is_believed_where_its_files_agree() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let (model, index) = write_shards(folder);
    let with = |name: &str, file: Value| {
        let mut index = index.clone();
        index["weight_map"][name] = file;
        write_index(folder, &index);
        refusal(folder)
    };
    let head = "lm_head.weight";
    for outside in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "x/"] {
        let said = with(head, outside.into());
        let quoted = format!("{outside:?} is not the name of a file in its folder");
        assert!(said.contains("index.json") && said.contains(&quoted), "{said}");
    }
    let said = with(head, ONE.into());
    assert!(said.contains(&format!("{ONE}: tensor lm_head.weight is missing")), "{said}");
    let said = with(head, "model-00003-of-00002.safetensors".into());
    assert!(said.contains("failed to read") && said.contains("model-00003-of-00002"), "{said}");
    let said = with("model.norm.weight", ONE.into());
    assert!(said.contains("index.json: tensor model.norm.weight belongs to no part"), "{said}");
    let said = with(head, 7.into());
    assert!(said.contains("index.json") && said.contains("string"), "{said}");

    let mut without = index.clone();
    without["weight_map"].as_object_mut().unwrap().shift_remove(head);
    write_index(folder, &without);
    let said = refusal(folder);
    assert!(said.contains("index.json: tensor lm_head.weight is missing"), "{said}");

    // A tensor that is in two files is read from neither.
    write_index(folder, &index);
    write_tensors(&folder.join(ONE), &model, |name| name.contains("layers.0.") || name == head);
    let said = refusal(folder);
    assert!(said.contains(&format!("{ONE}: tensor lm_head.weight should lie in {TWO}")), "{said}");
    fs::remove_file(folder.join(TWO)).unwrap();
    let said = refusal(folder);
    assert!(said.contains("failed to read") && said.contains(TWO), "{said}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = write_folder(dir.path());
    let name = "model.layers.1.self_attn.k_proj.weight";
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut params = model.params_mut();
        let (_, _, weight) = params.iter_mut().find(|(ours, ..)| tensor_name(ours) == name).unwrap();
        let data: &mut [f32] = weight.data_mut();
        data[5_000] = value;
        drop(params);
        save_weights(dir.path(), &model, Dtype::F32).unwrap();
        let said = refusal(dir.path());
        assert!(said.contains(&format!("model.safetensors: tensor {name} holds a value")), "{said}");
    }
}

#[test]
fn other_formats_are_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    fs::write(dir.path().join("pytorch_model.bin"), "PK").unwrap();
    assert!(load_model(dir.path()).is_ok(), "beside safetensors it is not looked at");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let said = refusal(dir.path());
    assert!(said.contains("pytorch_model.bin is a pickle") && said.contains("save_pretrained"), "{said}");
    fs::rename(dir.path().join("pytorch_model.bin"), dir.path().join("model_000650.pt")).unwrap();
    assert!(refusal(dir.path()).contains("model_000650.pt is a pickle"));
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert!(refusal(dir.path()).contains("merge_and_unload"));
}

#[test]
fn types_that_cannot_be_read_are_named_before_a_value_is() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    // The number of bytes per value stays the same; only the type changes.
    let header =
        String::from_utf8_lossy(&bytes[8..][..u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize]);
    let other = header.replacen("\"F32\"", "\"I32\"", 1);
    fs::write(&path, [&bytes[..8], other.as_bytes(), &bytes[8 + other.len()..]].concat()).unwrap();
    let said = refusal(dir.path());
    assert!(said.contains("has type I32; f32, bf16 and f16 can be read"), "{said}");
}
