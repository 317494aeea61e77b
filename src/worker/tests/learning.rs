//! Trainings that learn from more than answers, and from more than the base.

use super::endings::attempt_of;
use super::*;
use crate::{
    domain::{InitFrom, Losses, Method, Refinement, Retention, Start},
    store::PoolChange,
};

/// A policy whose trainings take `steps` steps, half of them on reasonings set against each other.
fn contrasting(steps: u32) -> Policy {
    let training = Training {
        min_steps: steps,
        max_steps: steps,
        losses: Losses { attention: 0.3, faithfulness: 0.2, ..Losses::default() },
        refinement: Refinement { method: Method::Contrast, share: 0.5, chains: 2, ..Refinement::default() },
        ..policy().training
    };
    Policy { training, ..policy() }
}

#[sqlx::test]
async fn a_training_lost_after_it_reasoned_goes_on_to_the_same_weights(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("whole", contrasting(20), 20).await;
    stage.labelled_round("whole", "r1").await;
    stage.work().await;
    let done = &stage.trainings("whole").await[0];
    assert_eq!(done.state, JobState::Succeeded, "{done:?}");
    let curve = stage.service.store.training_steps(done.id, 1, None, 100).await.expect("a curve");
    assert_eq!(curve.len(), 20);
    assert!(curve[9].parts.contains_key("reasoning") && !curve[9].parts.contains_key("preference"));
    // What people rejected is set against what they wrote, whatever the model makes of it.
    assert!(curve[10].parts.contains_key("preference"), "{:?}", curve[10]);

    stage.pool("cut", contrasting(20), 20).await;
    stage.labelled_round("cut", "r1").await;
    let job = stage.claim(JobKind::Train).await;
    let (_tell, attempt) = attempt_of(&job);
    let service = stage.service.clone();
    let lost = tokio::spawn(async move { service.train_round(&attempt).await });
    while stage.service.get_training("cut", job.id).await.expect("it").progress.done < 12 {
        tokio::task::yield_now().await;
    }
    lost.abort();
    assert!(lost.await.expect_err("cut off").is_cancelled());
    stage.outlive_workers().await;
    stage.work().await;
    let done = stage.service.get_training("cut", job.id).await.expect("it");
    assert_eq!((done.state, done.attempts), (JobState::Succeeded, 2), "{done:?}");
    let (whole, cut) = (stage.serving("whole").await, stage.serving("cut").await);
    assert_eq!(whole.blob_key, cut.blob_key, "bit for bit the same version");
}

#[sqlx::test]
async fn a_warm_start_goes_on_from_the_version_that_planned_the_round(db: PgPool) {
    let stage = stage(db).await;
    let start = Start { init_from: InitFrom::Previous, shrink: 1.0, replay: 0.0, version: None };
    let training = Training { start, min_steps: 30, max_steps: 30, learning_rate: 5e-3, ..policy().training };
    stage.pool("warm", Policy { training: training.clone(), ..policy() }, 30).await;
    stage.labelled_round("warm", "r1").await;
    stage.work().await;
    let first = stage.serving("warm").await;
    // From now on a training changes next to nothing, so that what it began with is what it ends with.
    let pool = stage.service.get_pool("warm").await.expect("the pool");
    let still = Training { learning_rate: 1e-12, min_steps: 1, max_steps: 1, ..training };
    let policy = Policy { training: still, ..pool.policy.clone() };
    let change = PoolChange { policy: Some(policy), ..PoolChange::default() };
    stage.service.store.update_pool("warm", &change, stage.service.now()).await.expect("another policy");
    stage.labelled_round("warm", "r2").await;
    stage.work().await;
    let second = stage.serving("warm").await;
    assert_eq!((first.number, second.number), (1, 2));
    let loss = |version: &crate::domain::Version| version.validation.as_ref().expect("an evaluation").loss;
    let base = stage.service.store.version(pool.id, 0).await.expect("the base");
    let base = base.validation.as_ref().expect("an evaluation").loss;
    assert!((loss(&second) - loss(&first)).abs() < 1e-4, "{} {}", loss(&first), loss(&second));
    assert!((loss(&second) - base).abs() > 1e-2, "{base} {}", loss(&second));
}

#[sqlx::test]
async fn a_training_begins_with_the_version_that_the_policy_names_which_keeps_its_weights(db: PgPool) {
    let stage = stage(db).await;
    let training = Training { min_steps: 30, max_steps: 30, learning_rate: 5e-3, ..policy().training };
    let retention = Retention { keep_refused: 0, keep_retired: 0 };
    let start = Start { shrink: 1.0, replay: 0.0, ..Start::default() };
    let first = Policy { training: Training { start, ..training }, ..policy() };
    stage.pool("light", first.clone(), 30).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let begin_with = async |number, retention: Retention| {
        let start = Start { init_from: InitFrom::Version, version: Some(number), ..start };
        let still =
            Training { learning_rate: 1e-12, min_steps: 1, max_steps: 1, start, ..first.training.clone() };
        let policy = Policy { training: still, retention, ..first.clone() };
        let change = PoolChange { policy: Some(policy), ..PoolChange::default() };
        stage.service.store.update_pool("light", &change, stage.service.now()).await.expect("a policy");
    };
    // Another one serves before the first is named again.
    stage.labelled_round("light", "r2").await;
    begin_with(0, Retention::default()).await;
    stage.work().await;
    begin_with(1, retention.clone()).await;
    stage.labelled_round("light", "r3").await;
    stage.work().await;
    let loss = async |number| {
        let version = stage.service.get_version("light", number).await.expect("a version");
        version.validation.expect("an evaluation").loss
    };
    let (base, named, warm) = (loss(2).await, loss(1).await, loss(3).await);
    assert!((warm - named).abs() < 1e-4 && (warm - base).abs() > 1e-2, "{base} {named} {warm}");
    let named = stage.service.get_version("light", 1).await.expect("it");
    assert_eq!(named.weights_expired_at, None, "the policy names it");

    begin_with(9, retention.clone()).await;
    stage.labelled_round("light", "r4").await;
    stage.work().await;
    let failed = stage.trainings("light").await.pop().expect("a training");
    assert_eq!((failed.state, failed.attempts), (JobState::Failed, 1), "{failed:?}");
    let error = failed.error.expect("a cause");
    assert!(error.contains("policy.training.start.version names version 9"), "{error}");
}
