//! What our CORE says about every item, as JSON lines for scripts/parity: `core_items MODEL_FOLDER BUNDLE LIMIT`.

use std::path::Path;

use nanochat::measure::core_eval::{Bundle, answer, prompts};
use nanochat::model::checkpoint::load_folder;
use nanochat_tensor::Comm;
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
        let all: Vec<usize> = (0..items.items.len()).collect();
        let prompts = prompts(&loaded.tokenizer, task, &items, &all);
        let answers = answer(&loaded.model, &loaded.tokenizer, task, &items, &Comm::alone());
        for (i, item) in answers.iter().enumerate() {
            let tokens = prompts[i].options.iter().map(|span| span.ids.len() - span.start);
            let tokens: Vec<usize> = tokens.collect();
            let (losses, right) = (&item.losses, item.right);
            let line =
                json!({"task": task.label, "item": i, "losses": losses, "tokens": tokens, "right": right});
            println!("{line}");
        }
    }
    Ok(())
}
