//! Standard health: one name per subsystem, told by the app.
//!
//! The empty name is the process as a whole: it serves as long as its storage does, since labels are taken while the
//! model is down.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Which parts work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Batches can be handed out.
    pub selection: bool,
    /// A worker takes trainings.
    pub training: bool,
    /// The database and the blobs answer.
    pub storage: bool,
    /// The thread that owns the model answers.
    pub engine: bool,
}

impl Health {
    /// Everything works.
    pub const ALL: Self = Self { selection: true, training: true, storage: true, engine: true };

    /// Every name of the health service with its part's state.
    fn named(self) -> [(&'static str, bool); 5] {
        [
            ("", self.storage),
            ("selection", self.selection),
            ("training", self.training),
            ("storage", self.storage),
            ("engine", self.engine),
        ]
    }
}

/// Tells `reporter` what `health` says until `shutdown`, then that nothing serves.
pub(super) async fn report(
    reporter: HealthReporter,
    mut health: watch::Receiver<Health>,
    shutdown: CancellationToken,
) {
    loop {
        let now = *health.borrow_and_update();
        set(&reporter, now).await;
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = health.changed() => if changed.is_err() {
                // Nobody tells any more: the last word stands until the end.
                shutdown.cancelled().await;
                break;
            },
        }
    }
    set(&reporter, Health::default()).await;
}

async fn set(reporter: &HealthReporter, health: Health) {
    for (name, serving) in health.named() {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(name, status).await;
    }
}
