//! `SelectionService`.

use tonic::{Request, Response, Status};

use super::{Api, convert, images, pb};
use crate::domain::Result;

#[tonic::async_trait]
impl pb::selection_service_server::SelectionService for Api {
    async fn next_batch(
        &self,
        request: Request<pb::NextBatchRequest>,
    ) -> Result<Response<pb::NextBatchResponse>, Status> {
        let view = request.get_ref().image_view;
        let request = convert::next_batch(request.into_inner())?;
        let pool = request.pool.clone();
        let mut batch = convert::batch(&pool, &self.service.next_batch(request).await?);
        let files = batch.queries.iter_mut().flat_map(|query| &mut query.images);
        images::fill(&self.service, view, files, self.max_message).await?;
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
}
