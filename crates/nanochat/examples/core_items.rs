//! What our CORE says about every item, as JSON lines for scripts/parity/check_core.py:
//! `core_items MODEL_FOLDER BUNDLE LIMIT`.

use std::path::Path;

use nanochat::checkpoint::load_folder;
use nanochat::core_eval::{Bundle, answer};
use serde_json::json;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, bundle, limit] = args.as_slice() else {
        anyhow::bail!("core_items MODEL_FOLDER BUNDLE LIMIT")
    };
    let loaded = load_folder(Path::new(model))?;
    let bundle = Bundle::open(Path::new(bundle))?;
    for task in &bundle.tasks {
        let Some(items) = bundle.items(task, limit.parse()?)? else { continue };
        for (i, item) in answer(&loaded.model, &loaded.tokenizer, task, &items).iter().enumerate() {
            println!(
                "{}",
                json!({"task": task.label, "item": i, "losses": item.losses, "right": item.right})
            );
        }
    }
    Ok(())
}
