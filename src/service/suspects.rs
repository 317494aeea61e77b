//! Labels that a version, trained on them or not, finds improbable: for ListSuspectLabels, and for plans to ask again.
//!
//! By the scores of the serving version, so a training's own labels are judged once the next round is scored. A model
//! that has learnt a wrong label by heart does not suspect it: what is found is a lower bound. Invariant: nothing is
//! changed here. Deliberately absent: open answer spaces.

use super::{Page, PageRequest, Service, check, columns::mean, teaching::vote};
use crate::{
    acquisition::confident::{self, Given},
    domain::{Error, Pool, Result, RoundId, SampleId, VersionId, label::normalise},
};
use std::collections::HashMap;

/// A label that is probably wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct SuspectLabel {
    /// Its place in the order of suspicion, from 0.
    pub place: usize,
    /// The client's id of the sample.
    pub sample: String,
    /// What was answered: by most, where there are several labels.
    pub answer: String,
    /// What the version finds more probable.
    pub suggested: String,
    /// Their probabilities, in [0, 1].
    pub probabilities: [f32; 2],
    /// Answers given to the sample.
    pub labels: u64,
    /// Of them those that say `answer`.
    pub votes: u64,
}

/// What a labelled sample may be answered, as compared and as declared, and what it was.
struct Labelled {
    id: SampleId,
    name: String,
    space: Vec<String>,
    classes: Vec<String>,
    probabilities: Vec<f32>,
    given: usize,
    labels: u64,
    votes: u64,
}

impl Labelled {
    /// Whether one more annotator could settle it: what several people agree on is not asked about again.
    fn open_to_doubt(&self) -> bool {
        self.labels == 1 || 2 * self.votes <= self.labels
    }
}

impl Service {
    /// Labels that confident learning suspects, the most suspected first.
    pub async fn list_suspect_labels(&self, pool: &str, page: &PageRequest) -> Result<Page<SuspectLabel>> {
        let _permit = self.planning_permit()?;
        let pool = self.active_pool(pool).await?;
        let limit = page.limit(&self.limits);
        let after: Option<usize> = page.after_key("suspects")?;
        let version = self.store.serving_version(pool.id).await?;
        let (labelled, found) = self.suspects(&pool, version.id).await?;
        let first = after.map_or(0, |after| after + 1);
        let listed = found.iter().enumerate().skip(first).take(limit + 1).map(|(place, suspect)| {
            let one = &labelled[suspect.row];
            SuspectLabel {
                place,
                sample: one.name.clone(),
                answer: one.space[one.given].clone(),
                suggested: one.space[suspect.believed].clone(),
                probabilities: [one.probabilities[one.given], one.probabilities[suspect.believed]],
                labels: one.labels,
                votes: one.votes,
            }
        });
        Ok(Page::cut(listed.collect(), limit, "suspects", |suspect| suspect.place.to_string()))
    }

    /// Labelled samples to ask another annotator about, at most so many: those that wait for one since an earlier plan,
    /// then the most suspected of the others.
    pub(crate) async fn doubted(
        &self,
        pool: &Pool,
        version: VersionId,
        round: Option<RoundId>,
        most: usize,
    ) -> Result<Vec<SampleId>> {
        let mut chosen = self.store.waiting_for_doubts(pool.id, round).await?;
        if chosen.len() < most {
            let (labelled, found) = self.suspects(pool, version).await?;
            let suspected = found.iter().map(|suspect| &labelled[suspect.row]);
            let ids: Vec<_> = suspected.filter(|one| one.open_to_doubt()).map(|one| one.id).collect();
            chosen.extend(self.store.may_be_doubted(&ids, round).await?);
        }
        chosen.truncate(most);
        Ok(chosen)
    }

    /// The labelled samples of closed answer spaces that `version` has scored, and which of their labels it suspects.
    async fn suspects(
        &self,
        pool: &Pool,
        version: VersionId,
    ) -> Result<(Vec<Labelled>, Vec<confident::Suspect>)> {
        let seen = self.store.learnt(pool.id, version, None, self.now(), usize::MAX >> 1).await?;
        let mut seen: HashMap<_, _> = seen.into_iter().map(|one| (one.sample, one)).collect();
        let set = self.store.training_set(pool.id, None).await?;
        let labelled = set.samples.into_iter().filter_map(|sample| {
            let one = seen.remove(&sample.id)?;
            let space = if sample.choices.is_empty() { pool.answers.clone() } else { sample.choices };
            let probabilities = mean(&one.probabilities, one.probabilities.len() / one.members);
            let vote = vote(&sample.answers)?;
            let answer = check::among(&space, &sample.answers[vote.first].answer.text)?;
            let given = space.iter().position(|choice| choice == answer)?;
            let classes: Vec<_> = space.iter().map(|choice| normalise(choice)).collect();
            let (labels, votes) = (sample.answers.len() as u64, vote.votes as u64);
            let fits = probabilities.len() == classes.len();
            let (id, name) = (sample.id, sample.name);
            fits.then_some(Labelled { id, name, space, classes, probabilities, given, labels, votes })
        });
        let labelled: Vec<Labelled> = labelled.collect();
        let given: Vec<Given<'_>> = labelled
            .iter()
            .map(|l| Given { classes: &l.classes, probabilities: &l.probabilities, given: l.given })
            .collect();
        let found = confident::suspects(&given).map_err(Error::internal)?;
        Ok((labelled, found))
    }
}
