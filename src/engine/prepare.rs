//! From what callers send to token ids and pixels, off the engine's thread.
//!
//! Invariant: what comes out has passed every check that needs no tensor, so the engine's thread only computes.
//! Deliberately absent: tensors.

use super::deep::Wordings;
use super::{DeepItem, ItemError, ScoreItem};
use crate::model::{Config, Cut, ImageLimits, Pixels, Processor, Stops, Window};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Text that every answer follows.
const MARK: &str = " Answer:";
/// Images of one question at most; how many fit is a matter of its tokens.
pub(super) const IMAGES: usize = 8;
/// Tokens of a free answer at most.
pub(super) const ANSWER_TOKENS: usize = 32;
/// Tokens of a reasoning at most.
pub(super) const REASONING_TOKENS: usize = 256;

/// A decoded image and its name.
#[derive(Debug)]
pub(super) struct Picture {
    /// sha256 of its encoded bytes.
    pub key: [u8; 32],
    pub pixels: Pixels,
}

/// Pictures decoded already, so that several questions about one image decode it once.
pub(super) type Album = HashMap<[u8; 32], Arc<Picture>>;

/// A question, ready for the model.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub pictures: Vec<Arc<Picture>>,
    /// The prompt, up to `Assistant:`.
    pub prompt: Vec<i64>,
    /// What comes between the prompt and the answer: a reasoning or nothing, then the mark.
    pub lead: Vec<i64>,
    /// Place of the first token after the images.
    pub text_from: usize,
    pub choices: Vec<String>,
    /// One per choice, none a prefix of another.
    pub paths: Vec<Vec<i64>>,
}

impl Question {
    /// Everything before the answer.
    pub fn context(&self) -> Vec<i64> {
        [self.prompt.as_slice(), &self.lead].concat()
    }

    /// Length of `context`.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.lead.len()
    }
}

/// Turns words and images into ids and pixels; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Preparer {
    processor: Processor,
    limits: ImageLimits,
    mark: Vec<i64>,
    stops: Stops,
    image_token: i64,
    /// Patches that make a visual token along each side of a grid.
    scale: usize,
    longest: usize,
}

impl Preparer {
    /// `config` and `processor` of one model folder; images within `limits` are decoded.
    pub fn new(
        config: &Config,
        processor: &Processor,
        limits: ImageLimits,
    ) -> Result<Self, crate::model::ModelError> {
        Ok(Self {
            mark: processor.text_ids(MARK)?,
            stops: Stops::new(&processor.tokenizer, &[MARK])?,
            processor: processor.clone(),
            limits,
            image_token: config.image_token_id,
            scale: config.scale_factor as usize,
            longest: config.text.max_position_embeddings as usize,
        })
    }

    /// The token that stands for a visual one, and how many patches make one along each side of a grid.
    pub fn visual(&self) -> (i64, usize) {
        (self.image_token, self.scale)
    }

    /// Tokens of ` Answer:`.
    pub fn mark(&self) -> &[i64] {
        &self.mark
    }

    /// The id that stands for a part of a picture.
    pub fn image_token(&self) -> i64 {
        self.image_token
    }

    /// What ends a reasoning: the words of the mark.
    pub fn stops(&self) -> &Stops {
        &self.stops
    }

    /// Ids that end an answer; the first is the one it is taught with.
    pub fn ends(&self) -> &[i64] {
        self.processor.eos_ids()
    }

    /// Text of generated ids, without the space that follows the mark.
    pub fn text(&self, ids: &[i64]) -> String {
        // Generated ids are of this vocabulary; bytes that are no text are shown as the tokenizer shows them.
        self.processor.decode_ids(ids).unwrap_or_default().trim().to_owned()
    }

    /// Tokens that still fit after `used`, at most `wanted`.
    pub fn room(&self, used: usize, wanted: usize) -> usize {
        wanted.min(self.longest.saturating_sub(used))
    }

