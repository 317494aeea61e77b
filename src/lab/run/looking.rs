//! Where a model looks when it answers, and whether its answer hangs on that.
//!
//! Pointing (arXiv 1608.00507): whether the cell looked at most lies in the evidence. Deletion (RISE, arXiv 1806.07421): cells
//! are greyed out, those looked at most first; the area under the right answer's probability says how long it holds: the
//! smaller, the more the answer hung on what was looked at. Invariant: both are of direct answers, of which attention is
//! known. Deliberately absent: any claim that attention explains an answer.

use bytes::Bytes;

use super::super::render::LATTICE;
use super::super::sample::Sample;
use super::super::world::Exam;
use super::record::Metric;
use crate::engine::{AttentionMap, Engine, EvalItem, ModelRef, PredictItem, Target};

/// Questions that are looked at.
const QUESTIONS: usize = 120;
/// Cells that are greyed out between two probabilities.
const CELLS: usize = 2;

/// Pointing accuracy and deletion area of `model` on `exam`.
///
/// # Errors
/// When the engine fails as a whole.
pub async fn look(engine: &Engine, model: ModelRef, exam: &Exam) -> anyhow::Result<Vec<Metric>> {
    // Every other question, so that all families are among them.
    let every = (exam.samples.len() / QUESTIONS).max(1);
    let asked = exam.samples.iter().step_by(every).filter(|sample| !sample.regions.is_empty());
    let (mut hits, mut counted, mut mass) = (0, 0, 0.0);
    let mut items = Vec::new();
    for sample in asked.take(QUESTIONS) {
        let ask = PredictItem {
            images: vec![Bytes::from(sample.image_png.clone())],
            question: sample.question.clone(),
            choices: sample.choices.clone(),
            reasoning: false,
            attention: true,
        };
        let Ok(prediction) = engine.predict(Some(model), ask).await? else { continue };
        let Some(map) = prediction.attention.first() else { continue };
        let order = by_weight(map);
        counted += 1;
        mass += f64::from(map.mass);
        hits += usize::from(order.first().is_some_and(|cell| inside(*cell, map, &sample.regions)));
        items.extend(deletions(sample, &order, map)?);
    }
    if counted == 0 {
        return Ok(Vec::new());
    }
    let outcomes = engine.evaluate(Target::Version(Some(model)), items).await?;
    let p: Vec<f64> = outcomes.iter().map(|o| o.as_ref().map_or(0.0, |o| f64::from(o.p_correct))).collect();
    let area = p.iter().sum::<f64>() / p.len().max(1) as f64;
    let of = |sum: f64| sum / counted as f64;
    Ok(vec![
        Metric::new("pointing", &exam.name, of(hits as f64)),
        Metric::new("attention_mass", &exam.name, of(mass)),
        Metric::new("deletion_area", &exam.name, area),
    ])
}

/// Cells by how much they are looked at, most first.
fn by_weight(map: &AttentionMap) -> Vec<usize> {
    let mut order: Vec<usize> = (0..map.weights.len()).collect();
    order.sort_by(|&a, &b| map.weights[b].total_cmp(&map.weights[a]));
    order
}

/// Whether a cell's middle lies in a region.
fn inside(cell: usize, map: &AttentionMap, regions: &[[f32; 4]]) -> bool {
    let x = ((cell % map.columns) as f32 + 0.5) / map.columns as f32;
    let y = ((cell / map.columns) as f32 + 0.5) / map.rows as f32;
    regions.iter().any(|[x0, y0, x1, y1]| (*x0..=*x1).contains(&x) && (*y0..=*y1).contains(&y))
}

/// The question with more and more of its picture greyed out, from nothing to everything.
fn deletions(sample: &Sample, order: &[usize], map: &AttentionMap) -> anyhow::Result<Vec<EvalItem>> {
    let mut picture = image::load_from_memory(&sample.image_png)?.to_rgb8();
    let (width, height) = picture.dimensions();
    let (wide, high) = (width / map.columns as u32, height / map.rows as u32);
    let mut items = Vec::with_capacity(LATTICE * LATTICE / CELLS + 1);
    let mut ask = |picture: &image::RgbImage| -> anyhow::Result<()> {
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png)?;
        items.push(EvalItem {
            images: vec![png.into_inner().into()],
            question: sample.question.clone(),
            choices: sample.choices.clone(),
            answer: sample.answer.clone(),
            family: sample.family.clone(),
        });
        Ok(())
    };
    ask(&picture)?;
    for cells in order.chunks(CELLS) {
        for cell in cells {
            let (left, top) = ((cell % map.columns) as u32 * wide, (cell / map.columns) as u32 * high);
            for (x, y) in (0..high).flat_map(|y| (0..wide).map(move |x| (left + x, top + y))) {
                picture.put_pixel(x, y, image::Rgb([128; 3]));
            }
        }
        ask(&picture)?;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cell_looked_at_most_is_found_on_the_picture() {
        let map = AttentionMap { rows: 2, columns: 2, weights: vec![0.1, 0.2, 0.6, 0.1], mass: 0.5 };
        let order = by_weight(&map);
        assert_eq!(order, [2, 1, 0, 3]);
        assert!(inside(order[0], &map, &[[0.0, 0.5, 0.5, 1.0]]));
        assert!(!inside(order[0], &map, &[[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 0.25]]));
    }
}
