//! Watches the parts of a running service, for load balancers and people.
//!
//! Invariant: it asks, and changes nothing; a part that does not answer in time counts as down.

use crate::{grpc::Health, service::Service};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long a part may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// The state of every part just now; `works` says whether this process runs jobs.
pub async fn look(service: &Service, works: bool) -> Health {
    let storage = tokio::time::timeout(WITHIN, service.store.ping()).await.is_ok_and(|answer| answer.is_ok());
    let engine = service.engine.health().alive;
    Health { selection: storage, training: works && storage && engine, storage, engine }
}

/// Looks again and again until `shutdown`; says in the log when a part changes.
pub async fn watch(service: Service, works: bool, seen: watch::Sender<Health>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = look(&service, works).await;
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
