//! What the model takes, asked before anything is stored: the same checks that a question meets later.
//!
//! Invariant: a question that passes here for the cuts of its images is never refused by scoring, evaluation or
//! prediction for its texts or its length. Runs on the caller's thread and asks nothing of the engine's own.

use super::{Cut, Engine, ItemError};

impl Engine {
    /// How the model would cut an image, by its header: the rest of the file may be missing.
    ///
    /// # Errors
    /// `Image` where the header cannot be read.
    pub fn cut(&self, image: &[u8]) -> Result<Cut, ItemError> {
        self.preparer().cut(image)
    }

    /// Tokens of the longest of `choices`, for `check_question`; 1 where there are none.
    ///
    /// # Errors
    /// `Choices` where one holds a special token, or two are the same to the model.
    pub fn longest_choice(&self, choices: &[String]) -> Result<usize, ItemError> {
        self.preparer().longest_choice(choices)
    }

    /// Whether a question about images cut like this can be asked.
    ///
    /// # Errors
    /// `ImageCount`; `Text` where it holds a special token; `TooLong`.
    pub fn check_question(
        &self,
        images: &[Cut],
        question: &str,
        longest_choice: usize,
    ) -> Result<(), ItemError> {
        self.preparer().check(images, question, longest_choice)
    }
}
