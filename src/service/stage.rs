//! What the next round's plan is to value: the signals are read, the decision is made and kept with its evidence.
//!
//! Invariant: a function of what is stored, so that equal histories decide equally, and made once per round: at the end
//! of the training before it, or, where that did not come to it, before the round is scored. What the serving version
//! knows is asked on the validation split, once per version. Deliberately absent: the asking of anything else.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    meter::tried,
};
use crate::{
    acquisition::{self, Embeddings},
    domain::{Error, Evaluation, Pool, PoolId, Result, Round, Signals, Split, Version, label::normalise},
    store::{ControlAnswer, CurvePoint},
};

/// Samples drawn from the pool to see how well it is covered, and labels looked at, at most.
const SKETCH: usize = 2_048;
/// Newest answers of the control arm on which calibration is seen: those of one round are too few.
const SLICE: usize = 100;

impl Service {
    /// Decides the stage of the pool's newest round, unless it is decided already.
    pub(super) async fn decide_stage(&self, pool: PoolId) -> Result<()> {
        let pool = self.store.pool_by_id(pool).await?;
        let newest = self.store.newest_round(pool.id).await?;
        let Some(round) = newest.filter(|round| round.decision.is_none()) else { return Ok(()) };
        if !pool.policy.adaptive.enabled && pool.pinned_stage.is_none() {
            return Ok(());
        }
        let history = self.store.decisions(pool.id, round.number).await?;
        let signals = self.signals(&pool, &round).await?;
        let decision = acquisition::decide(&history, signals, pool.pinned_stage);
        if self.store.decide_stage(pool.id, round.id, &decision).await? {
            let (stage, tau) = (decision.stage, decision.tau);
            tracing::info!(round = round.number, ?stage, tau, reasons = ?decision.reasons, "stage decided");
            self.show_stage(&pool.name, &decision);
        }
        Ok(())
    }

    /// Evaluates a version that nobody has evaluated: the base, before a stage is decided by what it knows.
    ///
    /// The first training would do the same, to compare its candidate with it; nothing is asked twice.
    pub(super) async fn prove(
        &self,
        attempt: &Attempt,
        pool: &Pool,
        version: &Version,
    ) -> Result<(), Interrupted> {
        let known = version.validation.is_some() || !pool.policy.adaptive.enabled;
        if !known && self.store.count_split(pool.id, Split::Validation).await? > 0 {
            self.try_out(attempt, pool, version).await?;
        }
        Ok(())
    }

    /// What is known when `round` opens, by what came of the one before.
    async fn signals(&self, pool: &Pool, round: &Round) -> Result<Signals> {
        let known = self.store.version_by_id(round.version_id).await?.validation;
        let known = match known {
            Some(known) => proved(&known, self.store.chance(pool).await?),
            None => Signals::default(),
        };
        let Some(before) = self.store.round_before(pool.id, round.number).await? else {
            // Nothing is labelled and nothing scored.
            return Ok(Signals { coverage: Some(0.0), ..known });
        };
        let sketch = self.store.pool_sketch(pool.id, &before, SKETCH).await?;
        let shards = self.store.embedding_shards(before.version_id, i64::MAX).await?;
        let samples = self.embeddings_at(&shards, &sketch.samples).await?;
        let labelled = self.embeddings_at(&shards, &sketch.labelled).await?;
        let coverage = tokio::task::spawn_blocking(move || covered(&samples, &labelled));
        let coverage = coverage.await.map_err(Error::internal)??;
        let slice = self.store.control_answers(pool.id, SLICE).await?;
        let own: Vec<_> = slice.iter().filter(|answer| answer.round == before.id).map(judged).collect();
        let recent: Vec<_> = slice.iter().map(judged).collect();
        let slope = slope(&self.store.control_curve(pool.id).await?);
        let terms = self.store.mean_terms(before.id).await?;
        let share = |term: usize| {
            let terms = terms?;
            let sum: f64 = terms.iter().sum();
            (sum > 0.0).then(|| terms[term] / sum)
        };
        Ok(Signals {
            visual_share: share(0),
            language_share: share(1),
            reasoning_share: share(2),
            model_share: share(3),
            coverage,
            accuracy: acquisition::accuracy(&own),
            calibration_error: acquisition::calibration_error(&recent),
            slope: slope.map(|slope| slope.0),
            slope_error: slope.map(|slope| slope.1),
            ..known
        })
    }
}

