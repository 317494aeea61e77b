//! StartTraining, GetTraining, ListTrainings, ListTrainingSteps, CancelTraining.

use super::{Page, PageRequest, Service, check, pools::check_request_id};
use crate::domain::{Error, Job, JobId, JobKind, JobState, Result, TrainingStep};

impl Service {
    /// Asks for a training on all labels there are; one at work or waiting is the answer to every further request.
    ///
    /// # Errors
    /// `NotReady` without labels.
    pub async fn start_training(&self, pool: &str, request_id: &str) -> Result<Job> {
        let mut checks = check::Checks::default();
        check_request_id(&mut checks, request_id, self.limits.name_bytes_max);
        checks.done()?;
        let pool = self.active_pool(pool).await?;
        let job = self.store.start_training(pool.id, request_id, self.now()).await?;
        tracing::info!(pool = pool.name, job = %job.id, "training asked for");
        Ok(job)
    }

    /// The training of this id.
    pub async fn get_training(&self, pool: &str, training: JobId) -> Result<Job> {
        let pool = self.store.pool(pool).await?;
        let job = self.store.job(pool.id, training).await?;
        if job.kind == JobKind::Train { Ok(job) } else { Err(missing(training)) }
    }

    /// Trainings, the one asked for last first.
    pub async fn list_trainings(&self, pool: &str, page: &PageRequest) -> Result<Page<Job>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let before = page.after_key::<uuid::Uuid>("trainings")?.map(JobId);
        let jobs = self.store.list_jobs(pool.id, JobKind::Train, before, limit + 1).await?;
        Ok(Page::cut(jobs, limit, "trainings", |job| job.id.to_string()))
    }

    /// What the steps of a training did, in order: the first, every `every`th from there, and the newest.
    pub async fn list_training_steps(
        &self,
        pool: &str,
        training: JobId,
        every: u64,
        page: &PageRequest,
    ) -> Result<Page<TrainingStep>> {
        let job = self.get_training(pool, training).await?;
        let limit = page.limit(&self.limits);
        let after = page.after_key("training_steps")?;
        let steps = self.store.training_steps(job.id, every, after, limit + 1).await?;
        Ok(Page::cut(steps, limit, "training_steps", |step| step.step.to_string()))
    }

    /// Asks a training to stop before its next step; harmless where it is cancelled already. Its round's labels stay.
    ///
    /// # Errors
    /// `NotReady` where it has succeeded or failed.
    pub async fn cancel_training(&self, pool: &str, training: JobId) -> Result<Job> {
        let job = self.get_training(pool, training).await?;
        let is_over = |job: &Job| matches!(job.state, JobState::Succeeded | JobState::Failed);
        let over =
            || Error::NotReady(format!("training {training} has ended already: there is nothing to cancel"));
        if is_over(&job) {
            return Err(over());
        }
        let job = self.store.request_cancel(job.pool_id, training, self.now()).await?;
        // It may have ended while it was asked.
        if is_over(&job) && !job.cancel_requested { Err(over()) } else { Ok(job) }
    }
}

fn missing(training: JobId) -> Error {
    Error::NotFound { kind: "Training", name: format!("trainings/{training}") }
}
