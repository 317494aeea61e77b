//! Where in its images a question's answer looks.
//!
//! What the last token before the answer attends to, mean over heads and over the later half of the layers, where answers
//! are formed (method.md, section 4), laid out as the image is. Invariant: a map's weights sum to 1; how much of all
//! attention fell on the image is told beside. Deliberately absent: any claim that attention explains an answer.

use super::prepare::Question;
use super::scoring::Scorer;
use super::sight::see;
use super::{AttentionMap, EngineError};
use crate::model::{Cut, KvCache};
use tch::{Kind, Tensor};

/// One map per image of the question, with its lead as it stands before the answer.
pub(super) fn maps(scorer: &mut Scorer<'_>, question: &Question) -> Result<Vec<AttentionMap>, EngineError> {
    let _guard = tch::no_grad_guard();
    let vlm = scorer.vlm;
    let pictures: Vec<_> = question.pictures.iter().map(AsRef::as_ref).collect();
    let visual = see(vlm, &pictures, scorer.tower, scorer.cache, scorer.budget, &mut scorer.cost);
    let ids = question.context();
    let inputs =
        vlm.prompts(std::slice::from_ref(&ids), &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
    let (mut cache, before) = (KvCache::new(), inputs.len() - 1);
    let _ = vlm.prefill(&inputs.columns(0, before), Some(&mut cache));
    let last = inputs.embeds.narrow(1, before, 1);
    let (_, layers) = vlm.decode_looking(&last, &inputs.mask, Some(&mut cache));
    let later = Tensor::stack(&layers[layers.len() / 2..], 0).mean_dim(0, false, Kind::Float);
    let mut weights = vec![0f32; ids.len()];
    later.flatten(0, 1).copy_data(&mut weights, ids.len());
    let mut seen = ids.iter().zip(weights).filter(|(id, _)| **id == vlm.config().image_token_id);
    let map = |image: &crate::model::Visual| {
        let count = image.features.size()[0] as usize;
        let own: Vec<f32> = seen.by_ref().take(count).map(|(_, weight)| weight).collect();
        laid_out(image.cut, &own, vlm.config().scale_factor as usize)
    };
    Ok(visual.iter().map(map).collect())
}

/// Weights of an image's visual tokens as a map of the image; `scale` patches make a token along each side of a grid.
pub(super) fn laid_out(cut: Cut, weights: &[f32], scale: usize) -> AttentionMap {
    let (rows, columns, mut cells) = match cut {
        Cut::Grid { rows, columns } => (rows / scale, columns / scale, weights.to_vec()),
        Cut::Tiles { rows, columns } => tiled(rows, columns, weights, cut.tiles()),
    };
    let mass: f32 = cells.iter().sum();
    // Without any attention the map is even rather than no number.
    let even = 1.0 / cells.len().max(1) as f32;
    cells.iter_mut().for_each(|cell| *cell = if mass > 0.0 { *cell / mass } else { even });
    AttentionMap { rows, columns, weights: cells, mass }
}

/// Tiles side by side, what the whole image got spread over them.
fn tiled(rows: usize, columns: usize, weights: &[f32], tiles: usize) -> (usize, usize, Vec<f32>) {
    let per = weights.len() / tiles;
    let side = per.isqrt();
    let (grid, whole) = weights.split_at(weights.len() - per);
    if grid.is_empty() {
        return (side, side, whole.to_vec());
    }
    let (high, wide) = (rows * side, columns * side);
    let mut cells = Vec::with_capacity(high * wide);
    for y in 0..high {
        for x in 0..wide {
            let tile = y / side * columns + x / side;
            let own = grid[tile * per + y % side * side + x % side];
            let spread = whole[y / rows * side + x / columns] / (rows * columns) as f32;
            cells.push(own + spread);
        }
    }
    (high, wide, cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_side_by_side_and_the_whole_is_spread_over_them() {
        // One row of two tiles of 2 x 2 tokens, then the whole: all on its upper right token.
        let weights = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 0.0];
        let map = laid_out(Cut::Tiles { rows: 1, columns: 2 }, &weights, 2);
        assert_eq!((map.rows, map.columns, map.mass), (2, 4, 7.0));
        let wanted = [1.0, 0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 2.0].map(|w: f32| w / 7.0);
        assert_eq!(map.weights, wanted);
    }

    #[test]
    fn a_grid_is_as_it_is_and_nothing_is_even() {
        let map = laid_out(Cut::Grid { rows: 2, columns: 6 }, &[0.1, 0.2, 0.1], 2);
        assert_eq!((map.rows, map.columns), (1, 3));
        assert!((map.weights[1] - 0.5).abs() < 1e-6);
        assert_eq!(laid_out(Cut::WHOLE, &[0.0; 4], 2).weights, [0.25; 4]);
    }
}