    /// How an image would be cut, by its header.
    pub fn cut(&self, image: &[u8]) -> Result<Cut, ItemError> {
        self.processor.image.cut(image).map_err(|e| ItemError::Image { index: 0, reason: e.to_string() })
    }

    /// Tokens of the longest of `choices` (1 where there are none): what a question must leave room for.
    pub fn longest_choice(&self, choices: &[String]) -> Result<usize, ItemError> {
        Ok(self.paths(choices)?.iter().map(Vec::len).max().unwrap_or(1))
    }

    /// Visual tokens of an image that is cut like this.
    pub fn visual_tokens(&self, cut: Cut) -> usize {
        self.processor.visual_tokens(cut)
    }

    /// Whether a question about images cut like this can be asked, by the checks of `question` but for decoding.
    pub fn check(&self, images: &[Cut], question: &str, longest_choice: usize) -> Result<(), ItemError> {
        check_count(images.len())?;
        let prompt = self.processor.prompt_ids(question, images).map_err(text_error)?;
        self.check_length(prompt.len() + self.mark.len() + longest_choice)
    }

    /// A question with its closed or open answers.
    pub fn question(
        &self,
        images: &[Bytes],
        question: &str,
        choices: &[String],
        album: &mut Album,
    ) -> Result<Question, ItemError> {
        // Choices first: they are cheaper to refuse than images to decode.
        self.paths(choices)?;
        self.about(self.pictures(images, album)?, question, choices)
    }

    /// A question about pictures that are decoded.
    pub(super) fn about(
        &self,
        pictures: Vec<Arc<Picture>>,
        question: &str,
        choices: &[String],
    ) -> Result<Question, ItemError> {
        let paths = self.paths(choices)?;
        let prompt = self.words(&pictures, question)?;
        let longest_path = paths.iter().map(Vec::len).max().unwrap_or(1);
        self.check_length(prompt.len() + self.mark.len() + longest_path)?;
        let text_from = prompt.iter().rposition(|&id| id == self.image_token).map_or(0, |at| at + 1);
        Ok(Question {
            pictures,
            prompt,
            lead: self.mark.clone(),
            text_from,
            choices: choices.to_vec(),
            paths,
        })
    }

    /// A question in all its wordings.
    pub fn wordings(&self, item: &DeepItem, album: &mut Album) -> Result<Wordings, ItemError> {
        let ScoreItem { images, question, choices } = &item.item;
        let all = std::iter::once(question).chain(&item.paraphrases);
        all.map(|words| self.question(images, words, choices, album)).collect::<Result<_, _>>().map(Wordings)
    }

    /// Ids of an answer with the space before and the end after it.
    pub fn ended(&self, text: &str) -> Result<Vec<i64>, ItemError> {
        let mut ids = self.phrase(text)?;
        ids.push(self.ends()[0]);
        Ok(ids)
    }

    pub(super) fn prompt(
        &self,
        images: &[Bytes],
        question: &str,
        album: &mut Album,
    ) -> Result<(Vec<Arc<Picture>>, Vec<i64>), ItemError> {
        let pictures = self.pictures(images, album)?;
        let prompt = self.words(&pictures, question)?;
        Ok((pictures, prompt))
    }

    fn words(&self, pictures: &[Arc<Picture>], question: &str) -> Result<Vec<i64>, ItemError> {
        let cuts: Vec<Cut> = pictures.iter().map(|picture| picture.pixels.cut).collect();
        self.processor.prompt_ids(question, &cuts).map_err(text_error)
    }

    pub(super) fn pictures(
        &self,
        images: &[Bytes],
        album: &mut Album,
    ) -> Result<Vec<Arc<Picture>>, ItemError> {
        check_count(images.len())?;
        let decode = |image: &Bytes| self.processor.decode(image, &self.limits);
        let each = images.iter().enumerate();
        each.map(|(index, image)| pictured(album, Sha256::digest(image).into(), index, || decode(image)))
            .collect()
    }

