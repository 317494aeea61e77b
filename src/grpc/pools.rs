//! `PoolService`.

use futures::future;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Api,
    convert::{self, Image, Incoming},
    images,
    intake::{Intake, Item},
    names,
    page::Paged,
    pb,
    status::{self, clip},
};
use crate::{
    domain::{Error, Result},
    service::{IncomingImage, IncomingSample, ItemCode},
};

/// Rejects told one by one.
const REJECTS: usize = 1000;
/// Bytes of a reject's id and of its reason: a thousand of them still fit a message.
const TOLD_BYTES: usize = 1 << 10;

#[tonic::async_trait]
impl pb::pool_service_server::PoolService for Api {
    async fn create_pool(
        &self,
        request: Request<pb::CreatePoolRequest>,
    ) -> Result<Response<pb::Pool>, Status> {
        let pool = self.service.create_pool(convert::create_pool(request.into_inner())?).await?;
        Ok(Response::new(convert::pool(&pool)))
    }

    async fn get_pool(&self, request: Request<pb::GetPoolRequest>) -> Result<Response<pb::Pool>, Status> {
        let name = convert::one(names::parse_pool("name", &request.get_ref().name))?;
        Ok(Response::new(convert::pool(&self.service.get_pool(&name).await?)))
    }

    async fn list_pools(
        &self,
        request: Request<pb::ListPoolsRequest>,
    ) -> Result<Response<pb::ListPoolsResponse>, Status> {
        let request = request.into_inner();
        let mut check = convert::Check::default();
        let paged = Paged::read(&mut check, &["pools"], request.page_size, &request.page_token);
        let paged = check.done(paged)?;
        let page = self.service.list_pools(&paged.page).await?;
        let (pools, next_page_token) = paged.fit(page, self.max_message, convert::pool);
        Ok(Response::new(pb::ListPoolsResponse { pools, next_page_token }))
    }

    async fn update_pool(
        &self,
        request: Request<pb::UpdatePoolRequest>,
    ) -> Result<Response<pb::Pool>, Status> {
        let request = request.into_inner();
        let named = request.pool.as_ref().map_or("", |pool| pool.name.as_str());
        let name = convert::one(names::parse_pool("pool.name", named))?;
        // A mask changes parts of the policy as it is now; the etag read with it keeps the two together.
        let now = self.service.get_pool(&name).await?;
        let pool = self.service.update_pool(&name, convert::pool_patch(&request, &now)?).await?;
        Ok(Response::new(convert::pool(&pool)))
    }

    async fn delete_pool(
        &self,
        request: Request<pb::DeletePoolRequest>,
    ) -> Result<Response<pb::Pool>, Status> {
        let request = request.into_inner();
        let mut check = convert::Check::default();
        let name = check.take(names::parse_pool("name", &request.name));
        let etag = (!request.etag.is_empty()).then(|| check.take(names::parse_token("etag", &request.etag)));
        check.done(())?;
        self.service.delete_pool(&name, etag).await?;
        Ok(Response::new(convert::pool(&self.service.get_pool(&name).await?)))
    }

    async fn add_samples(
        &self,
        request: Request<Streaming<pb::AddSamplesRequest>>,
    ) -> Result<Response<pb::AddSamplesResponse>, Status> {
        let mut messages = request.into_inner();
        let mut intake = Intake::new(self.chunked_limit(), self.service.images_per_sample());
        let mut told = pb::AddSamplesResponse::default();
        let mut chunk = self.next_chunk(&mut messages, &mut intake).await?;
        while !chunk.is_empty() {
            // The next chunk is read while this one is stored.
            let pool = intake.pool().unwrap_or_default().to_owned();
            let (added, next) = future::join(
                self.add_chunk(&pool, chunk, &mut told),
                self.next_chunk(&mut messages, &mut intake),
            )
            .await;
            added?;
            chunk = next?;
        }
        if told == pb::AddSamplesResponse::default() {
            // An empty stream still says whether its pool is there.
            self.service.get_pool(intake.pool().unwrap_or_default()).await?;
        }
        Ok(Response::new(told))
    }

    async fn get_sample(
        &self,
        request: Request<pb::GetSampleRequest>,
    ) -> Result<Response<pb::Sample>, Status> {
        let request = request.into_inner();
        let (pool, sample) = convert::one(names::parse_child("name", &request.name, "samples"))?;
        let mut sample = convert::sample(&pool, &self.service.get_sample(&pool, &sample).await?);
        images::fill(&self.service, request.image_view, &mut sample.images, self.max_message).await?;
        Ok(Response::new(sample))
    }

