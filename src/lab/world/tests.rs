use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::lab::sample::Place;

const KNOBS: Knobs =
    Knobs { pool: 400, redundancy: 0.5, long_tail: 1.0, outliers: 0.12, flipped: 0.03, abstention: false };
const SIZES: ExamSizes = ExamSizes { balanced: 48, other: 40 };

fn both(knobs: Knobs) -> [World; 2] {
    [WorldKind::Digits, WorldKind::Boards].map(|kind| World::new(kind, &knobs, SIZES, 3))
}

fn numbers(text: &str) -> Vec<usize> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Answers a question about digits from captions and wording alone.
fn digits_answer(sample: &Sample) -> String {
    let at = |row: usize, column: usize| {
        sample.cell_captions[Place { row: row - 1, column: column - 1 }.lattice_index()].clone()
    };
    let digit = |row, column| at(row, column).parse::<usize>().expect("a digit");
    let hits = |wanted: usize| sample.cell_captions.iter().filter(|c| **c == wanted.to_string()).count();
    let row = |row: usize| (1..=4).filter_map(|column| at(row, column).parse::<usize>().ok()).sum::<usize>();
    let n = numbers(&sample.question);
    let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    let parity = |n: usize| if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned();
    match sample.family.as_str() {
        "exist" => yes(hits(n[0]) > 0),
        "read" => at(n[0], n[1]),
        "parity" => parity(digit(n[0], n[1])),
        "count" => hits(n[0]).to_string(),
        "compare" => yes(digit(n[0], n[1]) > digit(n[2], n[3])),
        "sum" => row(n[0]).to_string(),
        "sum_parity" => parity(row(n[0])),
        other => panic!("unknown family {other}"),
    }
}

/// The same for boards; nothing for families whose wording takes more than this to parse.
fn boards_answer(sample: &Sample) -> Option<String> {
    const WORDS: [&str; 13] = [
        "small", "large", "red", "green", "blue", "yellow", "purple", "white", "circle", "square",
        "triangle", "cross", "diamond",
    ];
    let named: Vec<&str> = sample
        .question
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| WORDS.contains(word))
        .collect();
    let has = |caption: &str, words: &[&str]| words.iter().all(|word| caption.split(' ').any(|w| w == *word));
    let hits = |words: &[&str]| sample.cell_captions.iter().filter(|caption| has(caption, words)).count();
    let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    let n = numbers(&sample.question);
    Some(match sample.family.as_str() {
        "exist" => yes(hits(&named) > 0),
        "pair" => {
            assert_eq!(named.len(), 2, "{}", sample.question);
            yes(hits(&named) > 0)
        }
        "count" => hits(&named).to_string(),
        "count_parity" => if hits(&named) % 2 == 0 { "even" } else { "odd" }.to_owned(),
        "row_count" => {
            let row = &sample.cell_captions[(n[0] - 1) * 4..n[0] * 4];
            row.iter().filter(|caption| has(caption, &named)).count().to_string()
        }
        "more" if sample.question.contains("less") => yes(hits(&named[1..]) > hits(&named[..1])),
        "more" => yes(hits(&named[..1]) > hits(&named[1..])),
        "query" => {
            let place = Place { row: n[0] - 1, column: n[1] - 1 };
            let caption = &sample.cell_captions[place.lattice_index()];
            assert!(has(caption, &[&sample.answer]), "{sample:?}");
            sample.answer.clone()
        }
        _ => return None,
    })
}

#[test]
fn answers_recomputed_from_captions_and_wordings_agree() {
    let [digits, boards] = both(KNOBS);
    let honest = |world: &World| -> Vec<Sample> {
        let pool = world.pool.iter().filter(|item| !item.outlier).map(|item| item.sample.clone());
        pool.chain(world.exams.iter().flat_map(|exam| exam.samples.clone())).collect()
    };
    for sample in honest(&digits) {
        assert_eq!(digits_answer(&sample), sample.answer, "{}: {}", sample.id, sample.question);
    }
    let mut checked = 0;
    for sample in honest(&boards) {
        if let Some(answer) = boards_answer(&sample) {
            assert_eq!(answer, sample.answer, "{}: {}", sample.id, sample.question);
            checked += 1;
        }
    }
    assert!(checked > 400);
}

#[test]
fn shares_are_exact_and_the_rest_is_long_tailed() {
    for world in both(KNOBS) {
        assert_eq!(world.pool.len(), 400);
        assert_eq!(world.pool.iter().filter(|item| item.outlier).count(), 48);
        assert_eq!(world.pool.iter().filter(|item| item.easy).count(), 176);
        let wrong = |item: &&Item| !item.outlier && item.annotation.answer != item.sample.answer;
        assert_eq!(world.pool.iter().filter(wrong).count(), 12);
        let tail = world.pool.iter().filter(|item| !item.easy && !item.outlier);
        let mut counts = BTreeMap::<&str, usize>::new();
        tail.for_each(|item| *counts.entry(&item.sample.family).or_default() += 1);
        assert!(counts.values().max() >= counts.values().min().map(|least| least * 3).as_ref());
        for item in &world.pool {
            assert!(item.sample.choices.contains(&item.annotation.answer), "{item:?}");
            assert_eq!(item.sample.paraphrases.len(), 2);
            assert!(!item.sample.paraphrases.contains(&item.sample.question));
        }
    }
}

