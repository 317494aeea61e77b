//! SubmitLabels and ListLabels: every label judged by itself, the whole written at once.
//!
//! Invariant: what is wrong with one label is its verdict and never another's trouble; only a malformed request, or
//! a lease that is not the caller's, fails as a whole.

use super::{Page, PageRequest, Service, check};
use crate::{
    domain::{Answer, Content, Error, Label, LabelId, LeaseId, NewLabel, Result, Verdict, VerdictCode},
    settings::Limits,
    store::{AnswerSpaces, LabelInsert, Submission},
};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use uuid::Uuid;

/// Rejected reasonings of one label at most.
const REJECTED_MAX: usize = 16;

/// Labels handed in together.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitLabels {
    /// Name of the pool.
    pub pool: String,
    /// The same id replays the first answer; required.
    pub request_id: String,
    /// Lease they were asked under; pipelines leave it out.
    pub lease: Option<LeaseId>,
    /// The lease's token; required with `lease`.
    pub token: Option<Uuid>,
    /// Who labelled.
    pub annotator: String,
    /// What is said.
    pub labels: Vec<NewLabel>,
}

impl Service {
    /// Takes labels; the verdicts are in their order. A label that is acknowledged is on disk.
    ///
    /// # Errors
    /// `Invalid` for a malformed request, `NotFound`, `LeaseLost` for another's lease, `RequestIdReused`.
    pub async fn submit_labels(&self, request: SubmitLabels) -> Result<Vec<Verdict>> {
        let lease = self.check_submission(&request)?;
        let fingerprint = fingerprint(&(&request.lease, &request.annotator, &request.labels))?;
        let names = request.labels.iter().map(|label| label.sample.as_str());
        // Postgres keeps no NUL in text and would refuse to look: such a name is its label's own fault.
        let names: HashSet<&str> = names.filter(|name| !name.contains('\0')).collect();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let spaces = self.store.answer_spaces(&request.pool, &names).await?;
        let ids: Vec<String> = request.labels.iter().map(|label| label.client_label_id.clone()).collect();
        let labels = request.labels.into_iter().map(|mut label| {
            let fingerprint = self::fingerprint(&label)?;
            let invalid = fault(&label, &spaces, &self.limits);
            // Such a label is invalid, but its verdict is kept under its id, and Postgres keeps no NUL.
            if label.client_label_id.contains('\0') {
                label.client_label_id = label.client_label_id.replace('\0', "\u{fffd}");
            }
            Ok(LabelInsert { label, fingerprint, invalid })
        });
        let submission = Submission {
            pool: request.pool,
            request_id: request.request_id,
            fingerprint,
            lease,
            annotator: request.annotator,
            labels: labels.collect::<Result<_>>()?,
        };
        let mut verdicts = self.store.record_labels(&submission, self.now()).await?;
        for (verdict, id) in verdicts.iter_mut().zip(ids) {
            verdict.client_label_id = id;
            metrics::counter!("active_vlm_labels_total", "verdict" => verdict_label(verdict.code))
                .increment(1);
        }
        Ok(verdicts)
    }

    /// Labels in the order they were taken; of one sample where it is named.
    pub async fn list_labels(
        &self,
        pool: &str,
        sample: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Label>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let after = page.after_key::<Uuid>("labels")?.map(LabelId);
        let labels = self.store.list_labels(pool.id, sample, after, limit + 1).await?;
        Ok(Page::cut(labels, limit, "labels", |label| label.id.to_string()))
    }

    fn check_submission(&self, request: &SubmitLabels) -> Result<Option<(LeaseId, Uuid)>> {
        let limits = &self.limits;
        let mut checks = check::Checks::default();
        checks.name("annotator", &request.annotator, limits.name_bytes_max);
        checks.name("request_id", &request.request_id, limits.name_bytes_max);
        let (n, max) = (request.labels.len(), limits.labels_per_call_max);
        checks.that((1..=max).contains(&n), "labels", format!("are {n}: send 1 to {max} in one call"));
        let whole = request.lease.is_some() == request.token.is_some();
        checks.that(whole, "lease.token", "a lease and its token go together: send both or neither");
        checks.done()?;
        Ok(request.lease.zip(request.token))
    }
}

/// What is wrong with a label by itself, if anything.
fn fault(label: &NewLabel, spaces: &AnswerSpaces, limits: &Limits) -> Option<String> {
    if let Some(fault) = check::name_fault(&label.client_label_id, limits.name_bytes_max) {
        return Some(format!("client_label_id {fault}"));
    }
    // What cannot be a name is no sample's; Postgres would not even look for it.
    if label.sample.contains('\0') {
        return Some("the sample's name holds a NUL character".to_owned());
    }
    if label.lead_time_ms.is_some_and(|ms| ms < 0) {
        return Some("lead_time is negative: leave it out if it is not known".to_owned());
    }
    match &label.content {
        Content::Answer(answer) => answer_fault(answer, spaces.of(&label.sample), limits),
        Content::Skip(reason) | Content::Reject(reason) => {
            text_fault("the reason", reason, limits.answer_bytes_max)
        }
    }
}