    async fn list_samples(
        &self,
        request: Request<pb::ListSamplesRequest>,
    ) -> Result<Response<pb::ListSamplesResponse>, Status> {
        let (pool, split, state, paged) = convert::list_samples(request.get_ref())?;
        let page = self.service.list_samples(&pool, split, state, &paged.page).await?;
        let (samples, next_page_token) = paged.fit(page, self.max_message, |s| convert::sample(&pool, s));
        Ok(Response::new(pb::ListSamplesResponse { samples, next_page_token }))
    }

    async fn import_scores(
        &self,
        request: Request<Streaming<pb::ImportScoresRequest>>,
    ) -> Result<Response<pb::ImportScoresResponse>, Status> {
        let mut messages = request.into_inner();
        let mut told = pb::ImportScoresResponse::default();
        let (mut pool, mut index) = (String::new(), 0);
        while let Some(message) =
            messages.message().await.map_err(|e| status::enriched(e, self.max_message))?
        {
            if !message.parent.is_empty() || pool.is_empty() {
                let named = convert::one(names::parse_pool("parent", &message.parent))?;
                if !pool.is_empty() && named != pool {
                    let text = "changes within the stream: open one stream per pool";
                    return Err(Error::invalid("parent", text).into());
                }
                pool = named;
            }
            let items: Vec<_> = message.scores.into_iter().map(convert::import_item).collect();
            // One without scores still says whether its pool is there.
            for verdict in self.service.import_scores(&pool, items).await? {
                let place = index;
                index += 1;
                let Some(reason) = verdict.refused else {
                    told.imported_count += 1;
                    continue;
                };
                told.rejected_count += 1;
                if told.rejected.len() < REJECTS {
                    let (sample_id, reason) = (clip(&verdict.sample, TOLD_BYTES), clip(&reason, TOLD_BYTES));
                    told.rejected.push(pb::RejectedSample { sample_id, index: place, reason });
                }
            }
        }
        if pool.is_empty() {
            let text = "is required in the first message: write pools/{pool}";
            return Err(Error::invalid("parent", text).into());
        }
        Ok(Response::new(told))
    }
}

impl Api {
    /// Bytes of one sample's chunked files at most: its images, each as large as allowed, but no more than 64 MiB
    /// unless a single image may be larger.
    fn chunked_limit(&self) -> u64 {
        let one = self.service.images.max_bytes;
        one.saturating_mul(self.service.images_per_sample()).min(one.max(64 << 20)) as u64
    }

    /// Reads messages until there is a chunk; an empty one at the end of the stream.
    async fn next_chunk(
        &self,
        messages: &mut Streaming<pb::AddSamplesRequest>,
        intake: &mut Intake,
    ) -> Result<Vec<Item>, Status> {
        while !intake.is_full() {
            let message = messages.message().await.map_err(|e| status::enriched(e, self.max_message))?;
            let Some(message) = message else {
                intake.end()?;
                break;
            };
            intake.accept(message)?;
        }
        Ok(intake.take())
    }

    /// Stores a chunk and notes what became of it.
    async fn add_chunk(&self, pool: &str, chunk: Vec<Item>, told: &mut pb::AddSamplesResponse) -> Result<()> {
        let reject = |told: &mut pb::AddSamplesResponse, index, sample_id: String, reason: String| {
            told.rejected_count += 1;
            if told.rejected.len() < REJECTS {
                let (sample_id, reason) = (clip(&sample_id, TOLD_BYTES), clip(&reason, TOLD_BYTES));
                told.rejected.push(pb::RejectedSample { sample_id, index, reason });
            }
        };
        let (mut places, mut samples) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
        for item in chunk {
            match item.sample {
                Ok(incoming) => {
                    places.push(item.index);
                    samples.push(whole(incoming));
                }
                Err((name, reason)) => reject(told, item.index, name, reason),
            }
        }
        let results = self.service.add_samples(pool, samples).await?;
        for (index, result) in places.into_iter().zip(results) {
            match result.code {
                ItemCode::Added => told.added_count += 1,
                ItemCode::Unchanged => told.unchanged_count += 1,
                ItemCode::Rejected => reject(told, index, result.name, result.reason),
            }
        }
        // Rejects of reading come before those of storing; tell them in the stream's order.
        told.rejected.sort_by_key(|rejected| rejected.index);
        Ok(())
    }
}

/// The sample with its images; a file that never came is an empty one, which the service refuses.
fn whole(Incoming { mut sample, images }: Incoming) -> IncomingSample {
    let images = images.into_iter().map(|image| match image {
        Image::File(file) => IncomingImage::File(file),
        Image::Key(digest) => IncomingImage::Stored(digest),
        // `Intake` hands on complete samples only.
        Image::Chunked(_) => IncomingImage::File(bytes::Bytes::new()),
    });
    sample.images = images.collect();
    sample
}
