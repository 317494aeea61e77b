//! How a round's samples were scored and chosen: what a replay needs and what people ask for.
//!
//! Invariant: kept with the round as JSON, every field with a default, so that what was written before a field came is
//! still read. Deliberately absent: the scores themselves and the set of candidates, which is a blob of its own.

use super::{BanditArm, Fallback, Strategy, Time};

/// The provenance of one round.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The newest scoring of the round; none before.
    pub funnel: Option<FunnelRun>,
    /// Every plan of the round, the first one first; later ones are more of it.
    pub plans: Vec<PlanRun>,
}

/// How far the samples of a round were looked into.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct FunnelRun {
    /// What the logits of direct answers were divided by, fitted on the control slice; 1 leaves them as they are.
    pub temperature: f64,
    /// Labelled control samples it was fitted on.
    pub calibrated_on: u64,
    /// The same of answers after reasoning, fitted on validation samples.
    pub reasoned_temperature: f64,
    /// Validation samples that was fitted on.
    pub reasoned_calibrated_on: u64,
    /// Samples with a direct answer by the round's version.
    pub scored: u64,
    /// Samples looked at in several views and wordings.
    pub views: u64,
    /// Samples reasoned about.
    pub chains: u64,
    /// Views, wordings and zooms left out because they change what is asked.
    pub dropped: Vec<Dropped>,
    /// Samples with a known answer that views and wordings were tried on.
    pub tried: u64,
    /// Samples zoomed into.
    pub zooms: u64,
    /// Samples with a known answer that zooms were tried on.
    pub zooms_tried: u64,
    /// How many zooms were tried.
    pub zooms_asked: u64,
    /// Why a deeper phase was left out; empty where none was.
    pub skipped: String,
}

impl Default for FunnelRun {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            calibrated_on: 0,
            reasoned_temperature: 1.0,
            reasoned_calibrated_on: 0,
            scored: 0,
            views: 0,
            chains: 0,
            dropped: Vec::new(),
            tried: 0,
            zooms: 0,
            zooms_tried: 0,
            zooms_asked: 0,
            skipped: String::new(),
        }
    }
}

/// What was done to a sample without meaning to change its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Transform {
    /// The image was seen in another view.
    View,
    /// The question was put in other words.
    Paraphrase,
    /// A part of the image was shown enlarged.
    Zoom,
}

/// A view, wording or zoom that changed too many right answers.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Dropped {
    /// Which of them.
    pub transform: Transform,
    /// Its place, from 1; place 0 is the sample as it is.
    pub index: u64,
    /// Share of right answers that it turned wrong.
    pub flip_rate: f64,
    /// Samples it was tried on.
    pub tried: u64,
}

/// What a nat of each term counts in a sample's value.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Weights {
    /// Of the view.
    pub visual: f64,
    /// Of the wording.
    pub language: f64,
    /// Of the reasoning.
    pub reasoning: f64,
    /// Of the weights.
    pub model: f64,
}

impl Default for Weights {
    fn default() -> Self {
        // The chain rule: nats add up.
        Self { visual: 1.0, language: 1.0, reasoning: 1.0, model: 1.0 }
    }
}

/// A group whose labels teach the model nothing.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Quarantined {
    /// The samples' group, as the client named it.
    pub family: String,
    /// Share of its value that it keeps, in [0, 1].
    pub learnability: f64,
    /// Labels that say so.
    pub labels: u64,
    /// Candidates of the group.
    pub samples: u64,
    /// In words.
    pub reason: String,
}

/// What labels of one of the bandit's ways of choosing have brought, and its share of a plan.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BanditShare {
    /// The way.
    pub arm: BanditArm,
    /// Its labels, older rounds' counting less.
    pub labels: f64,
    /// Sum of what they brought, nats.
    pub sum: f64,
    /// Sum of the squares of that.
    pub squares: f64,
    /// What a label of it is believed to bring, nats.
    pub mean: f64,
    /// Standard error of that.
    pub error: f64,
    /// Samples of the plan that it picked.
    pub planned: u64,
}

/// What one plan was made of.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PlanRun {
    /// Rank of its first sample in the round.
    pub first_rank: i64,
    /// Samples planned.
    pub planned: i64,
    /// When its candidates were read.
    pub at: Time,
    /// Number of the version whose scores it used.
    pub version: i64,
    /// The newest shard of scores that it saw; -1 where there was none.
    pub watermark: i64,
    /// Seed of its draws.
    pub seed: u64,
    /// The strategy asked for.
    pub strategy: Strategy,
    /// The strategy its active arm used.
    pub used: Strategy,
    /// What it rested on.
    pub fallback: Fallback,
    /// Labels that the round wanted.
    pub labels_per_round: u32,
    /// Share planned beyond that.
    pub spare_share: f64,
    /// Share of the control arm.
    pub control_share: f64,
    /// Exponent of the value in coverage.
    pub tau: f64,
    /// Whether families were balanced.
    pub balance: bool,
    /// Active picks of one image at most.
    pub max_per_image: Option<u32>,
    /// Active picks of one family at most.
    pub max_per_family: Option<u32>,
    /// What the terms counted.
    pub weights: Weights,
    /// What the logits of direct answers were divided by.
    pub temperature: f64,
    /// Learnability of every family that is not fully learnable, in [0, 1].
    pub learnability: std::collections::BTreeMap<String, f64>,
    /// The answer that says that there is none: each sample's value was less by its probability. Empty where no version had
    /// learnt from one yet, and on a cold start.
    pub abstention: String,
    /// Families left out because their labels teach nothing.
    pub quarantined: Vec<Quarantined>,
    /// Whether the active arm left them out whatever its strategy; where not, they were only worth nothing to it.
    pub bars: bool,
    /// The ways that shared the active arm, in their order; empty where there was one strategy.
    pub bandit: Vec<BanditShare>,
    /// Labelled samples that it asks about again, in their order; they count against the labels that the round wanted.
    pub doubted: Vec<super::SampleId>,
    /// Samples to choose from.
    pub candidates: u64,
    /// Samples labelled, out or planned before.
    pub labelled: u64,
    /// Key of the blob that says which those were.
    pub snapshot: String,
    /// The lowest value, in nats, of a sample that the active arm chose; none on a cold start.
    pub cut: Option<f32>,
}

impl Default for PlanRun {
    fn default() -> Self {
        Self {
            first_rank: 0,
            planned: 0,
            at: Time::UNIX_EPOCH,
            version: 0,
            watermark: -1,
            seed: 0,
            strategy: Strategy::Random,
            used: Strategy::Random,
            fallback: Fallback::ColdStart,
            labels_per_round: 0,
            spare_share: 0.0,
            control_share: 1.0,
            tau: 1.0,
            balance: false,
            max_per_image: None,
            max_per_family: None,
            weights: Weights::default(),
            temperature: 1.0,
            learnability: Default::default(),
            abstention: String::new(),
            quarantined: Vec::new(),
            bars: false,
            bandit: Vec::new(),
            doubted: Vec::new(),
            candidates: 0,
            labelled: 0,
            snapshot: String::new(),
            cut: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_a_field_came_is_still_read() {
        let old: Provenance = serde_json::from_str(r#"{"plans": [{"seed": 18446744073709551615}]}"#).unwrap();
        assert_eq!((old.plans[0].seed, old.plans[0].temperature), (u64::MAX, 1.0));
        assert_eq!(serde_json::from_str::<Provenance>("{}").unwrap(), Provenance::default());
        let there = serde_json::to_string(&old).unwrap();
        assert_eq!(serde_json::from_str::<Provenance>(&there).unwrap(), old);
    }
}
