//! Whether views, wordings and zooms leave right answers right: what does not is another question, and left out.
//!
//! Tried on samples whose right answer is known and which the model has right as they are. Invariant: each is
//! judged by its place, the same for all samples; it is left out of this round and named with its rate. Deliberately
//! absent: open answer spaces, where nobody can tell a right answer from one that means the same.

use super::{
    Service,
    attempt::Interrupted,
    columns::tempered,
    deeper::{reference_class, right_class},
    score_round::Scoring,
};
use crate::{
    domain::{Dropped, FunnelRun, Sample, SampleId, Split, Transform},
    engine::Depth,
};

/// Samples tried on at most.
const TRIED_MAX: usize = 200;
/// Fewer right answers than this say nothing about a rate of a few in a hundred.
const TRIED_MIN: u64 = 20;

/// Which views and wordings ask the same as the sample itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    /// What is left out.
    pub dropped: Vec<Dropped>,
    /// Right answers tried on.
    pub tried: u64,
    /// Right answers that zooms were tried on.
    pub zooms_tried: u64,
    /// How many zooms were tried.
    pub zooms_asked: u64,
}

impl Kept {
    /// As an earlier account has it.
    pub fn noted(run: FunnelRun) -> Self {
        let FunnelRun { dropped, tried, zooms_tried, zooms_asked, .. } = run;
        Self { dropped, tried, zooms_tried, zooms_asked }
    }

    /// Writes it into an account.
    pub fn note(&self, run: &mut FunnelRun) {
        run.dropped.clone_from(&self.dropped);
        (run.tried, run.zooms_tried, run.zooms_asked) = (self.tried, self.zooms_tried, self.zooms_asked);
    }

    fn keeps(&self, transform: Transform, index: usize) -> bool {
        self.dropped.iter().all(|d| d.transform != transform || d.index != index as u64)
    }

    /// Of `asked` views those that are kept.
    pub fn views(&self, asked: usize) -> usize {
        (0..asked).filter(|&view| self.keeps(Transform::View, view)).count()
    }

    /// The wordings that are kept; the first one's place is 1, the question's is 0.
    pub fn wordings(&self, all: &[String]) -> Vec<String> {
        let kept = all.iter().enumerate().filter(|(i, _)| self.keeps(Transform::Paraphrase, i + 1));
        kept.map(|(_, wording)| wording.clone()).collect()
    }

    /// The zooms that are kept of `asked`, as places in `zoom::SIDES`. A part of an image is not the image: it counts only where
    /// it was tried on enough.
    pub fn zooms(&self, asked: u32) -> Vec<usize> {
        let tried = self.zooms_tried >= TRIED_MIN;
        let all = 0..(asked as usize).min(self.zooms_asked as usize);
        all.filter(|&zoom| tried && self.keeps(Transform::Zoom, zoom + 1)).collect()
    }

    /// Why there are no zooms though some are asked for; none where they were tried.
    pub fn untried(&self, asked: u32) -> Option<String> {
        (asked > 0 && self.zooms_tried < TRIED_MIN).then(|| {
            let found = self.zooms_tried;
            format!("zooms: {found} right answers to try them on, and {TRIED_MIN} are needed")
        })
    }

    /// The probabilities of the views that are kept, `[views, Nq, C]`.
    pub fn of(&self, depth: &Depth) -> Vec<f32> {
        let wide = depth.paraphrases * depth.chains.max(1) * depth.classes;
        let views = depth.probabilities.chunks_exact(wide.max(1)).enumerate();
        views.filter(|(view, _)| self.keeps(Transform::View, *view)).flat_map(|(_, p)| p.to_vec()).collect()
    }
}

/// How often what was tried, and how often it turned a right answer wrong.
#[derive(Debug, Clone, Default)]
struct Trials {
    views: Vec<(u64, u64)>,
    wordings: Vec<(u64, u64)>,
    zooms: Vec<(u64, u64)>,
    right: u64,
}

