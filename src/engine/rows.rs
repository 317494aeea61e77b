//! Rows of a training pass: a label's prompt, perhaps with parts of the picture hidden, and the replies read after it.
//!
//! Invariant: the replies of a row go on from one reading of its prompt; what a row hides, nothing in it has seen.
//! Deliberately absent: what a reply is read for, which `pass` knows.

use super::lesson::Lesson;
use super::memory;
use super::prepare::Picture;
use super::sight::{Tower, VisionCache, see};
use super::{Cost, EngineError};
use crate::model::{Gaze, Inputs, Replies, Visual, Vlm};
use crate::training::likelihood;
use crate::training::sft::{self, Places, Reply};
use tch::Tensor;

/// Which visual tokens a row does without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hide {
    Nothing,
    /// Those with evidence.
    Evidence,
    /// Those without.
    Rest,
    All,
}

/// A prompt and the replies that go on from it.
#[derive(Debug, Clone)]
pub(super) struct Row<'l> {
    pub lesson: &'l Lesson,
    pub hide: Hide,
    pub replies: Vec<Reply>,
}

impl Row<'_> {
    /// Tokens read.
    pub fn tokens(&self) -> usize {
        self.lesson.prompt.len() + self.replies.iter().map(|reply| reply.tokens.len()).sum::<usize>()
    }

    fn hides(&self, visual: usize) -> bool {
        let evidence = self.lesson.evidence.get(visual).is_some_and(|share| *share > 0.0);
        match self.hide {
            Hide::Nothing => false,
            Hide::Evidence => evidence,
            Hide::Rest => !evidence,
            Hide::All => true,
        }
    }
}

/// What the tower is to be asked with.
pub(super) struct Eyes<'a> {
    pub tower: Option<Tower>,
    pub cache: &'a mut VisionCache,
    pub budget: usize,
}

/// Rows as tensors.
pub(super) struct Laid {
    pub inputs: Inputs,
    /// The first replies of all rows, their second ones, and so on.
    pub groups: Vec<Group>,
}

/// One reply of each of some rows.
pub(super) struct Group {
    /// The rows, by their places.
    pub rows: Vec<usize>,
    /// Where each of all rows is in this group.
    pub place: Vec<Option<usize>>,
    pub replies: Vec<Reply>,
}

/// Reads the prompts' pictures and lays the rows out.
pub(super) fn lay(vlm: &Vlm, rows: &[Row<'_>], eyes: &mut Eyes<'_>) -> Result<Laid, EngineError> {
    memory::rehearse(rows.len());
    // A picture of several rows goes through the tower once, also where nothing may be kept.
    let pictures: Vec<&Picture> =
        rows.iter().flat_map(|row| row.lesson.pictures.iter().map(AsRef::as_ref)).collect();
    let visual: Vec<Visual> = see(vlm, &pictures, eyes.tower, eyes.cache, eyes.budget, &mut Cost::default());
    let prompts: Vec<Vec<i64>> = rows.iter().map(|row| row.lesson.prompt.clone()).collect();
    let mut inputs = vlm.prompts(&prompts, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
    if rows.iter().any(|row| row.hide != Hide::Nothing) {
        inputs = inputs.hiding(&hidden(vlm, rows, inputs.len()));
    }
    let kinds = rows.iter().map(|row| row.replies.len()).max().unwrap_or(0);
    let groups = (0..kinds).map(|kind| {
        let own: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].replies.len() > kind).collect();
        let mut place = vec![None; rows.len()];
        own.iter().enumerate().for_each(|(at, &row)| place[row] = Some(at));
        let replies = own.iter().map(|&row| rows[row].replies[kind].clone()).collect();
        Group { rows: own, place, replies }
    });
    Ok(Laid { groups: groups.collect(), inputs })
}

