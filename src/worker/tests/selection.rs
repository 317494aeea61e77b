//! How samples are selected, and what can be asked about it: replays, previews, explanations, imports.

use super::*;
use crate::{
    domain::{Arm, Error, Fallback, Strategy, VersionId},
    service::{Explanation, ImportItem, Preview, PreviewBatch, Why},
    store::{Scope, ScoreRow},
};

impl Stage {
    async fn explain(&self, sample: &str) -> Explanation {
        self.service.explain_selection("light", sample, 0).await.expect("an explanation")
    }

    async fn preview(&self, strategy: Option<Strategy>, size: usize) -> Preview {
        let request = PreviewBatch { pool: "light".to_owned(), strategy, size };
        self.service.preview_batch(request).await.expect("a preview")
    }

    /// Hands in one label without a lease.
    async fn submit_one(&self, sample: &str, content: Content) {
        let label = NewLabel {
            sample: sample.to_owned(),
            client_label_id: format!("one/{sample}"),
            content,
            lead_time_ms: None,
            seen_version: None,
        };
        let request = SubmitLabels {
            pool: "light".to_owned(),
            request_id: format!("one/{sample}"),
            lease: None,
            token: None,
            annotator: "pipeline".to_owned(),
            labels: vec![label],
        };
        let verdicts = self.service.submit_labels(request).await.expect("verdicts");
        assert!(verdicts[0].code.stored(), "{verdicts:?}");
    }

    /// Names of samples of the pool that the newest round did not plan.
    async fn unplanned(&self) -> Vec<String> {
        let page = PageRequest::default();
        let samples = self.service.list_samples("light", Some(Split::Pool), None, &page).await;
        let mut names = Vec::new();
        for sample in samples.expect("samples").items {
            if self.explain(&sample.content.name).await.why != Why::Planned {
                names.push(sample.content.name);
            }
        }
        names
    }

    /// The serving version's scores.
    pub(super) async fn scores(&self, version: VersionId) -> Vec<ScoreRow> {
        let pool = self.service.get_pool("light").await.expect("the pool").id;
        let scope = Scope { pool, version, round: None, watermark: i64::MAX, now: self.service.now() };
        let mut rows = Vec::new();
        self.service.store.read_scores(&scope, true, |row| rows.push(row)).await.expect("scores");
        rows
    }

    /// Files in the blob store, of all kinds.
    fn blobs(&self) -> usize {
        let mut folders = vec![self._state.path().to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => files += 1,
                }
            }
        }
        files
    }
}