/// What a version's evaluation proves; nothing where it is of too few answers. It is in the mode by which the pool's
/// versions are judged: where they reason first, so does the proof.
fn proved(known: &Evaluation, chance: f64) -> Signals {
    Signals {
        competence: acquisition::competence(known.accuracy, known.count, chance),
        validation_error: (known.count >= acquisition::MIN_PROOF).then_some(known.calibration_error),
        ..Signals::default()
    }
}

fn covered(samples: &[Vec<f32>], labelled: &[Vec<f32>]) -> Result<Option<f64>> {
    let dim = samples.first().map_or(0, Vec::len);
    let (samples, labelled) = (samples.concat(), labelled.concat());
    let rows = |values| if dim == 0 { Ok(Embeddings::empty()) } else { Embeddings::new(values, dim) };
    let (samples, labelled) = (rows(&samples), rows(&labelled));
    Ok(acquisition::covered_share(samples.map_err(Error::internal)?, labelled.map_err(Error::internal)?))
}

/// How sure the version was of a control sample before it was labelled, and whether it was right: the answer that most
/// annotators gave, the earliest where they tie.
fn judged(control: &ControlAnswer) -> (f32, bool) {
    let votes = |answer: &String| control.answers.iter().filter(|&other| other == answer).count();
    let most = control.answers.iter().map(votes).max().unwrap_or(0);
    let right = control.answers.iter().find(|answer| votes(answer) == most);
    (control.confidence, right.is_some_and(|right| *right == normalise(&control.predicted)))
}

/// Slope of accuracy in ln(labels) over the pool's versions; of several trained on as many labels the newest counts.
fn slope(curve: &[CurvePoint]) -> Option<(f64, f64)> {
    let mut points: Vec<&CurvePoint> = curve.iter().collect();
    points.sort_by_key(|point| (point.labels, std::cmp::Reverse(point.version)));
    points.dedup_by_key(|point| point.labels);
    acquisition::accuracy_slope(&points.into_iter().map(tried).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RoundId;

    #[test]
    fn the_majority_is_right_and_the_earliest_where_it_ties() {
        let control = |answers: &[&str], predicted: &str| ControlAnswer {
            round: RoundId::new(),
            predicted: predicted.to_owned(),
            confidence: 0.75,
            answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
        };
        assert_eq!(judged(&control(&["no", "yes", "yes"], "Yes. ")), (0.75, true));
        assert_eq!(judged(&control(&["no", "yes"], "yes")), (0.75, false));
    }

    #[test]
    fn an_evaluation_of_thirty_answers_is_a_proof_and_one_of_fewer_is_none() {
        let of =
            |count| Evaluation { count, accuracy: 1.0, calibration_error: 0.05, ..Evaluation::default() };
        assert_eq!(proved(&of(29), 0.5), Signals::default());
        let known = proved(&of(30), 0.5);
        // 32 of 34: one standard error is 0.0403, of a half that is to be known.
        assert!(
            known.competence.is_some_and(|known| (known - (1.0 - 2.0 * 0.040_35)).abs() < 1e-4),
            "{known:?}"
        );
        assert_eq!(known.validation_error, Some(0.05));
    }

    #[test]
    fn a_slope_counts_each_number_of_labels_once() {
        let point = |version, labels, accuracy| CurvePoint {
            version,
            labels,
            validation: Evaluation { count: 100, accuracy, ..Evaluation::default() },
            marks: Vec::new(),
            shadow: None,
        };
        let curve = [point(0, 0, 0.2), point(1, 10, 0.4), point(2, 10, 0.5), point(3, 100, 0.6)];
        let (slope, error) = slope(&curve).expect("two points");
        assert!((slope - 0.1 / 10f64.ln()).abs() < 1e-9 && error > 0.0, "{slope} {error}");
    }
}
