//! The composition root: makes every part from the settings, joins them, and takes them down in order.
//!
//! Invariant: parts start in the order they depend on each other (database, blobs, engine, listeners, worker) and
//! stop in the opposite one, all within `shutdown_grace`; a part that ends by itself ends the process, with its
//! error, so that nothing dies silently. The model's thread is such a part where jobs are run.

use crate::{
    blobs::Blobs,
    engine::{Engine, EngineConfig},
    grpc, health, http,
    service::{Clock, Service, planning_permits},
    settings::Settings,
    store::{
        Options, Store,
        embedded::{Embedded, EmbeddedConfig, EmbeddedError},
    },
    telemetry::Metrics,
    worker::Worker,
};
use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use std::{future::Future, net::SocketAddr, time::Duration};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Part of `shutdown_grace` that is kept for closing the database: a fifth, and no more than this.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Which halves of the service a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// API and worker.
    Both,
    /// API only.
    Api,
    /// Worker only; health and metrics are served all the same.
    Worker,
}

/// A started service.
pub struct App {
    settings: Settings,
    role: Role,
    service: Service,
    embedded: Option<Embedded>,
    metrics: Metrics,
    grpc: Option<TcpListener>,
    http: TcpListener,
}

impl App {
    /// Starts every part and binds the listeners; nothing is served before [`App::run_until`].
    pub async fn start(settings: Settings, role: Role, metrics: Metrics) -> anyhow::Result<Self> {
        // Ports first: a second service on the same machine is told at once, not after the model is loaded.
        let http = bind(settings.http.listen, "http.listen").await?;
        let grpc = match role {
            Role::Worker => None,
            Role::Both | Role::Api => Some(bind(settings.grpc.listen, "grpc.listen").await?),
        };
        let (store, embedded) = database(&settings, role).await?;
        store.migrate().await.context("bringing the database's schema up to date")?;
        let blobs = open_blobs(&settings)?;
        let engine = Engine::start(engine_config(&settings)).await.context("starting the engine")?;
        let service = Service {
            store,
            blobs,
            engine,
            limits: settings.limits.clone(),
            images: settings.images.clone(),
            clock: Clock::system(),
            lives: Default::default(),
            scratch: settings.state_dir.join("scratch"),
            planning: planning_permits(),
        };
        let (wanted, taken) = (settings.limits.images_per_sample_max, service.images_per_sample());
        if wanted > taken {
            tracing::warn!(
                wanted,
                taken,
                "limits.images_per_sample_max is more than the model takes: samples with more than that are refused"
            );
        }
        Ok(Self { settings, role, service, embedded, metrics, grpc, http })
    }

    /// The same service by another clock, for tests that move time themselves.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.service.clock = clock;
        self
    }

    /// Where the API listens; none for a worker.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The use cases, for callers in the same process.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Serves until `stop` is ready or a part ends by itself, then takes everything down.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let token = CancellationToken::new();
        let works = self.role != Role::Api;
        let (seen, health) = watch::channel(health::look(&self.service, works).await);
        let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
        parts.spawn(done(health::watch(self.service.clone(), works, seen, token.clone())));
        parts.spawn(done(token.clone().run_until_cancelled_owned(self.metrics.clone().upkeep())));
        if let Some(listener) = self.grpc.take() {
            tracing::info!(address = %listener.local_addr()?, "gRPC listens");
            let (service, settings, token) =
                (self.service.clone(), self.settings.grpc.clone(), token.clone());
            let health = health.clone();
            parts.spawn(async move {
                grpc::serve(service, listener, &settings, health, token).await.context("the gRPC server")
            });
        }
        tracing::info!(address = %self.http.local_addr()?, "metrics and health listen");
        let router = http::router(self.metrics.clone(), move || {
            let now = *health.borrow();
            async move { readiness(now) }
        });
        let serving = http::serve(self.http, router, token.clone().cancelled_owned());
        parts.spawn(async move { serving.await.context("the HTTP server") });
        if works {
            // Every job would be given back again and again: whoever runs this process starts a new one. An API alone
            // goes on taking labels, and its health says that the model is down.
            let engine = self.service.engine.clone();
            let watching = token.clone().run_until_cancelled_owned(async move { engine.stopped().await });
            parts.spawn(async move {
                watching.await.map_or(Ok(()), |()| {
                    Err(anyhow::anyhow!(
                        "the thread that owns the model has ended, see the log: start the service again"
                    ))
                })
            });
            let worker = Worker::new(self.service.clone(), self.settings.worker.clone());
            let token = token.clone();
            parts.spawn(async move { done(worker.run(token)).await });
        }

        let ended = tokio::select! {
            () = stop => None,
            ended = parts.join_next() => ended,
        };
        if ended.is_some() {
            tracing::error!("a part of the service ended by itself: shutting down");
        } else {
            tracing::info!(grace = ?self.settings.shutdown_grace, "shutting down");
        }
        let grace = self.settings.shutdown_grace;
        let deadline = Instant::now() + grace;
        token.cancel();
        let mut result = ended.map_or(Ok(()), flatten);
        let drain = async {
            while let Some(ended) = parts.join_next().await {
                result = std::mem::replace(&mut result, Ok(())).and(flatten(ended));
            }
        };
        let closing = CLOSING_MAX.min(grace / 5);
        if timeout_at(deadline - closing, drain).await.is_err() {
            tracing::warn!("some requests or jobs outlived the grace; jobs resume from their checkpoints");
            parts.abort_all();
        }
        self.service.engine.stop();
        // Whoever outlived the drain may still hold a connection, and would be waited for.
        let closed = timeout_at(deadline - closing / 2, self.service.store.close()).await;
        let stopping = async {
            if let Some(embedded) = self.embedded {
                embedded.stop().await;
            }
            self.service.engine.stopped().await;
        };
        if timeout_at(deadline, stopping).await.is_err() || closed.is_err() {
            // What was acknowledged is on disk; the private Postgres has been told to stop and ends with us.
            tracing::warn!("the database or the model did not stop within the grace: ending without them");
        }
        tracing::info!("stopped");
        result
    }
}

