//! Labels and verdicts.
//!
//! A label that cannot be read at all is a violation of the request; one that can, but is wrong (an unknown sample,
//! an answer not declared, control characters in an id), is judged by the service and gets its own verdict.

use std::time::Duration;

use super::{
    super::status::clip,
    Check, duration, known,
    round::count,
    sample::{regions, regions_of},
    selection::{arm, same_pool, sample_of},
    timestamp,
};
use crate::{
    domain::{Answer, Content, Label, LeaseId, NewLabel, Result, Verdict, VerdictCode},
    grpc::{names, page::Paged, pb},
    service::{SubmitLabels, SuspectLabel},
};

/// Reads a submission of at most `max` labels; of more none is looked at.
pub(in crate::grpc) fn submit_labels(request: pb::SubmitLabelsRequest, max: usize) -> Result<SubmitLabels> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    check.required("request_id", &request.request_id);
    check.required("annotator", &request.annotator);
    let (mut lease, mut token) = (None, None);
    if !request.lease.is_empty() {
        let (of, id) = check.take(names::parse_uuid("lease", &request.lease, "leases"));
        same_pool(&mut check, "lease", &of, &pool);
        lease = Some(LeaseId(id));
        token = Some(check.take(names::parse_token("lease_token", &request.lease_token)));
    }
    let n = request.labels.len();
    let fits = (1..=max).contains(&n);
    check.that(fits, "labels", format!("are {n}: send 1 to {max} in one call"));
    let labels = if fits { request.labels } else { Vec::new() };
    let labels = (0..).zip(labels).map(|(i, label)| new_label(&mut check, i, label, &pool)).collect();
    check.done(SubmitLabels {
        pool,
        request_id: request.request_id,
        lease,
        token,
        annotator: request.annotator,
        labels,
    })
}

fn new_label(check: &mut Check, i: usize, label: pb::LabelInput, pool: &str) -> NewLabel {
    use pb::label_input::Content as Wire;
    let field = |name: &str| format!("labels[{i}].{name}");
    check.required(&field("client_label_id"), &label.client_label_id);
    // No sample's name has control characters: the service says so of this label and takes the others.
    let sample = match names::is_plain(&label.sample) {
        true => sample_of(check, &field("sample"), &label.sample, pool),
        false => label.sample,
    };
    let content = match label.content {
        Some(Wire::Answer(answer)) => Content::Answer(read_answer(answer)),
        Some(Wire::Skip(skip)) => Content::Skip(skip.reason),
        Some(Wire::Reject(reject)) => Content::Reject(read_reject(check, &field("reject"), &reject)),
        None => {
            check.that(false, field("content"), "is required: set answer, skip or reject");
            Content::Skip(String::new())
        }
    };
    let seen_version = (!label.seen_version.is_empty()).then(|| {
        let (of, number) =
            check.take(names::parse_number(&field("seen_version"), &label.seen_version, "versions"));
        same_pool(check, &field("seen_version"), &of, pool);
        number
    });
    let lead_time = check.duration(&field("lead_time"), label.lead_time);
    let lead_time_ms = lead_time.map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    NewLabel { sample, client_label_id: label.client_label_id, content, lead_time_ms, seen_version }
}

fn read_answer(answer: pb::Answer) -> Answer {
    let regions = regions_of(&answer.regions);
    let rejected = answer.rejected_reasonings.into_iter().map(|r| r.steps).collect();
    Answer { text: answer.text, reasoning: answer.reasoning_steps, regions, rejected }
}

/// A reject as it is stored: the reason's name, and the note after a colon.
fn read_reject(check: &mut Check, field: &str, reject: &pb::Reject) -> String {
    use pb::reject::Reason;
    let reason: Option<Reason> = check.take(known(&format!("{field}.reason"), reject.reason).map(Some));
    let unset = reason == Some(Reason::Unspecified);
    check.that(!unset, format!("{field}.reason"), "is required: say why nobody can answer it");
    let noted = reason != Some(Reason::Other) || !reject.note.is_empty();
    check.that(noted, format!("{field}.note"), "is required with REASON_OTHER");
    let name = reason.unwrap_or_default().as_str_name().trim_start_matches("REASON_");
    if reject.note.is_empty() { name.to_owned() } else { format!("{name}: {}", reject.note) }
}

fn write_reject(stored: &str) -> pb::Reject {
    use pb::reject::Reason;
    let (name, note) = stored.split_once(": ").unwrap_or((stored, ""));
    match Reason::from_str_name(&format!("REASON_{name}")) {
        Some(reason) => pb::Reject { reason: reason.into(), note: note.to_owned() },
        None => pb::Reject { reason: Reason::Other.into(), note: stored.to_owned() },
    }
}

/// Which labels to list: pool, sample, page.
pub(in crate::grpc) fn list_labels(
    request: &pb::ListLabelsRequest,
) -> Result<(String, Option<String>, Paged)> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    let filter = ["labels", &request.parent, &request.sample];
    let paged = Paged::read(&mut check, &filter, request.page_size, &request.page_token);
    let sample =
        (!request.sample.is_empty()).then(|| sample_of(&mut check, "sample", &request.sample, &pool));
    check.done((pool, sample, paged))
}

/// Bytes of a verdict's reason: a thousand of them still fit a message.
const REASON_BYTES: usize = 1 << 10;

