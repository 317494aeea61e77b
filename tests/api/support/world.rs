//! Samples whose right answer is known from their name, and a policy whose rounds are short.

use active_vlm::grpc::pb;
use bytes::Bytes;

/// The closed answer space of every pool.
pub const ANSWERS: [&str; 2] = ["yes", "no"];
/// The question of every sample.
pub const QUESTION: &str = "is there a red square ?";
/// Samples of the validation split, and again as many of the test split.
const HELD_OUT: usize = 4;

/// Four labels make a round, a training is three small steps, and any candidate passes.
pub fn policy() -> pb::Policy {
    let training = pb::TrainingPolicy {
        batch_size: Some(2),
        epochs: Some(1),
        min_steps: Some(3),
        max_steps: Some(3),
        checkpoint_steps: Some(1),
        ..Default::default()
    };
    let gate = pb::GatePolicy {
        max_accuracy_drop: Some(1.0),
        max_calibration_rise: Some(1.0),
        ..Default::default()
    };
    pb::Policy {
        labels_per_round: Some(4),
        spare_share: Some(1.0),
        control_share: Some(0.25),
        training: Some(training),
        gate: Some(gate),
        seed: Some(7),
        ..Default::default()
    }
}

/// `count` samples to choose from, and a few for validation and test.
pub fn samples(count: usize) -> Vec<pb::SampleInput> {
    let pool = (0..count).map(|i| sample(i, pb::Split::Pool));
    let validation = (count..count + HELD_OUT).map(|i| sample(i, pb::Split::Validation));
    let test = (count + HELD_OUT..count + 2 * HELD_OUT).map(|i| sample(i, pb::Split::Test));
    pool.chain(validation).chain(test).collect()
}

/// Sample number `i`, with an image of its own.
pub fn sample(i: usize, split: pb::Split) -> pb::SampleInput {
    let name = format!("s{i:04}");
    let reference_answer = (split != pb::Split::Pool).then(|| answer_of(&name).to_owned());
    let sample = pb::SampleInput {
        sample_id: name,
        question: QUESTION.to_owned(),
        group: format!("row{}", i % 3),
        split: split.into(),
        reference_answer,
        ..Default::default()
    };
    with_image(sample, png(i), "image/png")
}

/// The sample with `file` as its one image.
pub fn with_image(sample: pb::SampleInput, file: Bytes, media_type: &str) -> pb::SampleInput {
    let source = Some(pb::image_input::Source::Data(file));
    let images = vec![pb::ImageInput { source, media_type: media_type.to_owned() }];
    pb::SampleInput { images, ..sample }
}

/// The right answer to the sample of this id.
pub fn answer_of(sample_id: &str) -> &'static str {
    let number: usize = sample_id.trim_start_matches('s').parse().expect("a numbered sample");
    ANSWERS[number % 2]
}

/// A small grey board with one square, red on every other one; no two of a thousand are alike.
pub fn png(i: usize) -> Bytes {
    let grey = u8::try_from(i / 16 % 128).expect("below 128");
    let (column, row) = (i % 4, i / 4 % 4);
    let pixels = image::RgbImage::from_fn(32, 32, |x, y| {
        let inside = (x as usize / 8, y as usize / 8) == (column, row);
        match (inside, i % 2) {
            (true, 0) => image::Rgb([255, 0, 0]),
            (true, _) => image::Rgb([0, 0, 255]),
            (false, _) => image::Rgb([grey; 3]),
        }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).expect("an encodable image");
    bytes.into_inner().into()
}