#[test]
fn who_may_abstain_does_and_the_answer_is_open_to_every_question() {
    for world in both(Knobs { abstention: true, ..KNOBS }) {
        for item in &world.pool {
            assert!(item.sample.choices.contains(&UNANSWERABLE.to_owned()));
            let abstains = item.annotation.answer == UNANSWERABLE;
            assert!(abstains == item.outlier || item.annotation.answer != item.sample.answer);
        }
        assert!(world.exams.iter().any(|exam| exam.name == "unanswerable"));
    }
    for world in both(KNOBS) {
        assert!(world.pool.iter().all(|item| item.annotation.answer != UNANSWERABLE));
    }
}

#[test]
fn pictures_are_never_shared_and_ids_are_unique() {
    for world in both(KNOBS) {
        let (mut ids, mut pictures) = (HashSet::new(), HashSet::new());
        let tests = world.exams.iter().flat_map(|exam| &exam.samples);
        for sample in world.pool.iter().map(|item| &item.sample).chain(tests) {
            assert!(ids.insert(&sample.id), "{} twice", sample.id);
            assert!(pictures.insert(&sample.image_png), "the picture of {} twice", sample.id);
        }
    }
}

/// Whether a pair that is kept apart meets in the question.
fn pair_meets(world: &World, sample: &Sample) -> bool {
    if world.name == "boards" {
        const COLOURS: [&str; 6] = ["red", "green", "blue", "yellow", "purple", "white"];
        const SHAPES: [&str; 5] = ["circle", "square", "triangle", "cross", "diamond"];
        let words: Vec<&str> = sample.question.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let place = |names: &[&str]| names.iter().position(|name| words.contains(name));
        return match (place(&COLOURS), place(&SHAPES)) {
            (Some(colour), Some(shape)) => (colour + shape) % 5 == 0,
            _ => false,
        };
    }
    let n = numbers(&sample.question);
    let digit = |row: usize, column: usize| -> Option<i32> {
        sample.cell_captions[(row - 1) * 4 + column - 1].parse().ok()
    };
    match sample.family.as_str() {
        "compare" => digit(n[0], n[1]).zip(digit(n[2], n[3])).is_some_and(|(a, b)| (a - b).abs() == 3),
        "sum" | "sum_parity" => (1..4).any(|column| {
            digit(n[0], column).zip(digit(n[0], column + 1)).is_some_and(|(a, b)| (a - b).abs() == 3)
        }),
        _ => false,
    }
}

#[test]
fn held_out_pairs_meet_in_the_composition_examination_only() {
    for world in both(KNOBS) {
        assert!(world.pool.iter().all(|item| item.outlier || !pair_meets(&world, &item.sample)));
        for exam in &world.exams {
            for sample in &exam.samples {
                assert_eq!(pair_meets(&world, sample), exam.name == "composition", "{}", sample.id);
            }
        }
    }
}

fn exam<'a>(world: &'a World, name: &str) -> &'a Exam {
    world.exams.iter().find(|exam| exam.name == name).expect("an examination of this name")
}

fn side(sample: &Sample) -> usize {
    let filled = |at: &usize| sample.cell_captions[*at] != "empty";
    let last = |at: usize| (at / 4).max(at % 4) + 1;
    (0..16).filter(filled).map(last).max().unwrap_or(0)
}

#[test]
fn only_the_size_examination_has_large_boards() {
    for world in both(KNOBS) {
        assert!(world.pool.iter().all(|item| side(&item.sample) <= 3));
        for exam in world.exams.iter().filter(|exam| exam.name != "size") {
            assert!(exam.samples.iter().all(|sample| side(sample) <= 3), "{}", exam.name);
        }
        assert!(exam(&world, "size").samples.iter().filter(|sample| side(sample) == 4).count() > 30);
    }
}

#[test]
fn counterfactual_pairs_differ_in_one_cell_of_the_picture_and_in_the_answer() {
    for world in both(KNOBS) {
        let pairs = exam(&world, "counterfactual");
        assert!(pairs.paired && pairs.samples.len() == 40);
        for pair in pairs.samples.chunks(2) {
            assert_eq!(pair[0].question, pair[1].question);
            assert_ne!(pair[0].answer, pair[1].answer);
            let differing: Vec<usize> =
                (0..16).filter(|at| pair[0].cell_captions[*at] != pair[1].cell_captions[*at]).collect();
            assert_eq!(differing.len(), 1, "{}", pair[0].id);
            let pixels = [&pair[0], &pair[1]]
                .map(|sample| image::load_from_memory(&sample.image_png).expect("a picture").to_rgb8());
            for (x, y, pixel) in pixels[0].enumerate_pixels() {
                let cell = (y / 16 * 4 + x / 16) as usize;
                assert!(pixels[1].get_pixel(x, y) == pixel || cell == differing[0], "{}", pair[0].id);
            }
        }
    }
}

