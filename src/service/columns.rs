//! A version's scores as columns: what planning, explaining and looking deeper have in common.
//!
//! Invariants: a million samples take some 150 MB here: numbers and ids only, groups and images as numbers; and equal
//! rows give equal columns, whenever they are read. Entropies and model terms are those at the round's temperature.
//! Deliberately absent: embeddings, which lie in a file.

use super::{Service, background, groups::Groups};
use crate::{
    acquisition::{SelectError, impute, nested, temperature, value},
    domain::{Error, Result, SampleId, Uncertainty, Weights, label::normalise, uncertainty},
    store::{Scope, ScoreRow, Store, Unscored, from_halves},
};
use half::f16;
use std::collections::{BTreeMap, HashSet};

/// Columns of one row per scored sample, in the order of their embeddings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    pub ids: Vec<SampleId>,
    /// Shard and row of each embedding.
    pub places: Vec<(i64, i32)>,
    pub candidate: Vec<bool>,
    pub centre: Vec<bool>,
    pub images: Vec<u32>,
    pub families: Vec<u32>,
    /// Names of the families by their numbers.
    pub names: Vec<String>,
    pub entropy: Vec<f32>,
    pub margin: Vec<f32>,
    pub model: Vec<f32>,
    /// What any term can be at most, nats.
    pub ceiling: Vec<f32>,
    /// Measured terms.
    pub visual: Vec<Option<f32>>,
    pub language: Vec<Option<f32>>,
    pub reasoning: Vec<Option<f32>>,
    /// What the image tells, and what zooming into it settles; measured or not, never estimated.
    pub image_nats: Vec<Option<f32>>,
    pub zoom_gain: Vec<Option<f32>>,
    pub viewed: Vec<bool>,
    pub reasoned: Vec<bool>,
    /// Values that a client brought.
    pub imported: Vec<Option<f32>>,
    /// How surely the model says that there is no answer, where that was asked for; else empty.
    pub unanswerable: Vec<f32>,
    /// Answer distributions, where a strategy looks into them.
    pub answers: Option<AnswerColumns>,
}

/// What is read of each score beside its figures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading<'a> {
    /// The pool's answers, for samples that have none of their own.
    pub space: &'a [String],
    /// Whether answer distributions are kept.
    pub distributions: bool,
    /// The answer that says that there is none, where it counts how surely the model gives it; else empty.
    pub abstention: &'a str,
}

/// Answer distributions of all rows. A row in an open space has no classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AnswerColumns {
    /// Members of the first row that has a distribution; a row of other members counts as one without.
    pub members: usize,
    /// Where the classes of each row end, in `classes`.
    pub ends: Vec<usize>,
    /// Answers by number, the same answer of two samples being one.
    pub classes: Vec<u32>,
    /// `[members, classes]` of each row, one row after the other; float16, as they are kept.
    pub probabilities: Vec<f16>,
}

impl AnswerColumns {
    fn push(&mut self, members: usize, distribution: &[f32], classes: &[u32]) {
        if self.members == 0 {
            self.members = members;
        }
        if members == self.members && distribution.len() == members * classes.len() {
            self.classes.extend(classes);
            self.probabilities.extend(distribution.iter().map(|&p| f16::from_f32(p)));
        }
        self.ends.push(self.classes.len());
    }

    /// Classes of a row.
    pub fn span(&self, row: usize) -> std::ops::Range<usize> {
        row.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[row]
    }
}

/// Every term of every sample, measured or estimated, and what they come to. Nats.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Information {
    pub visual: Vec<f32>,
    pub language: Vec<f32>,
    pub reasoning: Vec<f32>,
    /// What a label is expected to be worth.
    pub value: Vec<f32>,
}

impl Service {
    /// Reads the scores of a scope; direct answers are looked at anew at `temperature`.
    pub(super) async fn read_columns(
        &self,
        scope: &Scope,
        temperature: f64,
        reading: Reading<'_>,
    ) -> Result<Columns> {
        let (store, scope) = (self.store.clone(), *scope);
        let (space, abstention) = (reading.space.to_vec(), normalise(reading.abstention));
        let distributions = reading.distributions;
        let read = move || async move {
            let reading = Reading { space: &space, distributions, abstention: &abstention };
            columns(&store, &scope, temperature, reading).await
        };
        background::reading(read).await
    }
}

