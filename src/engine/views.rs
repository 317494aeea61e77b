//! Views: which visual tokens a look hides, by where the question looks.
//!
//! Invariant: a view hides what the question looks at least, so that it keeps the answer (method.md, section 1.2); what is
//! hidden follows from the seed and the question's own words and pictures. Deliberately absent: what is read under a view.

use super::Deep;
use super::deep::{Before, Cell, Fed, Wordings};
use super::scoring::{Scorer, floats};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

impl Scorer<'_> {
    /// How much each question as it is looks at each place before it: mean over heads and the later half of the layers.
    pub(super) fn looks(&mut self, batch: &[&Wordings], before: &Before) -> Vec<Vec<f32>> {
        let first = |question| Cell { question, view: 0, wording: 0, chain: 0 };
        let cells: Vec<Cell> = (0..batch.len()).map(first).collect();
        let texts: Vec<Vec<i64>> =
            batch.iter().map(|w| [w.suffix(0), self.preparer.mark()].concat()).collect();
        let past = before.past();
        let mut looks: Vec<Vec<f32>> = Vec::with_capacity(batch.len());
        for range in self.chunks(before, &texts) {
            let fed = self.prepare_rows(before, &cells[range.clone()], &texts[range]);
            let Fed { mut cache, mask, embeds } = fed;
            let (_, layers) = self.vlm.decode_looking(&embeds, &mask, Some(&mut cache));
            let later = Tensor::stack(&layers[layers.len() / 2..], 0).mean_dim(0, false, Kind::Float);
            let numbers = floats(&later.narrow(1, 0, past as i64));
            looks.extend(numbers.chunks(past).map(<[f32]>::to_vec));
        }
        looks
    }

    /// Decides what each further view hides: half, drawn at random, of the visual tokens that the question as it is looks
    /// at least.
    pub(super) fn choose_views(
        &self,
        batch: &[&Wordings],
        how: &Deep,
        looks: &[Vec<f32>],
        before: &mut Before,
    ) {
        let (past, image) = (before.past(), self.vlm.config().image_token_id);
        for (question, wordings) in batch.iter().enumerate() {
            let shift = past - wordings.first().text_from;
            let mut visual: Vec<usize> = wordings.visual(image).iter().map(|at| at + shift).collect();
            let look = &looks[question];
            visual.sort_by(|&a, &b| look[a].total_cmp(&look[b]).then(a.cmp(&b)));
            visual.truncate(visual.len() / 2);
            let views = (0..how.views).map(|view| {
                let count = visual.len() / 2;
                if view == 0 || count == 0 {
                    return None;
                }
                let mut rng = ChaCha8Rng::seed_from_u64(how.seed ^ wordings.stream());
                rng.set_stream(view as u64);
                let mut drawn = visual.clone();
                drawn.shuffle(&mut rng);
                let mut hidden = vec![false; past];
                drawn[..count].iter().for_each(|&at| hidden[at] = true);
                Some((Tensor::from_slice(&hidden).to_device(self.vlm.device()), count as i64))
            });
            before.hidden[question] = views.collect();
        }
    }
}
