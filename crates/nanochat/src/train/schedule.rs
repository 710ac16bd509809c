//! The schedules of the learning rates and of Muon's momentum.

use crate::model::optim::ScheduleValues;

/// A schedule of the learning rates and of Muon's momentum over `num_iterations` steps.
#[derive(Clone, Copy, Debug)]
pub enum Schedule {
    /// Warmup, constant, then linear decay to `final_lr_frac` over the last part (base training; mid-training uses
    /// [`by_progress`]). Muon's momentum rises from 0.85 to 0.95 over 300 steps.
    Trapezoid { num_iterations: usize, warmup_ratio: f32, warmdown_ratio: f32, final_lr_frac: f32 },
    /// Linear decay from `init_lr_frac` to 0 (sft and rl); momentum 0.95.
    Linear { num_iterations: usize, init_lr_frac: f32 },
}

impl Schedule {
    /// Returns the values for `step`, counted from 0.
    pub fn at(&self, step: usize) -> ScheduleValues {
        match *self {
            Schedule::Trapezoid { num_iterations, warmup_ratio, warmdown_ratio, final_lr_frac } => {
                let share = |ratio: f32| (ratio * num_iterations as f32).round() as usize;
                let (warmup, warmdown) = (share(warmup_ratio), share(warmdown_ratio));
                let left = num_iterations.saturating_sub(step);
                let lr_multiplier = if step < warmup {
                    (step + 1) as f32 / warmup as f32
                } else if left >= warmdown {
                    1.0
                } else {
                    let remaining = left as f32 / warmdown as f32;
                    remaining + (1.0 - remaining) * final_lr_frac
                };
                ScheduleValues { lr_multiplier, muon_momentum: rising_momentum(step) }
            }
            Schedule::Linear { num_iterations, init_lr_frac } => {
                let left = 1.0 - step as f32 / num_iterations.max(1) as f32;
                ScheduleValues { lr_multiplier: init_lr_frac * left, muon_momentum: 0.95 }
            }
        }
    }
}

/// Returns the values of a trapezoid without warmup, for a run whose number of steps is known only at its end
/// (mid-training): rates are constant and fall to 0 over the last part of `progress`, which goes from 0 to 1.
pub fn by_progress(step: usize, progress: f64, warmdown_ratio: f32) -> ScheduleValues {
    let left = (1.0 - progress).max(0.0) as f32;
    let lr_multiplier = if left < warmdown_ratio { left / warmdown_ratio } else { 1.0 };
    ScheduleValues { lr_multiplier, muon_momentum: rising_momentum(step) }
}

fn rising_momentum(step: usize) -> f32 {
    let rise = (step as f32 / 300.0).min(1.0);
    (1.0 - rise) * 0.85 + rise * 0.95
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mid_training_falls_over_the_last_fifth_of_its_progress() {
        let lr = |progress| by_progress(500, progress, 0.2).lr_multiplier;
        assert_eq!([lr(0.0), lr(0.8)], [1.0; 2]);
        assert!((lr(0.9) - 0.5).abs() < 1e-6 && lr(1.0) == 0.0 && lr(1.01) == 0.0);
        assert_eq!(by_progress(0, 0.5, 0.2).muon_momentum, 0.85);
    }

    #[test]
    fn base_is_flat_and_falls_to_zero_over_the_last_fifth() {
        let schedule = Schedule::Trapezoid {
            num_iterations: 1_000,
            warmup_ratio: 0.0,
            warmdown_ratio: 0.2,
            final_lr_frac: 0.0,
        };
        let lr = |step| schedule.at(step).lr_multiplier;
        assert_eq!([lr(0), lr(500), lr(800)], [1.0; 3]);
        assert!((lr(900) - 0.5).abs() < 1e-6 && (lr(999) - 0.005).abs() < 1e-6);
        let momentum = |step| schedule.at(step).muon_momentum;
        assert!((momentum(0) - 0.85).abs() < 1e-6 && (momentum(150) - 0.9).abs() < 1e-6);
        assert!((momentum(300) - 0.95).abs() < 1e-6 && (momentum(999) - 0.95).abs() < 1e-6);
    }

    #[test]
    fn warmup_reaches_one_and_a_floor_is_kept() {
        let schedule = Schedule::Trapezoid {
            num_iterations: 100,
            warmup_ratio: 0.1,
            warmdown_ratio: 0.5,
            final_lr_frac: 0.2,
        };
        let lr = |step| schedule.at(step).lr_multiplier;
        assert!((lr(0) - 0.1).abs() < 1e-6 && (lr(9) - 1.0).abs() < 1e-6);
        assert!((lr(75) - 0.6).abs() < 1e-6 && lr(100) >= 0.2 - 1e-6);
    }

    #[test]
    fn sft_falls_straight_to_zero() {
        let schedule = Schedule::Linear { num_iterations: 10, init_lr_frac: 0.02 };
        assert!((schedule.at(0).lr_multiplier - 0.02).abs() < 1e-8);
        assert!((schedule.at(5).lr_multiplier - 0.01).abs() < 1e-8);
    }
}
