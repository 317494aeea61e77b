//! Taking labels: every one judged by itself, all written in one transaction, acknowledged once committed.
//!
//! The samples are locked in the order of their ids, so two submissions that meet at a sample see each other's
//! votes; the pool's row comes last and is held shortly. Statements are set-based: a hundred labels cost a dozen.

use super::{
    Store, budget,
    error::is_unique_violation,
    micros, overlap,
    place::{Desk, Place, Slot},
    record_read::{Entry, Known, known_labels, lock_samples},
    record_write::{Changes, NewRow},
    rounds, training,
};
use crate::domain::{
    Content, Error, LabelId, LeaseId, NewLabel, Policy, Pool, PoolState, Result, RoundState, SampleState,
    Time, Verdict, VerdictCode, label,
};
use sqlx::{PgConnection, types::Json};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use uuid::Uuid;

/// A label on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelInsert {
    /// What is said.
    pub label: NewLabel,
    /// sha256 of its meaning.
    pub fingerprint: [u8; 32],
    /// What is wrong with it by itself; such a label is answered `INVALID` and not stored.
    pub invalid: Option<String>,
}

/// Labels handed in together.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Name of the pool.
    pub pool: String,
    /// The same id replays the first answer.
    pub request_id: String,
    /// sha256 of the request's meaning.
    pub fingerprint: [u8; 32],
    /// Lease they were asked under, with its token; pipelines leave it out.
    pub lease: Option<(LeaseId, Uuid)>,
    /// Who labelled.
    pub annotator: String,
    /// What is said.
    pub labels: Vec<LabelInsert>,
}

