//! The arms: ways to choose what is labelled next.
//!
//! Invariant: one table, one line each; an arm that is not there is an error that says so, never another one under its
//! name.
//!
//! `ours` and the arms that leave a part of it out are the service's whole method: stages, learnability, refitted
//! weights, calibrated answers. Until it was, `ours` valued labels by the information terms alone; that form is now
//! `ours_static`, under which name earlier results of `ours` (and of `ours_no_control` and `ours_no_abstention`, with the
//! part left out) are to be read. Records of the earlier form are refused by the arms that now remember.

use anyhow::bail;

use super::method::{Method, WHOLE};
use super::teaching::Teaching;
use crate::domain::Strategy;

/// What a label is taken to be worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// The entropy of the direct answer.
    Entropy,
    /// What was open on the way to the answer: the entropies of the tokens of a greedy reasoning, and of the answer.
    Reasoning,
    /// The entropy of the direct answer and the reasoning term.
    Both,
    /// The information value: all terms by the funnel's tiers, missing ones estimated.
    Information,
}

/// How an arm chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// By a strategy of the acquisition module, alone.
    Strategy(Strategy),
    /// By the service's strategy, with values from here.
    Service {
        /// Whether a control arm is drawn first, at the budget's expense.
        control: bool,
        /// What the strategy weighs by.
        worth: Worth,
    },
    /// Families equally often, and no outlier: it cheats, as no service knows either.
    Balanced,
    /// Everything there is, at once.
    Everything,
    /// By the service's method, or by parts of it.
    Method(Method),
}

/// A way to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arm {
    /// Its name in configurations and tables.
    pub name: &'static str,
    /// What it does, for readers of the report.
    pub about: &'static str,
    /// How it chooses.
    pub rule: Rule,
    /// How it teaches.
    pub teaching: Teaching,
    /// Whether its annotator may answer "unanswerable" where the world lets one.
    pub abstention: bool,
}

/// Share of the control arm, the least that the service allows.
pub const CONTROL: f64 = crate::acquisition::MIN_CONTROL_SHARE;

const OURS: Rule = Rule::Method(WHOLE);

const fn arm(name: &'static str, about: &'static str, rule: Rule) -> Arm {
    Arm { name, about, rule, teaching: Teaching::Reasoning, abstention: true }
}

/// An arm that takes labels at random and teaches in another way.
const fn taught(name: &'static str, about: &'static str, teaching: Teaching) -> Arm {
    Arm { teaching, ..arm(name, about, Rule::Strategy(Strategy::Random)) }
}

