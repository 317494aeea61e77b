//! The parts of a policy but training: gate, funnel, stages, stopping, meter.
//!
//! Invariant: every field has a default, so that a policy stored before the field came is still read. Deliberately absent:
//! ranges, which the policy as a whole checks.

/// What a candidate may lose against the serving version on the validation split.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Accuracy it may lose, on the whole and in every slice: refused where more has been shown lost. In [0, 1].
    pub max_accuracy_drop: f64,
    /// Expected calibration error it may gain, in [0, 1].
    pub max_calibration_rise: f64,
    /// Share of the samples without an answer that it may answer more often, in [0, 1].
    pub max_hallucination_rise: f64,
    /// Share of the samples with known evidence that it may look away from more often, in [0, 1].
    pub max_pointing_drop: f64,
    /// Whether it must be shown to answer more samples rightly.
    pub require_better: bool,
    /// Whether versions are judged by their answers after reasoning, and not by direct ones.
    pub after_reasoning: bool,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            max_accuracy_drop: 0.01,
            max_calibration_rise: 0.20,
            max_hallucination_rise: 0.01,
            max_pointing_drop: 0.05,
            require_better: false,
            after_reasoning: false,
        }
    }
}

/// How the value of a label follows what the rounds before showed.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive {
    /// Whether a stage is decided for every round; else the full value stands.
    pub enabled: bool,
    /// Whether the active arm is shared among forms of coverage, by what labels of each have lately taught; a stage is
    /// decided all the same, and holds where it is pinned.
    pub bandit: bool,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { enabled: true, bandit: false }
    }
}

/// When labels are no longer worth their price.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stopping {
    /// Accuracy that the next 100 labels must promise, points in 100.
    pub min_gain_per_100_labels: f64,
    /// Seconds of an annotator per label; none takes the median of the newest lead times.
    pub seconds_per_label: Option<f64>,
    /// Price of a label, in whatever currency; none tells costs in seconds only.
    pub price_per_label: Option<f64>,
}

impl Default for Stopping {
    fn default() -> Self {
        Self { min_gain_per_100_labels: 0.2, seconds_per_label: None, price_per_label: None }
    }
}

/// How it is measured whether the selection saves labels.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Meter {
    /// Whether every training is followed by one on the control arm's labels alone.
    pub shadow: bool,
}

impl Default for Meter {
    fn default() -> Self {
        Self { shadow: true }
    }
}

/// Whose weights are kept beside the base's, the serving version's and those of pinned ones.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Of the newest versions that the gate refused, so many.
    pub keep_refused: u32,
    /// Of those that served, the last so many.
    pub keep_retired: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_refused: 5, keep_retired: 20 }
    }
}

/// Which samples are looked at more closely than by one direct answer, and how.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Funnel {
    /// Draws of the last layer that answer every sample: what they disagree on is the model's own doubt.
    pub members: u32,
    /// Share of the candidates, the best by their direct answer, that is looked at in several views and wordings.
    pub view_share: f64,
    /// Share of the candidates, drawn uniformly, that is looked at so too.
    pub random_share: f64,
    /// Views of an image.
    pub views: u32,
    /// Samples that are reasoned about, as a multiple of the round's plan; 0 for none.
    pub chain_factor: u32,
    /// Chains of reasoning per sample.
    pub chains: u32,
    /// Temperature at which chains are sampled.
    pub temperature: f64,
    /// Share of right answers that a view, wording or zoom may turn wrong before it counts as another question.
    pub max_flips: f64,
    /// Parts of the image that are shown enlarged to each sample seen in several views; 0 for none.
    pub zooms: u32,
}

impl Default for Funnel {
    fn default() -> Self {
        Self {
            members: 8,
            view_share: 0.15,
            random_share: 0.05,
            views: 3,
            chain_factor: 4,
            chains: 8,
            temperature: 0.9,
            max_flips: 0.05,
            zooms: 0,
        }
    }
}
