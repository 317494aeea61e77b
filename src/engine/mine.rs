//! The model's own reasonings about labelled samples: written, judged by the label, and kept for what comes next.
//!
//! Invariant: what is written depends on the weights, the seed and the sample alone, not on the samples beside it (up to
//! rounding). A reasoning without an answer of its own is left out: nothing says what it was worth.
//! Deliberately absent: which pairs are made of them (`training::pairs`).

use super::chains::Chain;
use super::deep::{Cell, Wordings};
use super::lesson::{Key, Lesson};
use super::memory;
use super::prepare::{ANSWER_TOKENS, Question};
use super::rows::{Eyes, Hide, Row, hear, packed};
use super::scoring::Scorer;
use super::{Deep, EngineError, MineStats};
use crate::domain::label::normalise;
use crate::model::{Generation, Vlm, generate_from};
use crate::training::pairs::{self, Chosen, Judged};
use crate::training::sft::{self, Reply};
use std::collections::BTreeMap;

/// One reasoning with the answer it came to.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// The reasoning's tokens.
    pub chain: Vec<i64>,
    pub text: String,
    /// The answer's tokens and text.
    pub answer: Vec<i64>,
    pub said: String,
    /// Whether it came to an answer by itself.
    pub parsed: bool,
    /// Mean log-probability of the reasoning's tokens, nats.
    pub log_prob: f32,
}

/// A reasoning set against another, each with mark, answer and end.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Pair {
    pub chosen: Vec<i64>,
    pub rejected: Vec<i64>,
    /// Mean log-probabilities per token when they were written: chosen, rejected, chosen with the evidence hidden.
    pub reference: [f32; 3],
}

/// Tokens of a reasoning that came out right, and of its answer.
pub(super) type Sound = (Vec<i64>, Vec<i64>);

/// What the model's reasonings left to learn from, by label.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Mined {
    pub pairs: BTreeMap<Key, Vec<Pair>>,
    pub sound: BTreeMap<Key, Vec<Sound>>,
}

/// A label with the question it answers.
pub(super) struct Exercise {
    pub lesson: Lesson,
    pub wordings: Wordings,
    /// The annotator's steps, in words.
    pub steps: Vec<String>,
    /// The right answer, in words.
    pub answer: String,
}

impl Exercise {
    /// Judges what was written about it.
    pub fn judge(&self, written: &[Written]) -> Vec<Judged> {
        let judge = |one: &Written| Judged {
            right: normalise(&one.said) == normalise(&self.answer),
            steps: pairs::steps_share(&one.text, &self.steps),
            log_prob: one.log_prob,
        };
        written.iter().map(judge).collect()
    }
}

impl Scorer<'_> {
    /// `how.chains` reasonings about each question, in their order.
    pub fn write(&mut self, questions: &[&Wordings], how: &Deep) -> memory::Each<Vec<Written>> {
        let _guard = tch::no_grad_guard();
        memory::halving(questions, &mut |part: &[&Wordings]| self.write_once(part, how))
    }

    fn write_once(&mut self, questions: &[&Wordings], how: &Deep) -> memory::Each<Vec<Written>> {
        memory::rehearse(questions.len());
        let before = self.read_before(questions)?;
        let cell = |question, chain| Cell { question, view: 0, wording: 0, chain };
        let cells: Vec<Cell> =
            (0..questions.len()).flat_map(|at| (0..how.chains).map(move |chain| cell(at, chain))).collect();
        let chains = self.sample(questions, how, &before, &cells);
        let texts: Vec<Vec<i64>> = cells
            .iter()
            .zip(&chains)
            .map(|(cell, chain)| [questions[cell.question].suffix(0), &chain.lead(self.preparer)].concat())
            .collect();
        let mut answers = Vec::with_capacity(cells.len());
        for range in self.chunks(&before, &texts) {
            let (cache, mask, last) = self.feed(&before, &cells[range.clone()], &texts[range]);
            let most = self.preparer.room(mask.size()[1] as usize, ANSWER_TOKENS).max(1);
            let how = Generation { most, ends: self.preparer.ends().to_vec(), ..Generation::default() };
            answers.extend(generate_from(self.vlm, cache, &self.vlm.logits(&last), &mask, &how));
        }
        let mut found: Vec<Vec<Written>> = vec![Vec::new(); questions.len()];
        for ((cell, chain), answer) in cells.iter().zip(chains).zip(answers) {
            let Chain { tokens, parsed, log_prob, .. } = chain;
            found[cell.question].push(Written {
                text: self.preparer.text(&tokens),
                said: self.preparer.text(&answer.tokens),
                chain: tokens,
                answer: answer.tokens,
                parsed,
                log_prob,
            });
        }
        Ok(found.into_iter().map(Ok).collect())
    }
}

