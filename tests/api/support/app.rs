//! The service in the test's own process: every layer is the real one, only the clock is the test's.
//!
//! It runs on a runtime of its own, so that a crash is that runtime's end: every task stops where it is, as in a
//! process that dies, and what the kernel would close is closed. Jobs run when the test says so.

use super::{
    Client, MODEL,
    database::{fresh_database, hold_leases},
};
use active_vlm::{
    app::{App, Role},
    service::{Clock, Service},
    settings::Settings,
    telemetry::Metrics,
    worker,
};
use secrecy::ExposeSecret as _;
use std::{collections::HashMap, net::SocketAddr, time::Duration};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// A service under test.
pub struct TestApp {
    pub address: SocketAddr,
    pub client: Client,
    pub clock: Clock,
    pub service: Service,
    settings: Settings,
    runtime: Option<Runtime>,
    _state: TempDir,
}

/// A service with the default settings, on a free port and a database of its own, without a worker.
pub async fn spawn_app() -> TestApp {
    spawn_app_with(|_| {}).await
}

/// The same with settings of the test's choice.
pub async fn spawn_app_with(change: impl FnOnce(&mut Settings)) -> TestApp {
    let state = tempfile::tempdir().expect("a temp folder");
    let mut settings = Settings::load_with(&[], HashMap::new()).expect("valid defaults");
    settings.state_dir = state.path().to_owned();
    settings.grpc.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.http.listen = settings.grpc.listen;
    settings.database.url = Some(fresh_database().await.into());
    settings.engine.model_dir = MODEL.into();
    settings.engine.threads = 1;
    change(&mut settings);
    let clock = Clock::manual(chrono::DateTime::from_timestamp(1_790_000_000, 0).expect("a moment"));
    let (runtime, address, service) = start(&settings, &clock).await;
    // A service that crashed and started again is found at the same address.
    settings.grpc.listen = address;
    let client = Client::connect(address);
    TestApp { address, client, clock, service, settings, runtime: Some(runtime), _state: state }
}

impl TestApp {
    /// Does all jobs that are due now, one after the other, and answers how many.
    pub async fn run_pending_jobs(&self) -> usize {
        let service = self.service.clone();
        let jobs = async move { worker::run_pending_jobs(&service).await };
        self.runtime().spawn(jobs).await.expect("jobs that do not panic").expect("jobs that end")
    }

    /// Keeps the service from its leases, so that NextBatch is at work until what is returned is dropped.
    pub async fn hold_leases(&self) -> sqlx::PgConnection {
        let url = self.settings.database.url.as_ref().expect("a database");
        hold_leases(url.expose_secret()).await
    }

    /// Ends everything where it is, without a word to anybody, and starts the service again.
    pub async fn crash_and_restart(&mut self) {
        let runtime = self.runtime.take().expect("a running service");
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(60)));
        ended.await.expect("the end of every task");
        let (runtime, _, service) = start(&self.settings, &self.clock).await;
        (self.runtime, self.service) = (Some(runtime), service);
    }

    /// The figures of the process, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        Metrics::install().expect("the process's metrics").render()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("a running service")
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start(settings: &Settings, clock: &Clock) -> (Runtime, SocketAddr, Service) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (settings, clock) = (settings.clone(), clock.clone());
    let started = runtime.spawn(async move {
        let metrics = Metrics::install().expect("the process's metrics");
        let app = App::start(settings, Role::Api, metrics).await.expect("a service").with_clock(clock);
        let address = app.grpc_addr().expect("an address");
        let service = app.service().clone();
        tokio::spawn(app.run_until(std::future::pending()));
        (address, service)
    });
    let (address, service) = started.await.expect("a service that starts");
    (runtime, address, service)
}
