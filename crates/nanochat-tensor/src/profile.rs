//! A profile of a step's time: spans of CPU and GPU time, recorded on request.
//!
//! One thread launches all work of a step, so a recording belongs to one thread: `start`, some steps, and `finish`,
//! which returns their spans. GPU times come from events in the GPU's stream, around every launch and between the ops
//! of a tape. While nothing is recorded, a span costs one check of a flag.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A stretch of time with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub name: String,
    pub kind: Kind,
    /// Whether it is GPU time, not CPU time.
    pub on_gpu: bool,
    /// The microseconds since the recording began.
    pub start_us: f64,
    pub duration_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of the step, such as the optimizer
    Part,
    /// An op of a tape, forward or backward
    Op,
    /// One launch or copy on the GPU
    Kernel,
    /// A collective of all ranks, on the GPU's stream for them
    Collective,
    /// A wait of the GPU's computing for a collective
    Wait,
}

/// A point in the queue of a device's work; the device's clock knows its time once the device gets there.
pub type Event = Rc<dyn Any>;

/// The clock of a device that queues its work.
pub trait Clock {
    /// Marks the end of all work given to the device so far.
    fn mark(&self) -> Event;

    /// Returns the time from one event to a later one; waits for both.
    fn milliseconds(&self, from: &Event, to: &Event) -> f32;

    /// Waits until all work given to the device is done.
    fn wait(&self);
}

thread_local! {
    static RECORDING: RefCell<Option<SpanRecording>> = const { RefCell::new(None) };
}

struct SpanRecording {
    clock: Option<Arc<dyn Clock>>,
    started: Instant,
    started_on_gpu: Option<Event>,
    /// The end or beginning of the last part or op, where the next op begins.
    last: Mark,
    spans: Vec<(String, Kind, [Mark; 2])>,
}

/// A point in time; a GPU's is known once the GPU gets there.
#[derive(Clone)]
pub(crate) enum Mark {
    Cpu(Instant),
    Gpu(Event),
}

/// Starts to record what this thread does on the device of this clock, or on the CPU without one.
pub fn start(clock: Option<Arc<dyn Clock>>) {
    let wait = || clock.iter().for_each(|clock| clock.wait());
    wait();
    let started_on_gpu = clock.as_ref().map(|clock| clock.mark());
    wait();
    let started = Instant::now();
    let last = Mark::Cpu(started);
    let mut recording = SpanRecording { clock, started, started_on_gpu, last, spans: Vec::new() };
    recording.last = recording.mark();
    RECORDING.set(Some(recording));
}

/// Ends the recording, waits for the GPU, and returns all spans in the order of their ends.
pub fn finish() -> Vec<Span> {
    let Some(recording) = RECORDING.take() else { return Vec::new() };
    if let Some(clock) = &recording.clock {
        clock.wait();
    }
    let span = |(name, kind, [from, to]): &(String, Kind, [Mark; 2])| {
        let (start_us, end_us) = (recording.microseconds(from), recording.microseconds(to));
        let on_gpu = matches!(from, Mark::Gpu(_));
        Span { name: name.clone(), kind: *kind, on_gpu, start_us, duration_us: (end_us - start_us).max(0.0) }
    };
    recording.spans.iter().map(span).collect()
}

/// Runs `work` as a part of the step: a span of CPU time, and of GPU time if a GPU is recorded.
pub fn part<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let begin = recording(|r| (Mark::Cpu(Instant::now()), r.step_on()));
    let done = work();
    if let Some((on_cpu, on_device)) = begin {
        recording(|r| {
            r.push(name, Kind::Part, [on_cpu, Mark::Cpu(Instant::now())]);
            let end = r.step_on();
            if r.clock.is_some() {
                r.push(name, Kind::Part, [on_device, end]);
            }
        });
    }
    done
}

/// Runs `work`, a launch or a copy on the GPU, as a span.
pub(crate) fn kernel<T>(name: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    span(Kind::Kernel, SpanRecording::mark, name, work)
}

/// Runs `work`, which starts a collective on a queue of its own, as a span; `mark` marks the end of that queue's work.
pub(crate) fn collective<T>(name: &str, mark: impl Fn() -> Event, work: impl FnOnce() -> T) -> T {
    span(Kind::Collective, |_| Mark::Gpu(mark()), || name.to_string(), work)
}

/// Runs `work`, which makes the GPU wait for a collective, as a span.
pub(crate) fn wait(name: impl FnOnce() -> String, work: impl FnOnce()) {
    span(Kind::Wait, SpanRecording::mark, name, work)
}

fn span<T>(
    kind: Kind,
    mark: impl Fn(&mut SpanRecording) -> Mark,
    name: impl FnOnce() -> String,
    work: impl FnOnce() -> T,
) -> T {
    let begin = recording(&mark);
    let done = work();
    if let Some(begin) = begin {
        recording(|r| {
            let end = mark(r);
            r.push(&name(), kind, [begin, end]);
        });
    }
    done
}

/// Records that an op has queued its work; `closure` is the type name of its backward, which contains the op's name.
pub(crate) fn forward_done(closure: &'static str) {
    recording(|r| {
        let (begin, end) = (r.last.clone(), r.step_on());
        r.push(op_name(closure), Kind::Op, [begin, end]);
    });
}