impl Trials {
    fn note(&mut self, depth: &Depth, zoomed: Option<&[Vec<f32>]>, right: usize) {
        let at = |view: usize, wording: usize| {
            let row = (view * depth.paraphrases + wording) * depth.chains.max(1) * depth.classes;
            best(&depth.probabilities[row..row + depth.classes])
        };
        if at(0, 0) != right {
            return;
        }
        self.right += 1;
        tally(&mut self.views, depth.views, |view| at(view, 0) != right);
        tally(&mut self.wordings, depth.paraphrases, |wording| at(0, wording) != right);
        if let Some(zoomed) = zoomed {
            tally(&mut self.zooms, 1 + zoomed.len(), |zoom| best(&zoomed[zoom - 1]) != right);
        }
    }

    fn verdict(self, max_flips: f64) -> Kept {
        let kinds = [
            (Transform::View, &self.views),
            (Transform::Paraphrase, &self.wordings),
            (Transform::Zoom, &self.zooms),
        ];
        let all = kinds.into_iter().flat_map(|(transform, tries)| {
            tries.iter().enumerate().map(move |(index, &(tried, flips))| (transform, index, tried, flips))
        });
        let dropped = all.filter_map(|(transform, index, tried, flips)| {
            let flip_rate = flips as f64 / tried.max(1) as f64;
            let drop = tried >= TRIED_MIN && flip_rate > max_flips;
            drop.then_some(Dropped { transform, index: index as u64, flip_rate, tried })
        });
        let zooms_tried = self.zooms.first().map_or(0, |&(tried, _)| tried);
        let zooms_asked = self.zooms.len().saturating_sub(1) as u64;
        Kept { dropped: dropped.collect(), tried: self.right, zooms_tried, zooms_asked }
    }
}

fn tally(tries: &mut Vec<(u64, u64)>, count: usize, flips: impl Fn(usize) -> bool) {
    tries.resize(tries.len().max(count), (0, 0));
    // Place 0 is the sample as it is, which does not turn itself wrong.
    for (index, (tried, flipped)) in tries.iter_mut().enumerate().take(count) {
        *tried += 1;
        *flipped += u64::from(index > 0 && flips(index));
    }
}

/// The place of the likeliest answer, the first one among equals.
fn best(p: &[f32]) -> usize {
    (1..p.len()).fold(0, |best, i| if p[i] > p[best] { i } else { best })
}

impl Service {
    /// Tries views, wordings and zooms on samples whose answer is known: the validation split, else what is labelled.
    ///
    /// The inner error is why the engine cannot look so.
    pub(super) async fn preserving(
        &self,
        scoring: &Scoring<'_>,
        temperature: f64,
    ) -> Result<Result<Kept, String>, Interrupted> {
        let (funnel, how) = (&scoring.pool.policy.funnel, scoring.views());
        let zooms: Vec<usize> = (0..funnel.zooms as usize).collect();
        let (known, mut trials) = (self.known_answers(scoring).await?, Trials::default());
        for shard in known.chunks(scoring.attempt.shard_size) {
            scoring.attempt.check()?;
            let ids: Vec<SampleId> = shard.iter().map(|(id, _)| *id).collect();
            let whole = Kept::default();
            let found = match self.depths_of(scoring, &ids, how, Some(&whole)).await? {
                Ok(found) => found,
                Err(reason) => return Ok(Err(reason)),
            };
            let zoomed = self.zoomed(scoring, &ids, &found, &zooms).await?;
            for ((&(_, right), depth), zoomed) in shard.iter().zip(found).zip(zoomed) {
                let Some(mut depth) = depth else { continue };
                if right < depth.classes {
                    depth.probabilities = tempered(&depth.probabilities, depth.classes, temperature as f32);
                    trials.note(&depth, zoomed.as_deref(), right);
                }
            }
        }
        let kept = trials.verdict(funnel.max_flips);
        for dropped in &kept.dropped {
            tracing::warn!(?dropped, "does not preserve answers: left out of this round");
        }
        Ok(Ok(kept))
    }

