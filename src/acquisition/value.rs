//! What a label is worth: information that it can remove, times the hope that it will, per second of a person.
//!
//! `a = rho (w_V max(0, visual - g) + w_Q language + w_R reasoning + w_T model)` in nats, where `g` is what zooming
//! in removes for nothing. Invariant: every value is finite and at least 0, and a row that would not be is an error
//! that names its column. Deliberately absent: how the parts are measured, learnt or imputed.

use serde::{Deserialize, Serialize};

use super::{SelectError, check_finite};

/// What a nat of each kind has proved to be worth; 1 each before anything was proved (the chain rule).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// `w_V`.
    pub visual: f32,
    /// `w_Q`.
    pub language: f32,
    /// `w_R`.
    pub reasoning: f32,
    /// `w_T`.
    pub model: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { visual: 1.0, language: 1.0, reasoning: 1.0, model: 1.0 }
    }
}

/// The nats of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Nats {
    /// `I(Y;V)`.
    pub visual: f32,
    /// `I(Y;Q)`.
    pub language: f32,
    /// `I(Y;R|V,Q)`.
    pub reasoning: f32,
    /// `I(Y;Theta)`.
    pub model: f32,
    /// `g`: the best drop of entropy over a few zooms; what zooming resolves is resolution and not knowledge.
    pub zoom_gain: f32,
}

/// What turns a sample's nats into a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// Learnability of the sample, in `[0, 1]`.
    pub rho: f32,
    /// What nats are worth.
    pub weights: Weights,
    /// Seconds that a person is expected to need, above 0.
    pub cost_secs: f32,
}

impl Value {
    /// The value `a`, nats.
    pub fn nats(&self, nats: &Nats) -> f32 {
        let w = &self.weights;
        // A zoom that made things worse removes nothing, and adds nothing either.
        let visual = (nats.visual - nats.zoom_gain.max(0.0)).max(0.0);
        let sum = w.visual * visual
            + w.language * nats.language
            + w.reasoning * nats.reasoning
            + w.model * nats.model;
        self.rho * sum
    }

    /// Value per cost, nats per second.
    pub fn nats_per_second(&self, nats: &Nats) -> f32 {
        self.nats(nats) / self.cost_secs
    }
}

/// Columns of one row per candidate, in the units of [`Nats`] and [`Value`].
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// `I(Y;V)`, nats.
    pub visual: &'a [f32],
    /// `I(Y;Q)`, nats.
    pub language: &'a [f32],
    /// `I(Y;R|V,Q)`, nats.
    pub reasoning: &'a [f32],
    /// `I(Y;Theta)`, nats.
    pub model: &'a [f32],
    /// Entropy removed by zooming, nats; `None` where nobody zoomed.
    pub zoom_gain: Option<&'a [f32]>,
    /// Learnability, in `[0, 1]`.
    pub rho: &'a [f32],
    /// Expected seconds per label; `None` for values per label rather than per second.
    pub cost_secs: Option<&'a [f32]>,
}