pub(in crate::grpc) fn verdict(pool: &str, verdict: &Verdict) -> pb::Verdict {
    use pb::verdict::Code;
    let code = match verdict.code {
        VerdictCode::Accepted => Code::Accepted,
        VerdictCode::Duplicate => Code::Duplicate,
        VerdictCode::LeaseExpiredAccepted => Code::LeaseExpiredAccepted,
        VerdictCode::OverlapFull => Code::OverlapFull,
        VerdictCode::Conflict => Code::Conflict,
        VerdictCode::Invalid => Code::Invalid,
        VerdictCode::BudgetExhausted => Code::BudgetExhausted,
    };
    pb::Verdict {
        client_label_id: verdict.client_label_id.clone(),
        code: code.into(),
        label: names::child_or_empty(pool, "labels", verdict.label),
        reason: clip(&verdict.reason, REASON_BYTES),
    }
}

pub(in crate::grpc) fn label(pool: &str, label: &Label) -> pb::Label {
    use pb::label::Content as Wire;
    let content = match &label.content {
        Content::Answer(answer) => Wire::Answer(write_answer(answer)),
        Content::Skip(reason) => Wire::Skip(pb::Skip { reason: reason.clone() }),
        Content::Reject(reason) => Wire::Reject(write_reject(reason)),
    };
    let lead_time = label.lead_time_ms.and_then(|ms| u64::try_from(ms).ok());
    pb::Label {
        name: names::child(pool, "labels", label.id),
        client_label_id: label.client_label_id.clone(),
        sample: names::child(pool, "samples", &label.sample),
        annotator: label.annotator.clone(),
        content: Some(content),
        lead_time: lead_time.map(|ms| duration(Duration::from_millis(ms))),
        seen_version: names::child_or_empty(pool, "versions", label.seen_version),
        lease: names::child_or_empty(pool, "leases", label.lease),
        arm: arm(label.arm).into(),
        round: names::child_or_empty(pool, "rounds", label.round),
        create_time: Some(timestamp(label.created_at)),
    }
}

fn write_answer(answer: &Answer) -> pb::Answer {
    pb::Answer {
        text: answer.text.clone(),
        reasoning_steps: answer.reasoning.clone(),
        regions: regions(&answer.regions),
        rejected_reasonings: answer
            .rejected
            .iter()
            .map(|steps| pb::Reasoning { steps: steps.clone() })
            .collect(),
    }
}

pub(in crate::grpc) fn suspect(pool: &str, suspect: &SuspectLabel) -> pb::SuspectLabel {
    let [answer_probability, suggested_probability] = suspect.probabilities;
    pb::SuspectLabel {
        sample: names::child(pool, "samples", &suspect.sample),
        answer: suspect.answer.clone(),
        suggested_answer: suspect.suggested.clone(),
        answer_probability,
        suggested_probability,
        label_count: count(suspect.labels),
        vote_count: count(suspect.votes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Error;

    #[test]
    fn everything_unreadable_in_a_submission_comes_at_once() {
        let labels = vec![
            pb::LabelInput { sample: "pools/b/samples/1".into(), ..Default::default() },
            pb::LabelInput {
                client_label_id: "l".into(),
                sample: "pools/a/samples/1".into(),
                content: Some(pb::label_input::Content::Reject(pb::Reject {
                    reason: 5,
                    note: String::new(),
                })),
                seen_version: "pools/b/versions/1".into(),
                ..Default::default()
            },
        ];
        let request = pb::SubmitLabelsRequest {
            parent: "pools/a".into(),
            lease: "pools/a/leases/x".into(),
            labels,
            ..Default::default()
        };
        let Error::Invalid(found) = submit_labels(request, 2).unwrap_err() else { panic!("violations") };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "request_id",
                "annotator",
                "lease",
                "lease_token",
                "labels[0].client_label_id",
                "labels[0].sample",
                "labels[0].content",
                "labels[1].reject.note",
                "labels[1].seen_version"
            ]
        );
    }

    #[test]
    fn too_many_labels_are_one_violation_and_a_bad_id_is_its_labels_own() {
        let bad = pb::LabelInput { sample: "pools/a/samples/1\0".into(), ..Default::default() };
        let answer = pb::label_input::Content::Answer(pb::Answer { text: "3".into(), ..Default::default() });
        let bad = pb::LabelInput { client_label_id: "l\0".into(), content: Some(answer), ..bad };
        let request = pb::SubmitLabelsRequest {
            parent: "pools/a".into(),
            request_id: "r".into(),
            annotator: "ann".into(),
            labels: vec![bad; 3],
            ..Default::default()
        };
        let Error::Invalid(found) = submit_labels(request.clone(), 2).unwrap_err() else { panic!("one") };
        assert_eq!(found.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), ["labels"]);
        assert_eq!(submit_labels(request, 3).unwrap().labels.len(), 3, "judged one by one");
    }

    #[test]
    fn answers_and_rejects_come_back_as_they_went_in() {
        let wire = pb::Answer {
            text: "3".into(),
            reasoning_steps: vec!["one".into(), "two".into()],
            regions: vec![pb::Region { x_min: 0.0, y_min: 0.25, x_max: 0.5, y_max: 1.0 }],
            rejected_reasonings: vec![pb::Reasoning { steps: vec!["four".into()] }],
        };
        assert_eq!(write_answer(&read_answer(wire.clone())), wire);
        for reject in [
            pb::Reject { reason: 2, note: String::new() },
            pb::Reject { reason: 5, note: "half: and half".into() },
        ] {
            assert_eq!(write_reject(&read_reject(&mut Check::default(), "reject", &reject)), reject);
        }
        assert_eq!(write_reject("from elsewhere"), pb::Reject { reason: 5, note: "from elsewhere".into() });
    }
}
