//! Zooms: whether a doubt is one of resolution and not of knowledge (method.md, section 1.2).
//!
//! A sample is asked again with a part of its image in the image's place, the part that the question looks at most. What
//! that settles no label has to teach, and the visual term is the less for it. Invariants: which parts are shown follows
//! from the attention alone; a zoom counts only if it was tried on enough right answers and left them right. Deliberately
//! absent: open answer spaces, where two looks' answers are not over the same classes.

use super::{Service, attempt::Interrupted, columns::tempered, deeper::counted, score_round::Scoring};
use crate::{
    domain::{SampleId, uncertainty},
    engine::{AttentionMap, Depth, Window, ZoomItem},
};

/// Sides of what is shown, as shares of the image's: a policy of so many zooms takes the first ones.
pub(super) const SIDES: [f64; 4] = [0.5, 0.35, 0.7, 0.25];

/// One distribution per zoom; none where it could not be asked.
pub(super) type Zoomed = Option<Vec<Vec<f32>>>;

impl Service {
    /// Asks samples again by `zooms` (places in [`SIDES`]), one answer per sample; `depths` are what was seen of them.
    pub(super) async fn zoomed(
        &self,
        scoring: &Scoring<'_>,
        ids: &[SampleId],
        depths: &[Option<Depth>],
        zooms: &[usize],
    ) -> Result<Vec<Zoomed>, Interrupted> {
        let mut found = vec![None; ids.len()];
        if zooms.is_empty() {
            return Ok(found);
        }
        let samples = self.store.samples_by_id(ids).await?;
        let read = self.score_items(&scoring.pool, &samples).await?;
        let (mut items, mut places) = (Vec::new(), Vec::new());
        for (place, (item, depth)) in read.into_iter().zip(depths).enumerate() {
            let (Ok(item), Some(beside)) = (item, depth.as_ref().and_then(|d| d.beside.as_ref())) else {
                continue;
            };
            let most = (0..beside.maps.len()).max_by(|&a, &b| {
                // The first one among equals.
                beside.maps[a].mass.total_cmp(&beside.maps[b].mass).then(b.cmp(&a))
            });
            let Some(image) = most.filter(|_| !item.choices.is_empty()) else { continue };
            for &zoom in zooms {
                let window = window(&beside.maps[image], SIDES[zoom]);
                items.push(ZoomItem { item: item.clone(), image, window });
            }
            places.push(place);
        }
        if items.is_empty() {
            return Ok(found);
        }
        let zoom = |model| self.engine.zoom(model, items.clone());
        let reply = match self.where_able(scoring, zoom).await? {
            Ok(reply) => reply,
            // As with looks: an engine that cannot do it costs the term, never the plan.
            Err(reason) => {
                tracing::warn!(reason, "the engine cannot zoom: these samples keep their visual term");
                return Ok(found);
            }
        };
        counted(&reply.cost);
        for (place, scores) in places.into_iter().zip(reply.scores.chunks(zooms.len())) {
            let own = scores.iter().map(|score| score.as_ref().ok().map(|score| score.probabilities.clone()));
            found[place] = own.collect();
        }
        Ok(found)
    }
}

/// `g`: the most entropy that a zoom removes from the direct answer of a look, nats, both at a temperature; none
/// without zooms.
pub(super) fn gain(depth: &Depth, zoomed: &[Vec<f32>], temperature: f32) -> Option<f32> {
    let entropy = |p: &[f32]| {
        uncertainty::entropy(&tempered(&p[..depth.classes.min(p.len())], depth.classes, temperature))
    };
    let before = entropy(&depth.probabilities);
    zoomed.iter().map(|p| before - entropy(p)).reduce(f32::max)
}

/// The part of an image, `side` of its width and height, on which most of the attention falls; of equal ones the first.
pub(super) fn window(map: &AttentionMap, side: f64) -> Window {
    let cells = |count: usize| ((count as f64 * side).round() as usize).clamp(1, count.max(1));
    let (high, wide) = (cells(map.rows), cells(map.columns));
    // Sums of all cells above and to the left.
    let width = map.columns + 1;
    let mut sums = vec![0f64; (map.rows + 1) * width];
    for y in 0..map.rows {
        for x in 0..map.columns {
            let own = f64::from(map.weights[y * map.columns + x]);
            sums[(y + 1) * width + x + 1] =
                own + sums[y * width + x + 1] + sums[(y + 1) * width + x] - sums[y * width + x];
        }
    }
    let at = |y: usize, x: usize| sums[y * width + x];
    let (mut best, mut place) = (f64::NEG_INFINITY, (0, 0));
    for y in 0..=map.rows - high {
        for x in 0..=map.columns - wide {
            let sum = at(y + high, x + wide) - at(y, x + wide) - at(y + high, x) + at(y, x);
            // Rounding must not decide between equals.
            if sum > best + 1e-9 {
                (best, place) = (sum, (y, x));
            }
        }
    }
    let share = |cells: usize, of: usize| cells as f32 / of as f32;
    let (y, x) = place;
    [share(x, map.columns), share(y, map.rows), share(x + wide, map.columns), share(y + high, map.rows)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: usize, columns: usize, weights: &[f32]) -> AttentionMap {
        AttentionMap { rows, columns, weights: weights.to_vec(), mass: 0.5 }
    }

    #[test]
    fn the_window_is_where_most_attention_falls() {
        let mut weights = [0.0; 16];
        (weights[6], weights[7], weights[10], weights[0]) = (0.3, 0.2, 0.2, 0.3);
        assert_eq!(window(&map(4, 4, &weights), 0.5), [0.5, 0.25, 1.0, 0.75]);
        assert_eq!(window(&map(4, 4, &weights), 0.25), [0.0, 0.0, 0.25, 0.25], "the first of equals");
        assert_eq!(window(&map(1, 1, &[1.0]), 0.25), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(window(&map(2, 3, &[0.0, 0.0, 0.0, 0.0, 0.5, 0.5]), 0.5), [1.0 / 3.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn the_gain_is_that_of_the_best_zoom_and_may_be_a_loss() {
        let depth = Depth {
            views: 1,
            paraphrases: 1,
            chains: 0,
            classes: 2,
            probabilities: vec![0.5, 0.5],
            parsed: Vec::new(),
            answers: Vec::new(),
            beside: None,
        };
        let ln2 = std::f32::consts::LN_2;
        let (sure, open) = (vec![1.0, 0.0], vec![0.5, 0.5]);
        let close =
            |a: Option<f32>, b: f32| assert!((a.expect("a zoom") - b).abs() < 1e-3, "{a:?} is not {b}");
        close(gain(&depth, &[open.clone(), sure.clone()], 1.0), ln2);
        close(gain(&depth, std::slice::from_ref(&open), 1.0), 0.0);
        close(gain(&Depth { probabilities: sure, ..depth.clone() }, &[open], 1.0), -ln2);
        assert_eq!(gain(&depth, &[], 1.0), None);
    }
}
