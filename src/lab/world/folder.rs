//! A world of somebody else's: a folder with images, `pool.jsonl` and `test.jsonl`.
//!
//! Invariant: every fault is told with its file, line, field and cure, and all of a file's faults at once (up to ten).
//! Deliberately absent: decoding of pictures, which the model's processor does and answers for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::oracle::Annotation;
use super::super::sample::Sample;
use super::{BALANCED, Exam, Item, World};

/// What can be labelled.
pub const POOL: &str = "pool.jsonl";
/// What is asked after each training.
pub const TEST: &str = "test.jsonl";
/// Faults that are told at once.
const TOLD: usize = 10;

/// One line of either file.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Unique in the folder.
    pub id: String,
    /// Path of the picture, relative to the folder.
    pub image: String,
    /// The question.
    pub question: String,
    /// The right answer in `test.jsonl`; what an annotator says in `pool.jsonl`, where an experiment needs it and a service
    /// that is to have it labelled does not.
    #[serde(default)]
    pub answer: String,
    /// The steps to the answer.
    #[serde(default)]
    pub reasoning: Vec<String>,
    /// Where the evidence is: `[x0, y0, x1, y1]` as fractions of the image.
    #[serde(default)]
    pub regions: Vec<[f32; 4]>,
    /// The kind of question, for balancing and tables.
    #[serde(default)]
    pub family: String,
    /// In `test.jsonl`, the examination that the row belongs to.
    #[serde(default)]
    pub split: String,
    /// In what the row differs from the usual ones, such as `noise`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slice: String,
    /// The answers to choose from; none for free text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Other wordings of the same question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paraphrases: Vec<String>,
}

/// The rows of both files, with the folder that their images are in.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// `pool.jsonl`.
    pub pool: Vec<Row>,
    /// `test.jsonl`.
    pub test: Vec<Row>,
}

impl Folder {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// What is wrong, where, and the cure.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut seen = HashSet::new();
        let pool = rows(path, POOL, &mut seen)?;
        let test = rows(path, TEST, &mut seen)?;
        if pool.is_empty() {
            bail!("{}: no rows: give it one line per sample that may be labelled", path.join(POOL).display());
        }
        Ok(Self { path: path.to_owned(), pool, test })
    }

    /// The bytes of a row's picture.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn image(&self, row: &Row) -> anyhow::Result<Vec<u8>> {
        let file = self.path.join(&row.image);
        std::fs::read(&file).with_context(|| format!("cannot read {} of sample {}", file.display(), row.id))
    }

    /// The folder as a world; the examination `balanced` comes first where there is one, else the first of the file.
    ///
    /// # Errors
    /// When a picture cannot be read, or there is no examination.
    pub fn world(&self) -> anyhow::Result<World> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut pool = Vec::with_capacity(self.pool.len());
        for row in &self.pool {
            if row.answer.is_empty() {
                let file = self.path.join(POOL);
                bail!(
                    "{}, sample {}: field answer: is missing: an experiment has nobody to ask",
                    file.display(),
                    row.id
                );
            }
            let sample = self.sample(row)?;
            pool.push(Item { annotation: Annotation::of(&sample), sample, outlier: false, easy: false });
        }
        let mut exams: Vec<Exam> = Vec::new();
        for row in &self.test {
            let split = if row.split.is_empty() { "test" } else { &row.split };
            let sample = self.sample(row)?;
            match exams.iter_mut().find(|exam| exam.name == split) {
                Some(exam) => exam.samples.push(sample),
                None => exams.push(Exam { name: split.to_owned(), samples: vec![sample], paired: false }),
            }
        }
        if exams.is_empty() {
            let test = self.path.join(TEST);
            bail!("{}: no rows: an experiment needs questions with known answers", test.display());
        }
        exams.sort_by_key(|exam| exam.name != BALANCED);
        Ok(World { name, pool, exams })
    }

    fn sample(&self, row: &Row) -> anyhow::Result<Sample> {
        Ok(Sample {
            id: row.id.clone(),
            image_png: self.image(row)?,
            question: row.question.clone(),
            paraphrases: row.paraphrases.clone(),
            answer: row.answer.clone(),
            choices: row.choices.clone(),
            reasoning: row.reasoning.clone(),
            regions: row.regions.clone(),
            family: row.family.clone(),
            cell_captions: Vec::new(),
        })
    }
}

fn rows(folder: &Path, name: &str, seen: &mut HashSet<String>) -> anyhow::Result<Vec<Row>> {
    let file = folder.join(name);
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read {}: a world is a folder with {POOL}, {TEST} and images", file.display())
    })?;
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}, line {}", file.display(), index + 1);
        match serde_json::from_str::<Row>(line) {
            Err(error) => faults.push(format!("{place}: {error}: {}", cure(&error))),
            Ok(row) => {
                let own = check(&row, folder, seen, name == TEST);
                faults.extend(own.into_iter().map(|fault| format!("{place}, {fault}")));
                rows.push(row);
            }
        }
    }
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(TOLD);
        let mut told = faults[..faults.len().min(TOLD)].join("\n");
        if more > 0 {
            told.push_str(&format!("\nand {more} more"));
        }
        bail!("{told}");
    }
    Ok(rows)
}

/// How to mend a line that is not a row.
fn cure(error: &serde_json::Error) -> &'static str {
    if error.is_data() {
        "each line is an object with id, image, question and (in test.jsonl and for experiments) answer, and optionally \
         reasoning, regions, family, split, slice, choices, paraphrases"
    } else {
        "each line has to be one complete JSON object"
    }
}

/// What is wrong with a row: the field and the cure.
fn check(row: &Row, folder: &Path, seen: &mut HashSet<String>, answered: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |ok: bool, field: &str, text: String| {
        if !ok {
            faults.push(format!("field {field}: {text}"));
        }
    };
    let texts = [("id", &row.id), ("question", &row.question)];
    for (field, text) in texts.into_iter().chain(answered.then_some(("answer", &row.answer))) {
        check(!text.trim().is_empty(), field, "is empty: give it a text".to_owned());
    }
    let fresh = seen.insert(row.id.clone());
    check(fresh, "id", format!("{:?} was used before: ids are unique over both files", row.id));
    let inside = !row.image.starts_with('/') && !row.image.split('/').any(|part| part == "..");
    check(inside, "image", format!("{:?} leaves the folder: put the picture into it", row.image));
    if inside {
        let there = folder.join(&row.image).is_file();
        check(
            there,
            "image",
            format!("there is no file {:?} in the folder: add it or mend the path", row.image),
        );
    }
    let answer = row.answer.trim();
    let closed = answer.is_empty()
        || row.choices.is_empty()
        || row.choices.iter().any(|choice| choice.trim() == answer);
    check(closed, "answer", format!("{answer:?} is not among the choices: add it there or mend it"));
    for region in &row.regions {
        let [x0, y0, x1, y1] = *region;
        let sound = region.iter().all(|edge| (0.0..=1.0).contains(edge)) && x0 < x1 && y0 < y1;
        check(
            sound,
            "regions",
            format!("{region:?} is not [x0, y0, x1, y1] as fractions with x0 < x1 and y0 < y1"),
        );
    }
    faults
}
