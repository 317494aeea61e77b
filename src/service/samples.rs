//! GetSample and ListSamples.

use super::{Page, PageRequest, Service};
use crate::domain::{Result, Sample, SampleId, SampleState, Split};

impl Service {
    /// The sample of this name.
    pub async fn get_sample(&self, pool: &str, sample: &str) -> Result<Sample> {
        let pool = self.store.pool(pool).await?;
        self.store.sample(pool.id, sample).await
    }

    /// Samples in the order they came.
    pub async fn list_samples(
        &self,
        pool: &str,
        split: Option<Split>,
        state: Option<SampleState>,
        page: &PageRequest,
    ) -> Result<Page<Sample>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let after = page.after_key::<uuid::Uuid>("samples")?.map(SampleId);
        let samples = self.store.list_samples(pool.id, split, state, after, limit + 1).await?;
        Ok(Page::cut(samples, limit, "samples", |sample| sample.id.to_string()))
    }
}
