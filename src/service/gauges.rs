//! What Prometheus sees of a pool's loop: its stage, what its labels saved, what more of them promise.
//!
//! Invariant: labelled by pool and never by sample or annotator; what is not known is NaN, because a gauge that stood
//! still would show the round before.

use super::Service;
use crate::domain::{Advice, Decision, Savings, Stage};

impl Service {
    /// Shows a pool's verdicts; none leaves what is shown.
    pub(super) fn show_meter(&self, pool: &str, savings: Option<&Savings>, advice: Option<&Advice>) {
        if let Some(savings) = savings {
            let [estimate, low, high] = savings.shares();
            show(pool, "active_vlm_labels_saved_share", [estimate, low, high]);
        }
        if let Some(advice) = advice {
            show(pool, "active_vlm_expected_gain_points", [advice.expected_gain, advice.low, advice.high]);
            let enough = f64::from(u8::from(advice.is_enough()));
            metrics::gauge!("active_vlm_labels_enough", "pool" => pool.to_owned()).set(enough);
        }
    }

    /// Shows a pool's stage: 1 for the one it is in, 0 for the others.
    pub(super) fn show_stage(&self, pool: &str, decision: &Decision) {
        for (stage, name) in
            [(Stage::Alignment, "alignment"), (Stage::Boundary, "boundary"), (Stage::Reasoning, "reasoning")]
        {
            let is_it = f64::from(u8::from(stage == decision.stage));
            metrics::gauge!("active_vlm_stage", "pool" => pool.to_owned(), "stage" => name).set(is_it);
        }
        metrics::gauge!("active_vlm_stage_tau", "pool" => pool.to_owned()).set(decision.tau);
        let coverage = decision.signals.coverage.unwrap_or(f64::NAN);
        metrics::gauge!("active_vlm_coverage_share", "pool" => pool.to_owned()).set(coverage);
    }
}

fn show(pool: &str, name: &'static str, ends: [Option<f64>; 3]) {
    for (bound, value) in ["estimate", "low", "high"].into_iter().zip(ends) {
        metrics::gauge!(name, "pool" => pool.to_owned(), "bound" => bound).set(value.unwrap_or(f64::NAN));
    }
}
