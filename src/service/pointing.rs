//! Whether a version looks where the evidence is (the pointing game, Zhang et al., arXiv 1608.00507).
//!
//! Invariant: every version is tried on the same samples, the first of the split whose evidence is known. Deliberately
//! absent: samples of several images, whose regions do not say which image they are of.

use super::{
    Service,
    attempt::{Attempt, Interrupted},
    evaluate::{Candidate, Evaluated},
    score_round::answer_space,
};
use crate::{
    domain::{
        Pool, Region, Split,
        gate::{RIGHT, UNREAD, WRONG},
    },
    engine::{AttentionMap, PredictItem, Target},
};

/// Samples tried at most: each takes a pass of its own.
const POINTED: usize = 100;

impl Service {
    /// Has `candidate` point at the evidence of validation samples, and notes in `tried` how often it did.
    pub(super) async fn point(
        &self,
        attempt: &Attempt,
        pool: &Pool,
        candidate: Candidate<'_>,
        tried: &mut Evaluated,
    ) -> Result<(), Interrupted> {
        let samples = self.store.samples_with_regions(pool.id, Split::Validation, POINTED).await?;
        let mut marks = Vec::with_capacity(samples.len());
        for sample in &samples {
            attempt.check()?;
            let content = &sample.content;
            let Ok(images) = self.pictures(&content.image_keys).await? else {
                marks.push(UNREAD);
                continue;
            };
            let item = PredictItem {
                images,
                question: content.question.clone(),
                choices: answer_space(pool, sample).to_vec(),
                reasoning: pool.policy.gate.after_reasoning,
                attention: true,
            };
            let said = match candidate {
                Candidate::Fork(fork) => {
                    attempt.patiently(|| self.engine.predict_by(Target::Fork(fork), item.clone())).await?
                }
                Candidate::Version(version) => {
                    let ask = |model| self.engine.predict_by(Target::Version(model), item.clone());
                    attempt.patiently(|| self.with_version(version, ask)).await?
                }
            };
            let looked = said.ok().and_then(|said| looks_into(said.attention.first()?, &content.regions));
            marks.push(looked.map_or(UNREAD, |looked| if looked { RIGHT } else { WRONG }));
        }
        let tried_on = marks.iter().filter(|&&mark| mark != UNREAD).count();
        let right = marks.iter().filter(|&&mark| mark == RIGHT).count();
        if let Some(evaluation) = tried.evaluation.as_mut().filter(|_| tried_on > 0) {
            evaluation.pointing_accuracy = Some(right as f64 / tried_on as f64);
        }
        tried.answered.pointing = marks;
        Ok(())
    }
}

/// Whether the middle of the map's largest cell lies in one of the regions; none of a map without cells.
fn looks_into(map: &AttentionMap, regions: &[Region]) -> Option<bool> {
    let largest = (0..map.weights.len()).max_by(|&a, &b| {
        // Of equal cells the first.
        map.weights[a].total_cmp(&map.weights[b]).then(b.cmp(&a))
    })?;
    let (row, column) = (largest / map.columns, largest % map.columns);
    let middle = |cell: usize, of: usize| (cell as f32 + 0.5) / of as f32;
    let (x, y) = (middle(column, map.columns), middle(row, map.rows));
    Some(regions.iter().any(|&[x0, y0, x1, y1]| (x0..=x1).contains(&x) && (y0..=y1).contains(&y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_largest_cell_decides() {
        let map =
            AttentionMap { rows: 2, columns: 3, weights: vec![0.1, 0.1, 0.1, 0.1, 0.1, 0.5], mass: 0.4 };
        // Its middle is at 5/6 and 3/4.
        assert_eq!(looks_into(&map, &[[0.0, 0.0, 0.5, 0.5], [0.7, 0.7, 1.0, 1.0]]), Some(true));
        assert_eq!(looks_into(&map, &[[0.0, 0.0, 0.8, 1.0]]), Some(false));
        let even = AttentionMap { weights: vec![1.0 / 6.0; 6], ..map };
        assert_eq!(looks_into(&even, &[[0.0, 0.0, 0.3, 0.5]]), Some(true), "the first of equal cells");
        assert_eq!(looks_into(&AttentionMap { weights: Vec::new(), ..even }, &[]), None);
    }
}
