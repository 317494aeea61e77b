//! `ModelService`.

use tonic::{Request, Response, Status};

use super::{Api, convert, images, names, pb};
use crate::domain::Result;

#[tonic::async_trait]
impl pb::model_service_server::ModelService for Api {
    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        let request = request.into_inner();
        let (pool, paged) =
            convert::list("versions", &request.parent, request.page_size, &request.page_token)?;
        let page = self.service.list_versions(&pool, &paged.page).await?;
        let (versions, next_page_token) =
            paged.fit(page, self.max_message, |version| convert::version(&pool, version));
        Ok(Response::new(pb::ListVersionsResponse { versions, next_page_token }))
    }

    async fn get_version(
        &self,
        request: Request<pb::GetVersionRequest>,
    ) -> Result<Response<pb::Version>, Status> {
        let (pool, number) = convert::one(names::parse_number("name", &request.get_ref().name, "versions"))?;
        Ok(Response::new(convert::version(&pool, &self.service.get_version(&pool, number).await?)))
    }

    async fn predict(
        &self,
        request: Request<pb::PredictRequest>,
    ) -> Result<Response<pb::PredictResponse>, Status> {
        let (mut predict, files) = convert::predict(request.into_inner(), self.service.images_per_sample())?;
        predict.images = images::load_all(&self.service, files).await?;
        let pool = predict.pool.clone();
        Ok(Response::new(convert::prediction(&pool, self.service.predict(predict).await?)))
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Result<Response<pb::Version>, Status> {
        let (pool, version, etag) = convert::rollback(request.get_ref())?;
        Ok(Response::new(convert::version(&pool, &self.service.rollback(&pool, version, etag).await?)))
    }

    async fn promote_version(
        &self,
        request: Request<pb::PromoteVersionRequest>,
    ) -> Result<Response<pb::Version>, Status> {
        let (pool, version, etag) = convert::promote(request.get_ref())?;
        let version = self.service.promote_version(&pool, version, etag).await?;
        Ok(Response::new(convert::version(&pool, &version)))
    }

    async fn update_version(
        &self,
        request: Request<pb::UpdateVersionRequest>,
    ) -> Result<Response<pb::Version>, Status> {
        let (pool, version, pinned) = convert::update_version(request.get_ref())?;
        let version = self.service.pin_version(&pool, version, pinned).await?;
        Ok(Response::new(convert::version(&pool, &version)))
    }
}
