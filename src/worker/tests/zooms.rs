//! Zooms: what they settle is taken off the visual term, where enough right answers bear them out.

use super::*;
use crate::{
    domain::{Funnel, FunnelRun},
    service::PoolPatch,
};

/// A picture that is bright in its upper left corner alone.
fn corner(brightness: u8) -> Bytes {
    let pixels = image::RgbImage::from_fn(16, 16, |x, y| {
        image::Rgb([if x < 8 && y < 8 { brightness } else { 255 - brightness }; 3])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).expect("an encodable image");
    bytes.into_inner().into()
}

fn zooming(max_flips: f64) -> Policy {
    Policy { funnel: Funnel { zooms: 2, view_share: 0.5, max_flips, ..Funnel::default() }, ..policy() }
}

async fn account(stage: &Stage) -> FunnelRun {
    let round = stage.service.get_round("light", 1).await.expect("the round");
    stage.service.store.provenance(round.id).await.expect("its provenance").funnel.expect("an account")
}

/// Every picture under both answers: the model has exactly one of the two right, whatever it says.
async fn add_known(stage: &Stage, count: u8) {
    let both = (0..count).flat_map(|i| {
        ["bright", "dark"].map(|answer| IncomingSample {
            name: format!("known-{i}-{answer}"),
            images: vec![corner(i * 3).into()],
            reference_answer: Some(answer.to_owned()),
            ..sample(i, Split::Validation)
        })
    });
    let results = stage.service.add_samples("light", both.collect()).await.expect("an intake");
    assert!(results.iter().all(|r| r.reason.is_empty()), "{results:?}");
}

#[sqlx::test]
async fn zooms_are_tried_on_right_answers_then_measured_and_replayed(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", zooming(1.0), 20).await;
    add_known(&stage, 24).await;
    stage.planned_batch("light", 1, "r1").await;
    let funnel = account(&stage).await;
    assert!(funnel.zooms_tried >= 24 && funnel.zooms_tried == funnel.tried, "{funnel:?}");
    assert_eq!((funnel.views, funnel.zooms, funnel.skipped.as_str()), (11, 11, ""), "half, and 5 in 100");
    let version = stage.serving("light").await.id;
    for row in stage.scores(version).await {
        assert_eq!((row.zoom_gain.is_some(), row.image_nats.is_some()), (row.viewed, row.viewed), "{row:?}");
        assert!(row.image_nats.is_none_or(|nats| nats >= 0.0));
    }
    let round = stage.service.get_round("light", 1).await.expect("the round");
    let planned = stage.service.store.planned(round.id, 0..8).await.expect("the plan");
    let mut zoomed = 0;
    for item in planned {
        let u = item.entry.uncertainty.expect("its terms");
        let Some(gain) = u.zoom_gain else { continue };
        let term = |nats: Option<f32>| nats.expect("a term");
        let expected =
            (term(u.visual) - gain.max(0.0)).max(0.0) + term(u.language) + term(u.reasoning) + term(u.model);
        assert!((term(u.information) - expected).abs() < 1e-5, "{u:?} is worth {expected}");
        zoomed += 1;
    }
    assert!(zoomed > 0, "half of the candidates were zoomed into");
    let replay = stage.service.replay_selection("light", 1).await.expect("a replay");
    assert!(replay.equal, "{replay:?}");
}

#[sqlx::test]
async fn zooms_asked_for_later_are_tried_before_they_count(db: PgPool) {
    let stage = stage(db).await;
    stage
        .pool("light", Policy { funnel: Funnel { view_share: 0.1, ..Funnel::default() }, ..policy() }, 20)
        .await;
    add_known(&stage, 24).await;
    stage.planned_batch("light", 1, "r1").await;
    let first = account(&stage).await;
    assert!(first.tried > 0 && first.zooms_asked == 0 && first.skipped.is_empty(), "{first:?}");
    let patch = PoolPatch { display_name: None, policy: Some(zooming(1.0)), etag: None };
    stage.service.update_pool("light", patch).await.expect("a policy");
    stage.service.add_samples("light", vec![sample(90, Split::Pool)]).await.expect("an intake");
    stage.ask("light", "ann", 20, "all").await;
    stage.ask("light", "bob", 1, "more").await;
    stage.work().await;
    let then = account(&stage).await;
    assert!(then.zooms_asked == 2 && then.zooms_tried >= 24, "{then:?}");
    assert!(then.zooms > 0 && then.views > first.views, "{first:?} {then:?}");
}

#[sqlx::test]
async fn without_enough_right_answers_nobody_zooms_and_the_round_says_so(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", zooming(0.05), 20).await;
    stage.planned_batch("light", 1, "r1").await;
    let funnel = account(&stage).await;
    assert!(funnel.zooms == 0 && funnel.skipped.contains("right answers to try them on"), "{funnel:?}");
    let version = stage.serving("light").await.id;
    let rows = stage.scores(version).await;
    assert!(rows.iter().all(|row| row.zoom_gain.is_none()), "{rows:?}");
    assert!(
        rows.iter().any(|row| row.image_nats.is_some()),
        "the answer without the image costs no known one"
    );
}
