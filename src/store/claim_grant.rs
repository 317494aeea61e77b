//! One group of claims in one transaction: read, pick under locks, deal out, write.

use super::{
    budget,
    claim::Claim,
    claim_deal::deal,
    claim_desk::Waiting,
    claim_pick::{Picked, read_queries},
    idle, leases, text,
};
use crate::domain::{Batch, Error, Fallback, Lease, LeaseId, Outcome, Pool, Result, Stage, Time};
use sqlx::{PgConnection, types::Json};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// What came of a group.
pub(super) enum Granted {
    /// The pool has changed since it was read: read it again.
    Aged,
    /// One answer per claim, in order.
    Answers(Vec<Result<Claim>>),
}

/// What is known before anything is locked: the pool, its newest round, and per claim its past.
pub(super) struct Facts {
    etag: Uuid,
    serving: i64,
    round: Option<i64>,
    stage: Option<String>,
    expired: bool,
    held: i64,
    lease: Option<Uuid>,
    fingerprint: Option<Vec<u8>>,
    head: Option<Json<Batch>>,
    sample_ids: Option<Vec<Uuid>>,
    round_ids: Option<Vec<Uuid>>,
}

impl Facts {
    fn stage(&self) -> Result<Option<Stage>> {
        self.stage.as_deref().map(text::parse).transpose()
    }
}

/// Serves a group of claims of one pool.
pub(super) async fn grant(conn: &mut PgConnection, group: &[Waiting]) -> Result<Granted> {
    // Unwrap safety: the desk never hands over an empty group.
    let pool = group.last().expect("a group has members").pool.clone();
    let now = group.iter().map(|w| w.now).max().unwrap_or_default();
    let facts = read_facts(conn, &pool, group, now).await?;
    if facts.len() != group.len() || facts.iter().any(|f| f.etag != pool.etag) {
        return Ok(Granted::Aged);
    }
    if facts[0].expired {
        leases::sweep(conn, &pool, now).await?;
    }
    let mut dealt: Vec<Vec<Picked>> = group.iter().map(|_| Vec::new()).collect();
    let mut leases: Vec<Option<(Lease, Batch)>> = group.iter().map(|_| None).collect();
    let mut room = None;
    if facts.iter().any(|fact| fact.lease.is_none()) {
        let mut tx = sqlx::Connection::begin(&mut *conn).await?;
        room = budget::room(&mut tx, &pool, now).await?;
        let wants = wants(&pool, group, &facts, room);
        if wants.iter().any(|&want| want > 0) {
            deal(&mut tx, &pool, group, &wants, &mut dealt, now).await?;
        }
        for (i, picked) in dealt.iter().enumerate().filter(|(_, picked)| !picked.is_empty()) {
            leases[i] = Some(head(&group[i], &pool, &facts[i], picked, wants[i])?);
        }
        if leases.iter().any(Option::is_some) {
            write(&mut tx, &pool, group, &dealt, &leases, now).await?;
            tx.commit().await?;
        }
    }
    let mut taken: HashMap<&str, i64> = HashMap::new();
    for (waiting, picked) in group.iter().zip(&dealt) {
        *taken.entry(&waiting.request.annotator).or_default() += picked.len() as i64;
    }
    let room = room.map(|room| room - taken.values().sum::<i64>());
    let mut scene = None;
    let mut answers = Vec::with_capacity(group.len());
    for (((waiting, fact), lease), picked) in group.iter().zip(facts).zip(leases).zip(dealt) {
        let whole = |batch, replayed, idle| Claim { batch, replayed, idle, pool: pool.clone() };
        answers.push(if fact.lease.is_some() {
            replay(conn, &pool, waiting, fact).await.map(|batch| whole(batch, true, None))
        } else if let Some((lease, head)) = lease {
            let queries = picked.into_iter().map(|p| p.query).collect();
            Ok(whole(Batch { lease: Some(lease), queries, ..head }, false, None))
        } else {
            let stand = idle::Standing {
                round: fact.round.unwrap_or(0),
                stage: fact.stage()?,
                serving: fact.serving,
                held: fact.held + taken.get(waiting.request.annotator.as_str()).copied().unwrap_or(0),
                room,
            };
            let (batch, why) = idle::explain(conn, &pool, &waiting.request, &stand, &mut scene, now).await?;
            Ok(whole(batch, false, Some(why)))
        });
    }
    Ok(Granted::Answers(answers))
}

