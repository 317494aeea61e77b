//! "Unanswerable" as an answer: once annotators have given it, a sample is worth less the surer the model gives it too.
//!
//! The tiny model has never heard of that word, so in these pools the answer that says that there is none is "dark".

use super::*;
use crate::store::from_halves;

/// Labels a batch, every other query of it as one without an answer.
async fn label_half(stage: &Stage, batch: &Batch, request_id: &str) {
    let lease = batch.lease.as_ref().expect("a lease");
    let labels = batch.queries.iter().enumerate().map(|(at, query)| {
        let text = if at % 2 == 0 { "dark" } else { right_answer(&query.sample) };
        NewLabel {
            sample: query.sample.clone(),
            client_label_id: format!("{request_id}/{at}"),
            content: Content::Answer(Answer { text: text.to_owned(), ..Answer::default() }),
            lead_time_ms: None,
            seen_version: None,
        }
    });
    let request = SubmitLabels {
        pool: "light".to_owned(),
        request_id: request_id.to_owned(),
        lease: Some(lease.id),
        token: Some(lease.token),
        annotator: "ann".to_owned(),
        labels: labels.collect(),
    };
    let verdicts = stage.service.submit_labels(request).await.expect("verdicts");
    assert!(verdicts.iter().all(|v| v.code.stored()), "{verdicts:?}");
}

#[sqlx::test]
async fn what_the_model_gives_no_answer_to_is_worth_less_once_annotators_have_said_so(db: PgPool) {
    let stage = stage(db).await;
    let answers = ["bright", "dark"].map(str::to_owned).to_vec();
    let gate = Gate { max_hallucination_rise: 1.0, ..policy().gate };
    let policy = Policy { abstention: "Dark.".to_owned(), gate, ..policy() };
    let create = CreatePool { name: "light".to_owned(), answers, policy, ..CreatePool::default() };
    stage.service.create_pool(create).await.expect("a pool");
    let samples = (0..20).map(|i| sample(i, Split::Pool));
    let samples = samples.chain((20..26).map(|i| sample(i, Split::Validation)));
    let samples = samples.chain((26..30).map(|i| sample(i, Split::Test)));
    stage.service.add_samples("light", samples.collect()).await.expect("an intake");

    let batch = stage.planned_batch("light", 4, "r1").await;
    label_half(&stage, &batch, "l1").await;
    stage.work().await;
    let batch = stage.planned_batch("light", 4, "r2").await;
    assert_eq!((batch.queries.len(), batch.round, batch.serving_version), (4, 2, 1), "{batch:?}");
    let rounds = stage.rounds("light").await;
    let mut runs = Vec::new();
    for round in &rounds[..2] {
        let mut plans = stage.service.store.provenance(round.id).await.expect("provenance").plans;
        runs.push(plans.remove(0));
        let replay = stage.service.replay_selection("light", round.number).await.expect("a replay");
        assert!(replay.equal && replay.compared > 0, "round {}: {replay:#?}", round.number);
    }
    let named: Vec<&str> = runs.iter().map(|run| run.abstention.as_str()).collect();
    assert_eq!(named, ["", "Dark."], "nobody had said so before");

    let scores = stage.scores(stage.serving("light").await.id).await;
    let planned = stage.service.store.planned(rounds[1].id, 0..8).await.expect("the plan");
    assert!(!planned.is_empty());
    let (w, mut lessened) = (runs[1].weights, 0.0f64);
    for item in planned {
        let u = item.entry.uncertainty.expect("its terms");
        let term = |nats: Option<f32>, weight: f64| f64::from(nats.expect("a term")) * weight;
        let terms = term(u.visual, w.visual)
            + term(u.language, w.language)
            + term(u.reasoning, w.reasoning)
            + term(u.model, w.model);
        let row = scores.iter().find(|row| row.sample == item.entry.sample).expect("its score");
        let members = from_halves(row.probabilities.as_deref().expect("its distribution"));
        let none = members.chunks_exact(2).map(|p| f64::from(p[1])).sum::<f64>() / (members.len() / 2) as f64;
        let (told, expected) = (f64::from(u.information.expect("its value")), terms * (1.0 - none));
        assert!((told - expected).abs() < 1e-4, "{told} is not {terms} less {none} of it");
        lessened = lessened.max(terms - told);
    }
    assert!(lessened > 0.0, "some sample is worth less than its terms");
}