async fn columns(store: &Store, scope: &Scope, temperature: f64, reading: Reading<'_>) -> Result<Columns> {
    let (mut columns, mut groups) = (Columns::default(), Groups::new());
    columns.answers = reading.distributions.then(AnswerColumns::default);
    let mut failed = None;
    // A temperature of 1 changes nothing: the figures that are kept will do.
    let tempered = (temperature != 1.0).then_some(temperature as f32);
    let take = |row| {
        if let Err(error) = columns.push(row, &mut groups, tempered, reading) {
            failed.get_or_insert(error);
        }
    };
    let looks_inside = tempered.is_some() || reading.distributions || !reading.abstention.is_empty();
    store.read_scores(scope, looks_inside, take).await?;
    columns.names = groups.names;
    failed.map_or(Ok(columns), |error| Err(Error::internal(error)))
}

impl Columns {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Rows that a plan may choose from.
    pub fn candidates(&self) -> Vec<usize> {
        (0..self.len()).filter(|&row| self.candidate[row]).collect()
    }

    /// Takes samples out of what may be chosen.
    pub fn withdraw(&mut self, samples: &[SampleId]) {
        if samples.is_empty() {
            return;
        }
        let samples: HashSet<&SampleId> = samples.iter().collect();
        for (candidate, id) in self.candidate.iter_mut().zip(&self.ids) {
            *candidate &= !samples.contains(id);
        }
    }

    /// Columns of samples that no version has looked at: a cold start chooses by nothing but their groups.
    pub fn cold(samples: Vec<Unscored>) -> Self {
        let (mut columns, mut groups) = (Self::default(), Groups::new());
        for one in samples {
            let (image, family) = groups.numbers(one.image, one.family);
            columns.ids.push(one.sample);
            columns.images.push(image);
            columns.families.push(family);
            columns.candidate.push(true);
            columns.centre.push(false);
        }
        columns.names = groups.names;
        columns
    }

    fn push(
        &mut self,
        row: ScoreRow,
        groups: &mut Groups,
        temperature: Option<f32>,
        reading: Reading<'_>,
    ) -> Result<(), SelectError> {
        let (image, family) = groups.numbers(row.image, row.family);
        let (mut entropy, mut margin, mut model) = (row.entropy, row.margin, row.model.unwrap_or(0.0));
        let classes = usize::try_from(row.classes).unwrap_or(0);
        let mut members = row.probabilities.as_deref().map(from_halves).unwrap_or_default();
        if let Some(temperature) = temperature.filter(|_| !members.is_empty()) {
            members = tempered(&members, classes, temperature);
            if row.members > 1 {
                model = nested::model_term(&members, classes, nested::Estimate::PlugIn)?;
            }
            // A client's own figures are as the client means them.
            if !row.imported {
                let mean = mean(&members, classes);
                (entropy, margin) = (uncertainty::entropy(&mean), uncertainty::margin(&mean));
            }
        }
        let space = if row.choices.is_empty() { reading.space } else { &row.choices };
        if !reading.abstention.is_empty() {
            let none = space.iter().position(|answer| normalise(answer) == reading.abstention);
            let mean = mean(&members, classes);
            self.unanswerable.push(none.and_then(|none| mean.get(none).copied()).unwrap_or(0.0));
        }
        if let Some(columns) = &mut self.answers {
            let numbers: Vec<u32> =
                space.iter().map(|answer| groups.answers.number(normalise(answer)).0).collect();
            columns.push(usize::try_from(row.members).unwrap_or(0), &members, &numbers);
        }
        self.ids.push(row.sample);
        self.places.push((row.shard, row.place));
        self.candidate.push(row.candidate);
        self.centre.push(row.centre);
        self.images.push(image);
        self.families.push(family);
        self.entropy.push(entropy);
        self.margin.push(margin);
        self.model.push(model);
        // In an open space nobody knows the number of answers; no part of a doubt is more than the whole of it.
        self.ceiling.push(if classes > 1 { (classes as f32).ln() } else { entropy });
        self.visual.push(row.visual);
        self.language.push(row.language);
        self.reasoning.push(row.reasoning);
        self.image_nats.push(row.image_nats);
        self.zoom_gain.push(row.zoom_gain);
        self.viewed.push(row.viewed);
        self.reasoned.push(row.reasoned);
        self.imported.push(row.value);
        Ok(())
    }