/// All arms.
pub const ARMS: &[Arm] = &[
    arm("random", "uniformly at random", Rule::Strategy(Strategy::Random)),
    arm("entropy", "highest entropy of the answer", Rule::Strategy(Strategy::Entropy)),
    arm("margin", "smallest gap between the two likeliest answers", Rule::Strategy(Strategy::Margin)),
    arm("bald", "mutual information of answer and weights (1112.5745)", Rule::Strategy(Strategy::Bald)),
    arm("epig", "expected information about other questions (2304.08151)", Rule::Strategy(Strategy::Epig)),
    arm("k_center", "farthest-first over embeddings (1708.00489)", Rule::Strategy(Strategy::KCenter)),
    arm("typiclust", "the most typical of each cluster (2202.02794)", Rule::Strategy(Strategy::TypiClust)),
    arm("prob_cover", "coverage of the pool by balls (2205.11320)", Rule::Strategy(Strategy::ProbCover)),
    arm("badge", "k-means++ over gradients (1906.03671)", Rule::Strategy(Strategy::Badge)),
    arm("power", "BALD with a power-law lottery (2106.12059)", Rule::Strategy(Strategy::Power)),
    arm("coverage", "uncertainty coverage (2412.20644)", Rule::Strategy(Strategy::Coverage)),
    arm(
        "ours",
        "the service's method: coverage by learnable information value, adapting, with a control arm",
        OURS,
    ),
    arm(
        "ours_static",
        "coverage by the information terms alone, with a control arm",
        Rule::Service { control: true, worth: Worth::Information },
    ),
    arm(
        "ours_reasoning",
        "ours_static, by what is open in one greedy reasoning",
        Rule::Service { control: true, worth: Worth::Reasoning },
    ),
    arm(
        "ours_both",
        "ours_static, by the entropy of the direct answer and what chains of reasoning disagree on",
        Rule::Service { control: true, worth: Worth::Both },
    ),
    arm(
        "ours_entropy",
        "ours_static, by the entropy of the direct answer",
        Rule::Service { control: true, worth: Worth::Entropy },
    ),
    arm("ours_bandit", "ours with the bandit over arms", Rule::Method(Method { bandit: true, ..WHOLE })),
    Arm { abstention: false, ..arm("ours_no_abstention", "ours, the annotator has to guess", OURS) },
    arm(
        "ours_no_learnability",
        "ours without the learnability of groups",
        Rule::Method(Method { learnability: false, ..WHOLE }),
    ),
    arm(
        "ours_no_answerable",
        "ours, valuing what the model is sure has no answer by its family's share",
        Rule::Method(Method { answerable: false, ..WHOLE }),
    ),
    arm(
        "ours_no_funnel",
        "ours with every term for every sample",
        Rule::Method(Method { funnel: false, ..WHOLE }),
    ),
    arm(
        "ours_no_adaptive",
        "ours with fixed weights and stage",
        Rule::Method(Method { adaptive: false, ..WHOLE }),
    ),
    arm(
        "ours_aligned",
        "ours, whose first round covers the pool evenly over families, whatever the model thinks of it",
        Rule::Method(Method { aligned: true, ..WHOLE }),
    ),
    arm(
        "ours_residual",
        "ours, where what no term explains of an answer's entropy counts too",
        Rule::Method(Method { residual: true, ..WHOLE }),
    ),
    arm(
        "ours_residual_balanced",
        "ours_residual, evenly over families in every round",
        Rule::Method(Method { residual: true, balanced: true, ..WHOLE }),
    ),
    arm("ours_no_control", "ours without the random slice", Rule::Method(Method { control: false, ..WHOLE })),
    taught("answers", "random labels, taught by their answers alone", Teaching::Answers),
    taught("reasoning", "random labels, taught with their reasonings", Teaching::Reasoning),
    taught(
        "contrast",
        "reasoning, then its own right reasonings against wrong ones (2411.10442)",
        Teaching::Contrast,
    ),
    taught(
        "contrast_image",
        "contrast with the image-conditional term (2406.11839)",
        Teaching::ContrastImage,
    ),
    taught(
        "imitation",
        "reasoning, then its own right reasonings by heart (2312.06585)",
        Teaching::Imitation,
    ),
    taught("reward", "reasoning, then reward for right reasonings (2402.14740)", Teaching::Reward),
    taught("regions", "reasoning, with attention drawn to the marked regions", Teaching::Regions),
    taught(
        "random_regions",
        "regions anywhere: what `regions` has to beat (2004.05704)",
        Teaching::RandomRegions,
    ),
    taught("faithful", "reasoning, with and without the evidence in sight", Teaching::Faithful),
    Arm { teaching: Teaching::Whole, ..arm("whole", "ours, taught by contrast and regions", OURS) },
    arm("oracle_balanced", "families equally often, no outlier: it cheats", Rule::Balanced),
    arm("full_pool", "every label of the pool", Rule::Everything),
];

impl Arm {
    /// Whether what it chooses depends on what it has seen before, beyond the labels.
    pub fn remembers(&self) -> bool {
        matches!(self.rule, Rule::Method(_))
    }
}

/// The strategy by which [`Rule::Service`] plans.
pub fn service_strategy() -> Strategy {
    Strategy::Coverage
}

/// The arm of a name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> anyhow::Result<&'static Arm> {
    let Some(arm) = ARMS.iter().find(|arm| arm.name == name) else {
        let names: Vec<&str> = ARMS.iter().map(|arm| arm.name).collect();
        bail!("there is no arm {name:?}: choose from {}", names.join(", "));
    };
    Ok(arm)
}
