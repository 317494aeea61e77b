//! The store on a real Postgres, with chosen times.

mod jobs;
mod labels;
mod leases;
mod meter;
mod overlap;
mod pages;
mod retention;
mod rounds;
mod tiers;
mod upgrades;

use super::*;
use crate::domain::*;
use std::time::Duration;

/// A moment counted from the beginning of the tests' time, in seconds.
fn at(secs: u64) -> Time {
    Time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + secs)
}

/// A policy whose round is large enough not to end by itself.
fn policy() -> Policy {
    Policy { labels_per_round: 1000, max_held: 1000, lease_ttl: Duration::from_secs(60), ..Policy::default() }
}

/// A store with one pool called `birds`.
struct World {
    store: Store,
    pool: Pool,
    seen: std::sync::Mutex<Vec<(SignOfLife, Time)>>,
}

impl World {
    /// A pool of `samples` samples called s000, s001, ...
    async fn new(db: PgPool, policy: Policy, samples: usize) -> Self {
        let store = Store::from_pool(db);
        let new = NewPool {
            name: "birds".into(),
            display_name: "Birds".into(),
            answers: vec!["yes".into(), "no".into()],
            policy,
            base_sha256: "base".into(),
            request_id: "make".into(),
        };
        let pool = store.create_pool(&new, at(0)).await.unwrap();
        let world = Self { store, pool, seen: Default::default() };
        world.add(0..samples).await;
        world
    }

    async fn add(&self, range: std::ops::Range<usize>) {
        let new: Vec<_> = range.map(|i| sample(&format!("s{i:03}"), "Is it a bird?")).collect();
        let added = self.store.add_samples(self.pool.id, &new, at(0)).await.unwrap();
        assert!(added.iter().all(|a| *a == Added::Added));
    }

    async fn claim_job(&self, kind: JobKind, now: Time) -> Option<Job> {
        let dead = self.see(kind, now).await;
        let job = self.store.claim_job(&[kind], "worker", &dead, now).await.unwrap();
        self.see(kind, now).await;
        job
    }

    /// Looks at the beats of running jobs; those that have not changed for half a minute are dead.
    async fn see(&self, kind: JobKind, now: Time) -> Vec<SignOfLife> {
        let signs = self.store.signs_of_life(&[kind]).await.unwrap();
        let mut seen = self.seen.lock().unwrap();
        let dead = signs.into_iter().filter(|sign| {
            let first = seen.iter().find(|(known, _)| known == sign).map(|(_, at)| *at);
            first.is_none().then(|| seen.push((*sign, now)));
            sign.released || first.is_some_and(|at| now - at > chrono::TimeDelta::seconds(30))
        });
        dead.collect()
    }

    /// Scores what is unscored: the lower the sample's number, the surer the model.
    async fn score(&self, now: Time) {
        let job = self.claim_job(JobKind::Score, now).await.expect("a scoring waits");
        let round = self.store.round_by_id(job.round_id.unwrap()).await.unwrap();
        let mut after = None;
        loop {
            let shard = self.store.unscored(self.pool.id, round.version_id, after, 7).await.unwrap();
            let Some(last) = shard.last() else { break };
            after = Some(last.id);
            let scores: Vec<_> = shard.iter().enumerate().map(|(i, s)| score(s, i as f32)).collect();
            let progress = job::Progress { phase: "scoring".into(), ..job::Progress::default() };
            self.store.insert_scores(&job, round.version_id, &scores, &blob(), &progress, now).await.unwrap();
        }
        self.store.finish_scoring(&job, &FunnelRun::default(), now).await.unwrap();
    }

    /// Plans every candidate, in the order of ids.
    async fn plan(&self, now: Time) -> usize {
        let job = self.claim_job(JobKind::Plan, now).await.expect("a planning waits");
        let round = self.store.round_by_id(job.round_id.unwrap()).await.unwrap();
        let (scored, cold) = self.candidates(&round, now).await;
        let entry = |sample, uncertainty| PlanEntry {
            sample,
            arm: Arm::Active,
            bandit_arm: None,
            propensity: 0.25,
            value: Some(1.5),
            coverage_gain: None,
            uncertainty,
        };
        let items = scored.iter().filter(|row| row.candidate).map(|row| {
            let uncertainty =
                Uncertainty { total: row.entropy, margin: row.margin, ..Uncertainty::default() };
            entry(row.sample, Some(uncertainty))
        });
        let mut items: Vec<_> = items.collect();
        items.sort_by_key(|item| item.sample);
        if items.is_empty() {
            items = cold.iter().map(|one| entry(one.sample, None)).collect();
        }
        let plan = self.new_plan(&round, items);
        self.store.write_plan(&job, &plan, now).await.unwrap();
        plan.items.len()
    }

    /// What the round's version knows of the pool, and the candidates that it does not know.
    async fn candidates(&self, round: &Round, now: Time) -> (Vec<ScoreRow>, Vec<Unscored>) {
        let scope = Scope {
            pool: self.pool.id,
            version: round.version_id,
            round: Some(round.id),
            watermark: i64::MAX,
            now,
        };
        let mut rows = Vec::new();
        self.store.read_scores(&scope, true, |row| rows.push(row)).await.unwrap();
        (rows, self.store.unscored_candidates(&scope).await.unwrap())
    }

