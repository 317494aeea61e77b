//! A label as the model takes it: its prompt, the replies it teaches, and where its evidence is.
//!
//! Invariant: what comes out has passed every check that needs no tensor.
//! Deliberately absent: tensors, and which losses the replies serve (`pass`).

use super::prepare::{Album, Picture, Preparer};
use super::{ItemError, TrainItem};
use crate::model::Cut;
use crate::training::calibration::evidence;
use crate::training::sft::{self, Part, Reply};
use std::sync::Arc;

/// Names a label in its training.
pub(super) type Key = u64;

/// A label, ready for the model.
#[derive(Debug, Clone)]
pub(super) struct Lesson {
    pub key: Key,
    pub pictures: Vec<Arc<Picture>>,
    /// The prompt, up to `Assistant:`.
    pub prompt: Vec<i64>,
    /// The replies it teaches, each right after the prompt: the direct one first.
    pub replies: Vec<Reply>,
    /// Places of visual tokens in the prompt.
    pub visual: Vec<usize>,
    /// How the visual tokens share the evidence, together 1; empty where nobody said.
    pub evidence: Vec<f32>,
    /// Whole replies known to be wrong.
    pub rejected: Vec<Reply>,
}

impl Lesson {
    /// The answer without reasoning.
    pub fn direct(&self) -> &Reply {
        &self.replies[0]
    }

    /// The annotator's reasoning and answer, as a whole reply.
    pub fn annotated(&self) -> Option<Reply> {
        self.replies.get(1).map(|reply| Reply::whole(reply.tokens.clone()))
    }

    /// Whether some of the picture is evidence and some is not.
    pub fn points(&self) -> bool {
        let there = self.evidence.iter().filter(|share| **share > 0.0).count();
        there > 0 && there < self.evidence.len()
    }
}

impl Preparer {
    /// A label: the replies it teaches.
    pub fn lesson(&self, item: &TrainItem, album: &mut Album) -> Result<Lesson, ItemError> {
        if !(item.weight.is_finite() && item.weight > 0.0) {
            return Err(ItemError::Text(format!("a label's weight is {}: it must be above 0", item.weight)));
        }
        let answer = self.phrase(&item.answer)?;
        let reasoning = self.steps(&item.reasoning)?;
        let (pictures, prompt) = self.prompt(&item.images, &item.question, album)?;
        let end = self.ends()[0];
        let replies = sft::replies(self.mark(), &answer, &reasoning, end, item.weight);
        let mut rejected = Vec::with_capacity(item.rejected.len());
        for wrong in &item.rejected {
            let steps = self.steps(&wrong.reasoning)?;
            if wrong.answer.trim().is_empty() {
                // Nobody said what it came to: it is wrong up to the answer.
                rejected.push(Reply::whole([&steps, self.mark()].concat()));
            } else {
                let tokens = [&steps[..], self.mark(), &self.phrase(&wrong.answer)?, &[end]].concat();
                rejected.push(Reply::whole(tokens));
            }
        }
        let longest = replies.iter().chain(&rejected).map(|reply| reply.tokens.len()).max().unwrap_or(0);
        self.check_length(prompt.len() + longest)?;
        let (image, scale) = self.visual();
        let visual: Vec<usize> = (0..prompt.len()).filter(|&at| prompt[at] == image).collect();
        let cuts: Vec<Cut> = pictures.iter().map(|picture| picture.pixels.cut).collect();
        let mut own = evidence(&cells(&cuts, visual.len(), scale), &item.regions);
        if !own.is_empty() {
            // Regions are of the first image.
            own.resize(visual.len(), 0.0);
        }
        Ok(Lesson { key: item.key, pictures, prompt, replies, visual, evidence: own, rejected })
    }

    /// Steps as one text's tokens; none where there is no step.
    fn steps(&self, steps: &[String]) -> Result<Vec<i64>, ItemError> {
        let steps: Vec<&str> = steps.iter().map(|step| step.trim()).filter(|step| !step.is_empty()).collect();
        if steps.is_empty() { Ok(Vec::new()) } else { self.phrase(&steps.join(" ")) }
    }
}

/// The direct answer's own tokens as a whole: what hiding parts of the picture is judged by.
pub(super) fn answer_alone(direct: &Reply) -> Reply {
    let targets = direct.targets.iter().map(|(range, _)| (range.clone(), Part::Whole)).collect();
    Reply { targets, tokens: direct.tokens.clone(), weight: 1.0 }
}

/// Areas of the first picture's visual tokens, in the prompt's order, as fractions of the picture. `count` is the number of
/// visual tokens of all pictures.
fn cells(cuts: &[Cut], count: usize, scale: usize) -> Vec<[f32; 4]> {
    let grid = |rows: usize, columns: usize, [x, y, wide, high]: [f32; 4]| {
        (0..rows * columns).map(move |at| {
            let (row, column) = ((at / columns) as f32, (at % columns) as f32);
            let (w, h) = (wide / columns as f32, high / rows as f32);
            [x + column * w, y + row * h, x + (column + 1.0) * w, y + (row + 1.0) * h]
        })
    };
    const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];
    match cuts.first() {
        None => Vec::new(),
        Some(Cut::Grid { rows, columns }) => grid(rows / scale, columns / scale, WHOLE).collect(),
        Some(Cut::Tiles { rows, columns }) => {
            let tiles: usize = cuts.iter().map(|cut| cut.tiles()).sum();
            let side = (count / tiles.max(1)).isqrt();
            let tile = |at: usize| {
                let (wide, high) = (1.0 / *columns as f32, 1.0 / *rows as f32);
                [(at % columns) as f32 * wide, (at / columns) as f32 * high, wide, high]
            };
            let tiles = (0..rows * columns).flat_map(|at| grid(side, side, tile(at)));
            tiles.chain(grid(side, side, WHOLE)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_the_tiles_and_then_the_whole() {
        let all = cells(&[Cut::Tiles { rows: 1, columns: 2 }], 12, 2);
        assert_eq!(all.len(), 12);
        assert_eq!(all[0], [0.0, 0.0, 0.25, 0.5]);
        assert_eq!(all[7], [0.75, 0.5, 1.0, 1.0]);
        assert_eq!(all[11], [0.5, 0.5, 1.0, 1.0]);
        let grid = cells(&[Cut::Grid { rows: 4, columns: 6 }, Cut::WHOLE], 7, 2);
        assert_eq!((grid.len(), grid[5][2], grid[5][3]), (6, 1.0, 1.0));
    }
}