    /// What lies in a window of an image, named by both.
    pub(super) fn window(
        &self,
        image: &Bytes,
        index: usize,
        window: Window,
        album: &mut Album,
    ) -> Result<Arc<Picture>, ItemError> {
        let sides = window.iter().flat_map(|share| share.to_le_bytes()).collect::<Vec<u8>>();
        let key = Sha256::new().chain_update(image).chain_update(sides).finalize().into();
        pictured(album, key, index, || self.processor.decode_window(image, window, &self.limits))
    }

    /// Ids of a text from outside, with the space that parts it from what stands before.
    pub(super) fn phrase(&self, text: &str) -> Result<Vec<i64>, ItemError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ItemError::Text("an answer is empty: give it a text".to_owned()));
        }
        self.processor.check_plain(text).map_err(text_error)?;
        self.processor.text_ids(&format!(" {text}")).map_err(text_error)
    }

    fn paths(&self, choices: &[String]) -> Result<Vec<Vec<i64>>, ItemError> {
        let paths = choices.iter().map(|choice| self.phrase(choice)).collect::<Result<Vec<_>, _>>();
        let paths = paths.map_err(|error| ItemError::Choices(error.to_string()))?;
        prefix_free(paths, self.ends()[0]).map_err(|(a, b)| {
            ItemError::Choices(format!(
                "choices {:?} and {:?} are the same answer: remove one",
                choices[a], choices[b]
            ))
        })
    }

    pub(super) fn check_length(&self, tokens: usize) -> Result<(), ItemError> {
        if tokens > self.longest {
            return Err(ItemError::TooLong { tokens, limit: self.longest });
        }
        Ok(())
    }
}

/// The picture called `key`, decoded unless the album has it.
fn pictured(
    album: &mut Album,
    key: [u8; 32],
    index: usize,
    decode: impl FnOnce() -> Result<Pixels, crate::model::ModelError>,
) -> Result<Arc<Picture>, ItemError> {
    if let Some(picture) = album.get(&key) {
        return Ok(picture.clone());
    }
    let pixels = decode().map_err(|e| ItemError::Image { index, reason: e.to_string() })?;
    let picture = Arc::new(Picture { key, pixels });
    album.insert(key, picture.clone());
    Ok(picture)
}

fn check_count(images: usize) -> Result<(), ItemError> {
    match images {
        1..=IMAGES => Ok(()),
        found => Err(ItemError::ImageCount { found, most: IMAGES }),
    }
}

fn text_error(error: crate::model::ModelError) -> ItemError {
    ItemError::Text(error.to_string())
}

/// Adds the end token to every path that another one goes on from, so that the paths are disjoint events.
///
/// `1` beside `1 0` becomes `1 end`; paths that nothing goes on from stay short and need no further pass.
/// Errors with the places of two equal paths.
fn prefix_free(mut paths: Vec<Vec<i64>>, end: i64) -> Result<Vec<Vec<i64>>, (usize, usize)> {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by(|&a, &b| paths[a].cmp(&paths[b]));
    // In lexicographic order a path's continuations come right after it.
    for pair in order.windows(2) {
        let (short, long) = (pair[0], pair[1]);
        if paths[short] == paths[long] {
            return Err((short.min(long), short.max(long)));
        }
    }
    let prefixes: Vec<usize> = order
        .windows(2)
        .filter(|pair| paths[pair[1]].starts_with(&paths[pair[0]]))
        .map(|pair| pair[0])
        .collect();
    for at in prefixes {
        paths[at].push(end);
    }
    Ok(paths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_another_continues_get_the_end_token() {
        let paths = prefix_free(vec![vec![1], vec![1, 0], vec![5], vec![1, 0, 7]], 2).unwrap();
        assert_eq!(paths, [vec![1, 2], vec![1, 0, 2], vec![5], vec![1, 0, 7]]);
        assert_eq!(prefix_free(vec![vec![3], vec![4], vec![3]], 2), Err((0, 2)));
    }
}
