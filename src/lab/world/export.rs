//! Writes a world as a folder that [`super::folder`] reads: the example for whoever brings a world of their own.
//!
//! Invariant: what is written reads back as the same questions, answers and pictures. Deliberately absent: which
//! samples are outliers or wrongly labelled, as no real folder knows.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use super::super::oracle::Annotation;
use super::super::sample::Sample;
use super::World;
use super::folder::{POOL, Row, TEST};

/// Writes pictures and both files into `folder`, which is made.
///
/// # Errors
/// When a file cannot be written.
pub fn write(world: &World, folder: &Path) -> anyhow::Result<()> {
    let images = folder.join("images");
    std::fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    let pool = world.pool.iter().map(|item| row(&item.sample, &item.annotation, ""));
    lines(&folder.join(POOL), pool)?;
    let test = world
        .exams
        .iter()
        .flat_map(|exam| exam.samples.iter().map(|sample| row(sample, &Annotation::of(sample), &exam.name)));
    lines(&folder.join(TEST), test)?;
    let tests = world.exams.iter().flat_map(|exam| &exam.samples);
    for sample in world.pool.iter().map(|item| &item.sample).chain(tests) {
        let file = folder.join(image(sample));
        std::fs::write(&file, &sample.image_png)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn image(sample: &Sample) -> String {
    format!("images/{}.png", sample.id)
}

fn row(sample: &Sample, annotation: &Annotation, split: &str) -> Row {
    let Annotation { answer, reasoning, regions } = annotation.clone();
    Row {
        id: sample.id.clone(),
        image: image(sample),
        question: sample.question.clone(),
        answer,
        reasoning,
        regions,
        family: sample.family.clone(),
        split: split.to_owned(),
        slice: String::new(),
        choices: sample.choices.clone(),
        paraphrases: sample.paraphrases.clone(),
    }
}

fn lines(path: &Path, rows: impl Iterator<Item = Row>) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, &row)?;
        text.write_all(b"\n")?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