/// The value of every candidate, nats per label or per second.
pub fn values(columns: &Columns<'_>, weights: Weights) -> Result<Vec<f32>, SelectError> {
    let n = columns.visual.len();
    // What is not given is worth nothing and costs one unit; row 0 of it is never looked at.
    let optional =
        |column: Option<&'_ [f32]>, i: usize, absent: f32| column.map_or(absent, |column| column[i]);
    let named = [
        ("visual", Some(columns.visual)),
        ("language", Some(columns.language)),
        ("reasoning", Some(columns.reasoning)),
        ("model", Some(columns.model)),
        ("zoom_gain", columns.zoom_gain),
        ("rho", Some(columns.rho)),
        ("cost_secs", columns.cost_secs),
    ];
    for (column, values) in named.into_iter().filter_map(|(column, values)| Some((column, values?))) {
        if values.len() != n {
            return Err(SelectError::Shape { column, expected: n, got: values.len() });
        }
        check_finite(column, values)?;
        // Zooming may make an answer less sure; nothing else here can be negative.
        let bad = |v: f32| (v < 0.0 && column != "zoom_gain") || (v == 0.0 && column == "cost_secs");
        if let Some(row) = values.iter().position(|&v| bad(v)) {
            let bound = if column == "cost_secs" { "above 0" } else { "at least 0" };
            let message = format!("{column} of candidate {row} is {}: it must be {bound}", values[row]);
            return Err(SelectError::Config(message));
        }
    }
    let w = [weights.visual, weights.language, weights.reasoning, weights.model];
    if w.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return Err(SelectError::Config(format!("weights must be finite and at least 0: {weights:?}")));
    }
    let out: Vec<f32> = (0..n)
        .map(|i| {
            let nats = Nats {
                visual: columns.visual[i],
                language: columns.language[i],
                reasoning: columns.reasoning[i],
                model: columns.model[i],
                zoom_gain: optional(columns.zoom_gain, i, 0.0),
            };
            let cost_secs = optional(columns.cost_secs, i, 1.0);
            Value { rho: columns.rho[i], weights, cost_secs }.nats_per_second(&nats)
        })
        .collect();
    // Finite columns may still overflow together.
    check_finite("value", &out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NATS: Nats = Nats { visual: 0.5, language: 0.2, reasoning: 0.3, model: 0.1, zoom_gain: 0.4 };

    fn columns<'a>(one: &'a [f32], cost: &'a [f32]) -> Columns<'a> {
        Columns {
            visual: one,
            language: one,
            reasoning: one,
            model: one,
            zoom_gain: None,
            rho: one,
            cost_secs: Some(cost),
        }
    }

    #[test]
    fn hand_computed_values() {
        let weights = Weights { visual: 2.0, language: 1.0, reasoning: 0.5, model: 0.0 };
        let value = Value { rho: 0.5, weights, cost_secs: 10.0 };
        // 0.5 (2 x 0.1 + 0.2 + 0.15) = 0.275
        assert!((value.nats(&NATS) - 0.275).abs() < 1e-6);
        assert!((value.nats_per_second(&NATS) - 0.0275).abs() < 1e-7);
        let plain = Value { rho: 1.0, weights: Weights::default(), cost_secs: 1.0 };
        assert!((plain.nats(&Nats { zoom_gain: 9.0, ..NATS }) - 0.6).abs() < 1e-6, "a zoom that resolves it");
        assert!((plain.nats(&Nats { zoom_gain: -1.0, ..NATS }) - 1.1).abs() < 1e-6, "a zoom that confuses");
    }

    #[test]
    fn a_column_is_the_value_of_each_row() {
        let (one, cost) = ([0.1, 0.5], [1.0, 4.0]);
        let per_second = values(&columns(&one, &cost), Weights::default()).expect("finite columns");
        // 0.1 x 0.4 / 1 and 0.5 x 2 / 4
        assert!((per_second[0] - 0.04).abs() < 1e-6 && (per_second[1] - 0.25).abs() < 1e-6);
        let per_label = Columns { cost_secs: None, zoom_gain: Some(&one), ..columns(&one, &cost) };
        let per_label = values(&per_label, Weights::default()).expect("finite columns");
        assert!((per_label[1] - 0.75).abs() < 1e-6, "without the visual part");
    }

    #[test]
    fn errors_name_the_column_and_the_row() {
        let (good, cost) = ([0.1, 0.2], [1.0, 2.0]);
        let refused = |c: Columns<'_>| values(&c, Weights::default());
        let nan = refused(Columns { reasoning: &[0.1, f32::NAN], ..columns(&good, &cost) });
        assert!(matches!(nan, Err(SelectError::NonFinite { column: "reasoning", index: 1, .. })));
        let short = refused(Columns { rho: &[1.0], ..columns(&good, &cost) });
        assert_eq!(short, Err(SelectError::Shape { column: "rho", expected: 2, got: 1 }));
        for (bad, says) in [
            (Columns { cost_secs: Some(&[1.0, 0.0]), ..columns(&good, &cost) }, "cost_secs of candidate 1"),
            (Columns { model: &[-0.1, 0.0], ..columns(&good, &cost) }, "model of candidate 0"),
        ] {
            assert!(matches!(refused(bad), Err(SelectError::Config(m)) if m.contains(says)), "{says}");
        }
        let huge = refused(columns(&[f32::MAX, 1.0], &cost));
        assert!(matches!(huge, Err(SelectError::NonFinite { column: "value", index: 0, .. })));
        let weights = Weights { model: f32::NAN, ..Weights::default() };
        assert!(values(&columns(&good, &cost), weights).is_err());
    }

    proptest! {
        #[test]
        fn values_are_finite_and_grow_with_each_part(parts in prop::array::uniform5(0f32..3.0), rho in 0f32..=1.0) {
            let [visual, language, reasoning, model, zoom_gain] = parts;
            let nats = Nats { visual, language, reasoning, model, zoom_gain };
            let value = Value { rho, weights: Weights::default(), cost_secs: 3.0 };
            let base = value.nats(&nats);
            prop_assert!(base.is_finite() && base >= 0.0);
            let more = Nats { visual: visual + 0.5, ..nats };
            let clearer = Nats { zoom_gain: zoom_gain + 0.5, ..nats };
            prop_assert!(value.nats(&more) >= base && value.nats(&clearer) <= base);
        }
    }
}