fn answer_fault(answer: &Answer, space: &[String], limits: &Limits) -> Option<String> {
    if answer.text.trim().is_empty() {
        return Some("the answer is empty: give one, or skip".to_owned());
    }
    if let Some(fault) = text_fault("the answer", &answer.text, limits.answer_bytes_max) {
        return Some(fault);
    }
    if !space.is_empty() && check::among(space, &answer.text).is_none() {
        return Some(format!(
            "the answer {:?} is none of the choices: {}",
            answer.text,
            check::listed(space)
        ));
    }
    let steps = std::iter::once(("the reasoning", &answer.reasoning))
        .chain(answer.rejected.iter().map(|steps| ("a rejected reasoning", steps)));
    for (what, steps) in steps {
        if let Some(fault) = steps_fault(what, steps, limits) {
            return Some(fault);
        }
    }
    if answer.rejected.len() > REJECTED_MAX {
        return Some(format!(
            "{} rejected reasonings, at most {REJECTED_MAX} are allowed",
            answer.rejected.len()
        ));
    }
    check::regions_fault(&answer.regions, limits.regions_max)
}

fn steps_fault(what: &str, steps: &[String], limits: &Limits) -> Option<String> {
    if steps.len() > limits.reasoning_steps_max {
        return Some(format!(
            "{what} has {} steps, at most {} are allowed",
            steps.len(),
            limits.reasoning_steps_max
        ));
    }
    if steps.iter().any(|step| step.trim().is_empty()) {
        return Some(format!("{what} has an empty step: leave it out"));
    }
    let bytes: usize = steps.iter().map(String::len).sum();
    if bytes > limits.reasoning_bytes_max {
        return Some(format!("{what} has {bytes} bytes, at most {} are allowed", limits.reasoning_bytes_max));
    }
    steps.iter().find_map(|step| text_fault(what, step, limits.reasoning_bytes_max))
}

fn text_fault(what: &str, text: &str, max: usize) -> Option<String> {
    if text.len() > max {
        return Some(format!("{what} has {} bytes, at most {max} are allowed: shorten it", text.len()));
    }
    // Postgres keeps no NUL in text.
    text.contains('\0').then(|| format!("{what} holds a NUL character: remove it"))
}

fn fingerprint(meaning: &impl serde::Serialize) -> Result<[u8; 32]> {
    let bytes = serde_json::to_vec(meaning).map_err(Error::internal)?;
    Ok(Sha256::digest(bytes).into())
}

fn verdict_label(code: VerdictCode) -> &'static str {
    match code {
        VerdictCode::Accepted => "accepted",
        VerdictCode::Duplicate => "duplicate",
        VerdictCode::LeaseExpiredAccepted => "lease_expired_accepted",
        VerdictCode::OverlapFull => "overlap_full",
        VerdictCode::Conflict => "conflict",
        VerdictCode::Invalid => "invalid",
        VerdictCode::BudgetExhausted => "budget_exhausted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Region;
    use crate::settings::Settings;

    fn fault_of(answer: Answer) -> Option<String> {
        let limits = Settings::load_with(&[], Default::default()).expect("valid defaults").limits;
        let answers = vec!["yes".to_owned(), "no".to_owned()];
        let spaces =
            AnswerSpaces { pool: answers, own: [("open".to_owned(), vec!["1".into(), "2".into()])].into() };
        let label = |sample: &str| NewLabel {
            sample: sample.to_owned(),
            client_label_id: "l1".to_owned(),
            content: Content::Answer(answer.clone()),
            lead_time_ms: None,
            seen_version: None,
        };
        fault(&label("s1"), &spaces, &limits)
    }

    #[test]
    fn an_answer_outside_the_closed_space_is_refused_with_the_list() {
        let says = |text: &str| fault_of(Answer { text: text.to_owned(), ..Answer::default() });
        assert_eq!(says("Yes."), None);
        assert!(says("maybe").expect("a fault").contains("\"yes\", \"no\""));
        assert!(says(" ").expect("a fault").contains("empty"));
    }

    #[test]
    fn regions_and_reasonings_have_bounds() {
        let yes = Answer { text: "yes".to_owned(), ..Answer::default() };
        let region = |region: Region| fault_of(Answer { regions: vec![region], ..yes.clone() });
        assert_eq!(region([0.0, 0.25, 0.5, 1.0]), None);
        for bad in
            [[0.5, 0.0, 0.5, 1.0], [-0.1, 0.0, 1.0, 1.0], [0.0, 0.0, f32::NAN, 1.0], [0.0, 0.0, 1.0, 1.5]]
        {
            assert!(region(bad).expect("a fault").contains("region 0"));
        }
        let steps = |steps: Vec<String>| fault_of(Answer { reasoning: steps, ..yes.clone() });
        assert_eq!(steps(vec!["it is bright".to_owned()]), None);
        assert!(steps(vec![String::new()]).is_some());
        assert!(steps(vec!["x".to_owned(); 65]).is_some());
        assert!(steps(vec!["x".repeat(9000)]).is_some());
    }
}
