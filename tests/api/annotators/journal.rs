//! What annotators were told, and that the service stands by it.

use active_vlm::grpc::pb::{self, verdict::Code as Verdict};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{HashMap, HashSet};

/// A request and the bytes of the answer to it.
pub type Said<R> = (R, Bytes);

/// What an annotator did and was told, and what of it is still to be handed in.
#[derive(Default)]
pub struct Journal {
    pub batches: Vec<Said<pb::NextBatchRequest>>,
    pub submissions: Vec<Said<pb::SubmitLabelsRequest>>,
    pub late: Vec<pb::SubmitLabelsRequest>,
}

/// What is stored is what was acknowledged, no more and no less, and every sample has its overlap and not one more.
pub fn check_labels(labels: &[pb::Label], journals: &[Journal], samples: usize, overlap: usize) {
    let mut promised = HashMap::new();
    for (request, answer) in journals.iter().flat_map(|journal| &journal.submissions) {
        let reply = pb::SubmitLabelsResponse::decode(answer.clone()).expect("verdicts");
        assert_eq!(reply.verdicts.len(), request.labels.len());
        for (verdict, label) in reply.verdicts.into_iter().zip(&request.labels) {
            if matches!(verdict.code(), Verdict::Accepted | Verdict::LeaseExpiredAccepted) {
                promised.insert(verdict.label, (request.annotator.clone(), label.clone()));
            } else {
                assert_eq!(verdict.code(), Verdict::OverlapFull, "{verdict:?}");
            }
        }
    }
    assert_eq!(labels.len(), promised.len(), "as many are stored as were acknowledged");
    let mut answered: HashMap<&str, Vec<&str>> = HashMap::new();
    for label in labels {
        let (annotator, sent) = &promised[&label.name];
        assert_eq!((&label.annotator, &label.client_label_id), (annotator, &sent.client_label_id));
        assert_eq!(label.sample, sent.sample);
        match (&label.content, &sent.content) {
            (Some(pb::label::Content::Answer(stored)), Some(pb::label_input::Content::Answer(sent))) => {
                assert_eq!(stored, sent);
                answered.entry(&label.sample).or_default().push(&label.annotator);
            }
            (Some(pb::label::Content::Skip(stored)), Some(pb::label_input::Content::Skip(sent))) => {
                assert_eq!(stored, sent);
            }
            (stored, sent) => panic!("{stored:?} was stored for {sent:?}"),
        }
    }
    assert_eq!(answered.len(), samples, "every sample was labelled in the end");
    for (sample, annotators) in answered {
        let different: HashSet<_> = annotators.iter().collect();
        assert_eq!((annotators.len(), different.len()), (overlap, overlap), "{sample}: {annotators:?}");
    }
}
