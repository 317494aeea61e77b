//! `TrainingService`.

use tonic::{Request, Response, Status};

use super::{Api, convert, names, pb};
use crate::domain::{JobId, Result};

#[tonic::async_trait]
impl pb::training_service_server::TrainingService for Api {
    async fn start_training(
        &self,
        request: Request<pb::StartTrainingRequest>,
    ) -> Result<Response<pb::Training>, Status> {
        let request = request.into_inner();
        let pool = convert::one(names::parse_pool("parent", &request.parent))?;
        let job = self.service.start_training(&pool, &request.request_id).await?;
        Ok(Response::new(convert::training(&pool, &job)))
    }

    async fn get_training(
        &self,
        request: Request<pb::GetTrainingRequest>,
    ) -> Result<Response<pb::Training>, Status> {
        let (pool, id) = convert::one(names::parse_uuid("name", &request.get_ref().name, "trainings"))?;
        Ok(Response::new(convert::training(&pool, &self.service.get_training(&pool, JobId(id)).await?)))
    }

    async fn list_trainings(
        &self,
        request: Request<pb::ListTrainingsRequest>,
    ) -> Result<Response<pb::ListTrainingsResponse>, Status> {
        let request = request.into_inner();
        let (pool, paged) =
            convert::list("trainings", &request.parent, request.page_size, &request.page_token)?;
        let page = self.service.list_trainings(&pool, &paged.page).await?;
        let (trainings, next_page_token) =
            paged.fit(page, self.max_message, |job| convert::training(&pool, job));
        Ok(Response::new(pb::ListTrainingsResponse { trainings, next_page_token }))
    }

    async fn list_training_steps(
        &self,
        request: Request<pb::ListTrainingStepsRequest>,
    ) -> Result<Response<pb::ListTrainingStepsResponse>, Status> {
        let (pool, id, every, paged) = convert::list_training_steps(request.get_ref())?;
        let page = self.service.list_training_steps(&pool, id, every, &paged.page).await?;
        let (steps, next_page_token) = paged.fit(page, self.max_message, convert::training_step);
        Ok(Response::new(pb::ListTrainingStepsResponse { steps, next_page_token }))
    }

    async fn cancel_training(
        &self,
        request: Request<pb::CancelTrainingRequest>,
    ) -> Result<Response<pb::Training>, Status> {
        let (pool, id) = convert::one(names::parse_uuid("name", &request.get_ref().name, "trainings"))?;
        Ok(Response::new(convert::training(&pool, &self.service.cancel_training(&pool, JobId(id)).await?)))
    }
}
