//! Tests foreign model folders: every change of a config.json is computed as in transformers, or refused with the name
//! of the key. scripts/parity/make_foreign_configs.py writes the cases; check_foreign_configs.py there tries random
//! ones.

use std::path::{Path, PathBuf};

use nanochat::model::huggingface::load_model;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Cases {
    ids: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    set: Map<String, Value>,
    removed: Vec<String>,
    /// The logits after the last id.
    logits: Option<Vec<f32>>,
    refused: Option<String>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign").join(name)
}

fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

#[test]
fn configs_of_others_are_computed_as_transformers_does_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let base: Map<String, Value> = read("config.json");
    let Cases { ids, cases } = read("cases.json");
    for Case { name, set, removed, logits, refused } in cases {
        let mut config = base.clone();
        config.extend(set);
        removed.iter().for_each(|key| drop(config.shift_remove(key)));
        let text = serde_json::to_string(&config).unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        match (load_model(folder.path()), logits, refused) {
            (Ok(model), Some(want), None) => {
                let got = model.logits(&ids, [1, ids.len()]);
                let got = &got.data()[got.len() - want.len()..];
                let worst = got.iter().zip(&want).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
                println!("{name}: logits differ by at most {worst:e}");
                assert!(worst <= 1e-4, "{name}: {worst}");
            }
            (Err(error), None, Some(key)) => {
                let said = error.to_string();
                println!("{name}: {said}");
                assert!(said.contains(&key) && said.contains("config.json"), "{name}: {said}");
            }
            (Ok(_), ..) => panic!("{name} is not refused"),
            (Err(error), ..) => panic!("{name}: {error}"),
        }
    }
}
