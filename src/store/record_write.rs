//! What a submission changes, gathered while its labels are judged and written set by set.

use super::{
    place::{self, Desk},
    record::{LabelInsert, Submission},
    text,
};
use crate::domain::{
    Arm, Content, LabelId, LabelKind, LeaseId, Pool, Result, SampleId, SampleState, Time, label,
};
use sqlx::{PgConnection, types::Json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A label to store.
pub(super) struct NewRow {
    pub(super) id: LabelId,
    pub(super) sample: SampleId,
    pub(super) insert: LabelInsert,
    /// Why the sample was planned; none where it was not.
    pub(super) arm: Option<Arm>,
}

/// Everything to write.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) labels: Vec<NewRow>,
    /// Places of the table that now hold an answer.
    pub(super) taken: Vec<(SampleId, i16, LabelId)>,
    /// Places to add, with their answer.
    pub(super) added: Vec<(SampleId, i16, LabelId)>,
    /// Places that go back to the plan.
    pub(super) freed: Vec<(SampleId, i16)>,
    /// Places that nobody is to take any more.
    pub(super) dropped: Vec<(SampleId, i16)>,
    pub(super) skipped: Vec<(SampleId, String)>,
    /// Queries fewer out, by lease, in the order in which leases are locked.
    less: BTreeMap<LeaseId, i32>,
    labelled: Vec<Uuid>,
    rejected: Vec<Uuid>,
}

impl Changes {
    /// One query fewer is out under this lease.
    pub(super) fn less(&mut self, lease: LeaseId) {
        *self.less.entry(lease).or_default() += 1;
    }

