//! What a training of months meets: losses that are no numbers, and what must not come of them.

use super::*;
use crate::domain::{TrainingMode, VersionState};

/// A policy whose trainings are no numbers after their first step: adapters whose scale overflows once they have moved.
fn diverging() -> Policy {
    let training = Training {
        mode: TrainingMode::Lora,
        lora_alpha: 1e30,
        learning_rate: 1.0,
        min_steps: 20,
        max_steps: 20,
        ..policy().training
    };
    Policy { training, ..policy() }
}

#[sqlx::test]
async fn a_training_whose_loss_is_no_number_is_set_aside_at_once_and_the_round_goes_on(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", diverging(), 30).await;
    stage.labelled_round("light", "r1").await;
    stage.work().await;
    let training = &stage.trainings("light").await[0];
    assert_eq!((training.state, training.attempts), (JobState::Failed, 1), "{training:?}");
    let error = training.error.as_deref().expect("a cause");
    assert!(error.contains("training diverged at step"), "{error}");
    assert!(error.contains("lower the learning rate"), "it names the cure: {error}");
    let rounds = stage.rounds("light").await;
    assert_eq!(states(&rounds), [RoundState::Failed, RoundState::Labelling]);
    assert_eq!(rounds[0].error.as_deref(), Some(error));
    let serving = stage.serving("light").await;
    assert_eq!((serving.number, serving.state), (0, VersionState::Serving));
    assert_eq!((stage.checkpoints(), stage.service.engine.health().forks), (0, 0), "nothing is left behind");

    // The same labels do not begin the same lost cause again; one more label does, and by a policy that was cured it ends
    // well, on all of them.
    assert_eq!(stage.work().await, 0);
    let change = crate::store::PoolChange { policy: Some(policy()), ..Default::default() };
    stage.service.store.update_pool("light", &change, stage.service.now()).await.expect("another policy");
    let batch = stage.ask("light", "ann", 1, "r2").await;
    assert_eq!(batch.queries.len(), 1, "{batch:?}");
    stage.label("light", &batch, "l2").await;
    stage.work().await;
    let serving = stage.serving("light").await;
    assert_eq!((serving.number, serving.label_count), (1, 5));
}

