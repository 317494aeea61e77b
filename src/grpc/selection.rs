//! `SelectionService`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Api, convert, guard, images, pb};
use crate::domain::Result;

#[tonic::async_trait]
impl pb::selection_service_server::SelectionService for Api {
    async fn next_batch(
        &self,
        request: Request<pb::NextBatchRequest>,
    ) -> Result<Response<pb::NextBatchResponse>, Status> {
        let deadline = request.extensions().get::<guard::Deadline>().copied();
        let (mut wanted, view) = convert::next_batch(request.into_inner())?;
        if let Some(guard::Deadline(at)) = deadline {
            wanted.max_wait = wait_within(wanted.max_wait, at.saturating_duration_since(Instant::now()));
        }
        let pool = wanted.pool.clone();
        let mut batch = convert::batch(&pool, &self.service.next_batch(wanted).await?);
        // From here on the queries are leased: whatever cannot be sent, the lease is.
        images::lighten(&mut batch, self.max_message);
        if view == pb::ImageView::Bytes {
            images::fill_batch(&self.service, &mut batch, self.max_message).await;
        }
        Ok(Response::new(batch))
    }

    async fn renew_lease(
        &self,
        request: Request<pb::RenewLeaseRequest>,
    ) -> Result<Response<pb::Lease>, Status> {
        let renew = convert::renew(request.get_ref())?;
        let pool = renew.pool.clone();
        Ok(Response::new(convert::lease(&pool, &self.service.renew_lease(renew).await?)))
    }

    async fn release_queries(
        &self,
        request: Request<pb::ReleaseQueriesRequest>,
    ) -> Result<Response<pb::ReleaseQueriesResponse>, Status> {
        let released = self.service.release_queries(convert::release(request.into_inner())?).await?;
        let released_count = i64::try_from(released).unwrap_or(i64::MAX);
        Ok(Response::new(pb::ReleaseQueriesResponse { released_count }))
    }

    async fn list_leases(
        &self,
        request: Request<pb::ListLeasesRequest>,
    ) -> Result<Response<pb::ListLeasesResponse>, Status> {
        let request = request.into_inner();
        let (pool, paged) = convert::list("leases", &request.parent, request.page_size, &request.page_token)?;
        let page = self.service.list_leases(&pool, &paged.page).await?;
        let leases = page.items.iter().map(|lease| convert::held_lease(&pool, lease)).collect();
        let next_page_token = paged.next(page.next_page_token);
        Ok(Response::new(pb::ListLeasesResponse { leases, next_page_token }))
    }

    async fn preview_batch(
        &self,
        request: Request<pb::PreviewBatchRequest>,
    ) -> Result<Response<pb::PreviewBatchResponse>, Status> {
        let wanted = convert::preview_batch(request.get_ref())?;
        let pool = wanted.pool.clone();
        Ok(Response::new(convert::preview(&pool, &self.service.preview_batch(wanted).await?)))
    }

    async fn explain_selection(
        &self,
        request: Request<pb::ExplainSelectionRequest>,
    ) -> Result<Response<pb::ExplainSelectionResponse>, Status> {
        let (pool, sample, round) = convert::explain(request.get_ref())?;
        let told = self.service.explain_selection(&pool, &sample, round).await?;
        Ok(Response::new(convert::explanation(&pool, &told)))
    }

    async fn replay_selection(
        &self,
        request: Request<pb::ReplaySelectionRequest>,
    ) -> Result<Response<pb::ReplaySelectionResponse>, Status> {
        let (pool, round) = convert::replay_of(request.get_ref())?;
        let replay = self.service.replay_selection(&pool, round).await?;
        Ok(Response::new(convert::replay(&pool, round, &replay)))
    }
}

/// Least time kept back from a deadline for the answer itself.
const ANSWERING: Duration = Duration::from_millis(100);

/// How long to wait for a plan where the answer must be out within `left`: that there is none yet is an answer too.
fn wait_within(wanted: Duration, left: Duration) -> Duration {
    wanted.min(left.saturating_sub(ANSWERING.max(left / 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_before_the_deadline_does() {
        let secs = Duration::from_secs;
        assert_eq!(wait_within(secs(5), secs(30)), secs(5));
        assert_eq!(wait_within(secs(45), secs(30)), secs(27));
        assert_eq!(wait_within(secs(45), Duration::from_millis(500)), Duration::from_millis(400));
        assert_eq!(wait_within(secs(45), Duration::from_millis(50)), Duration::ZERO);
    }
}
