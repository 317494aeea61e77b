//! Tells people of a job that stands still while its worker lives: in the log, in a metric, in the job's row.
//!
//! Invariant: what is told is taken back when the job goes on or the attempt ends. Deliberately absent: doing anything
//! about it, which is for whoever reads it to decide: what looks like a standstill may be a disk that is full.

use super::{
    attempt::kind_label,
    stall::{News, Pace},
};
use crate::{
    domain::{Job, JobKind, job::Progress},
    service::Service,
    settings,
};

/// One attempt, watched from beside.
pub(super) struct Watch<'a> {
    service: &'a Service,
    job: &'a Job,
    /// None of kinds that have no steps or wait for an idle model by design.
    pace: Option<Pace>,
}

impl<'a> Watch<'a> {
    pub fn new(service: &'a Service, settings: &settings::Worker, job: &'a Job) -> Self {
        let watched = matches!(job.kind, JobKind::Train | JobKind::Score | JobKind::Plan);
        let pace = watched.then(|| Pace::new(settings.stall_after, service.clock.steady()));
        Self { service, job, pace }
    }

    /// Takes in how far the job is.
    pub async fn look(&mut self, progress: &Progress) {
        let steady = self.service.clock.steady();
        let Some(news) = self.pace.as_mut().and_then(|pace| pace.look(progress, steady)) else { return };
        let (phase, done, total) = (&progress.phase, progress.done, progress.total);
        let since = match news {
            News::StandsStill(stood) => {
                tracing::warn!(
                    phase,
                    done,
                    total,
                    ?stood,
                    "the job stands still although its worker lives: see its error for what it waits for, the log for \
                     what it met last; cancel it or restart the worker, and it goes on from its last checkpoint"
                );
                self.gauge().increment(1.0);
                Some(self.service.now() - stood)
            }
            News::Moves => {
                tracing::info!(phase, done, total, "the job goes on");
                self.gauge().decrement(1.0);
                None
            }
        };
        if let Err(error) = self.service.store.note_stall(self.job, since).await {
            tracing::debug!(%error, "that it stands still could not be noted");
        }
    }

    fn gauge(&self) -> metrics::Gauge {
        metrics::gauge!("active_vlm_stalled_jobs", "kind" => kind_label(self.job.kind))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.pace.as_ref().is_some_and(Pace::stands_still) {
            self.gauge().decrement(1.0);
        }
    }
}
