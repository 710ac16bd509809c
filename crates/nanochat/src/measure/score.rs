//! Counts right answers, with confidence intervals.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub right: usize,
    pub total: usize,
}

/// The normal quantile of a 95 % interval.
const Z: f64 = 1.959_964;

impl Score {
    pub fn count(&mut self, right: bool) {
        self.right += usize::from(right);
        self.total += 1;
    }

    pub fn share(&self) -> f64 {
        self.right as f64 / self.total.max(1) as f64
    }

    /// Returns the share of right answers rescaled so that guessing gives 0 and all right gives 1.
    pub fn centered(&self, baseline: f64) -> f64 {
        (self.share() - baseline) / (1.0 - baseline)
    }

    /// Returns the 95 % confidence interval of the share (Wilson 1927), which also holds near 0 and 1.
    pub fn interval(&self) -> [f64; 2] {
        if self.total == 0 {
            return [0.0, 1.0];
        }
        let (n, p) = (self.total as f64, self.share());
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        [(middle - half).max(0.0), (middle + half).min(1.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        // Computed with scipy.stats.binomtest(right, total).proportion_ci(method="wilson").
        for (right, total, expected) in
            [(0, 10, [0.0, 0.277_533]), (5, 10, [0.236_593, 0.763_407]), (200, 200, [0.981_154, 1.0])]
        {
            let found = Score { right, total }.interval();
            let close = |i: usize| (found[i] - expected[i]).abs() < 1e-5;
            assert!(close(0) && close(1), "{found:?}");
        }
        assert_eq!(Score::default().interval(), [0.0, 1.0]);
    }

    #[test]
    fn guessing_scores_nothing() {
        assert_eq!(Score { right: 1, total: 4 }.centered(0.25), 0.0);
        assert_eq!(Score { right: 4, total: 4 }.centered(0.25), 1.0);
        assert!(Score { right: 0, total: 4 }.centered(0.25) < 0.0);
    }
}