pub(crate) fn backward_begins() -> Option<Mark> {
    recording(SpanRecording::step_on)
}

pub(crate) fn backward_done(closure: &'static str, begin: Option<Mark>) {
    if let Some(begin) = begin {
        recording(|r| {
            let end = r.step_on();
            r.push(&format!("{} backward", op_name(closure)), Kind::Op, [begin, end]);
        });
    }
}

fn recording<T>(f: impl FnOnce(&mut SpanRecording) -> T) -> Option<T> {
    RECORDING.with_borrow_mut(|recording| recording.as_mut().map(f))
}

/// Returns the op's name: rms_norm for `…::<impl …::Tape>::rms_norm::{{closure}}`.
fn op_name(closure: &'static str) -> &'static str {
    let path = closure.trim_end_matches("::{{closure}}");
    path.rsplit("::").next().unwrap_or(path)
}

impl SpanRecording {
    /// Returns the current point in time, by the clock of the device.
    fn mark(&mut self) -> Mark {
        match &self.clock {
            None => Mark::Cpu(Instant::now()),
            Some(clock) => Mark::Gpu(clock.mark()),
        }
    }

    fn step_on(&mut self) -> Mark {
        self.last = self.mark();
        self.last.clone()
    }

    fn push(&mut self, name: &str, kind: Kind, marks: [Mark; 2]) {
        self.spans.push((name.to_string(), kind, marks));
    }

    fn microseconds(&self, mark: &Mark) -> f64 {
        match (mark, &self.started_on_gpu, &self.clock) {
            (Mark::Cpu(at), _, _) => 1e6 * at.duration_since(self.started).as_secs_f64(),
            (Mark::Gpu(event), Some(started), Some(clock)) => {
                1e3 * f64::from(clock.milliseconds(started, event))
            }
            (Mark::Gpu(_), _, _) => unreachable!("an event of a recording without a clock"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::EPS;
    use crate::testing::{gpu, randn};
    use crate::{Device, Grads, Tape, Tensor};

    /// Runs a branch and its backward, the second time recomputed.
    fn step(device: &Device) {
        let [x, w] = [0, 1].map(|seed| randn(&[64, 64], seed).to_device(device));
        let x = x.to_activation();
        let (tape, mut grads) = (Tape::new(), Grads::default());
        let y = part("forward", || {
            let weight = w.clone();
            let z = tape.linear(&tape.rms_norm(&x, EPS), &w);
            tape.recompute(&z, move |tape, z| tape.linear(&tape.rms_norm(z, EPS), &weight))
        });
        grads.add(&y, y.clone());
        part("backward", || tape.backward(&Tensor::zeros(&[1]), 0.0, &mut grads));
    }

    fn recorded(device: &Device) -> Vec<Span> {
        start(device.clock());
        step(device);
        finish()
    }

    /// Checks that any two spans of one clock lie apart or one inside the other, up to the clock's `tick` in µs.
    fn assert_nested(spans: &[Span], tick: f64) {
        let end = |s: &Span| s.start_us + s.duration_us;
        for (i, a) in spans.iter().enumerate() {
            for b in spans[i + 1..].iter().filter(|b| b.on_gpu == a.on_gpu) {
                let apart = end(a) <= b.start_us + tick || end(b) <= a.start_us + tick;
                let within = |a: &Span, b: &Span| a.start_us >= b.start_us - tick && end(a) <= end(b) + tick;
                assert!(apart || within(a, b) || within(b, a), "{a:?} and {b:?} cross");
            }
        }
    }

    fn names(spans: &[Span], kind: Kind) -> Vec<&str> {
        spans.iter().filter(|s| s.kind == kind).map(|s| s.name.as_str()).collect()
    }

    const OPS: [&str; 10] = [
        "rms_norm",
        "linear",
        "recompute",
        // The recomputed ops, then their backward.
        "rms_norm",
        "linear",
        "linear backward",
        "rms_norm backward",
        "recompute backward",
        "linear backward",
        "rms_norm backward",
    ];

    #[test]
    fn ops_lie_inside_the_parts_of_the_step() {
        let spans = recorded(&Device::Cpu);
        assert_eq!(names(&spans, Kind::Op), OPS);
        assert_eq!(names(&spans, Kind::Part), ["forward", "backward"]);
        assert_nested(&spans, 0.0);
        let (parts, ops): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|s| s.kind == Kind::Part);
        let sum = |spans: &[&Span]| spans.iter().map(|s| s.duration_us).sum::<f64>();
        assert!(sum(&parts) > 0.0 && sum(&ops) > 0.0 && spans.iter().all(|s| !s.on_gpu));
    }

    #[test]
    fn nothing_is_recorded_unasked() {
        step(&Device::Cpu);
        assert_eq!(finish(), []);
    }

    #[test]
    fn kernels_lie_inside_the_ops_of_the_gpu() {
        let Some(device) = gpu() else { return };
        step(&device); // compiles the kernels
        let spans = recorded(&device);
        assert_eq!(names(&spans, Kind::Op), OPS);
        assert!(names(&spans, Kind::Kernel).iter().any(|name| name.starts_with("rms_norm_forward")));
        assert!(spans.iter().all(|s| s.on_gpu || s.kind == Kind::Part));
        assert_nested(&spans, 1.0);
    }
}
