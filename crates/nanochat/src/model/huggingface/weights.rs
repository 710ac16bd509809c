//! Reads and writes the weights of a model folder: model.safetensors, or several such files with an index that says
//! which file has each tensor.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nanochat_tensor::Dtype;
use nanochat_tensor::Tensor;
use nanochat_tensor::safetensors::{self, TensorFile};
use serde::Deserialize;

use super::{ModelError, read_config, tensor_name};
use crate::model::config::GptConfig;
use crate::model::gpt::Gpt;
use crate::terminal::environment::memory_bytes;

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The number of values checked together for being finite: a loop without an early exit is vectorized.
const FINITE_CHECK_CHUNK: usize = 4_096;

/// Loads the model of a folder: config.json and its weights. Weights are read only after their names, types and shapes
/// have been found to match the model, and the memory to suffice.
pub fn load_model(folder: &Path) -> Result<Gpt, ModelError> {
    refuse_other_formats(folder)?;
    let config = read_config(folder)?;
    let files = open(folder, &config)?;
    check_memory(folder, &config, memory_bytes())?;
    Gpt::from_weights(config, |name, _| {
        let name = tensor_name(name);
        let file = files.iter().find(|file| file.shape(&name).is_some()).expect("checked by `open`");
        let tensor = file.tensor(&name)?;
        match is_finite(&tensor) {
            true => Ok(tensor),
            false => Err(problem(file.path(), &name, "holds a value that is infinite or not a number")),
        }
    })
}

/// Writes model.safetensors into `folder`.
pub fn save_weights(folder: &Path, model: &Gpt, dtype: Dtype) -> Result<(), ModelError> {
    let tensors = model.params().into_iter().map(|(name, _, weight)| (tensor_name(&name), weight));
    Ok(safetensors::save(&folder.join(FILE), tensors, dtype)?)
}

fn problem(path: &Path, name: &str, problem: impl Into<String>) -> ModelError {
    ModelError::Tensor { path: path.into(), name: name.into(), problem: problem.into() }
}

/// Returns an error for a folder from which transformers would load other weights.
fn refuse_other_formats(folder: &Path) -> Result<(), ModelError> {
    let adapter = folder.join("adapter_config.json");
    if adapter.exists() {
        return Err(ModelError::Adapter { path: adapter });
    }
    if folder.join(FILE).exists() || folder.join(INDEX).exists() {
        return Ok(());
    }
    let is_pickle = |name: &String| {
        let is_model = name.starts_with("model") || name.starts_with("pytorch_model");
        is_model && [".bin", ".pt", ".pth"].iter().any(|ending| name.ends_with(ending))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let pickle = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_pickle).min();
    pickle.map_or(Ok(()), |name| Err(ModelError::Pickle { path: folder.join(name) }))
}

/// Opens the weight files. Fails unless together they hold every tensor of the model exactly once, and no other.
fn open(folder: &Path, config: &GptConfig) -> Result<Vec<TensorFile>, ModelError> {
    let shapes = Gpt::shapes(config).into_iter().map(|(name, shape)| (tensor_name(&name), shape)).collect();
    let file_of = match folder.join(FILE).exists() || !folder.join(INDEX).exists() {
        true => BTreeMap::from_iter(Shapes::keys(&shapes).map(|name| (name.clone(), FILE.to_string()))),
        false => read_index(folder, &shapes)?,
    };
    let mut names: Vec<&String> = file_of.values().collect();
    names.sort();
    names.dedup();
    let open = |name: &&String| TensorFile::open(&folder.join(name));
    let files: Vec<TensorFile> = names.iter().map(open).collect::<Result<_, _>>()?;
    names.into_iter().zip(&files).try_for_each(|(name, file)| check(file, name, &file_of, &shapes))?;
    Ok(files)
}

type Shapes = BTreeMap<String, [usize; 2]>;

/// Reads the index, which maps tensors to files. Fails unless it has exactly the model's tensors and only files in the
/// folder.
fn read_index(folder: &Path, shapes: &Shapes) -> Result<BTreeMap<String, String>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    let text = fs::read_to_string(&path).map_err(|error| ModelError::Read { path: path.clone(), error })?;
    let wrong = |message: String| ModelError::Index { path: path.clone(), message };
    let Index { weight_map } = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if let Some(name) = shapes.keys().find(|name| !weight_map.contains_key(*name)) {
        return Err(problem(&path, name, "is missing"));
    }
    for (name, file) in &weight_map {
        if !shapes.contains_key(name) {
            return Err(problem(&path, name, NOT_IN_MODEL));
        }
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(wrong(format!("{file:?} is not the name of a file in its folder")));
        }
    }
    Ok(weight_map)
}

const NOT_IN_MODEL: &str = "belongs to no part of the model that config.json describes";

/// Returns an error for a file that lacks one of its tensors, holds another, or has one of another shape or type.
fn check(
    file: &TensorFile,
    file_name: &str,
    file_of: &BTreeMap<String, String>,
    shapes: &Shapes,
) -> Result<(), ModelError> {
    let problem = |name: &str, what: String| Err(problem(file.path(), name, what));
    for (name, _) in file_of.iter().filter(|(_, of)| *of == file_name) {
        let wanted = &shapes[name];
        match file.shape(name) {
            None => return problem(name, "is missing".into()),
            Some(shape) if shape != wanted => {
                return problem(name, format!("has shape {shape:?} instead of {wanted:?}"));
            }
            Some(_) => file.check_type(name)?,
        }
    }
    for name in file.names() {
        match file_of.get(&name) {
            Some(other) if other != file_name => {
                return problem(&name, format!("should lie in {other}, says {INDEX}"));
            }
            Some(_) => {}
            None => return problem(&name, NOT_IN_MODEL.into()),
        }
    }
    Ok(())
}

/// Returns an error if the model needs more memory than the machine has, since the system would kill the process
/// without a message. `there` is the memory in bytes, if known.
pub(super) fn check_memory(folder: &Path, config: &GptConfig, there: Option<f64>) -> Result<(), ModelError> {
    let needed = Gpt::bytes(config);
    match there {
        Some(there) if needed > there => Err(ModelError::Memory { path: folder.into(), needed, there }),
        _ => Ok(()),
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    let all_finite = |values: &[f32]| values.iter().fold(true, |all, value| all & value.is_finite());
    tensor.data().chunks(FINITE_CHECK_CHUNK).all(all_finite)
}
