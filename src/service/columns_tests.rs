//! What columns make of scores: terms, values, and whose figures count.

use super::*;
use uuid::Uuid;

/// A row of a closed space of two answers.
pub fn row(i: usize, family: &str, probability: f32) -> ScoreRow {
    let p = [probability, 1.0 - probability];
    ScoreRow {
        sample: SampleId(Uuid::from_u128(i as u128)),
        image: Uuid::from_u128(i as u128 / 2),
        family: family.to_owned(),
        shard: 0,
        place: i as i32,
        candidate: true,
        centre: false,
        entropy: uncertainty::entropy(&p),
        margin: uncertainty::margin(&p),
        model: Some(0.0),
        visual: None,
        language: None,
        reasoning: None,
        image_nats: None,
        zoom_gain: None,
        viewed: false,
        reasoned: false,
        value: None,
        imported: false,
        members: 1,
        classes: 2,
        probabilities: Some(crate::store::halves(&p)),
        choices: Vec::new(),
    }
}

pub fn columns(rows: Vec<ScoreRow>) -> Columns {
    let (mut columns, mut groups) = (Columns::default(), Groups::new());
    for row in rows {
        columns.push(row, &mut groups, None, Reading::default()).expect("a sound row");
    }
    columns.names = groups.names;
    columns
}

#[test]
fn groups_and_images_become_numbers() {
    let columns = columns(vec![row(0, "a", 0.5), row(1, "b", 0.5), row(2, "a", 0.5)]);
    assert_eq!((columns.images, columns.families), (vec![0, 0, 1], vec![0, 1, 0]));
    assert_eq!(columns.names, ["a", "b"]);
}

#[test]
fn a_value_is_the_learnable_sum_of_terms_and_a_client_s_own_goes_before_it() {
    let measured =
        ScoreRow { visual: Some(0.25), language: Some(0.125), model: Some(0.5), ..row(0, "a", 0.5) };
    let brought = ScoreRow { value: Some(3.0), ..row(1, "b", 0.5) };
    let columns = columns(vec![measured, brought]);
    let rho = [("a".to_owned(), 0.5)].into();
    let found = columns.information(&Weights { model: 2.0, ..Weights::default() }, &rho).expect("values");
    assert_eq!(found.value, [0.5 * (0.25 + 0.125 + 2.0 * 0.5), 3.0]);
    assert!(columns.uncertainty(&found, 1).imputed);
}

#[test]
fn what_a_zoom_settles_is_taken_off_the_visual_term_and_off_nothing_else() {
    let seen = |zoom_gain| ScoreRow {
        visual: Some(0.25),
        language: Some(0.125),
        zoom_gain: Some(zoom_gain),
        ..row(0, "a", 0.5)
    };
    let columns = columns(vec![seen(0.125), seen(9.0), seen(-1.0)]);
    let found = columns.information(&Weights::default(), &BTreeMap::new()).expect("values");
    assert_eq!(found.value, [0.25, 0.125, 0.375]);
    let told = columns.uncertainty(&found, 1);
    assert_eq!((told.visual, told.zoom_gain), (Some(0.25), Some(9.0)), "the term as it was measured");
    let like =
        |i| ScoreRow { zoom_gain: Some(0.25), visual: Some(0.25), language: Some(0.0), ..row(i, "a", 0.5) };
    let unseen = row(9, "a", 0.5);
    let columns = self::columns((0..6).map(like).chain([unseen]).collect());
    let found = columns.information(&Weights::default(), &BTreeMap::new()).expect("values");
    assert!(found.visual[6] < 0.01, "who was not looked at has no more: {}", found.visual[6]);
}

#[test]
fn what_the_model_is_sure_has_no_answer_is_worth_no_label_and_its_neighbours_keep_theirs() {
    let (mut columns, mut groups) = (Columns::default(), Groups::new());
    let space = ["yes".to_owned(), "Unanswerable.".to_owned()];
    let reading = Reading { space: &space, abstention: "unanswerable", ..Reading::default() };
    let own = ScoreRow { choices: vec!["1".to_owned(), "2".to_owned()], ..row(2, "a", 0.25) };
    for row in [row(0, "a", 0.25), row(1, "a", 0.75), own] {
        let seen = ScoreRow { visual: Some(0.5), language: Some(0.0), reasoning: Some(0.0), ..row };
        columns.push(seen, &mut groups, None, reading).expect("a sound row");
    }
    columns.names = groups.names;
    assert_eq!(columns.unanswerable, [0.75, 0.25, 0.0], "who cannot say so does not");
    let found = columns.information(&Weights::default(), &BTreeMap::new()).expect("values");
    assert_eq!(found.value, [0.125, 0.375, 0.5]);
    let halved = [("a".to_owned(), 0.5)].into();
    let found = columns.information(&Weights::default(), &halved).expect("values");
    assert_eq!(found.value, [0.0625, 0.1875, 0.25], "and its family's learnability counts as before");
}

#[test]
fn entropy_stands_for_the_information_where_nothing_else_is_known() {
    let columns = columns(vec![row(0, "a", 0.5), row(1, "a", 1.0)]);
    let found = columns.information(&Weights::default(), &BTreeMap::new()).expect("values");
    assert_eq!(found.value, columns.entropy);
}

#[test]
fn a_temperature_changes_the_model_s_figures_and_not_the_client_s() {
    let (mut columns, mut groups) = (Columns::default(), Groups::new());
    columns.push(row(0, "a", 0.75), &mut groups, Some(2.0), Reading::default()).expect("a sound row");
    let own = ScoreRow { imported: true, entropy: 0.125, ..row(1, "a", 0.75) };
    columns.push(own, &mut groups, Some(2.0), Reading::default()).expect("a sound row");
    // sqrt(0.75) : sqrt(0.25) = 0.634 : 0.366
    assert!((columns.entropy[0] - 0.6568).abs() < 1e-3, "{}", columns.entropy[0]);
    assert_eq!(columns.entropy[1], 0.125);
}

#[test]
fn equal_answers_of_two_spaces_are_one_class_and_an_open_space_has_none() {
    let mut columns = Columns { answers: Some(AnswerColumns::default()), ..Columns::default() };
    let (mut groups, pool) = (Groups::new(), ["yes".to_owned(), "no".to_owned()]);
    let own = ScoreRow { choices: vec!["Maybe".to_owned(), "No.".to_owned()], ..row(1, "a", 0.25) };
    let open = ScoreRow { probabilities: None, members: 0, classes: 0, ..row(2, "a", 0.5) };
    for row in [row(0, "a", 0.75), own, open] {
        let reading = Reading { space: &pool, distributions: true, ..Reading::default() };
        columns.push(row, &mut groups, None, reading).expect("a sound row");
    }
    let answers = columns.answers.expect("distributions");
    assert_eq!((answers.members, answers.classes.as_slice()), (1, [0, 1, 2, 1].as_slice()));
    assert_eq!((answers.span(0), answers.span(1), answers.span(2)), (0..2, 2..4, 4..4));
    assert_eq!(
        answers.probabilities.iter().map(|p| p.to_f32()).collect::<Vec<_>>(),
        [0.75, 0.25, 0.25, 0.75]
    );
}

#[test]
fn six_decimals_survive_their_being_written_down() {
    for number in [0.123456789, 1.0 / 3.0, 17.000001, 1e-7] {
        let short = short(number);
        let there = serde_json::to_string(&short).expect("JSON");
        assert_eq!(serde_json::from_str::<f64>(&there).expect("a number").to_bits(), short.to_bits());
    }
}
