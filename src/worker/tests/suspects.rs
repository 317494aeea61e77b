//! Labels that are probably wrong.

use super::*;
use crate::store::halves;

#[sqlx::test]
async fn a_label_that_the_serving_version_finds_improbable_is_told_with_what_it_believes(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", policy(), 20).await;
    let first = PageRequest::default();
    assert_eq!(stage.service.list_suspect_labels("light", &first).await.expect("a page").items, []);
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let version = stage.serving("light").await;
    let pool = stage.service.get_pool("light").await.expect("the pool");
    let labelled = stage.service.store.training_set(pool.id, None).await.expect("labels").samples;
    assert_eq!(labelled.len(), 4);
    // The version is as sure of every label as can be, but of one.
    let odd = &labelled[2];
    for sample in &labelled {
        let bright = right_answer(&sample.name) == "bright";
        let believed = if bright == (sample.id != odd.id) { [0.875, 0.125] } else { [0.125, 0.875] };
        let changed = sqlx::query(
            "UPDATE scores SET members = 1, probabilities = $3 WHERE version_id = $1 AND sample_id = $2",
        )
        .bind(version.id.0)
        .bind(sample.id.0)
        .bind(halves(&believed))
        .execute(&db)
        .await;
        assert_eq!(changed.expect("a change").rows_affected(), 1, "the next round has scored it");
    }
    // Its class must have another label for the version to be trusted with it.
    let twin = labelled.iter().filter(|s| right_answer(&s.name) == right_answer(&odd.name)).count() > 1;
    let other = labelled.iter().any(|s| right_answer(&s.name) != right_answer(&odd.name));
    let found = stage.service.list_suspect_labels("light", &first).await.expect("a page").items;
    if !(twin && other) {
        assert_eq!(found, [], "a class by itself is its own standard: {labelled:?}");
        return;
    }
    let [suspect] = &found[..] else { panic!("one label: {found:?}") };
    assert_eq!((&suspect.sample, suspect.answer.as_str()), (&odd.name, right_answer(&odd.name)));
    assert_ne!(suspect.suggested, suspect.answer);
    assert_eq!((suspect.probabilities, suspect.labels, suspect.votes), ([0.125, 0.875], 1, 1));
}
