//! Labels: what annotators answer, and what became of each.

use super::{Arm, LabelId, LeaseId, Time};

/// A box on the image, as fractions of its width and height: x0 < x1 and y0 < y1, all in [0, 1].
pub type Region = [f32; 4];

/// Which kind of label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LabelKind {
    /// An answer.
    Answer,
    /// Not for me: to others.
    Skip,
    /// Nobody can answer this: the sample leaves the pool.
    Reject,
}

/// An answer with its grounds.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// As written.
    pub text: String,
    /// Steps that lead to it.
    pub reasoning: Vec<String>,
    /// Where on the image the evidence is.
    pub regions: Vec<Region>,
    /// Reasonings known to be wrong.
    pub rejected: Vec<Vec<String>>,
}

/// What an annotator says of a sample.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Content {
    /// An answer.
    Answer(Answer),
    /// Not for me, with a reason.
    Skip(String),
    /// Leaves the pool, with a reason.
    Reject(String),
}

impl Content {
    /// Which kind it is.
    pub fn kind(&self) -> LabelKind {
        match self {
            Self::Answer(_) => LabelKind::Answer,
            Self::Skip(_) => LabelKind::Skip,
            Self::Reject(_) => LabelKind::Reject,
        }
    }
}

/// A label on its way in.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NewLabel {
    /// The client's sample id.
    pub sample: String,
    /// The client's own id of this label, unique in the pool.
    pub client_label_id: String,
    /// What is said.
    pub content: Content,
    /// Time the annotator took, milliseconds.
    pub lead_time_ms: Option<i64>,
    /// Version whose prelabel the annotator saw.
    pub seen_version: Option<i64>,
}

/// What became of a submitted label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VerdictCode {
    /// Stored.
    Accepted,
    /// Stored before, the same in every part.
    Duplicate,
    /// Stored though its lease had run out: nobody else had the place.
    LeaseExpiredAccepted,
    /// Not stored: the sample has, or is out for, all the labels it may have.
    OverlapFull,
    /// Not stored: the client_label_id stands for another label.
    Conflict,
    /// Not stored: `reason` says what is wrong.
    Invalid,
    /// Not stored: the policy's label budget is spent, or out with annotators.
    BudgetExhausted,
}

impl VerdictCode {
    /// Whether the label is safe with the service.
    pub fn stored(self) -> bool {
        matches!(self, Self::Accepted | Self::Duplicate | Self::LeaseExpiredAccepted)
    }
}

/// The answer to one submitted label; stored and replayed for a retry.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// The client's id of the label.
    pub client_label_id: String,
    /// What became of it.
    pub code: VerdictCode,
    /// The stored label.
    pub label: Option<LabelId>,
    /// What was wrong and what to do; empty when accepted.
    pub reason: String,
}

/// A stored label.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Its id.
    pub id: LabelId,
    /// The client's sample id.
    pub sample: String,
    /// The client's own id of this label.
    pub client_label_id: String,
    /// Who said it.
    pub annotator: String,
    /// What is said.
    pub content: Content,
    /// Time taken, milliseconds.
    pub lead_time_ms: Option<i64>,
    /// Version whose prelabel was seen.
    pub seen_version: Option<i64>,
    /// Lease it came under.
    pub lease: Option<LeaseId>,
    /// Why the sample was planned.
    pub arm: Arm,
    /// Round it counted for.
    pub round: Option<i64>,
    /// When it was stored.
    pub created_at: Time,
}

/// An answer as votes and evaluation compare it: trimmed, lower-case, inner blanks single, no full stop at the end.
pub fn normalise(answer: &str) -> String {
    let words: Vec<_> = answer.split_whitespace().collect();
    words.join(" ").trim_end_matches('.').trim_end().to_lowercase()
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_that_mean_the_same_are_the_same() {
        assert_eq!(super::normalise("  Yes. "), "yes");
        assert_eq!(super::normalise("Two\n  cats"), "two cats");
        assert_ne!(super::normalise("1.5"), super::normalise("15"));
    }
}
