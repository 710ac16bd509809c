//! Recorded steps as a Chrome trace, which chrome://tracing and ui.perfetto.dev show, and in a few words.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use nanochat_tensor::profile::{Kind, Span};
use serde_json::{Value, json};

use crate::files::atomic_file;

/// Names in the short table.
const SHOWN: usize = 12;

/// Writes the Trace Event Format: a row for the CPU, one for the GPU and one for what its ranks give each other, times
/// in microseconds.
pub fn write(path: &Path, spans: &[Span]) -> io::Result<()> {
    atomic_file::write(path, chrome_trace(spans).to_string().as_bytes())
}

fn chrome_trace(spans: &[Span]) -> Value {
    let row = |(thread, name): (u32, &str)| json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": { "name": name } });
    let event = |span: &Span| {
        json!({
            "ph": "X",
            "name": span.name,
            "cat": category(span.kind),
            "ts": span.start_us,
            "dur": span.duration_us,
            "pid": 1,
            "tid": row_of(span),
        })
    };
    let all = [(1, "CPU"), (2, "GPU"), (3, "GPU, collectives")];
    let rows = all.into_iter().filter(|(n, _)| spans.iter().any(|span| row_of(span) == *n)).map(row);
    let events: Vec<Value> = rows.chain(spans.iter().map(event)).collect();
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn row_of(span: &Span) -> u32 {
    match span.kind {
        Kind::Collective => 3,
        _ if span.on_gpu => 2,
        _ => 1,
    }
}

fn category(kind: Kind) -> &'static str {
    match kind {
        Kind::Part => "part",
        Kind::Op => "op",
        Kind::Kernel => "kernel",
        Kind::Collective => "collective",
        Kind::Wait => "wait",
    }
}

/// Share of the recorded time in which the GPU ran a kernel or a copy; None where there is no GPU.
pub fn busy_share(spans: &[Span]) -> Option<f64> {
    let kernels = spans.iter().filter(|span| span.kind == Kind::Kernel);
    let busy: f64 = kernels.map(|span| span.duration_us).sum();
    spans.iter().any(|span| span.on_gpu).then(|| busy / length_us(spans))
}

/// Milliseconds of the GPU's collectives, and of these the ones in which its computing waited for them; None where
/// there were none.
pub fn communication_ms(spans: &[Span]) -> Option<[f64; 2]> {
    let sum = |kind| spans.iter().filter(|s| s.kind == kind).map(|s| 1e-3 * s.duration_us).sum::<f64>();
    let both = [Kind::Collective, Kind::Wait].map(sum);
    spans.iter().any(|span| span.kind == Kind::Collective).then_some(both)
}

/// From the begin of the first span to the end of the last.
fn length_us(spans: &[Span]) -> f64 {
    let end = |span: &Span| span.start_us + span.duration_us;
    let begin = spans.iter().map(|span| span.start_us).fold(f64::INFINITY, f64::min);
    spans.iter().map(end).fold(begin, f64::max) - begin
}

