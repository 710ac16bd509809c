//! Shows the progress of a run to the user.

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::escape;
use crate::terminal::output::tell;

/// A progress bar on a terminal, or occasional lines where there is none.
pub(super) struct Progress {
    bar: ProgressBar,
    smooth_loss: Option<f32>,
}

impl Progress {
    pub(super) fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), smooth_loss: None }
    }

    pub(super) fn new(name: &str, first_step: usize, num_iterations: usize) -> Progress {
        let style = "{prefix} {bar:24} {pos}/{len} · {msg} · {elapsed} gone, {eta} left";
        let style = ProgressStyle::with_template(style).expect("the template is constant");
        let bar = ProgressBar::new(num_iterations as u64).with_position(first_step as u64);
        bar.set_style(style);
        bar.set_prefix(name.to_string());
        bar.reset_eta();
        Progress { bar, smooth_loss: None }
    }

    pub(super) fn expect_steps(&self, num_iterations: usize) {
        self.bar.set_length(num_iterations as u64);
    }

    pub(super) fn advance(&mut self, step: usize, loss: f32, tokens_per_second: f64) {
        let smooth = self.smooth_loss.map_or(loss, |smooth| 0.9 * smooth + 0.1 * loss);
        self.smooth_loss = Some(smooth);
        self.show(step, format!("loss {smooth:.4} · {:.1}K tok/s", tokens_per_second / 1e3), 50);
    }

    /// Shows a message: always on a bar, otherwise as a line every `every` steps.
    pub(super) fn show(&mut self, step: usize, message: String, every: usize) {
        self.bar.set_position(step as u64 + 1);
        if self.bar.is_hidden() && step.is_multiple_of(every) && self.bar.length().is_some() {
            tell(&format!("step {step}/{}: {message}", self.bar.length().unwrap_or(0)));
        }
        self.bar.set_message(message);
    }

    pub(super) fn say(&self, line: &str) {
        // Samples and names of texts and folders may contain control characters.
        if self.bar.is_hidden() { tell(line) } else { self.bar.println(escape::text(line)) }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