impl Store {
    /// Takes labels and says of each what became of it; begins the training they make due.
    pub async fn record_labels(&self, submission: &Submission, now: Time) -> Result<Vec<Verdict>> {
        let now = micros(now);
        let mut left = 3;
        loop {
            left -= 1;
            match self.try_record(submission, now).await {
                Ok(Some(verdicts)) => return Ok(verdicts),
                Ok(None) if left > 0 => {}
                Ok(None) => {
                    return Err(Error::Unavailable {
                        what: "storage",
                        retry_after: Duration::from_millis(100),
                        source: Some("the pool's policy changed during each of three attempts".into()),
                    });
                }
                // Somebody used one of the ids between our look and our write: now it can be seen.
                Err(e) if left > 0 && is_unique_violation(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// None where the policy that labels were judged by changed before they were written.
    async fn try_record(&self, submission: &Submission, now: Time) -> Result<Option<Vec<Verdict>>> {
        let pool = self.pool(&submission.pool).await?;
        let mut tx = self.pool.begin().await?;
        if let Some(verdicts) = replay(&mut tx, &pool, submission).await? {
            return Ok(Some(verdicts));
        }
        if pool.state == PoolState::Deleting {
            return Err(Error::NotReady(format!(
                "pool pools/{} is being deleted: use another pool",
                pool.name
            )));
        }
        let late = check_lease(&mut tx, &pool, submission, now).await?;
        let mut desks = lock_samples(&mut tx, &pool, submission).await?;
        let known = known_labels(&mut tx, &pool, submission).await?;
        let mut judge = Judge {
            annotator: &submission.annotator,
            policy: &pool.policy,
            now,
            late,
            known,
            room: budget::room(&mut tx, &pool, now).await?,
            changes: Changes::default(),
        };
        let verdicts: Vec<Verdict> =
            submission.labels.iter().map(|one| judge.judge(one, &mut desks)).collect();
        let mut changes = judge.changes;
        changes.settle(desks.values().map(|entry| &entry.desk), now);
        let answers = changes.answers();
        changes.write(&mut tx, &pool, submission, now).await?;
        if changes.stored() && !count(&mut tx, &pool, answers, now).await? {
            return Ok(None);
        }
        sqlx::query!(
            "INSERT INTO submissions (pool_id, request_id, fingerprint, reply, created_at) VALUES ($1, $2, $3, $4, $5)",
            pool.id.0,
            submission.request_id,
            submission.fingerprint.as_slice(),
            Json(&verdicts) as _,
            now
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(verdicts))
    }
}

/// Judges labels one after the other, each seeing what those before it changed.
struct Judge<'a> {
    annotator: &'a str,
    policy: &'a Policy,
    now: Time,
    /// Whether the submission's lease has run out or was released.
    late: bool,
    /// Labels stored before (or earlier in this submission), by the client's id.
    known: HashMap<String, Known>,
    /// Answers the pool may take beyond those that are out; none where that is not bounded.
    room: Option<i64>,
    changes: Changes,
}

impl Judge<'_> {
    fn judge(&mut self, one: &LabelInsert, desks: &mut BTreeMap<String, Entry>) -> Verdict {
        let verdict = |code, label, reason: String| Verdict {
            client_label_id: one.label.client_label_id.clone(),
            code,
            label,
            reason,
        };
        if let Some(reason) = &one.invalid {
            return verdict(VerdictCode::Invalid, None, reason.clone());
        }
        if let Some(known) = self.known.get(&one.label.client_label_id) {
            // What another annotator said is another label, however much the two agree.
            return if known.annotator == self.annotator && known.fingerprint == one.fingerprint {
                verdict(VerdictCode::Duplicate, Some(known.id), "stored before".to_owned())
            } else {
                let text = "client_label_id stands for another label: choose a fresh one".to_owned();
                verdict(VerdictCode::Conflict, Some(known.id), text)
            };
        }
        let Some(entry) = desks.get_mut(&one.label.sample) else {
            let text = format!("sample {:?} does not exist in this pool", one.label.sample);
            return verdict(VerdictCode::Invalid, None, text);
        };
        if !entry.open {
            let text =
                "a sample of the validation or test split takes no labels: it has its reference answer";
            return verdict(VerdictCode::Invalid, None, text.to_owned());
        }
        let id = LabelId::new();
        let judged = match &one.label.content {
            Content::Answer(answer) => self.answer(id, &label::normalise(&answer.text), &mut entry.desk),
            Content::Skip(reason) => Ok(self.skip(reason, &mut entry.desk)),
            Content::Reject(_) => self.reject(&mut entry.desk),
        };
        match judged {
            Err((code, reason)) => verdict(code, None, reason),
            Ok((code, slot)) => {
                let known =
                    Known { id, fingerprint: one.fingerprint.to_vec(), annotator: self.annotator.to_owned() };
                self.known.insert(one.label.client_label_id.clone(), known);
                self.changes.labels.push(NewRow {
                    id,
                    sample: entry.desk.id,
                    insert: one.clone(),
                    arm: slot,
                });
                verdict(code, Some(id), String::new())
            }
        }
    }

    fn answer(&mut self, id: LabelId, normalised: &str, desk: &mut Desk) -> Judged {
        let place = desk.place(self.annotator, self.policy.max_labels, self.now);
        let (number, late) = match place {
            Place::Full(reason) => return Err((VerdictCode::OverlapFull, reason)),
            Place::New(number) => (number, false),
            Place::Slot { number, late } => (number, late),
        };
        let slot = desk.slots.iter().find(|s| s.number == number);
        let arm = slot.and_then(|s| s.arm);
        let on_time = slot.and_then(|s| s.lease.as_ref()).is_some_and(|(_, _, until)| *until > self.now);
        // What is out under a lease was counted when it was handed out.
        if !on_time && let Some(room) = &mut self.room {
            if *room <= 0 {
                let text = "the policy's label_budget is spent, or out with annotators: raise it to go on";
                return Err((VerdictCode::BudgetExhausted, text.to_owned()));
            }
            *room -= 1;
        }
        match place {
            Place::New(_) => self.changes.added.push((desk.id, number, id)),
            _ => self.changes.taken.push((desk.id, number, id)),
        }
        if let Some((lease, _, _)) = slot.and_then(|s| s.lease.as_ref()) {
            self.changes.less(*lease);
        }
        desk.take(number, self.annotator, normalised, self.policy);
        let late = late || (self.late && !on_time);
        Ok((if late { VerdictCode::LeaseExpiredAccepted } else { VerdictCode::Accepted }, arm))
    }

    /// Gives the place back, to others: this annotator will not see the sample again.
    fn skip(&mut self, reason: &str, desk: &mut Desk) -> (VerdictCode, Option<crate::domain::Arm>) {
        self.changes.skipped.push((desk.id, reason.to_owned()));
        let own = |s: &Slot| {
            s.labelled_by.is_none() && s.lease.as_ref().is_some_and(|(_, holder, _)| holder == self.annotator)
        };
        let mut late = self.late;
        let mut arm = None;
        let places = desk.slots.len();
        if let Some(at) = desk.slots.iter().position(own)
            && let Some((lease, _, until)) = desk.slots[at].lease.take()
        {
            late = until <= self.now;
            arm = desk.slots[at].arm;
            if places <= (self.policy.max_labels + desk.extra) as usize {
                self.changes.freed.push((desk.id, desk.slots[at].number));
            } else {
                // One beyond the overlap, which was lowered while it was out.
                self.changes.dropped.push((desk.id, desk.slots.remove(at).number));
            }
            self.changes.less(lease);
        }
        (if late { VerdictCode::LeaseExpiredAccepted } else { VerdictCode::Accepted }, arm)
    }

    /// Takes the sample out of the pool, and out of the hands of those who hold it.
    fn reject(&mut self, desk: &mut Desk) -> Judged {
        if desk.state != SampleState::Unlabelled {
            let text = "the sample has its labels, or was rejected before".to_owned();
            return Err((VerdictCode::OverlapFull, text));
        }
        desk.state = SampleState::Rejected;
        let mut late = self.late;
        let mut arm = None;
        for slot in desk.slots.iter().filter(|s| s.labelled_by.is_none()) {
            let Some((lease, holder, until)) = &slot.lease else { continue };
            if holder == self.annotator {
                late = *until <= self.now;
                arm = slot.arm;
            }
            self.changes.less(*lease);
        }
        desk.slots.retain(|slot| {
            if slot.labelled_by.is_none() {
                self.changes.dropped.push((desk.id, slot.number));
            }
            slot.labelled_by.is_some()
        });
        Ok((if late { VerdictCode::LeaseExpiredAccepted } else { VerdictCode::Accepted }, arm))
    }
}

/// The verdict and why the sample was planned, or the verdict and why nothing is stored.
type Judged = Result<(VerdictCode, Option<crate::domain::Arm>), (VerdictCode, String)>;

async fn replay(
    conn: &mut PgConnection,
    pool: &Pool,
    submission: &Submission,
) -> Result<Option<Vec<Verdict>>> {
    let row = sqlx::query!(
        r#"SELECT fingerprint, reply AS "reply: Json<Vec<Verdict>>" FROM submissions
           WHERE pool_id = $1 AND request_id = $2"#,
        pool.id.0,
        submission.request_id
    )
    .fetch_optional(conn)
    .await?;
    match row {
        None => Ok(None),
        Some(row) if row.fingerprint == submission.fingerprint => Ok(Some(row.reply.0)),
        Some(_) => Err(Error::RequestIdReused(submission.request_id.clone())),
    }
}

/// Whether the submission's lease is over; an error where it is not this annotator's.
async fn check_lease(
    conn: &mut PgConnection,
    pool: &Pool,
    submission: &Submission,
    now: Time,
) -> Result<bool> {
    let Some((id, token)) = submission.lease else { return Ok(false) };
    let row = sqlx::query!(
        "SELECT token, annotator, expires_at, released_at FROM leases WHERE pool_id = $1 AND id = $2",
        pool.id.0,
        id.0
    )
    .fetch_optional(conn)
    .await?;
    let row = row.ok_or_else(|| Error::NotFound { kind: "Lease", name: format!("leases/{id}") })?;
    if row.token != token {
        return Err(Error::LeaseLost(format!(
            "the token is not that of lease {id}: send the one that came with it"
        )));
    }
    if row.annotator != submission.annotator {
        let text =
            format!("lease {id} is held by {:?}: submit in that name, or without the lease", row.annotator);
        return Err(Error::invalid("annotator", text));
    }
    Ok(row.expires_at <= now || row.released_at.is_some())
}

/// Counts the answers for the pool and the round that takes labels, and begins the training they make due. False where
/// the policy they were judged by is no longer the pool's.
async fn count(conn: &mut PgConnection, pool: &Pool, answers: i64, now: Time) -> Result<bool> {
    let row = sqlx::query!(
        r#"UPDATE pools SET label_count = label_count + $2, revision = revision + 1,
               newest_label_at = GREATEST(newest_label_at, $3, (
                   SELECT max(training_started_at) + interval '1 microsecond' FROM rounds WHERE pool_id = $1))
           WHERE id = $1
           RETURNING revision, policy AS "policy: Json<Policy>", pg_notify('pool_changed', id::text) IS NULL AS notified"#,
        pool.id.0,
        answers,
        now
    )
    .fetch_one(&mut *conn)
    .await?;
    let judged_by = (&pool.policy.label_budget, overlap::differs(&row.policy, &pool.policy));
    if judged_by != (&row.policy.label_budget, false) {
        return Ok(false);
    }
    let Some(mut round) = rounds::newest(&mut *conn, pool.id).await? else { return Ok(true) };
    // Answers that come while a training runs count for the round after it, which adds them when it opens.
    if !rounds::is_live(round.state) || round.state == RoundState::Training || answers == 0 {
        return Ok(true);
    }
    sqlx::query!(
        "UPDATE rounds SET label_count = label_count + $2, revision = $3 WHERE id = $1",
        round.id.0,
        answers,
        row.revision
    )
    .execute(&mut *conn)
    .await?;
    round.label_count += answers;
    training::begin_if_due(conn, pool.id, &row.policy, &round, now).await?;
    Ok(true)
}
