//! The HTTP port: metrics for Prometheus, health for whoever keeps the process alive, a page for people.
//!
//! Invariant: nothing here changes state or needs the model, so that it answers while everything else is busy.
//! `/healthz` says that the process turns over and must never depend on anything outside it, or a database outage
//! would have every instance restarted; `/readyz` says whether requests should be sent here.
//! Deliberately absent: the API (gRPC and gRPC-Web have a port of their own) and any authentication.

use std::future::Future;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve as serve_axum};
use futures::future::BoxFuture;
use tokio::net::TcpListener;

use crate::telemetry::Metrics;

/// What one part of the service says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The part: `storage`, `engine`, ...
    pub part: &'static str,
    /// What keeps it from serving; none when it is ready.
    pub problem: Option<String>,
}

type Check = Arc<dyn Fn() -> BoxFuture<'static, Vec<Readiness>> + Send + Sync>;

#[derive(Clone)]
struct Port {
    metrics: Metrics,
    check: Check,
}

/// The routes of the port; `check` is asked at every `/readyz`.
pub fn router<F, A>(metrics: Metrics, check: F) -> Router
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Vec<Readiness>> + Send + 'static,
{
    let check: Check = Arc::new(move || Box::pin(check()));
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(render_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Port { metrics, check })
}

/// Serves `router` on `listener` until `shutdown` completes, then finishes the requests in flight.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_axum(listener, router).with_graceful_shutdown(shutdown).await
}

async fn index() -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Active-VLM</title>\
         <h1>Active-VLM {}</h1><ul>\
         <li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\
         <li><a href=\"/healthz\">/healthz</a>: the process is alive</li>\
         <li><a href=\"/readyz\">/readyz</a>: every part of it can serve</li></ul>\
         <p>The API is gRPC and gRPC-Web, on a port of its own, with reflection.</p></html>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

async fn render_metrics(State(port): State<Port>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], port.metrics.render())
        .into_response()
}

/// 200 when every part is ready, otherwise 503; one line per part either way.
async fn ready(State(port): State<Port>) -> (StatusCode, String) {
    let parts = (port.check)().await;
    let ready = parts.iter().all(|part| part.problem.is_none());
    let lines = parts
        .iter()
        .map(|Readiness { part, problem }| format!("{part}: {}\n", problem.as_deref().unwrap_or("ready")))
        .collect();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    async fn get(path: &str, problem: Option<&str>) -> (StatusCode, String) {
        let problem = problem.map(str::to_owned);
        let check = move || {
            let problem = problem.clone();
            async move {
                vec![Readiness { part: "engine", problem: None }, Readiness { part: "storage", problem }]
            }
        };
        let router = router(Metrics::install().expect("a recorder"), check);
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("routes do not fail");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a small body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn a_part_that_is_down_makes_the_service_unready_but_not_dead() {
        let refused = "connection refused";
        assert_eq!(
            get("/readyz", Some(refused)).await,
            (StatusCode::SERVICE_UNAVAILABLE, format!("engine: ready\nstorage: {refused}\n"))
        );
        assert_eq!(get("/readyz", None).await.0, StatusCode::OK);
        assert_eq!(get("/healthz", Some(refused)).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_and_the_page_are_served_and_nothing_else() {
        Metrics::install().expect("a recorder");
        metrics::counter!("http_test_total").increment(3);
        let (status, text) = get("/metrics", None).await;
        assert!(status.is_success() && text.contains("http_test_total 3"), "{text}");
        assert!(get("/", None).await.1.contains("/readyz"));
        assert_eq!(get("/admin", None).await.0, StatusCode::NOT_FOUND);
    }
}
