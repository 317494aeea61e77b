//! Labels that are probably wrong.

use super::*;
use crate::store::halves;

#[sqlx::test]
async fn a_label_that_the_serving_version_finds_improbable_is_told_with_what_it_believes(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", policy(), 20).await;
    let first = PageRequest::default();
    assert_eq!(stage.service.list_suspect_labels("light", &first).await.expect("a page").items, []);
    stage.label_two_of_each().await;
    let pool = stage.service.get_pool("light").await.expect("the pool");
    let labelled = stage.service.store.training_set(pool.id, None).await.expect("labels").samples;
    assert_eq!(labelled.len(), 4);
    let odd = &labelled[2];
    believe(&stage, &db, &labelled, odd.id).await;
    let found = stage.service.list_suspect_labels("light", &first).await.expect("a page").items;
    let [suspect] = &found[..] else { panic!("one label: {found:?}") };
    assert_eq!((&suspect.sample, suspect.answer.as_str()), (&odd.name, given(odd)));
    assert_ne!(suspect.suggested, suspect.answer);
    assert_eq!((suspect.probabilities, suspect.labels, suspect.votes), ([0.125, 0.875], 1, 1));
}

#[sqlx::test]
async fn a_doubted_label_is_asked_about_again_of_somebody_else_and_at_most_twice(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", policy(), 20).await;
    stage.label_two_of_each().await;
    let pool = stage.service.get_pool("light").await.expect("the pool");
    let labelled = stage.service.store.training_set(pool.id, None).await.expect("labels").samples;
    let odd = &labelled[2];
    believe(&stage, &db, &labelled, odd.id).await;

    // A policy that only lists suspects does not ask again.
    assert_eq!(stage.asked_again(6).await, Vec::<String>::new());
    let share = |relabel_share| Policy { relabel_share, ..policy() };
    let update = |policy| async {
        let update = crate::service::PoolPatch { policy: Some(policy), ..Default::default() };
        stage.service.update_pool("light", update).await.expect("another policy");
    };
    update(share(0.5)).await;
    assert_eq!(stage.asked_again(6).await, std::slice::from_ref(&odd.name));

    // Who labelled it is not asked; somebody else is, and says otherwise.
    assert!(stage.service.store.top_up_plan(pool.id, stage.service.now()).await.expect("more of a plan"));
    stage.work().await;
    let replay = stage.service.replay_selection("light", 2).await.expect("a replay");
    assert!(replay.equal, "{replay:?}");
    let own = stage.ask("light", "ann", 20, "own").await;
    assert!(own.queries.iter().all(|query| query.arm != crate::domain::Arm::Relabel), "{own:?}");
    let other = stage.ask("light", "bea", 20, "other").await;
    let [query] = &other.queries[..] else { panic!("the one place left: {other:?}") };
    assert_eq!((&query.sample, query.arm), (&odd.name, crate::domain::Arm::Relabel));
    let lease = other.lease.clone().expect("a lease");
    let otherwise = if given(odd) == "bright" { "dark" } else { "bright" };
    let answer = |text: &str| Answer { text: text.to_owned(), ..Answer::default() };
    let label = |text: &str| NewLabel {
        sample: odd.name.clone(),
        client_label_id: format!("again/{text}"),
        content: Content::Answer(answer(text)),
        lead_time_ms: None,
        seen_version: None,
    };
    let submit = SubmitLabels {
        pool: "light".to_owned(),
        request_id: "again".to_owned(),
        lease: Some(lease.id),
        token: Some(lease.token),
        annotator: "bea".to_owned(),
        labels: vec![label(otherwise)],
    };
    let verdicts = stage.service.submit_labels(submit).await.expect("verdicts");
    assert!(verdicts[0].code.stored(), "{verdicts:?}");
    let kept = stage.service.list_labels("light", Some(&odd.name), &PageRequest::default()).await;
    let arms: Vec<_> = kept.expect("labels").items.iter().map(|label| label.arm).collect();
    assert_eq!((arms.len(), arms[1]), (2, crate::domain::Arm::Relabel));

    // They differ, so it would be asked about once more, but not in the round that has asked; then never again.
    assert_eq!(stage.asked_again(6).await, Vec::<String>::new());
    let version = stage.serving("light").await;
    let doubted = || stage.service.doubted(&pool, version.id, None, 5);
    assert_eq!(doubted().await.expect("doubts"), [odd.id]);
    sqlx::query("UPDATE samples SET extra_labels = 2 WHERE id = $1")
        .bind(odd.id.0)
        .execute(&db)
        .await
        .expect("a change");
    assert_eq!(doubted().await.expect("doubts"), []);
}

/// Makes the serving version as sure of every label as can be, but of one.
async fn believe(
    stage: &Stage,
    db: &PgPool,
    labelled: &[crate::store::LabelledSample],
    odd: crate::domain::SampleId,
) {
    let version = stage.serving("light").await;
    for sample in labelled {
        let bright = given(sample) == "bright";
        let believed = if bright == (sample.id != odd) { [0.875, 0.125] } else { [0.125, 0.875] };
        let changed = sqlx::query(
            "UPDATE scores SET members = 1, probabilities = $3 WHERE version_id = $1 AND sample_id = $2",
        )
        .bind(version.id.0)
        .bind(sample.id.0)
        .bind(halves(&believed))
        .execute(db)
        .await;
        assert_eq!(changed.expect("a change").rows_affected(), 1, "the next round has scored it");
    }
}

/// What its first annotator said.
fn given(sample: &crate::store::LabelledSample) -> &str {
    &sample.answers[0].answer.text
}

impl Stage {
    /// A first round with two labels of each answer, whatever is to be seen: a class by itself is its own standard. The
    /// next one is scored and planned.
    async fn label_two_of_each(&self) {
        let batch = self.planned_batch("light", 4, "r1").await;
        let lease = batch.lease.as_ref().expect("a lease");
        let labels =
            batch.queries.iter().zip(["bright", "dark"].iter().cycle()).map(|(query, answer)| NewLabel {
                sample: query.sample.clone(),
                client_label_id: query.sample.clone(),
                content: Content::Answer(Answer { text: (*answer).to_owned(), ..Answer::default() }),
                lead_time_ms: None,
                seen_version: None,
            });
        let request = SubmitLabels {
            pool: "light".to_owned(),
            request_id: "r1".to_owned(),
            lease: Some(lease.id),
            token: Some(lease.token),
            annotator: "ann".to_owned(),
            labels: labels.collect(),
        };
        let verdicts = self.service.submit_labels(request).await.expect("verdicts");
        assert!(verdicts.len() == 4 && verdicts.iter().all(|v| v.code.stored()), "{verdicts:?}");
        self.work().await;
    }

    /// What a plan of so many would ask about again.
    async fn asked_again(&self, size: usize) -> Vec<String> {
        let preview = crate::service::PreviewBatch { pool: "light".to_owned(), strategy: None, size };
        let items = self.service.preview_batch(preview).await.expect("a preview").items;
        let again = items.into_iter().filter(|item| item.entry.arm == crate::domain::Arm::Relabel);
        again.map(|item| item.name).collect()
    }
}