/// How long the steps took and on what: kernels on a GPU, ops on the CPU, those first that took longest.
pub fn summary(spans: &[Span]) -> String {
    let is_update = |span: &&Span| span.kind == Kind::Part && !span.on_gpu && span.name == "optimizer";
    let steps = spans.iter().filter(is_update).count().max(1);
    let kind = if spans.iter().any(|span| span.kind == Kind::Kernel) { Kind::Kernel } else { Kind::Op };
    let mut by_name: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    // A recomputed block's backward is made of other ops' spans.
    for span in spans.iter().filter(|span| span.kind == kind && span.name != "recompute backward") {
        let (count, time) = by_name.entry(&span.name).or_default();
        (*count, *time) = (*count + 1, *time + span.duration_us);
    }
    let mut longest: Vec<_> = by_name.into_iter().collect();
    longest.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let (length, n) = (length_us(spans), steps as f64);
    let busy = busy_share(spans)
        .map_or(String::new(), |share| format!(", the GPU worked {:.1} % of it", 100.0 * share));
    let mut text = format!("{steps} steps recorded, {:.1} ms each{busy}", length / 1e3 / n);
    if let Some([collectives, waited]) = communication_ms(spans) {
        text += &format!(
            "\n{:>10.3} ms {:>5.1} % in which it waited for collectives, which took {:.3} ms",
            waited / n,
            1e5 * waited / length,
            collectives / n
        );
    }
    for (name, (count, time)) in longest.into_iter().take(SHOWN) {
        let (count, ms, share) = (count as f64 / n, time / 1e3 / n, 100.0 * time / length);
        text += &format!("\n{ms:>10.3} ms {share:>5.1} % {count:>5.0} x {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use nanochat_tensor::{Comm, profile};

    use super::*;
    use crate::model::batch::Batch;
    use crate::model::config::GptConfig;
    use crate::model::gpt::Gpt;
    use crate::model::gpt::Rates;
    use crate::model::optim::{Optimizer, ScheduleValues};
    use crate::train;

    fn span(name: &str, kind: Kind, on_gpu: bool, start_us: f64, duration_us: f64) -> Span {
        Span { name: name.into(), kind, on_gpu, start_us, duration_us }
    }

    #[test]
    fn a_step_on_the_cpu_is_a_valid_trace_of_parts_and_ops() {
        let mut model = Gpt::init(GptConfig::from_depth(2, 50, 8).unwrap(), 1);
        let rates = Rates { matrix_lr: 0.02, embedding_lr: 0.2, unembedding_lr: 0.004, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(&model, rates, 1.0, &Comm::alone());
        let ids: Vec<u32> = (0..16).collect();
        let batch = Batch { inputs: ids.clone(), targets: ids, weights: vec![1.0; 16], shape: [2, 8] };
        let scheduled = ScheduleValues { lr_multiplier: 1.0, muon_momentum: 0.9 };
        profile::start(None);
        train::step(&mut model, &mut optimizer, &[batch], scheduled).unwrap();
        let spans = profile::finish();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        write(&path, &spans).unwrap();
        let trace: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let named = |name: &'static str| events.iter().filter(move |e| e["name"] == name && e["ph"] == "X");
        for part in ["forward", "backward", "optimizer"] {
            assert_eq!(named(part).count(), 1, "{part}");
        }
        assert_eq!(named("attention").count(), 2);
        let [forward, backward] = ["forward", "backward"].map(|name| named(name).next().unwrap());
        let at = |event: &Value, key: &str| event[key].as_f64().unwrap();
        let inside = |op: &Value, part: &Value| {
            at(op, "ts") >= at(part, "ts")
                && at(op, "ts") + at(op, "dur") <= at(part, "ts") + at(part, "dur") + 1e-3
        };
        assert!(named("attention").all(|op| inside(op, forward)));
        assert!(named("attention backward").all(|op| inside(op, backward)));
        assert_eq!(busy_share(&spans), None);
        assert!(summary(&spans).contains("linear backward"), "{}", summary(&spans));
    }

    #[test]
    fn collectives_have_a_row_of_their_own_and_waiting_is_told() {
        let spans = [
            span("optimizer", Kind::Part, false, 0.0, 100.0),
            span("matmul", Kind::Kernel, true, 0.0, 50.0),
            span("reduce_scatter", Kind::Collective, true, 20.0, 40.0),
            span("wait for reduce_scatter", Kind::Wait, true, 50.0, 10.0),
        ];
        let trace = chrome_trace(&spans);
        let row = |name: &str| {
            let events = trace["traceEvents"].as_array().unwrap();
            events.iter().find(|event| event["name"] == name).unwrap()["tid"].clone()
        };
        assert_eq!(["matmul", "reduce_scatter", "wait for reduce_scatter"].map(row), [2, 3, 2]);
        assert_eq!(communication_ms(&spans).unwrap().map(|ms| (1e3 * ms).round()), [40.0, 10.0]);
        assert_eq!(communication_ms(&spans[..2]), None);
        let waited = "0.010 ms  10.0 % in which it waited for collectives, which took 0.040 ms";
        assert!(summary(&spans).contains(waited), "{}", summary(&spans));
        assert_eq!(busy_share(&spans), Some(0.5));
    }

    #[test]
    fn the_gpus_share_is_that_of_its_kernels() {
        let spans = [
            span("forward", Kind::Part, false, 0.0, 40.0),
            span("forward", Kind::Part, true, 10.0, 90.0),
            span("matmul", Kind::Kernel, true, 20.0, 50.0),
            span("optimizer", Kind::Part, false, 90.0, 5.0),
            span("optimizer", Kind::Part, false, 95.0, 5.0),
            span("rms_norm", Kind::Kernel, true, 80.0, 10.0),
        ];
        assert_eq!(busy_share(&spans), Some(0.6));
        let text = summary(&spans);
        assert!(text.starts_with("2 steps recorded, 0.1 ms each, the GPU worked 60.0 % of it\n"), "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with("50.0 %     0 x matmul"), "{text}");
    }
}
