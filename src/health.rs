//! Watches the parts of a running service, for load balancers and people.
//!
//! Invariant: it asks, and changes nothing but a file of its own in a local blob folder; a part that does not answer
//! in time counts as down.

use crate::{grpc::Health, service::Service};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between looks.
const EVERY: Duration = Duration::from_secs(1);
/// The blob store is asked at one look in so many: a remote one counts and charges every request.
const BLOBS_EVERY: u32 = 10;
/// How long a part may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// The state of every part just now; `works` says whether this process runs jobs.
pub async fn look(service: &Service, works: bool) -> Health {
    let blobs = blobs_answer(service).await;
    look_with(service, works, blobs).await
}

/// Looks again and again until `shutdown`; says in the log when a part changes.
pub async fn watch(service: Service, works: bool, seen: watch::Sender<Health>, shutdown: CancellationToken) {
    let (mut blobs, mut looks) = (true, 0_u32);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        // While it is down it is asked each time, so that its return is seen at once.
        if looks.is_multiple_of(BLOBS_EVERY) || !blobs {
            blobs = blobs_answer(&service).await;
        }
        looks = looks.wrapping_add(1);
        let now = look_with(&service, works, blobs).await;
        let changed = seen.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if changed {
            tracing::warn!(storage = now.storage, engine = now.engine, "the health of a part changed");
        }
    }
}

async fn look_with(service: &Service, works: bool, blobs: bool) -> Health {
    let database = match tokio::time::timeout(WITHIN, service.store.ping()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the database does not answer");
            false
        }
        Err(_) => false,
    };
    let storage = database && blobs;
    let engine = service.engine.health().alive;
    Health { selection: database, training: works && storage && engine, storage, engine }
}

async fn blobs_answer(service: &Service) -> bool {
    match tokio::time::timeout(WITHIN, service.blobs.probe()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the blob store does not answer");
            false
        }
        Err(_) => {
            tracing::warn!(within = ?WITHIN, "the blob store does not answer in time");
            false
        }
    }
}