    /// Samples with the places of their right answers.
    async fn known_answers(&self, scoring: &Scoring<'_>) -> Result<Vec<(SampleId, usize)>, Interrupted> {
        let (pool, store) = (&scoring.pool, &self.store);
        let samples = store.split_samples(pool.id, Split::Validation, None, TRIED_MAX).await?;
        let known = |sample: &Sample| Some((sample.id, reference_class(pool, sample)?));
        let known: Vec<_> = samples.iter().filter_map(known).collect();
        if !known.is_empty() {
            return Ok(known);
        }
        let learnt = store.learnt(pool.id, scoring.version.id, None, self.now(), TRIED_MAX).await?;
        Ok(learnt.iter().filter_map(|one| Some((one.sample, right_class(&pool.answers, one)?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two views, three wordings, two classes; each row says how sure the first answer is.
    fn depth(first: [f32; 6]) -> Depth {
        let probabilities = first.iter().flat_map(|&p| [p, 1.0 - p]).collect();
        Depth {
            views: 2,
            paraphrases: 3,
            chains: 0,
            classes: 2,
            probabilities,
            parsed: Vec::new(),
            answers: Vec::new(),
            beside: None,
        }
    }

    #[test]
    fn what_turns_right_answers_wrong_is_dropped_with_its_rate() {
        let mut trials = Trials::default();
        for i in 0..40 {
            // The second wording flips one in ten, the third none; the other view flips one in forty.
            let (wording, view) = (if i % 10 == 0 { 0.2 } else { 0.8 }, if i == 3 { 0.1 } else { 0.9 });
            trials.note(&depth([0.9, wording, 0.8, view, 0.1, 0.1]), None, 0);
        }
        // A sample the model has wrong says nothing.
        trials.note(&depth([0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), None, 0);
        let kept = trials.verdict(0.05);
        let dropped = Dropped { transform: Transform::Paraphrase, index: 1, flip_rate: 0.1, tried: 40 };
        assert_eq!((kept.dropped.as_slice(), kept.tried), ([dropped].as_slice(), 40));
        assert_eq!(kept.wordings(&["b".to_owned(), "c".to_owned()]), ["c"]);
        assert_eq!(kept.views(2), 2);
    }

    #[test]
    fn zooms_count_where_enough_right_answers_stayed_right() {
        let (right, wrong) = (vec![0.9, 0.1], vec![0.1, 0.9]);
        let seen = depth([0.9, 0.9, 0.9, 0.9, 0.9, 0.9]);
        let after = |right_answers: usize| {
            let mut trials = Trials::default();
            for i in 0..right_answers {
                // The second zoom turns one in ten wrong.
                let second = if i % 10 == 0 { &wrong } else { &right };
                trials.note(&seen, Some(&[right.clone(), second.clone()]), 0);
            }
            // One that could not be zoomed into counts for the other kinds alone.
            trials.note(&seen, None, 0);
            trials.verdict(0.05)
        };
        let kept = after(40);
        assert_eq!((kept.tried, kept.zooms_tried, kept.zooms(2)), (41, 40, vec![0]));
        assert_eq!(kept.dropped[0].transform, Transform::Zoom);
        assert_eq!((kept.zooms(0), kept.untried(2)), (vec![], None));
        let few = after(19);
        assert_eq!(few.zooms(2), Vec::<usize>::new());
        assert!(
            few.untried(2).is_some_and(|why| why.contains("19 right answers")) && few.untried(0).is_none()
        );
    }

    #[test]
    fn a_dropped_view_is_left_out_of_what_was_seen_and_few_trials_drop_nothing() {
        let mut trials = Trials::default();
        trials.note(&depth([0.9, 0.9, 0.9, 0.1, 0.9, 0.9]), None, 0);
        assert_eq!(trials.verdict(0.05).dropped, []);
        let dropped = Dropped { transform: Transform::View, index: 1, flip_rate: 0.5, tried: 40 };
        let kept = Kept { dropped: vec![dropped], tried: 40, zooms_tried: 0, zooms_asked: 0 };
        assert_eq!(kept.of(&depth([0.5, 0.25, 0.75, 0.1, 0.1, 0.1])), [0.5, 0.5, 0.25, 0.75, 0.75, 0.25]);
        assert_eq!(kept.views(2), 1);
    }
}
