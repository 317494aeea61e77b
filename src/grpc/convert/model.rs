//! Versions and predictions.

use bytes::Bytes;

use super::{Check, Image, image_input, round::count, selection::same_pool, timestamp};
use crate::{
    domain::{Evaluation, Result, Version, VersionState},
    grpc::{names, pb},
    service::{Predict, Prediction},
};
use uuid::Uuid;

/// The question, and its images (`max_images` at most), which are still to be had where they are keys.
pub(in crate::grpc) fn predict(
    request: pb::PredictRequest,
    max_images: usize,
) -> Result<(Predict, Vec<Image>)> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    let version = version_of(&mut check, &request.version, &pool);
    check.required("question", &request.question);
    check.image_count(request.images.len(), max_images);
    let mut images = Vec::new();
    for (i, image) in request.images.into_iter().take(max_images).enumerate() {
        let field = format!("images[{i}]");
        let image = check.take(image_input(&field, image));
        check.that(
            !matches!(image, Image::Chunked(_)),
            &field,
            "cannot be chunked here: send data or sha256",
        );
        images.push(image);
    }
    let predict = Predict {
        pool,
        version,
        images: Vec::<Bytes>::new(),
        question: request.question,
        choices: request.choices,
        reasoning: request.reasoning,
        attention: request.attention_maps,
    };
    check.done((predict, images))
}

/// Pool, version, etag.
pub(in crate::grpc) fn rollback(
    request: &pb::RollbackRequest,
) -> Result<(String, Option<i64>, Option<Uuid>)> {
    let mut check = Check::default();
    let pool = check.take(names::parse_pool("parent", &request.parent));
    let version = version_of(&mut check, &request.version, &pool);
    let etag = (!request.etag.is_empty()).then(|| check.take(names::parse_token("etag", &request.etag)));
    check.done((pool, version, etag))
}

/// Pool, version, etag.
pub(in crate::grpc) fn promote(request: &pb::PromoteVersionRequest) -> Result<(String, i64, Option<Uuid>)> {
    let mut check = Check::default();
    let (pool, number) = check.take(names::parse_number("name", &request.name, "versions"));
    let etag = (!request.etag.is_empty()).then(|| check.take(names::parse_token("etag", &request.etag)));
    check.done((pool, number, etag))
}

/// Pool, version, whether it is to be pinned.
pub(in crate::grpc) fn update_version(request: &pb::UpdateVersionRequest) -> Result<(String, i64, bool)> {
    let mut check = Check::default();
    let version = request.version.clone().unwrap_or_default();
    let (pool, number) = check.take(names::parse_number("version.name", &version.name, "versions"));
    for path in request.update_mask.iter().flat_map(|mask| &mask.paths) {
        let text = format!("{path:?} is no field that can be changed: name pinned");
        check.that(matches!(path.as_str(), "pinned" | "*"), "update_mask", text);
    }
    check.done((pool, number, version.pinned))
}

fn version_of(check: &mut Check, name: &str, pool: &str) -> Option<i64> {
    (!name.is_empty()).then(|| {
        let (of, number) = check.take(names::parse_number("version", name, "versions"));
        same_pool(check, "version", &of, pool);
        number
    })
}

pub(in crate::grpc) fn prediction(pool: &str, prediction: Prediction) -> pb::PredictResponse {
    let answers = prediction.answers.into_iter();
    let maps = prediction.attention.into_iter().map(|map| pb::AttentionMap {
        rows: map.rows as i32,
        columns: map.columns as i32,
        weights: map.weights,
        mass: map.mass,
    });
    pb::PredictResponse {
        version: names::child(pool, "versions", prediction.version),
        answer: prediction.answer,
        reasoning: prediction.reasoning,
        answers: answers
            .map(|a| pb::AnswerProbability { answer: a.answer, probability: a.probability })
            .collect(),
        uncertainty: Some(pb::Uncertainty {
            total: prediction.entropy,
            margin: prediction.margin,
            ..Default::default()
        }),
        log_probability: prediction.log_probability,
        tokens_read: prediction.tokens_read as i64,
        tokens_written: prediction.tokens_written as i64,
        attention_maps: maps.collect(),
    }
}