/// Connects to the database of the settings, which must be there already.
pub async fn connect(settings: &Settings) -> anyhow::Result<Store> {
    let url = settings.database.url.as_ref().context("database.url is not set")?;
    Ok(Store::connect(url.expose_secret(), &options(settings)).await?)
}

/// Applies the migrations and stops.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let (store, embedded) = database(settings, Role::Both).await?;
    store.migrate().await.context("bringing the database's schema up to date")?;
    store.close().await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    println!("the schema is up to date");
    Ok(())
}

/// Ready on SIGTERM or SIGINT.
pub async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// The server of the settings, or a private one under the state folder.
async fn database(settings: &Settings, role: Role) -> anyhow::Result<(Store, Option<Embedded>)> {
    if settings.database.url.is_some() {
        return Ok((connect(settings).await.context("connecting to database.url")?, None));
    }
    let config =
        EmbeddedConfig { state_dir: settings.state_dir.clone(), bin_dir: settings.database.bin_dir.clone() };
    let embedded = match Embedded::start(config).await {
        // Another folder would be an empty database, in which a worker or a second API finds nothing to do.
        Err(EmbeddedError::Locked(folder)) if role != Role::Both => anyhow::bail!(
            "the private Postgres in {} belongs to the service that is running and cannot be shared: processes that \
             work together need a server of their own, set database.url to it in each of them",
            folder.display()
        ),
        started => started.context("starting the private Postgres")?,
    };
    let store = Store::connect(embedded.url(), &options(settings))
        .await
        .context("connecting to the private Postgres")?;
    Ok((store, Some(embedded)))
}

/// The blob storage of the settings.
///
/// # Errors
/// When its URL or folder cannot be used.
pub fn open_blobs(settings: &Settings) -> anyhow::Result<Blobs> {
    Blobs::open(settings.blobs.url.as_deref(), &settings.blob_dir()).context("opening the blob store")
}

/// How the settings want the model to be run.
pub fn engine_config(settings: &Settings) -> EngineConfig {
    let (engine, usual) = (&settings.engine, EngineConfig::default());
    EngineConfig {
        model_dir: engine.model_dir.clone(),
        device: engine.device.clone(),
        more_devices: engine.more_devices.clone(),
        dtype: engine.dtype.clone(),
        gradient_checkpointing: engine.gradient_checkpointing,
        lora_targets: engine.lora_targets.clone(),
        threads: engine.threads,
        queue: engine.queue,
        token_budget: engine.token_budget,
        memory_limit: (engine.memory_limit > 0).then_some(engine.memory_limit),
        resident_versions: engine.resident_versions,
        // What was taken in under a wider limit can still be read under a narrower one.
        image_max_bytes: settings.images.max_bytes.max(usual.image_max_bytes),
        image_max_pixels: settings.images.max_pixels.max(usual.image_max_pixels),
        ..usual
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        max_connections: settings.database.max_connections,
        acquire_timeout: settings.database.connect_timeout,
    }
}

/// What `/readyz` says, part by part.
fn readiness(health: grpc::Health) -> Vec<http::Readiness> {
    let part = |part, works: bool, problem: &str| http::Readiness {
        part,
        problem: (!works).then(|| problem.to_owned()),
    };
    vec![
        part("storage", health.storage, "the database or the blob store does not answer: see the log"),
        part("engine", health.engine, "the thread that owns the model has ended: restart the service"),
    ]
}

async fn done<T>(part: impl Future<Output = T>) -> anyhow::Result<()> {
    part.await;
    Ok(())
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: choose a free one by {key} (port 0 takes any)"))
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.unwrap_or_else(|error| Err(anyhow::anyhow!("a part of the service panicked: {error}")))
}