    /// Every term, the missing ones estimated, and the value they come to at these weights and learnabilities.
    ///
    /// Where nothing but entropy is known of any sample, it stands for the information: an upper bound of it.
    pub fn information(
        &self,
        weights: &Weights,
        learnability: &BTreeMap<String, f64>,
    ) -> Result<Information, SelectError> {
        let features = impute::Features {
            entropy: &self.entropy,
            margin: &self.margin,
            model: &self.model,
            ceiling: &self.ceiling,
        };
        // What zooming settles is no knowledge that a like sample lacks either: what was not looked at is estimated from what
        // is left, or it would win by not having been looked at.
        let gain = |row: usize| self.zoom_gain[row].unwrap_or(0.0).max(0.0);
        let left = |(row, nats): (usize, &Option<f32>)| nats.map(|nats| (nats - gain(row)).max(0.0));
        let left: Vec<Option<f32>> = self.visual.iter().enumerate().map(left).collect();
        let mut visual = impute::impute_by_group(&features, &left, &self.families)?.values;
        visual.iter_mut().zip(&self.visual).for_each(|(own, nats)| *own = nats.unwrap_or(*own));
        let language = impute::impute_by_group(&features, &self.language, &self.families)?.values;
        let reasoning = impute::impute_by_group(&features, &self.reasoning, &self.families)?.values;
        let of_family: Vec<f32> =
            self.names.iter().map(|name| learnability.get(name).map_or(1.0, |&rho| rho as f32)).collect();
        let mut rho: Vec<f32> = self.families.iter().map(|&family| of_family[family as usize]).collect();
        // What the model is sure has no answer is worth no label, whatever its family is worth.
        rho.iter_mut().zip(&self.unanswerable).for_each(|(rho, p)| *rho *= 1.0 - p);
        let zoom_gain: Vec<f32> = self.zoom_gain.iter().map(|gain| gain.unwrap_or(0.0)).collect();
        let columns = value::Columns {
            visual: &visual,
            language: &language,
            reasoning: &reasoning,
            model: &self.model,
            zoom_gain: Some(&zoom_gain),
            rho: &rho,
            cost_secs: None,
        };
        let mut value = value::values(&columns, as_weights(weights))?;
        let terms = [&visual, &language, &reasoning, &self.model];
        if terms.iter().all(|term| term.iter().all(|&nats| nats == 0.0)) {
            value = self.entropy.iter().zip(&rho).map(|(entropy, rho)| entropy * rho).collect();
        }
        for (value, imported) in value.iter_mut().zip(&self.imported) {
            *value = imported.unwrap_or(*value);
        }
        Ok(Information { visual, language, reasoning, value })
    }

    /// How unsure the model is of a row, term by term.
    pub fn uncertainty(&self, information: &Information, row: usize) -> Uncertainty {
        let measured = [self.visual[row], self.language[row], self.reasoning[row]];
        Uncertainty {
            total: self.entropy[row],
            margin: self.margin[row],
            visual: Some(information.visual[row]),
            language: Some(information.language[row]),
            reasoning: Some(information.reasoning[row]),
            model: Some(self.model[row]),
            information: Some(information.value[row]),
            imputed: measured.iter().any(Option::is_none),
            image: self.image_nats[row],
            zoom_gain: self.zoom_gain[row],
        }
    }
}

/// The weights as the acquisition knows them.
fn as_weights(weights: &Weights) -> value::Weights {
    value::Weights {
        visual: weights.visual as f32,
        language: weights.language as f32,
        reasoning: weights.reasoning as f32,
        model: weights.model as f32,
    }
}

/// Distributions `[rows, classes]` at a temperature.
pub(super) fn tempered(rows: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
    rows.chunks_exact(classes.max(1)).flat_map(|row| temperature::apply(row, temperature)).collect()
}

/// The mean of distributions `[rows, classes]`, `[classes]`.
pub(super) fn mean(rows: &[f32], classes: usize) -> Vec<f32> {
    let (mut sum, count) = (vec![0.0f64; classes], rows.len() / classes.max(1));
    for row in rows.chunks_exact(classes.max(1)) {
        sum.iter_mut().zip(row).for_each(|(sum, &p)| *sum += f64::from(p));
    }
    sum.iter().map(|sum| (sum / count.max(1) as f64) as f32).collect()
}

/// Six decimals: what is kept as JSON and read back must be the same number.
pub(super) fn short(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
#[path = "columns_tests.rs"]
pub(super) mod tests;
