//! The bandit through the worker: its shares are drawn, kept, learnt from, replayed and told.

use super::*;
use crate::{
    domain::{Adaptive, Arm, BanditArm, BanditShare, Stage as Aim, Strategy},
    service::{PinStage, PreviewBatch, Why},
};

fn with_bandit() -> Policy {
    Policy { adaptive: Adaptive { bandit: true, ..Adaptive::default() }, ..policy() }
}

impl Stage {
    /// The shares of a round's first plan.
    async fn shares(&self, pool: &str, number: i64) -> Vec<BanditShare> {
        let round = self.service.get_round(pool, number).await.expect("the round");
        let found = self.service.store.provenance(round.id).await.expect("its provenance");
        found.plans.first().expect("a plan").bandit.clone()
    }

    /// Which ways picked what a round planned, in rank order.
    async fn ways(&self, pool: &str, number: i64) -> Vec<(Arm, Option<BanditArm>)> {
        let round = self.service.get_round(pool, number).await.expect("the round");
        let items = self.service.store.planned(round.id, 0..100).await.expect("a plan");
        items.into_iter().map(|item| (item.entry.arm, item.entry.bandit_arm)).collect()
    }
}

#[sqlx::test]
async fn the_bandit_s_shares_are_kept_learnt_from_and_replayed(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", with_bandit(), 40).await;
    stage.labelled_round("light", "r1").await;
    let first = stage.shares("light", 1).await;
    assert!(first.iter().all(|share| share.labels == 0.0 && share.planned >= 1), "{first:?}");
    let ways = stage.ways("light", 1).await;
    assert_eq!(ways.len(), 8);
    // Two of eight are of the control arm, and each way has its floor of the other six.
    assert_eq!(first.iter().map(|share| share.planned).sum::<u64>(), 6);
    assert!(ways.iter().all(|(arm, way)| way.is_some() == (*arm == Arm::Active)), "{ways:?}");
    for share in &first {
        let there = ways.iter().filter(|(_, way)| *way == Some(share.arm)).count() as u64;
        assert_eq!(there, share.planned, "{share:?} of {ways:?}");
    }

    let batch = stage.ask("light", "bob", 8, "told").await;
    for query in batch.queries.iter().filter(|query| query.arm == Arm::Active) {
        let told = stage.service.explain_selection("light", &query.sample, 1).await.expect("an explanation");
        let way = told.planned.expect("a place").entry.bandit_arm;
        assert!(told.why == Why::Planned && way.is_some() && told.text.contains("bandit's arm"), "{way:?}");
    }

    stage.work().await;
    let second = stage.shares("light", 2).await;
    let labels: f64 = second.iter().map(|share| share.labels).sum();
    assert_eq!(labels, 4.0, "the four labels of the first round: {second:?}");
    assert!(second.iter().any(|share| share.sum != 0.0), "{second:?}");
    assert_eq!(second[BanditArm::Random as usize].arm, BanditArm::Random);
    for number in [1, 2] {
        let replay = stage.service.replay_selection("light", number).await.expect("a replay");
        assert!(replay.equal && replay.compared >= 8, "round {number}: {replay:#?}");
    }
}

#[sqlx::test]
async fn a_pin_and_another_strategy_go_before_the_bandit(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", with_bandit(), 40).await;
    let pin = PinStage { pool: "light".to_owned(), stage: Some(Aim::Boundary), etag: None };
    stage.service.pin_stage(pin).await.expect("a pin");
    stage.planned_batch("light", 1, "r1").await;
    assert!(stage.shares("light", 1).await.is_empty());
    assert!(stage.ways("light", 1).await.iter().all(|(_, way)| way.is_none()));
    let ask = PreviewBatch { pool: "light".to_owned(), strategy: Some(Strategy::Margin), size: 4 };
    let preview = stage.service.preview_batch(ask).await.expect("a preview");
    assert!(preview.items.iter().all(|item| item.entry.bandit_arm.is_none()), "{preview:?}");
}
