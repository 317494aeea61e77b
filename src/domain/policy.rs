//! How a pool's loop runs: what is planned, who may label, when to train, what may be promoted.

mod parts;
mod training;

pub use parts::{Adaptive, Funnel, Gate, Meter, Retention, Stopping};
pub use training::{Budget, InitFrom, Losses, Method, Refinement, Start, Training, TrainingMode};

use super::{Time, Violation};
use std::time::Duration;

/// How the active arm of a plan is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Strategy {
    /// Uniform; the baseline.
    Random,
    /// Highest entropy of the answer, nats.
    Entropy,
    /// Smallest gap between the two likeliest answers.
    Margin,
    /// Exact farthest-first over embeddings.
    KCenter,
    /// Farthest-first among the most uncertain.
    ValueKCenter,
    /// Highest mutual information of answer and weights (BALD), nats.
    Bald,
    /// Highest expected predictive information gain about the rest of the pool (EPIG), nats.
    Epig,
    /// Uncertainty coverage: greedy facility location weighted by information value.
    Coverage,
    /// Greedy log-determinant of the embeddings' kernel, scaled by value.
    LogDet,
    /// k-means++ over hallucinated gradients (BADGE).
    Badge,
    /// Gumbel top-k over values.
    Power,
    /// The most typical sample of every uncovered cluster.
    TypiClust,
    /// Coverage without values: balls of one radius.
    ProbCover,
}

/// How a pool's loop runs.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How the active arm is chosen.
    pub strategy: Strategy,
    /// Labels a round asks for; as many start a training.
    pub labels_per_round: u32,
    /// Share planned beyond `labels_per_round`, so that annotators work on while the model trains.
    pub spare_share: f64,
    /// Share of the plan drawn uniformly: the unbiased slice.
    pub control_share: f64,
    /// Share of a round's labels that ask another annotator about labels which are probably wrong.
    pub relabel_share: f64,
    /// Annotators per sample at most, 1 to 32.
    pub max_labels: u32,
    /// Equal answers that settle a sample before `max_labels` are in.
    pub quorum: u32,
    /// How long a batch is held when the request names no lease time.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// Times a lease may be renewed.
    pub max_renewals: u32,
    /// Queries one annotator may hold at once, so that an idle one cannot starve the others.
    pub max_held: u32,
    /// Answers the pool may ever take; none means no bound.
    pub label_budget: Option<u64>,
    /// Trains also when this long has passed since the last training and new labels are there.
    #[serde(with = "humantime_serde")]
    pub train_after: Option<Duration>,
    /// Whether enough labels start a training by themselves.
    pub auto_train: bool,
    /// How a version is trained.
    pub training: Training,
    /// What a candidate may lose.
    pub gate: Gate,
    /// Seed of plans and trainings.
    pub seed: u64,
    /// How the value follows what the rounds before showed.
    pub adaptive: Adaptive,
    /// When labels are no longer worth their price.
    pub stopping: Stopping,
    /// How it is measured whether the selection saves labels.
    pub meter: Meter,
    /// Whose weights are kept.
    pub retention: Retention,
    /// The answer that means "this cannot be answered".
    pub abstention: String,
    /// Active picks of one image in a plan at most; none means no bound.
    pub max_per_image: Option<u32>,
    /// Active picks of one group in a plan at most; none means no bound.
    pub max_per_family: Option<u32>,
    /// Which samples are looked at more closely.
    pub funnel: Funnel,
    /// Whether a client's imported figures stand in the place of the model's.
    pub use_imported: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Coverage,
            labels_per_round: 100,
            spare_share: 0.5,
            control_share: 0.1,
            relabel_share: 0.0,
            max_labels: 1,
            quorum: 1,
            lease_ttl: Duration::from_secs(30 * 60),
            max_renewals: 10,
            max_held: 200,
            label_budget: None,
            train_after: None,
            auto_train: true,
            training: Training::default(),
            gate: Gate::default(),
            seed: 0,
            adaptive: Adaptive::default(),
            stopping: Stopping::default(),
            meter: Meter::default(),
            retention: Retention::default(),
            abstention: "unanswerable".to_owned(),
            max_per_image: None,
            max_per_family: None,
            funnel: Funnel::default(),
            use_imported: false,
        }
    }
}