    /// Notes which samples are done with; their free places go, those that are out stay good.
    pub(super) fn settle<'a>(&mut self, desks: impl Iterator<Item = &'a place::Desk>, now: Time) {
        let touched: std::collections::HashSet<SampleId> = self.labels.iter().map(|row| row.sample).collect();
        for Desk { id, state, slots, .. } in desks.filter(|desk| touched.contains(&desk.id)) {
            match state {
                SampleState::Unlabelled => {}
                SampleState::Labelled => {
                    self.labelled.push(id.0);
                    let free = slots.iter().filter(|slot| slot.labelled_by.is_none() && !slot.out(now));
                    self.dropped.extend(free.map(|slot| (*id, slot.number)));
                }
                SampleState::Rejected => self.rejected.push(id.0),
            }
        }
    }

    /// Answers to be stored.
    pub(super) fn answers(&self) -> i64 {
        self.labels.iter().filter(|row| row.insert.label.content.kind() == LabelKind::Answer).count() as i64
    }

    /// Whether anything is to be stored.
    pub(super) fn stored(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Writes everything, sets without members left out.
    pub(super) async fn write(
        &self,
        conn: &mut PgConnection,
        pool: &Pool,
        submission: &Submission,
        now: Time,
    ) -> Result<()> {
        if !self.labels.is_empty() {
            self.write_labels(conn, pool, submission, now).await?;
        }
        self.write_slots(conn, pool, submission).await?;
        if !self.skipped.is_empty() {
            let (samples, reasons): (Vec<Uuid>, Vec<String>) =
                self.skipped.iter().map(|(sample, reason)| (sample.0, reason.clone())).unzip();
            sqlx::query!(
                "INSERT INTO skips (sample_id, annotator, reason, created_at)
                 SELECT n.sample, $1, n.reason, $2 FROM unnest($3::uuid[], $4::text[]) AS n(sample, reason)
                 ON CONFLICT DO NOTHING",
                submission.annotator,
                now,
                &samples,
                &reasons
            )
            .execute(&mut *conn)
            .await?;
        }
        if !self.labelled.is_empty() || !self.rejected.is_empty() {
            sqlx::query!(
                "UPDATE samples s SET state = n.state
                 FROM (SELECT unnest($1::uuid[]) AS id, 'LABELLED' AS state
                       UNION ALL SELECT unnest($2::uuid[]), 'REJECTED') n
                 WHERE s.id = n.id AND s.state = 'UNLABELLED'",
                &self.labelled,
                &self.rejected
            )
            .execute(&mut *conn)
            .await?;
        }
        if !self.less.is_empty() {
            let (leases, counts): (Vec<Uuid>, Vec<i32>) = self.less.iter().map(|(id, n)| (id.0, *n)).unzip();
            sqlx::query!(
                "UPDATE leases l SET held = GREATEST(l.held - n.n, 0) FROM unnest($1::uuid[], $2::integer[]) AS n(id, n)
                 WHERE l.id = n.id",
                &leases,
                &counts
            )
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }

    async fn write_labels(
        &self,
        conn: &mut PgConnection,
        pool: &Pool,
        submission: &Submission,
        now: Time,
    ) -> Result<()> {
        let rows = &self.labels;
        let answer = |row: &NewRow| match &row.insert.label.content {
            Content::Answer(answer) => Some(answer.clone()),
            Content::Skip(_) | Content::Reject(_) => None,
        };
        let answers: Vec<_> = rows.iter().map(answer).collect();
        let texts: Vec<_> = answers.iter().map(|a| a.as_ref().map(|a| a.text.clone())).collect();
        let normalised: Vec<_> = texts.iter().map(|t| t.as_deref().map(label::normalise)).collect();
        let reasoning: Vec<_> =
            answers.iter().map(|a| Json(a.as_ref().map_or(&[][..], |a| &a.reasoning))).collect();
        let regions: Vec<_> =
            answers.iter().map(|a| Json(a.as_ref().map_or(&[][..], |a| &a.regions))).collect();
        let rejected: Vec<_> =
            answers.iter().map(|a| Json(a.as_ref().map_or(&[][..], |a| &a.rejected))).collect();
        let reason = |row: &NewRow| match &row.insert.label.content {
            Content::Answer(_) => String::new(),
            Content::Skip(reason) | Content::Reject(reason) => reason.clone(),
        };
        sqlx::query!(
            "INSERT INTO labels (pool_id, annotator, lease_id, created_at, round_id, id, sample_id, client_label_id,
                                 fingerprint, kind, answer, normalised, reasoning, regions, rejected, reason,
                                 lead_time_ms, seen_version, arm)
             SELECT $1, $2, $3,
                    -- After the start of every training that does not learn from it, also where the clock has gone back.
                    GREATEST($4, (SELECT max(training_started_at) + interval '1 microsecond' FROM rounds
                                  WHERE pool_id = $1)),
                    (SELECT id FROM rounds WHERE pool_id = $1 ORDER BY number DESC LIMIT 1), n.*
             FROM unnest($5::uuid[], $6::uuid[], $7::text[], $8::bytea[], $9::text[], $10::text[], $11::text[],
                         $12::jsonb[], $13::jsonb[], $14::jsonb[], $15::text[], $16::bigint[], $17::bigint[],
                         $18::text[]) AS n",
            pool.id.0,
            submission.annotator,
            submission.lease.map(|(id, _)| id.0),
            now,
            &rows.iter().map(|r| r.id.0).collect::<Vec<_>>(),
            &rows.iter().map(|r| r.sample.0).collect::<Vec<_>>(),
            &rows.iter().map(|r| r.insert.label.client_label_id.clone()).collect::<Vec<_>>(),
            &rows.iter().map(|r| r.insert.fingerprint.to_vec()).collect::<Vec<_>>(),
            &rows.iter().map(|r| text::of(&r.insert.label.content.kind())).collect::<Vec<_>>(),
            &texts as _,
            &normalised as _,
            reasoning as _,
            regions as _,
            rejected as _,
            &rows.iter().map(reason).collect::<Vec<_>>(),
            &rows.iter().map(|r| r.insert.label.lead_time_ms).collect::<Vec<_>>() as _,
            &rows.iter().map(|r| r.insert.label.seen_version).collect::<Vec<_>>() as _,
            &rows.iter().map(|r| text::of(&r.arm.unwrap_or(Arm::External))).collect::<Vec<_>>()
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn write_slots(&self, conn: &mut PgConnection, pool: &Pool, submission: &Submission) -> Result<()> {
        if !self.taken.is_empty() {
            let (samples, slots, labels) = columns(&self.taken);
            sqlx::query!(
                "UPDATE slots t SET state = 'LABELLED', annotator = $1, label_id = n.label, lease_id = NULL,
                                    available_at = '-infinity'
                 FROM unnest($2::uuid[], $3::smallint[], $4::uuid[]) AS n(sample, slot, label)
                 WHERE t.sample_id = n.sample AND t.slot = n.slot",
                submission.annotator,
                &samples,
                &slots,
                &labels
            )
            .execute(&mut *conn)
            .await?;
        }
        if !self.added.is_empty() {
            let (samples, slots, labels) = columns(&self.added);
            // In the order of samples, as the planner inserts: two that meet wait for each other one way only.
            sqlx::query!(
                "INSERT INTO slots (pool_id, annotator, state, rank, sample_id, slot, label_id)
                 SELECT $1, $2, 'LABELLED', 0, n.* FROM unnest($3::uuid[], $4::smallint[], $5::uuid[]) AS n(sample, slot, label)
                 ORDER BY n.sample, n.slot",
                pool.id.0,
                submission.annotator,
                &samples,
                &slots,
                &labels
            )
            .execute(&mut *conn)
            .await?;
        }
        if !self.dropped.is_empty() {
            let (samples, slots): (Vec<Uuid>, Vec<i16>) = self.dropped.iter().map(|(s, n)| (s.0, *n)).unzip();
            sqlx::query!(
                "DELETE FROM slots t USING unnest($1::uuid[], $2::smallint[]) AS n(sample, slot)
                 WHERE t.sample_id = n.sample AND t.slot = n.slot AND t.state = 'PLANNED'",
                &samples,
                &slots
            )
            .execute(&mut *conn)
            .await?;
        }
        if !self.freed.is_empty() {
            let (samples, slots): (Vec<Uuid>, Vec<i16>) = self.freed.iter().map(|(s, n)| (s.0, *n)).unzip();
            sqlx::query!(
                "UPDATE slots t SET lease_id = NULL, available_at = '-infinity'
                 FROM unnest($1::uuid[], $2::smallint[]) AS n(sample, slot)
                 WHERE t.sample_id = n.sample AND t.slot = n.slot AND t.state = 'PLANNED'",
                &samples,
                &slots
            )
            .execute(conn)
            .await?;
        }
        Ok(())
    }
}

fn columns(places: &[(SampleId, i16, LabelId)]) -> (Vec<Uuid>, Vec<i16>, Vec<Uuid>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (sample, slot, label) in places {
        columns.0.push(sample.0);
        columns.1.push(*slot);
        columns.2.push(label.0);
    }
    columns
}