pub(in crate::grpc) fn version(pool: &str, version: &Version) -> pb::Version {
    let state = match version.state {
        VersionState::Serving => pb::version::State::Serving,
        VersionState::Retired => pb::version::State::Retired,
        VersionState::Refused => pb::version::State::Refused,
    };
    let gate = version.gate.as_ref();
    pb::Version {
        name: names::child(pool, "versions", version.number),
        number: version.number,
        state: state.into(),
        base_sha256: version.base_sha256.clone(),
        weights_sha256: version
            .blob_key
            .as_deref()
            .and_then(|key| key.rsplit('/').next())
            .unwrap_or_default()
            .to_owned(),
        round: names::child_or_empty(pool, "rounds", version.round),
        training: names::child_or_empty(pool, "trainings", version.training_id),
        label_count: version.label_count,
        validation: version.validation.as_ref().map(evaluation),
        test: version.test.as_ref().map(evaluation),
        gate: gate.map(|g| pb::GateVerdict { passed: g.passed, reasons: g.reasons.clone() }),
        create_time: Some(timestamp(version.created_at)),
        promote_time: version.promoted_at.map(timestamp),
        pinned: version.pinned,
        weights_expire_time: version.weights_expired_at.map(timestamp),
    }
}

pub(super) fn evaluation(evaluation: &Evaluation) -> pb::Evaluation {
    pb::Evaluation {
        sample_count: count(evaluation.count),
        accuracy: evaluation.accuracy,
        calibration_error: evaluation.calibration_error,
        loss: evaluation.loss,
        group_accuracy: evaluation.group_accuracy.clone(),
        reasoned: evaluation.reasoned,
        slice_accuracy: evaluation.slice_accuracy.clone(),
        hallucination_rate: evaluation.hallucination_rate,
        pointing_accuracy: evaluation.pointing_accuracy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Error;
    use prost::Message as _;

    #[test]
    fn a_prediction_needs_whole_images_and_a_version_of_its_own_pool() {
        let chunked =
            pb::ImageInput { source: Some(pb::image_input::Source::ChunkedBytes(3)), ..Default::default() };
        let request = pb::PredictRequest {
            parent: "pools/a".into(),
            version: "pools/b/versions/1".into(),
            images: vec![pb::ImageInput::default(), chunked],
            ..Default::default()
        };
        let Error::Invalid(found) = predict(request.clone(), 2).unwrap_err() else { panic!("violations") };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["version", "question", "images[0]", "images[1]"]);
        let Error::Invalid(found) = predict(request, 1).unwrap_err() else { panic!("violations") };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["version", "question", "images", "images[0]"]);
    }

    #[test]
    fn nothing_but_the_pin_of_a_version_can_be_changed() {
        let version = pb::Version { name: "pools/a/versions/3".into(), pinned: true, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["pinned".into()] });
        let request = pb::UpdateVersionRequest { version: Some(version), update_mask };
        assert_eq!(update_version(&request).unwrap(), ("a".into(), 3, true));
        let update_mask = Some(prost_types::FieldMask { paths: vec!["state".into()] });
        let Error::Invalid(found) =
            update_version(&pb::UpdateVersionRequest { version: None, update_mask }).unwrap_err()
        else {
            panic!("violations")
        };
        let fields: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["version.name", "update_mask"]);
    }

    #[test]
    fn maps_are_written_in_the_same_order_every_time() {
        let groups = (0..50).map(|i| (format!("g{i}"), f64::from(i))).collect();
        let wire = evaluation(&Evaluation { group_accuracy: groups, ..Evaluation::default() });
        let again = pb::Evaluation::decode(wire.encode_to_vec().as_slice()).unwrap();
        assert_eq!(wire.encode_to_vec(), again.encode_to_vec());
    }
}