/// How many queries each claim may get: no annotator more than it may hold, also by several claims of the group.
fn wants(pool: &Pool, group: &[Waiting], facts: &[Facts], mut room: Option<i64>) -> Vec<usize> {
    let mut allowed: HashMap<&str, i64> = HashMap::new();
    let mut wants = Vec::with_capacity(group.len());
    for (Waiting { request, .. }, fact) in group.iter().zip(facts) {
        let free = (i64::from(pool.policy.max_held) - fact.held).max(0);
        let allowed = allowed.entry(&request.annotator).or_insert(free);
        let want = (request.size as i64).min(*allowed).min(room.unwrap_or(i64::MAX));
        let want = if fact.lease.is_some() { 0 } else { want };
        *allowed -= want;
        room = room.map(|room| room - want);
        wants.push(want as usize);
    }
    wants
}

async fn read_facts(
    conn: &mut PgConnection,
    pool: &Pool,
    group: &[Waiting],
    now: Time,
) -> Result<Vec<Facts>> {
    let annotators: Vec<_> = group.iter().map(|w| w.request.annotator.clone()).collect();
    let requests: Vec<_> = group.iter().map(|w| w.request.request_id.clone()).collect();
    let rows = sqlx::query_as!(
        Facts,
        r#"SELECT p.etag, v.number AS serving, r.number AS "round?", r.stage AS "stage?",
               EXISTS (SELECT 1 FROM slots WHERE pool_id = $1 AND state = 'PLANNED' AND available_at > '-infinity'
                       AND available_at <= $2) AS "expired!",
               (SELECT COALESCE(sum(h.held), 0) FROM leases h WHERE h.pool_id = $1 AND h.annotator = q.annotator
                       AND h.held > 0 AND h.released_at IS NULL AND h.expires_at > $2) AS "held!",
               l.id AS "lease?", l.fingerprint AS "fingerprint?",
               l.head AS "head?: Json<Batch>", l.sample_ids AS "sample_ids?", l.round_ids AS "round_ids?"
           FROM pools p
           JOIN versions v ON v.pool_id = p.id AND v.state = 'SERVING'
           LEFT JOIN LATERAL (SELECT number, stage FROM rounds WHERE pool_id = p.id ORDER BY number DESC LIMIT 1) r ON true
           CROSS JOIN unnest($3::text[], $4::text[]) WITH ORDINALITY AS q(annotator, request_id, i)
           LEFT JOIN LATERAL (SELECT * FROM leases WHERE pool_id = $1 AND request_id = q.request_id LIMIT 1) l ON true
           WHERE p.id = $1 ORDER BY q.i"#,
        pool.id.0,
        now,
        &annotators,
        &requests
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The lease and the answer around the queries.
fn head(
    waiting: &Waiting,
    pool: &Pool,
    facts: &Facts,
    picked: &[Picked],
    want: usize,
) -> Result<(Lease, Batch)> {
    let expires_at = leases::expiry(waiting.now, waiting.request.ttl.unwrap_or(pool.policy.lease_ttl))?;
    let lease = Lease { id: LeaseId::new(), token: Uuid::new_v4(), expires_at };
    let (outcome, reason) = if picked.len() == waiting.request.size {
        (Outcome::Full, String::new())
    } else if picked.len() < want {
        let text = format!("only {} planned queries were free: ask again when these are done", picked.len());
        (Outcome::Partial, text)
    } else {
        let text = format!(
            "{} are all that this annotator may hold or the label budget allows just now",
            picked.len()
        );
        (Outcome::Partial, text)
    };
    let stale = picked.iter().filter(|p| p.query.version != facts.serving).count();
    let batch = Batch {
        lease: Some(lease.clone()),
        queries: Vec::new(),
        outcome,
        reason,
        retry_after: None::<Duration>,
        round: facts.round.unwrap_or(0),
        stage: facts.stage()?,
        serving_version: facts.serving,
        stale_share: stale as f32 / picked.len().max(1) as f32,
        fallback: fallback(picked, stale),
    };
    Ok((lease, batch))
}

/// What these queries rest on, of which `stale` were scored by another version than the serving one.
fn fallback(picked: &[Picked], stale: usize) -> Fallback {
    if picked.iter().any(|p| p.query.uncertainty.is_none()) {
        Fallback::ColdStart
    } else if stale > 0 {
        Fallback::StaleScores
    } else {
        Fallback::None
    }
}

/// Marks the places and writes the leases, in one statement.
async fn write(
    conn: &mut PgConnection,
    pool: &Pool,
    group: &[Waiting],
    dealt: &[Vec<Picked>],
    leases: &[Option<(Lease, Batch)>],
    now: Time,
) -> Result<()> {
    let (mut samples, mut slots, mut rounds, mut owners, mut until) =
        (vec![], vec![], vec![], vec![], vec![]);
    let (mut ids, mut annotators, mut requests) = (vec![], vec![], vec![]);
    let (mut fingerprints, mut tokens, mut expiries, mut heads) = (vec![], vec![], vec![], vec![]);
    for ((waiting, picked), lease) in group.iter().zip(dealt).zip(leases) {
        let Some((lease, head)) = lease else { continue };
        for place in picked {
            samples.push(place.sample_id);
            slots.push(place.slot);
            rounds.push(place.round_id);
            owners.push(lease.id.0);
            until.push(lease.expires_at);
        }
        ids.push(lease.id.0);
        annotators.push(waiting.request.annotator.clone());
        requests.push(waiting.request.request_id.clone());
        fingerprints.push(waiting.request.fingerprint.to_vec());
        tokens.push(lease.token);
        expiries.push(lease.expires_at);
        heads.push(serde_json::to_string(head).map_err(Error::internal)?);
    }
    sqlx::query!(
        "WITH given AS (
             UPDATE slots s SET lease_id = g.lease, available_at = g.until
             FROM unnest($1::uuid[], $2::smallint[], $4::uuid[], $5::timestamptz[]) AS g(sample, slot, lease, until)
             WHERE s.sample_id = g.sample AND s.slot = g.slot),
         items AS (
             SELECT lease, array_agg(sample ORDER BY i) AS samples, array_agg(round ORDER BY i) AS rounds, count(*) AS n
             FROM unnest($1::uuid[], $3::uuid[], $4::uuid[]) WITH ORDINALITY AS g(sample, round, lease, i)
             GROUP BY lease)
         INSERT INTO leases (id, pool_id, annotator, request_id, fingerprint, token, expires_at, held, head, sample_ids,
                             round_ids, created_at)
         SELECT l.id, $6, l.annotator, l.request, l.fingerprint, l.token, l.expires, i.n, l.head::json, i.samples,
                i.rounds, $14
         FROM unnest($7::uuid[], $8::text[], $9::text[], $10::bytea[], $11::uuid[], $12::timestamptz[], $13::text[])
                  AS l(id, annotator, request, fingerprint, token, expires, head)
         JOIN items i ON i.lease = l.id",
        &samples,
        &slots,
        &rounds,
        &owners,
        &until,
        pool.id.0,
        &ids,
        &annotators,
        &requests,
        &fingerprints,
        &tokens,
        &expiries,
        &heads,
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Reads an earlier answer back: the lease's head, and its queries from where they stand unchanged.
async fn replay(conn: &mut PgConnection, pool: &Pool, waiting: &Waiting, facts: Facts) -> Result<Batch> {
    if facts.fingerprint.as_deref() != Some(waiting.request.fingerprint.as_slice()) {
        return Err(Error::RequestIdReused(waiting.request.request_id.clone()));
    }
    let (Some(head), Some(samples), Some(rounds)) = (facts.head, facts.sample_ids, facts.round_ids) else {
        return Err(Error::internal("a lease without its batch"));
    };
    let queries = read_queries(conn, pool, &samples, &rounds).await?;
    Ok(Batch { queries, ..head.0 })
}
