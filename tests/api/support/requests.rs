//! The requests that most tests make.

use super::{QUESTION, answer_of};
use active_vlm::grpc::pb;

/// A request for `size` queries.
pub fn ask(pool: &str, annotator: &str, size: usize, request_id: &str) -> pb::NextBatchRequest {
    pb::NextBatchRequest {
        parent: pool.to_owned(),
        annotator: annotator.to_owned(),
        size: i32::try_from(size).expect("a small number"),
        request_id: request_id.to_owned(),
        ..Default::default()
    }
}

/// The right answers to a whole batch, under its lease.
pub fn answers(
    pool: &str,
    annotator: &str,
    request_id: &str,
    batch: &pb::NextBatchResponse,
) -> pb::SubmitLabelsRequest {
    let lease = batch.lease.clone().expect("a lease");
    let labels = batch.queries.iter().map(|query| {
        let text = answer_of(last_part(&query.sample)).to_owned();
        let answer = pb::Answer { text, reasoning_steps: vec!["it is so".to_owned()], ..Default::default() };
        pb::LabelInput {
            client_label_id: format!("{request_id}/{}", last_part(&query.sample)),
            sample: query.sample.clone(),
            content: Some(pb::label_input::Content::Answer(answer)),
            seen_version: query.version.clone(),
            ..Default::default()
        }
    });
    pb::SubmitLabelsRequest {
        parent: pool.to_owned(),
        request_id: request_id.to_owned(),
        annotator: annotator.to_owned(),
        lease: lease.name,
        lease_token: lease.token,
        labels: labels.collect(),
    }
}

/// The last part of a resource name.
pub fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The same, ready to wait for a plan: somebody is making one.
pub fn patient(request: pb::NextBatchRequest) -> pb::NextBatchRequest {
    pb::NextBatchRequest { max_wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..request }
}

/// A question to the serving version about one image.
pub fn predict(pool: &str, source: pb::image_input::Source) -> pb::PredictRequest {
    let image = pb::ImageInput { source: Some(source), media_type: String::new() };
    pb::PredictRequest {
        parent: pool.to_owned(),
        images: vec![image],
        question: QUESTION.to_owned(),
        ..Default::default()
    }
}