/// Every table's rows, so that a trace shows wherever it is left.
async fn trace(db: &PgPool) -> Vec<(String, String)> {
    let tables =
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(db).await.expect("tables");
    let mut trace = Vec::new();
    for table in tables {
        let rows =
            format!("SELECT COALESCE(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table} t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(db).await.expect("rows");
        trace.push((table, rows));
    }
    trace
}

#[sqlx::test]
async fn a_plan_replays_equal_whatever_happened_since(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    let batch = stage.planned_batch("light", 8, "r1").await;
    let replay = stage.service.replay_selection("light", 1).await.expect("a replay");
    assert!(replay.equal && replay.compared == 8, "{replay:#?}");
    assert_eq!(replay.provenance.plans.len(), 1);

    // More samples, more of the plan, labels, a training, another version, the next round.
    let more = (40..44).map(|i| sample(i, Split::Pool)).collect();
    stage.service.add_samples("light", more).await.expect("an intake");
    stage.ask("light", "bob", 4, "more").await;
    stage.work().await;
    stage.label("light", &batch, "l1").await;
    stage.work().await;
    assert_eq!(stage.serving("light").await.number, 1);
    for number in [1, 2] {
        let replay = stage.service.replay_selection("light", number).await.expect("a replay");
        assert!(replay.equal, "round {number}: {replay:#?}");
    }
    let first = stage.service.replay_selection("light", 1).await.expect("a replay");
    assert_eq!(first.provenance.plans.len(), 2, "more of the plan is replayed too");
}

#[sqlx::test]
async fn a_replay_says_where_a_plan_differs_and_what_has_none(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", policy(), 20).await;
    stage.ask("light", "ann", 1, "r1").await;
    let early = stage.service.replay_selection("light", 1).await.expect_err("no plan yet");
    assert!(matches!(&early, Error::NotReady(text) if text.contains("no plan yet")), "{early}");
    stage.work().await;
    let spoil = "UPDATE plan_items SET value = 99 WHERE rank = 3";
    sqlx::query(spoil).execute(&db).await.expect("a spoilt item");
    let replay = stage.service.replay_selection("light", 1).await.expect("a replay");
    assert_eq!((replay.equal, replay.different), (false, 1));
    let told = &replay.differences[0];
    assert_eq!((told.rank, told.planned == told.replayed), (3, true));
    assert!(told.reason.contains("value"), "{}", told.reason);
}

#[sqlx::test]
async fn a_cold_start_replays_equal_too(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", policy(), 20).await;
    stage.ask("light", "ann", 1, "r1").await;
    let job = stage.claim(JobKind::Score).await;
    let funnel = Default::default();
    stage.service.store.finish_scoring(&job, &funnel, stage.service.now()).await.expect("the end of it");
    stage.work().await;
    let round = stage.service.get_round("light", 1).await.expect("the round");
    assert_eq!((round.fallback, round.planned), (Fallback::ColdStart, 8));
    let replay = stage.service.replay_selection("light", 1).await.expect("a replay");
    assert!(replay.equal && replay.compared == 8, "{replay:#?}");
    let not_drawn = stage.unplanned().await;
    let why = stage.explain(&not_drawn[0]).await.why;
    assert!(matches!(why, Why::NotDrawn | Why::NotScored), "{why:?}");
}

#[sqlx::test]
async fn a_preview_leaves_no_trace_and_is_what_the_plan_becomes(db: PgPool) {
    let stage = stage(db.clone()).await;
    stage.pool("light", Policy { spare_share: 0.0, ..policy() }, 20).await;
    let cold = stage.preview(None, 4).await;
    assert_eq!((cold.fallback, cold.round, cold.items.len()), (Fallback::ColdStart, 0, 4));
    stage.ask("light", "ann", 4, "r1").await;
    let job = stage.claim(JobKind::Score).await;
    let settings = Settings::load_with(&[], Default::default()).expect("valid defaults").worker;
    crate::worker::attempt::run(&stage.service, &settings, job, &CancellationToken::new()).await;
    let (before, blobs) = (trace(&db).await, stage.blobs());
    let preview = stage.preview(None, 4).await;
    let by_margin = stage.preview(Some(Strategy::Margin), 6).await;
    assert_eq!((trace(&db).await, stage.blobs()), (before, blobs), "nothing was written");
    assert_eq!((by_margin.strategy, by_margin.items.len(), by_margin.round), (Strategy::Margin, 6, 1));
    assert!(preview.items.iter().all(|item| item.entry.uncertainty.is_some()), "{preview:#?}");
    stage.work().await;
    let batch = stage.ask("light", "ann", 4, "r1").await;
    let planned: Vec<_> = batch.queries.iter().map(|q| (q.sample.clone(), q.rank)).collect();
    let previewed: Vec<_> = preview.items.iter().map(|item| (item.name.clone(), item.rank)).collect();
    assert_eq!(planned, previewed);
    let request = PreviewBatch { pool: "light".to_owned(), strategy: None, size: 0 };
    assert!(matches!(stage.service.preview_batch(request).await, Err(Error::Invalid(_))));
}

#[sqlx::test]
async fn an_explanation_names_what_became_of_a_sample(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", Policy { strategy: Strategy::Entropy, ..policy() }, 20).await;
    let lost = stage.service.get_sample("light", "s3-111").await.expect("a sample");
    let key = lost.content.image_keys[0].parse().expect("a key");
    stage.service.blobs.delete(&key).await.expect("a lost image");
    assert_eq!(stage.explain("s1-37").await.why, Why::NoPlan);
    let batch = stage.planned_batch("light", 8, "r1").await;

    let planned = stage.explain(&batch.queries[0].sample).await;
    assert_eq!((planned.why, planned.round), (Why::Planned, 1));
    let place = planned.planned.expect("a place");
    assert_eq!((place.rank, place.entry.arm), (batch.queries[0].rank, batch.queries[0].arm));
    assert_eq!(place.entry.uncertainty, batch.queries[0].uncertainty);
    assert_eq!(stage.explain("s20-228").await.why, Why::NotForLabelling);
    let unread = stage.explain("s3-111").await;
    assert_eq!(unread.why, Why::NotScored);
    assert!(unread.text.contains("missing"), "{}", unread.text);
    let late = sample(50, Split::Pool);
    stage.service.add_samples("light", vec![late.clone()]).await.expect("an intake");
    assert_eq!(stage.explain(&late.name).await.why, Why::NotScored);

    let others: Vec<String> =
        stage.unplanned().await.into_iter().filter(|name| *name != late.name && *name != "s3-111").collect();
    let below = stage.explain(&others[0]).await;
    assert_eq!(below.why, Why::BelowCut, "{below:?}");
    assert!(below.value.expect("a value") < below.cut.expect("a cut"), "{below:?}");
    assert!(below.nearest.is_some() && below.value_rank.is_some_and(|rank| rank > 0), "{below:?}");
    stage.submit_one(&others[0], Content::Reject("BAD_IMAGE".to_owned())).await;
    assert_eq!(stage.explain(&others[0]).await.why, Why::Rejected);
    let answer = Answer { text: right_answer(&others[1]).to_owned(), ..Answer::default() };
    stage.submit_one(&others[1], Content::Answer(answer)).await;
    assert_eq!(stage.explain(&others[1]).await.why, Why::AlreadyLabelled);
    let nobody = stage.service.explain_selection("light", "nobody", 0).await;
    assert!(matches!(nobody, Err(Error::NotFound { kind: "Sample", .. })), "{nobody:?}");
    let no_round = stage.service.explain_selection("light", &others[2], 9).await;
    assert!(matches!(no_round, Err(Error::NotFound { kind: "Round", .. })), "{no_round:?}");
}

#[sqlx::test]
async fn a_sample_out_with_an_earlier_round_s_annotator_is_named_as_such(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.labelled_round("light", "r1").await;
    let spare = stage.ask("light", "bob", 2, "spare").await;
    stage.work().await;
    assert_eq!(stage.explain(&spare.queries[0].sample).await.why, Why::Out);
    let then = stage.service.explain_selection("light", &spare.queries[0].sample, 1).await;
    assert_eq!(then.expect("of the first round").why, Why::Planned);
}

#[sqlx::test]
async fn what_lies_near_a_planned_sample_is_covered_and_what_is_drawn_is_not_drawn(db: PgPool) {
    let stage = stage(db).await;
    for (strategy, why) in [(Strategy::KCenter, Why::Covered), (Strategy::Random, Why::NotDrawn)] {
        let name = if strategy == Strategy::Random { "dim" } else { "light" };
        stage.pool(name, Policy { strategy, ..policy() }, 20).await;
        stage.planned_batch(name, 1, name).await;
        let mut seen = 0;
        for i in 0..20u8 {
            let sample = sample(i, Split::Pool).name;
            let told = stage.service.explain_selection(name, &sample, 0).await.expect("an explanation");
            if told.why != Why::Planned {
                assert_eq!(told.why, why, "{told:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 12);
    }
}

#[sqlx::test]
async fn an_image_gives_no_more_samples_than_its_cap(db: PgPool) {
    let stage = stage(db).await;
    let policy = Policy { max_per_image: Some(1), strategy: Strategy::Entropy, ..policy() };
    stage.pool("light", policy, 3).await;
    // Twelve questions about one image, which the model is less sure of than of the other three.
    let one = |i: u8| IncomingSample {
        images: vec![png(130).into()],
        question: format!("bright or dark, number {i}?"),
        ..sample(60 + i, Split::Pool)
    };
    stage.service.add_samples("light", (0..12).map(one).collect()).await.expect("an intake");
    stage.planned_batch("light", 1, "r1").await;
    let (mut active, mut capped) = (0, 0);
    for i in 0..12 {
        let told = stage.explain(&one(i).name).await;
        match told.planned {
            Some(planned) => active += usize::from(planned.entry.arm == Arm::Active),
            None => {
                assert_eq!(told.why, Why::CapReached, "{told:?}");
                capped += 1;
            }
        }
    }
    assert!(active == 1 && capped > 0, "{active} active, {capped} capped");
}

#[sqlx::test]
async fn the_funnel_looks_closer_at_some_and_a_second_scoring_repeats_nothing(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 20).await;
    stage.planned_batch("light", 1, "r1").await;
    let version = stage.serving("light").await.id;
    let rows = stage.scores(version).await;
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.probabilities.is_some() && row.classes == 2), "{rows:?}");
    // 15 in 100 of 20, and 5 in 100.
    assert_eq!(rows.iter().filter(|row| row.viewed && row.language.is_some()).count(), 4);
    let round = stage.service.get_round("light", 1).await.expect("the round");
    let funnel = stage.service.store.provenance(round.id).await.expect("its provenance").funnel;
    let funnel = funnel.expect("an account");
    assert_eq!((funnel.scored, funnel.views, funnel.temperature), (20, 4, 1.0));
    assert!(funnel.tried <= 6, "the validation split: {funnel:?}");

    let newest = stage.service.store.newest_shard(version).await.expect("a shard");
    stage.service.add_samples("light", vec![sample(70, Split::Pool)]).await.expect("an intake");
    stage.ask("light", "ann", 20, "all").await;
    stage.ask("light", "bob", 1, "more").await;
    stage.work().await;
    let again = stage.scores(version).await;
    assert_eq!(again.len(), 21);
    for (before, after) in rows.iter().zip(&again).filter(|(before, _)| before.viewed) {
        assert_eq!((after.sample, after.language), (before.sample, before.language), "measured once");
    }
    assert!(stage.service.store.newest_shard(version).await.expect("a shard") > newest);
}

#[sqlx::test]
async fn imported_figures_are_judged_one_by_one_and_selected_by_when_the_policy_says_so(db: PgPool) {
    let stage = stage(db).await;
    let policy = Policy { use_imported: true, strategy: Strategy::Entropy, ..policy() };
    stage.pool("light", policy, 20).await;
    let item = |i: u8, entropy: f32, embedding: Vec<f32>| ImportItem {
        sample: sample(i, Split::Pool).name,
        entropy: Some(entropy),
        value: Some(entropy / 2.0),
        embedding,
        ..ImportItem::default()
    };
    let mut items: Vec<ImportItem> =
        (0..20).map(|i| item(i, if i < 10 { 5.0 } else { 0.125 }, vec![f32::from(i), 1.0, 0.0])).collect();
    items.push(ImportItem { sample: "nobody".to_owned(), ..items[0].clone() });
    items.push(ImportItem { entropy: Some(f32::NAN), ..items[1].clone() });
    items.push(ImportItem { embedding: vec![1.0], ..items[2].clone() });
    items.push(ImportItem { sample: sample(20, Split::Validation).name, ..items[3].clone() });
    let verdicts = stage.service.import_scores("light", items).await.expect("verdicts");
    assert!(verdicts[..20].iter().all(|v| v.refused.is_none()), "{verdicts:#?}");
    for (verdict, part) in verdicts[20..].iter().zip(["no such sample", "entropy", "1 numbers", "evaluation"])
    {
        assert!(verdict.refused.as_deref().is_some_and(|text| text.contains(part)), "{verdict:?}");
    }
    let batch = stage.planned_batch("light", 8, "r1").await;
    let chosen = batch.queries.iter().filter(|q| q.arm == Arm::Active);
    assert!(chosen.clone().all(|q| q.uncertainty.is_some_and(|u| u.total == 5.0)), "{batch:#?}");
    assert!(chosen.clone().all(|q| q.prelabel.is_some()), "the model answers all the same");
    let rows = stage.scores(stage.serving("light").await.id).await;
    assert!(rows.iter().all(|row| row.imported && row.value.is_some()), "{rows:?}");
    let shards = stage.service.store.embedding_shards(stage.serving("light").await.id, 99).await;
    assert!(shards.expect("shards").iter().all(|shard| shard.imported && shard.dim == 3));
    assert!(stage.service.replay_selection("light", 1).await.expect("a replay").equal);
}

#[sqlx::test]
async fn paraphrases_are_checked_as_questions_are_and_part_of_the_content(db: PgPool) {
    let stage = stage(db).await;
    stage.pool("light", policy(), 3).await;
    let with = |paraphrases: &[&str]| IncomingSample {
        paraphrases: paraphrases.iter().map(|&text| text.to_owned()).collect(),
        ..sample(80, Split::Pool)
    };
    let long = "x".repeat(5000);
    let items = [
        with(&["is it light?"]),
        with(&["is it light?"]),
        with(&["is it dim?"]),
        with(&[" "]),
        with(&["what is <image>?"]),
        with(&[&long]),
        with(&["?"; 9]),
        with(&["a\0"]),
    ];
    let results = stage.service.add_samples("light", items.to_vec()).await.expect("an intake");
    use crate::service::ItemCode::{Added, Rejected, Unchanged};
    let codes: Vec<_> = results.iter().map(|r| r.code).collect();
    assert_eq!(
        codes,
        [Added, Unchanged, Rejected, Rejected, Rejected, Rejected, Rejected, Rejected],
        "{results:#?}"
    );
    for (result, part) in
        results[2..].iter().zip(["other content", "empty", "paraphrase 0", "bytes", "at most 8", "NUL"])
    {
        assert!(result.reason.contains(part), "{result:?}");
    }
    let stored = stage.service.get_sample("light", &results[0].name).await.expect("the sample");
    assert_eq!(stored.content.paraphrases, ["is it light?"]);
}

#[sqlx::test]
async fn a_temperature_rests_on_what_was_believed_before_the_labels_were_learnt(db: PgPool) {
    let stage = stage(db.clone()).await;
    let policy = Policy { labels_per_round: 24, spare_share: 0.0, control_share: 1.0, ..policy() };
    stage.pool("light", policy, 40).await;
    let batch = stage.planned_batch("light", 24, "r1").await;
    assert_eq!(batch.queries.len(), 24);
    // The base was sure by 7 to 1 each time, and right three times of four.
    for (at, query) in batch.queries.iter().enumerate() {
        let bright = right_answer(&query.sample) == "bright";
        let believed = if bright == (at % 4 > 0) { [0.875, 0.125] } else { [0.125, 0.875] };
        let changed = sqlx::query(
            "UPDATE scores SET members = 1, probabilities = $2
             WHERE sample_id = (SELECT id FROM samples WHERE name = $1)",
        )
        .bind(&query.sample)
        .bind(crate::store::halves(&believed))
        .execute(&db)
        .await;
        assert_eq!(changed.expect("a change").rows_affected(), 1);
    }
    stage.label("light", &batch, "l1").await;
    stage.work().await;
    let rounds = stage.rounds("light").await;
    assert_eq!(rounds.len(), 2, "{rounds:?}");
    let funnel = stage.service.store.provenance(rounds[1].id).await.expect("provenance").funnel;
    let funnel = funnel.expect("a scoring by the version that has learnt these labels");
    // Odds of 7 to 1 are to become odds of 3 to 1.
    let expected = 7f64.ln() / 3f64.ln();
    assert!((funnel.temperature - expected).abs() < 1e-3, "{funnel:?}");
    assert_eq!(funnel.calibrated_on, 24);
    // Six validation samples are too few for the other mode.
    assert_eq!((funnel.reasoned_temperature, funnel.reasoned_calibrated_on), (1.0, 6), "{funnel:?}");
}
