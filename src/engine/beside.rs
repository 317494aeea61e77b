//! What a deeper look tells beside its distributions: where in the image the question looks, what would be answered
//! without the image, and, asked again, what a part of the image shows enlarged.
//!
//! Invariant: what is told beside changes no distribution of the look itself. Deliberately absent: what it is worth,
//! which callers weigh (method.md, section 1.2).

use super::attention::laid_out;
use super::deep::{Before, Cell, Wordings};
use super::prepare::{Album, Preparer, Question};
use super::scoring::Scorer;
use super::thread::Machine;
use super::{AttentionMap, Engine, EngineError, ItemError, ModelRef, ScoreReply, Target, ZoomItem};
use tch::Tensor;

impl Engine {
    /// Scores questions with a part of an image in the image's place, with a version (none: the base).
    ///
    /// # Errors
    /// As [`Engine::score`]; a window that is no part of the image is its item's own error.
    pub async fn zoom(
        &self,
        version: Option<ModelRef>,
        items: Vec<ZoomItem>,
    ) -> Result<ScoreReply, EngineError> {
        let prepare = |preparer: &Preparer, item: &ZoomItem, album: &mut Album| preparer.zoomed(item, album);
        let target = Target::Version(version);
        let work = move |machine: &mut Machine, questions: Vec<Question>| {
            machine.score(target, &questions.iter().collect::<Vec<_>>())
        };
        let (scored, cost) = self.in_pieces("zoom", target, items, prepare, work).await?;
        let scores = scored.into_iter().map(|item| item.map(|scored| scored.score)).collect();
        Ok(ScoreReply { scores, cost })
    }
}

impl Wordings {
    /// Places of the visual tokens of the question as it is, in what comes before it.
    pub(super) fn visual(&self, image: i64) -> Vec<usize> {
        let question = &self.0[0];
        let before = &question.prompt[..question.text_from];
        before.iter().enumerate().filter(|(_, id)| **id == image).map(|(at, _)| at).collect()
    }

    /// What each place before the question is looked at, as one map per image.
    pub(super) fn maps(&self, looks: &[f32], preparer: &Preparer) -> Vec<AttentionMap> {
        let (image, scale) = preparer.visual();
        let question = &self.0[0];
        // Shorter ones are padded on the left.
        let shift = looks.len() - question.text_from;
        let mut seen = self.visual(image).into_iter().map(|at| looks[at + shift]);
        let map = |picture: &std::sync::Arc<super::prepare::Picture>| {
            let cut = picture.pixels.cut;
            let own: Vec<f32> = seen.by_ref().take(preparer.visual_tokens(cut)).collect();
            laid_out(cut, &own, scale)
        };
        question.pictures.iter().map(map).collect()
    }
}

impl Scorer<'_> {
    /// A cell per question, in a view of its own behind the others that hides every image: from the first visual token to
    /// the last, as what stands between them has seen the ones before it.
    pub(super) fn without_images(&self, batch: &[&Wordings], views: usize, before: &mut Before) -> Vec<Cell> {
        let past = before.past();
        for (wordings, hidden) in batch.iter().zip(&mut before.hidden) {
            hidden.resize_with(views, || None);
            let text_from = wordings.0[0].text_from;
            let first = wordings.visual(self.vlm.config().image_token_id).first().copied();
            let count = text_from - first.unwrap_or(text_from);
            let mask: Vec<bool> = (0..past).map(|at| at >= past - count).collect();
            hidden.push(Some((Tensor::from_slice(&mask).to_device(self.vlm.device()), count as i64)));
        }
        (0..batch.len()).map(|question| Cell { question, view: views, wording: 0, chain: 0 }).collect()
    }
}

impl Preparer {
    /// A question about a part of one of its images.
    fn zoomed(&self, item: &ZoomItem, album: &mut Album) -> Result<Question, ItemError> {
        let (index, images) = (item.image, &item.item.images);
        let image = images.get(index).ok_or_else(|| ItemError::Image {
            index,
            reason: format!("the question has {} images: name one of them", images.len()),
        })?;
        // The whole of that image is not needed; the others are.
        let mut pictures = vec![self.window(image, index, item.window, album)?];
        if images.len() > 1 {
            let all = self.pictures(images, album)?;
            pictures = all
                .into_iter()
                .enumerate()
                .map(|(at, own)| if at == index { pictures[0].clone() } else { own })
                .collect();
        }
        self.about(pictures, &item.item.question, &item.item.choices)
    }
}
