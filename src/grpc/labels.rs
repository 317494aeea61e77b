//! `LabelService`.

use tonic::{Request, Response, Status};

use super::{Api, convert, pb};
use crate::domain::Result;

#[tonic::async_trait]
impl pb::label_service_server::LabelService for Api {
    async fn submit_labels(
        &self,
        request: Request<pb::SubmitLabelsRequest>,
    ) -> Result<Response<pb::SubmitLabelsResponse>, Status> {
        let submission =
            convert::submit_labels(request.into_inner(), self.service.limits.labels_per_call_max)?;
        let pool = submission.pool.clone();
        let verdicts = self.service.submit_labels(submission).await?;
        let verdicts = verdicts.iter().map(|verdict| convert::verdict(&pool, verdict)).collect();
        Ok(Response::new(pb::SubmitLabelsResponse { verdicts }))
    }

    async fn list_labels(
        &self,
        request: Request<pb::ListLabelsRequest>,
    ) -> Result<Response<pb::ListLabelsResponse>, Status> {
        let (pool, sample, paged) = convert::list_labels(request.get_ref())?;
        let page = self.service.list_labels(&pool, sample.as_deref(), &paged.page).await?;
        let (labels, next_page_token) =
            paged.fit(page, self.max_message, |label| convert::label(&pool, label));
        Ok(Response::new(pb::ListLabelsResponse { labels, next_page_token }))
    }

    async fn list_suspect_labels(
        &self,
        request: Request<pb::ListSuspectLabelsRequest>,
    ) -> Result<Response<pb::ListSuspectLabelsResponse>, Status> {
        let request = request.into_inner();
        let (pool, paged) =
            convert::list("suspects", &request.parent, request.page_size, &request.page_token)?;
        let page = self.service.list_suspect_labels(&pool, &paged.page).await?;
        let (suspects, next_page_token) =
            paged.fit(page, self.max_message, |suspect| convert::suspect(&pool, suspect));
        Ok(Response::new(pb::ListSuspectLabelsResponse { suspects, next_page_token }))
    }
}