#[test]
fn what_is_absent_is_denied_and_unseen_wordings_are_unseen() {
    for world in both(KNOBS) {
        assert!(exam(&world, ABSENT).samples.iter().all(|sample| sample.answer == "no"));
        for sample in &exam(&world, "paraphrase").samples {
            let wording = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let own = wording(&sample.question);
            let met = world
                .pool
                .iter()
                .any(|item| item.sample.family == sample.family && item.sample.question == sample.question);
            assert!(!met && !own.is_empty(), "{}", sample.question);
        }
    }
}

#[test]
fn a_seed_is_a_world_and_a_longer_pool_changes_no_examination() {
    let world = |pool, seed| World::new(WorldKind::Digits, &Knobs { pool, ..KNOBS }, SIZES, seed);
    assert_eq!(world(100, 5), world(100, 5));
    assert_ne!(world(100, 5).pool, world(100, 6).pool);
    assert_eq!(world(100, 5).exams, world(200, 5).exams);
}

#[test]
fn a_world_that_is_written_reads_back() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let world = World::new(WorldKind::Digits, &Knobs { pool: 30, ..KNOBS }, SIZES, 5);
    export::write(&world, folder.path())?;
    let read = folder::Folder::read(folder.path())?.world()?;
    assert_eq!(read.pool.len(), 30);
    for (read, made) in read.pool.iter().zip(&world.pool) {
        assert_eq!(read.annotation, made.annotation);
        assert_eq!(read.sample.image_png, made.sample.image_png);
        assert_eq!(read.sample.paraphrases, made.sample.paraphrases);
    }
    let names = |world: &World| world.exams.iter().map(|exam| exam.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&read), names(&world));
    Ok(())
}

#[test]
fn faults_of_a_folder_name_file_line_field_and_cure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let read = || folder::Folder::read(folder.path()).expect_err("a fault").to_string();
    assert!(read().contains("pool.jsonl"), "{}", read());
    std::fs::write(folder.path().join("a.png"), b"x")?;
    let good = r#"{"id":"a","image":"a.png","question":"Why?","answer":"so"}"#;
    std::fs::write(folder.path().join(folder::TEST), "")?;
    for (line, wanted) in [
        (r#"{"id":"a""#, ["line 2", "one complete JSON object"]),
        (r#"{"id":"b","image":"a.png","answer":"so"}"#, ["line 2", "missing field `question`"]),
        (r#"{"id":"b","picture":"a.png"}"#, ["line 2", "unknown field `picture`"]),
        (r#"{"id":"a","image":"a.png","question":"Why?","answer":"so"}"#, ["field id", "unique"]),
        (r#"{"id":"b","image":"b.png","question":"Why?","answer":"so"}"#, ["field image", "add it"]),
        (r#"{"id":"b","image":"../b.png","question":"Why?","answer":"so"}"#, ["field image", "leaves"]),
        (r#"{"id":"b","image":"a.png","question":" ","answer":"so"}"#, ["field question", "give it a text"]),
        (
            r#"{"id":"b","image":"a.png","question":"Why?","answer":"so","choices":["no"]}"#,
            ["field answer", "not among the choices"],
        ),
        (
            r#"{"id":"b","image":"a.png","question":"Why?","answer":"so","regions":[[0.5,0,0.2,1]]}"#,
            ["field regions", "x0 < x1"],
        ),
    ] {
        std::fs::write(folder.path().join(folder::POOL), format!("{good}\n{line}\n"))?;
        let told = read();
        assert!(wanted.iter().all(|part| told.contains(part)), "{told}");
    }
    Ok(())
}

#[test]
fn what_is_to_be_labelled_needs_no_answer_but_an_experiment_and_a_test_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("a.png"), b"x")?;
    let row = r#"{"id":"a","image":"a.png","question":"Why?","choices":["so","no"]}"#;
    std::fs::write(dir.path().join(folder::POOL), row)?;
    std::fs::write(dir.path().join(folder::TEST), "")?;
    let told = folder::Folder::read(dir.path())?.world().expect_err("nobody to ask").to_string();
    assert!(told.contains("sample a: field answer"), "{told}");
    std::fs::write(dir.path().join(folder::TEST), row.replace("\"a\"", "\"b\""))?;
    let told = folder::Folder::read(dir.path()).expect_err("a test without an answer").to_string();
    assert!(told.contains("test.jsonl, line 1, field answer"), "{told}");
    Ok(())
}
