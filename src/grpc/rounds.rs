//! `RoundService`.

use futures::{Stream, StreamExt as _, stream};
use std::pin::Pin;
use tonic::{Request, Response, Status};

use super::{Api, convert, names, pb, status};
use crate::domain::{Error, Result};

type Events = Pin<Box<dyn Stream<Item = Result<pb::WatchRoundsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl pb::round_service_server::RoundService for Api {
    async fn get_round(&self, request: Request<pb::GetRoundRequest>) -> Result<Response<pb::Round>, Status> {
        let (pool, number) = convert::one(names::parse_number("name", &request.get_ref().name, "rounds"))?;
        Ok(Response::new(convert::round(&pool, &self.service.get_round(&pool, number).await?)))
    }

    async fn list_rounds(
        &self,
        request: Request<pb::ListRoundsRequest>,
    ) -> Result<Response<pb::ListRoundsResponse>, Status> {
        let request = request.into_inner();
        let (pool, paged) = convert::list("rounds", &request.parent, request.page_size, &request.page_token)?;
        let page = self.service.list_rounds(&pool, &paged.page).await?;
        let (rounds, next_page_token) =
            paged.fit(page, self.max_message, |round| convert::round(&pool, round));
        Ok(Response::new(pb::ListRoundsResponse { rounds, next_page_token }))
    }

    type WatchRoundsStream = Events;

    async fn watch_rounds(
        &self,
        request: Request<pb::WatchRoundsRequest>,
    ) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let pool = convert::one(names::parse_pool("parent", &request.parent))?;
        let token = match request.resume_token.as_str() {
            "" => 0,
            text => text.parse().map_err(|_| {
                Error::invalid(
                    "resume_token",
                    "is not one of this service's: copy it from the last message seen",
                )
            })?,
        };
        let events = self.service.watch_rounds(&pool, token).await?;
        let events = events.map(move |event| {
            let event = event?;
            Ok(pb::WatchRoundsResponse {
                round: Some(convert::round(&pool, &event.round)),
                training: event.training.as_ref().map(|job| convert::training(&pool, job)),
                resume_token: event.resume_token.to_string(),
            })
        });
        let until_shutdown = events.take_until(self.shutdown.clone().cancelled_owned());
        // The stream has no end of its own: where it ends, the server does.
        let ended = stream::once(async { Err(status::going_away()) });
        Ok(Response::new(Box::pin(until_shutdown.chain(ended))))
    }

    async fn pin_stage(&self, request: Request<pb::PinStageRequest>) -> Result<Response<pb::Pool>, Status> {
        let pool = self.service.pin_stage(convert::pin_stage(request.get_ref())?).await?;
        Ok(Response::new(convert::pool(&pool)))
    }

    async fn get_metrics(
        &self,
        request: Request<pb::GetMetricsRequest>,
    ) -> Result<Response<pb::Metrics>, Status> {
        let pool = convert::one(names::parse_metrics("name", &request.get_ref().name))?;
        Ok(Response::new(convert::metrics(&pool, &self.service.metrics(&pool).await?)))
    }
}
