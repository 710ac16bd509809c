//! Prints the logits after the last of some tokens, one a line, for `scripts/parity/check_hf_folder.py`.
//!
//! cargo run --release -p nanochat --example logits -- MODEL_FOLDER ID…

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nanochat::model::checkpoint::load_folder;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().context("want MODEL_FOLDER ID…")?);
    let ids: Vec<u32> = args.map(|id| id.parse().context("an id is a number")).collect::<Result<_>>()?;
    ensure!(!ids.is_empty(), "want MODEL_FOLDER ID…");
    let model = load_folder(&folder)?.model;
    let logits = model.logits(&ids, [1, ids.len()]);
    for logit in &logits.data()[(ids.len() - 1) * logits.cols()..] {
        println!("{logit}");
    }
    Ok(())
}