/// What was written as a reply: up to its end where it came to an answer, else the reasoning that led nowhere.
pub(super) fn reply(written: &Written, mark: &[i64], end: i64) -> Vec<i64> {
    match written.parsed {
        true => [&written.chain[..], mark, &written.answer, &[end]].concat(),
        // The mark was put there by us: whoever punished it would teach never to answer.
        false => written.chain.clone(),
    }
}

/// Pairs of one label's reasonings and the annotator's, their references still to be heard.
pub(super) fn pair_up(exercise: &Exercise, written: &[Written], mark: &[i64], end: i64) -> Vec<Pair> {
    let annotated = exercise.lesson.annotated();
    let judged = exercise.judge(written);
    let pair = |chosen: Vec<i64>, rejected: Vec<i64>| Pair { chosen, rejected, reference: [0.0; 3] };
    let own = pairs::pairs(&judged, annotated.is_some()).into_iter().filter_map(|(chosen, rejected)| {
        let chosen = match chosen {
            Chosen::Own(at) => reply(&written[at], mark, end),
            Chosen::Annotator => annotated.clone()?.tokens,
        };
        Some(pair(chosen, reply(&written[rejected], mark, end)))
    });
    // What people know to be wrong comes first: nobody else can tell.
    let told = exercise.lesson.rejected.iter().filter_map(|rejected| {
        let mut chosen = annotated.clone()?.tokens;
        if !rejected.tokens.ends_with(&[end]) {
            // Wrong up to the answer is set against right up to the answer.
            let answer = exercise.lesson.direct().tokens.len() - mark.len();
            chosen.truncate(chosen.len() - answer);
        }
        Some(pair(chosen, rejected.tokens.clone()))
    });
    let mut all: Vec<Pair> = told.chain(own).filter(|pair| pair.chosen != pair.rejected).collect();
    all.truncate(pairs::MOST);
    all
}

/// Hears the references of every pair. `vlm` is the one that wrote.
pub(super) fn refer(
    vlm: &Vlm,
    pairs: &mut [(&Lesson, Pair)],
    image: bool,
    eyes: &mut Eyes<'_>,
) -> Result<(), EngineError> {
    let mut rows = Vec::new();
    for (lesson, pair) in pairs.iter() {
        let (chosen, rejected) = (Reply::whole(pair.chosen.clone()), Reply::whole(pair.rejected.clone()));
        rows.push(Row { lesson, hide: Hide::Nothing, replies: vec![chosen.clone(), rejected] });
        if image && lesson.points() {
            rows.push(Row { lesson, hide: Hide::Evidence, replies: vec![chosen] });
        }
    }
    // Each row is one unit of its own: nothing here has to be read together.
    let places: Vec<usize> = (0..rows.len()).collect();
    let mut heard: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
    for group in packed(&places, |&at| rows[at].tokens(), eyes.budget, usize::MAX) {
        let own: Vec<Row<'_>> = group.iter().map(|&&at| rows[at].clone()).collect();
        for (&&at, means) in group.iter().zip(hear(vlm, &own, eyes)?) {
            heard[at] = means;
        }
    }
    let mut heard = rows.iter().zip(heard).peekable();
    for (_, pair) in pairs.iter_mut() {
        // One row with two replies per pair, and one more where the evidence was hidden.
        let Some((_, both)) = heard.next() else { break };
        (pair.reference[0], pair.reference[1]) = (both[0], both[1]);
        if let Some((_, unseen)) = heard.next_if(|(row, _)| row.hide == Hide::Evidence) {
            pair.reference[2] = unseen[0];
        }
    }
    Ok(())
}

/// What was written about some labels, in numbers.
pub(super) fn stats(exercises: &[Exercise], written: &[Vec<Written>]) -> MineStats {
    let mut stats = MineStats { questions: exercises.len(), ..MineStats::default() };
    for (exercise, written) in exercises.iter().zip(written) {
        let parsed: Vec<Written> = written.iter().filter(|one| one.parsed).cloned().collect();
        stats.chains += written.len();
        stats.unparsed += written.len() - parsed.len();
        stats.right += exercise.judge(&parsed).iter().filter(|judged| judged.right).count();
    }
    stats
}

/// Sound reasonings of one label, to be learnt by heart.
pub(super) fn sound(exercise: &Exercise, written: &[Written]) -> Vec<Sound> {
    let mut own: Vec<Sound> = Vec::new();
    for at in pairs::sound(&exercise.judge(written)) {
        let one = (written[at].chain.clone(), written[at].answer.clone());
        if !own.contains(&one) {
            own.push(one);
        }
    }
    own
}

/// The reply that a reasoning of the model's own teaches, in place of the annotator's.
pub(super) fn taught(chain: &[i64], answer: &[i64], mark: &[i64], end: i64, weight: f32) -> Option<Reply> {
    sft::replies(mark, answer, chain, end, weight).into_iter().nth(1)
}

/// A question in its one wording.
pub(super) fn asked(question: Question) -> Wordings {
    Wordings(vec![question])
}
