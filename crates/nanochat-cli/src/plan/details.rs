//! The tables of one planned run: training, memory and cost, line by line with the reasons.

use nanochat::model::gpt::{KeptValues, WeightRole};
use nanochat::plan::{GpuModel, Plan, PlanOptions};
use nanochat::terminal::counted::counted;
use nanochat::text::dataset::CHARS_PER_SHARD;
use nanochat_tensor::ops::{CPU_LOGITS, GPU_LOGIT_ROWS};

use super::{duration, gigabytes, grouped, short};

/// A line: what it is, how much, and why.
type Row = (&'static str, String, String);

/// Parameters of the matrices, of the embedding and of lm_head.
fn params_by_role(plan: &Plan) -> [String; 3] {
    [WeightRole::Matrix, WeightRole::Embedding, WeightRole::Unembedding]
        .map(|role| short(plan.model.params_of(role) as f64))
}

/// Returns the lines about the model and the text that it is trained on.
pub fn training_rows(plan: &Plan, options: &PlanOptions) -> Vec<Row> {
    let model = &plan.model;
    let [matrices, embedding, head] = params_by_role(plan);
    let mut rows = vec![
        (
            "model",
            format!(
                "d{}: {}, width {}, {} of {}",
                plan.depth,
                counted(model.n_layer, "layer"),
                model.n_embd,
                counted(model.n_head, "head"),
                model.head_dim()
            ),
            format!(
                "vocabulary {}, {}",
                grouped(model.vocab_size),
                counted(model.n_kv_head, "key-value head")
            ),
        ),
        (
            "parameters",
            grouped(plan.params),
            format!("{matrices} in matrices, {embedding} in embeddings, {head} in lm_head"),
        ),
        ("tokens", short(plan.tokens as f64), format!("{} for each parameter", plan.tokens_per_param)),
        ("steps", grouped(plan.steps), format!("of {} tokens", grouped(plan.total_batch_size))),
        (
            "grad_accum_steps",
            grouped(plan.grad_accum_steps),
            format!(
                "each of {} of {} tokens on {}",
                counted(plan.device_batch_size, "sequence"),
                grouped(model.sequence_len),
                counted(options.gpus, "device")
            ),
        ),
        (
            "text",
            format!("{} characters", short(plan.characters)),
            format!("{:.2} characters a token", plan.chars_per_token),
        ),
        (
            "shards",
            grouped(plan.shards),
            format!("of {}M characters, 10 % spare", CHARS_PER_SHARD / 1_000_000),
        ),
    ];
    if let (Some(epochs), Some(shards)) = (plan.epochs, options.shards) {
        rows.push(("epochs", format!("{epochs:.2}"), format!("of {shards} shards, the last for validation")));
    }
    rows
}

/// Returns the lines about the memory of a device.
pub fn memory_rows(plan: &Plan, options: &PlanOptions) -> Vec<Row> {
    let (model, memory) = (&plan.model, &plan.memory);
    let (b, t, c) = (plan.device_batch_size, model.sequence_len, model.n_embd);
    let [matrices, ..] = params_by_role(plan);
    let kept = KeptValues::of(model).a_layer(options.recompute);
    let explain =
        |gpu: &str, cpu: &str| if options.gpu == GpuModel::Cpu { cpu.to_string() } else { gpu.to_string() };
    vec![
        (
            "memory",
            gigabytes(memory.total()),
            format!("of {} on each device, a tenth kept free", gigabytes(plan.memory_available)),
        ),
        (
            "  weights",
            gigabytes(memory.weights),
            explain("all f32, matrices and lm_head also a bf16 copy", "all f32"),
        ),
        ("  gradients", gigabytes(memory.gradients), "all f32".to_string()),
        (
            "  optimizer",
            gigabytes(memory.optimizer),
            format!(
                "Muon 1 value for each of {matrices}, AdamW 2 for each other, over {}",
                counted(options.gpus, "device")
            ),
        ),
        (
            "  activations",
            gigabytes(memory.activations),
            format!("{kept}·B·T·C = {kept}·{b}·{t}·{c} {} values a layer", explain("bf16", "f32")),
        ),
        (
            "  logits",
            gigabytes(memory.logits),
            explain(
                &format!("{} rows at a time, and lm_head's gradient (V·C)", grouped(GPU_LOGIT_ROWS)),
                &format!(
                    "a chunk of {} Mi values in bf16, lm_head in bf16 twice, its gradient (V·C)",
                    CPU_LOGITS >> 20
                ),
            ),
        ),
    ]
}

/// Compute, time and money.
pub fn cost_rows(plan: &Plan, options: &PlanOptions) -> Vec<Row> {
    let mut rows =
        vec![("compute", format!("{:.3e} FLOPs", plan.flops), format!("MFU {:.0} %", 100.0 * options.mfu))];
    if let Some(scaling) = plan.scaling {
        rows.push((
            "scaling",
            format!("{:.1} %", 100.0 * scaling.efficiency),
            format!(
                "a step of {:.0} ms and {:.1} ms of waiting for the {:.1} ms that gradients and weights travel",
                scaling.compute_ms, scaling.exposed_ms, scaling.communication_ms
            ),
        ));
    }
    rows.push(("pretraining", duration(plan.pretraining.hours), format!("${:.2}", plan.pretraining.dollars)));
    if options.gpu != GpuModel::Cpu {
        rows.push(("whole run", duration(plan.whole_run.hours), format!("${:.2}", plan.whole_run.dollars)));
    }
    rows
}