impl Policy {
    /// Every field that is out of its range, each named with `prefix`; empty when the policy is sound.
    pub fn violations(&self, prefix: &str) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut check = |ok: bool, field: &str, text: &str| {
            if !ok {
                found.push(Violation::new(format!("{prefix}{field}"), text));
            }
        };
        let unit = |x: f64| (0.0..=1.0).contains(&x);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        check((1..=1_000_000).contains(&self.labels_per_round), "labels_per_round", "must be 1 to 1,000,000");
        check((0.0..=10.0).contains(&self.spare_share), "spare_share", "must be 0 to 10");
        check(
            (0.1..=1.0).contains(&self.control_share),
            "control_share",
            "must be 0.1 to 1: the random slice is what every figure rests on",
        );
        check(
            (0.0..=0.5).contains(&self.relabel_share),
            "relabel_share",
            "must be 0 to 0.5: a round is for new samples first",
        );
        check((1..=32).contains(&self.max_labels), "max_labels", "must be 1 to 32");
        check((1..=self.max_labels.max(1)).contains(&self.quorum), "quorum", "must be 1 to max_labels");
        check(self.lease_ttl >= Duration::from_secs(1), "lease_ttl", "must be at least one second");
        check(self.max_held >= 1, "max_held", "must be at least 1");
        check(
            self.label_budget.is_none_or(|budget| (1..=1_000_000_000_000).contains(&budget)),
            "label_budget",
            "must be 1 to 1,000,000,000,000; leave it out for no bound",
        );
        check(
            self.train_after.is_none_or(|d| d >= Duration::from_secs(1)),
            "train_after",
            "must be at least one second",
        );
        check(unit(self.gate.max_accuracy_drop), "gate.max_accuracy_drop", "must be 0 to 1");
        check(unit(self.gate.max_calibration_rise), "gate.max_calibration_rise", "must be 0 to 1");
        check(unit(self.gate.max_hallucination_rise), "gate.max_hallucination_rise", "must be 0 to 1");
        check(unit(self.gate.max_pointing_drop), "gate.max_pointing_drop", "must be 0 to 1");
        check(
            !self.adaptive.bandit || (self.adaptive.enabled && self.strategy == Strategy::Coverage),
            "adaptive.bandit",
            "wants adaptive.enabled and the strategy COVERAGE, whose forms its arms are; or set it to false",
        );
        let stopping = &self.stopping;
        check(
            (0.0..=100.0).contains(&stopping.min_gain_per_100_labels),
            "stopping.min_gain_per_100_labels",
            "must be 0 to 100 points of accuracy",
        );
        check(
            stopping.seconds_per_label.is_none_or(|x| positive(x) && x <= 86_400.0),
            "stopping.seconds_per_label",
            "must be above 0, at most 86,400; leave it out to have it measured",
        );
        check(
            stopping.price_per_label.is_none_or(|x| positive(x) && x <= 1e9),
            "stopping.price_per_label",
            "must be above 0, at most 1,000,000,000; leave it out where labels have no price",
        );
        check(
            (1..=200).contains(&super::label::normalise(&self.abstention).len())
                && !self.abstention.chars().any(char::is_control),
            "abstention",
            "must be an answer of 1 to 200 bytes without control characters",
        );
        let cap = |cap: Option<u32>| cap.is_none_or(|cap| (1..=1_000_000).contains(&cap));
        let text = "must be 1 to 1,000,000; leave it out for no bound";
        check(cap(self.max_per_image), "max_per_image", text);
        check(cap(self.max_per_family), "max_per_family", text);
        let f = &self.funnel;
        check((1..=8).contains(&f.members), "funnel.members", "must be 1 to 8");
        check(unit(f.view_share), "funnel.view_share", "must be 0 to 1");
        check(unit(f.random_share), "funnel.random_share", "must be 0 to 1");
        check((1..=16).contains(&f.views), "funnel.views", "must be 1 to 16");
        check(f.chain_factor <= 1000, "funnel.chain_factor", "must be 0 to 1000; 0 turns chains off");
        check((2..=64).contains(&f.chains), "funnel.chains", "must be 2 to 64: one chain shows no doubt");
        check(
            positive(f.temperature) && f.temperature <= 2.0,
            "funnel.temperature",
            "must be above 0, at most 2",
        );
        check(unit(f.max_flips), "funnel.max_flips", "must be 0 to 1");
        check(f.zooms <= 4, "funnel.zooms", "must be 0 to 4; 0 turns zooms off");
        found.extend(self.training.violations(prefix));
        found
    }

    /// Whether a training is due: enough labels in the round, or long enough since the last one with something new.
    pub fn training_due(&self, round_labels: u64, last_training: Time, now: Time) -> bool {
        if !self.auto_train || round_labels == 0 {
            return false;
        }
        let waited = (now - last_training).to_std().unwrap_or_default();
        round_labels >= u64::from(self.labels_per_round)
            || self.train_after.is_some_and(|after| waited >= after)
    }

    /// Optimiser steps for `labels` labels: whole epochs, within the bounds.
    pub fn training_steps(&self, labels: usize) -> u64 {
        let t = &self.training;
        let per_epoch = labels.div_ceil(t.batch_size as usize) as u64;
        (per_epoch * u64::from(t.epochs)).clamp(u64::from(t.min_steps), u64::from(t.max_steps))
    }

    /// Samples a plan holds: the round's labels and the spare ones.
    pub fn plan_size(&self) -> usize {
        (f64::from(self.labels_per_round) * (1.0 + self.spare_share)).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_sound_and_all_violations_come_at_once() {
        assert!(Policy::default().violations("policy.").is_empty());
        let bad =
            Policy { control_share: 0.0, max_labels: 0, label_budget: Some(u64::MAX), ..Policy::default() };
        let fields: Vec<_> = bad.violations("policy.").into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["policy.control_share", "policy.max_labels", "policy.label_budget"]);
    }

    #[test]
    fn prices_times_and_the_abstention_are_held_to_their_ranges() {
        let stopping = Stopping {
            min_gain_per_100_labels: -1.0,
            seconds_per_label: Some(0.0),
            price_per_label: Some(f64::NAN),
        };
        let adaptive = Adaptive { bandit: true, ..Adaptive::default() };
        let shared = Policy { adaptive: adaptive.clone(), ..Policy::default() };
        assert!(shared.violations("").is_empty(), "the default strategy is coverage");
        let adaptive = Adaptive { enabled: false, ..adaptive };
        let bad = Policy { adaptive, stopping, abstention: " . ".to_owned(), ..Policy::default() };
        let fields: Vec<_> = bad.violations("").into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            [
                "adaptive.bandit",
                "stopping.min_gain_per_100_labels",
                "stopping.seconds_per_label",
                "stopping.price_per_label",
                "abstention"
            ]
        );
    }

    #[test]
    fn a_policy_stored_before_these_fields_were_there_reads_as_the_default() {
        let stored = serde_json::json!({ "seed": 3 });
        let policy: Policy = serde_json::from_value(stored).expect("an old policy");
        assert_eq!(policy, Policy { seed: 3, ..Policy::default() });
    }

    #[test]
    fn a_funnel_has_its_ranges() {
        let funnel = Funnel {
            members: 0,
            view_share: 1.1,
            chains: 1,
            temperature: 0.0,
            zooms: 5,
            ..Funnel::default()
        };
        let policy = Policy { funnel, max_per_image: Some(0), ..Policy::default() };
        let fields: Vec<_> = policy.violations("").into_iter().map(|v| v.field).collect();
        let expected = [
            "max_per_image",
            "funnel.members",
            "funnel.view_share",
            "funnel.chains",
            "funnel.temperature",
            "funnel.zooms",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn training_is_due_by_count_or_by_time_but_never_without_labels() {
        let policy =
            Policy { labels_per_round: 10, train_after: Some(Duration::from_secs(60)), ..Policy::default() };
        let start = Time::UNIX_EPOCH;
        let later = start + Duration::from_secs(61);
        assert!(policy.training_due(10, start, start));
        assert!(!policy.training_due(9, start, start));
        assert!(policy.training_due(1, start, later));
        assert!(!policy.training_due(0, start, later));
        assert!(!Policy { auto_train: false, ..policy }.training_due(10, start, later));
    }

    #[test]
    fn steps_are_whole_epochs_within_the_bounds() {
        let policy = Policy::default();
        assert_eq!(policy.training_steps(1), 40);
        assert_eq!(policy.training_steps(320), 120);
        assert_eq!(policy.training_steps(1_000_000), 400);
        assert_eq!(policy.plan_size(), 150);
    }
}