/// Bool `[rows, width]`: what is hidden of prompts padded on the left.
fn hidden(vlm: &Vlm, rows: &[Row<'_>], width: i64) -> Tensor {
    let mut marks = vec![false; rows.len() * width as usize];
    for (at, row) in rows.iter().enumerate() {
        let from = (at + 1) * width as usize - row.lesson.prompt.len();
        for (visual, place) in row.lesson.visual.iter().enumerate() {
            marks[from + place] = row.hides(visual);
        }
    }
    Tensor::from_slice(&marks).view([rows.len() as i64, width]).to_device(vlm.device())
}

impl Laid {
    /// The groups as the model takes them; `gaze` may want something of a group's attention.
    pub fn replies<'g>(
        &'g self,
        vlm: &Vlm,
        mut gaze: impl FnMut(&'g Group) -> Option<Gaze<'g>>,
    ) -> Vec<Replies<'g>> {
        let laid = |group: &'g Group| {
            let rows: Vec<i64> = group.rows.iter().map(|row| *row as i64).collect();
            let rows = Tensor::from_slice(&rows).to_device(vlm.device());
            let tokens: Vec<&[i64]> = group.replies.iter().map(|reply| reply.tokens.as_slice()).collect();
            let (ids, real) = vlm.batch_right(&tokens);
            let mask = Tensor::cat(&[self.inputs.mask.index_select(0, &rows), real], 1);
            Replies { rows, embeds: vlm.embed_text(&ids), mask, gaze: gaze(group) }
        };
        self.groups.iter().map(laid).collect()
    }
}

/// What a group's targets came to.
pub(super) struct Heard {
    pub places: Places,
    /// `[N, V]`, of all targets.
    pub logits: Tensor,
    /// Their log-probabilities `[N]`.
    pub log_probs: Tensor,
    /// Each reply's mean `[n]`.
    pub means: Tensor,
}

impl Heard {
    /// `asked` are the last hidden states of all prompts `[rows, 1, D]`, `answered` those of the group's replies.
    pub fn new(vlm: &Vlm, group: &Group, asked: &Tensor, answered: &Tensor) -> Self {
        let rows: Vec<i64> = group.rows.iter().map(|row| *row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(asked.device());
        let hidden = Tensor::cat(&[&asked.index_select(0, &rows), answered], 1);
        let replies: Vec<&Reply> = group.replies.iter().collect();
        let places = sft::places(&replies, hidden.size()[1] as usize);
        let at = Tensor::from_slice(&places.predictors).to_device(hidden.device());
        let logits = vlm.logits(&hidden.flatten(0, 1).index_select(0, &at));
        let log_probs = likelihood::log_probs(&logits, &places.tokens);
        let means = likelihood::means(&log_probs, &places.owners, group.replies.len());
        Self { places, logits, log_probs, means }
    }

    /// Logits of one reply's targets `[targets, V]`.
    pub fn own_logits(&self, reply: usize) -> Tensor {
        let own = (0..self.places.owners.len()).filter(|&at| self.places.owners[at] == reply);
        let own: Vec<i64> = own.map(|at| at as i64).collect();
        self.logits.index_select(0, &Tensor::from_slice(&own).to_device(self.logits.device()))
    }
}

/// The mean log-probability per target token of each row's replies, nats; no gradients.
pub(super) fn hear(vlm: &Vlm, rows: &[Row<'_>], eyes: &mut Eyes<'_>) -> Result<Vec<Vec<f32>>, EngineError> {
    let _guard = tch::no_grad_guard();
    let laid = lay(vlm, rows, eyes)?;
    let (asked, answered) = vlm.read(&laid.inputs, &laid.replies(vlm, |_| None), 0);
    let asked = asked.slice(1, -1, None, 1);
    let mut found: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
    for (group, answered) in laid.groups.iter().zip(&answered) {
        let means = super::scoring::floats(&Heard::new(vlm, group, &asked, answered).means);
        group.rows.iter().zip(means).for_each(|(&row, mean)| found[row].push(mean));
    }
    Ok(found)
}

/// Rows of about one length together, each group within `budget` padded tokens and `most` units; what `tokens` says is read
/// together stays together (one unit may exceed the budget alone).
pub(super) fn packed<U>(
    units: &[U],
    tokens: impl Fn(&U) -> usize,
    budget: usize,
    most: usize,
) -> Vec<Vec<&U>> {
    let mut rest: Vec<(usize, &U)> = units.iter().map(|unit| (tokens(unit), unit)).collect();
    rest.sort_by_key(|(length, _)| *length);
    let mut groups = Vec::new();
    while !rest.is_empty() {
        let fits = (1..=rest.len().min(most)).take_while(|&n| n == 1 || n * rest[n - 1].0 <= budget);
        let later = rest.split_off(fits.count().max(1));
        groups.push(std::mem::replace(&mut rest, later).into_iter().map(|(_, unit)| unit).collect());
    }
    groups
}