    fn new_plan(&self, round: &Round, items: Vec<PlanEntry>) -> NewPlan {
        let (fallback, run) = (Fallback::None, PlanRun { seed: 7, ..PlanRun::default() });
        NewPlan { round: round.id, fallback, version: round.version_id, items, run }
    }

    /// Opens a round, scores and plans it.
    async fn ready(&self) -> Round {
        self.store.open_round(self.pool.id, at(0)).await.unwrap().expect("samples want labels");
        self.score(at(0)).await;
        self.plan(at(0)).await;
        self.current().await
    }

    async fn current(&self) -> Round {
        self.store.current_round(self.pool.id).await.unwrap().expect("a round is at work")
    }

    async fn claim(&self, annotator: &str, size: usize, request_id: &str, now: Time) -> Result<Claim> {
        self.store.claim(request(annotator, size, request_id), now).await
    }

    /// The names handed out.
    async fn names(&self, annotator: &str, size: usize, request_id: &str, now: Time) -> Vec<String> {
        let claim = self.claim(annotator, size, request_id, now).await.unwrap();
        claim.batch.queries.into_iter().map(|q| q.sample).collect()
    }

    async fn submit(
        &self,
        annotator: &str,
        request_id: &str,
        labels: Vec<LabelInsert>,
        now: Time,
    ) -> Vec<Verdict> {
        let submission = submission(annotator, request_id, labels);
        self.store.record_labels(&submission, now).await.unwrap()
    }

    /// Answers one sample without a lease being named.
    async fn answer(&self, annotator: &str, sample: &str, now: Time) -> VerdictCode {
        let id = format!("{annotator}-{sample}-{}", now.timestamp());
        let verdicts = self.submit(annotator, &id, vec![answer(sample, &id, "yes")], now).await;
        verdicts[0].code
    }
}

fn sample(name: &str, question: &str) -> SampleInsert {
    let sample = NewSample {
        name: name.into(),
        image_keys: vec![format!("images/{name}")],
        question: question.into(),
        paraphrases: vec![format!("{question} Say so.")],
        choices: vec![],
        group: "all".into(),
        metadata: [("source".to_owned(), "a \"camera\"".to_owned())].into(),
        split: Split::Pool,
        reference_answer: None,
        slice: "noise".into(),
        regions: vec![[0.0, 0.25, 0.5, 1.0]],
    };
    let mut content_sha256 = [0; 32];
    content_sha256[..question.len().min(32)].copy_from_slice(&question.as_bytes()[..question.len().min(32)]);
    SampleInsert { sample, content_sha256 }
}

fn score(sample: &Sample, value: f32) -> NewScore {
    let score = Score {
        entropy: value,
        margin: 0.5,
        best_answer: "no".into(),
        confidence: 0.5,
        model: value / 2.0,
        members: 2,
        probabilities: vec![0.75, 0.25, 0.25, 0.75],
        ..Score::default()
    };
    NewScore { sample: sample.id, outcome: Ok(score) }
}

/// Where a shard's embeddings lie.
fn blob() -> ShardBlob {
    ShardBlob { key: "embeddings/x".into(), dim: 2, imported: false }
}

fn request(annotator: &str, size: usize, request_id: &str) -> ClaimRequest {
    let mut fingerprint = [0; 32];
    fingerprint[0] = size as u8;
    ClaimRequest {
        pool: "birds".into(),
        annotator: annotator.into(),
        size,
        ttl: None,
        request_id: request_id.into(),
        fingerprint,
        groups: vec![],
    }
}

fn insert(sample: &str, id: &str, content: Content) -> LabelInsert {
    let mut fingerprint = [0; 32];
    let text = format!("{sample}{content:?}");
    for (i, byte) in text.bytes().enumerate() {
        fingerprint[i % 32] ^= byte.rotate_left(i as u32 / 32);
    }
    let label = NewLabel {
        sample: sample.into(),
        client_label_id: id.into(),
        content,
        lead_time_ms: Some(1200),
        seen_version: Some(0),
    };
    LabelInsert { label, fingerprint, invalid: None }
}

fn answer(sample: &str, id: &str, text: &str) -> LabelInsert {
    let answer = Answer {
        text: text.into(),
        reasoning: vec!["it has wings".into()],
        regions: vec![[0.0, 0.25, 0.5, 1.0]],
        rejected: vec![vec!["it swims".into()]],
    };
    insert(sample, id, Content::Answer(answer))
}

fn submission(annotator: &str, request_id: &str, labels: Vec<LabelInsert>) -> Submission {
    let mut fingerprint = [7; 32];
    fingerprint[0] = labels.len() as u8;
    Submission {
        pool: "birds".into(),
        request_id: request_id.into(),
        fingerprint,
        lease: None,
        annotator: annotator.into(),
        labels,
    }
}

/// A trained version that the gate lets pass or refuses.
fn candidate(passed: bool) -> NewVersion {
    NewVersion {
        blob_key: "versions/x".into(),
        base_sha256: "base".into(),
        label_count: 2,
        validation: Some(Evaluation { count: 9, accuracy: 0.5, ..Evaluation::default() }),
        test: None,
        gate: GateVerdict { passed, reasons: vec!["figures".into()] },
        answered: Answered::default(),
        savings: None,
        advice: None,
        stopped_early: None,
    }
}

fn codes(verdicts: &[Verdict]) -> Vec<VerdictCode> {
    verdicts.iter().map(|v| v.code).collect()
}
