//! What surrounds every request: an id, a span, figures, a bound on requests in flight, a deadline, a net for panics.
//!
//! Invariants: a request that is shed, late or panics is answered with a rich status, never with a broken
//! connection; labels of figures come from the compiled descriptors, so that clients cannot invent new ones.
//! Streams have a bound of their own, so that those who watch never crowd out those who label. Health checks are never
//! shed: an overloaded server is not a dead one. A deadline holds to the end of the answer, streams included.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use prost::Message as _;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Status, body::Body};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    figures::{Cut, Figures, code},
    pb, status,
};

/// The header of a request's id, both ways.
pub(super) const REQUEST_ID: &str = "x-request-id";

tokio::task_local! {
    static CURRENT: String;
}

/// A client's deadline is ours this much earlier: the transport has a timer for it too, and its answer has no details.
const EARLY: Duration = Duration::from_millis(3);

/// When the request in hand is answered as late; among its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// The id of the request in hand; empty outside of one.
pub(super) fn request_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Whose deadline it is, where it is not the server's.
const CLIENTS: &str = "client's";

/// What is known of a method from the descriptors.
#[derive(Clone, Copy)]
struct Method {
    name: &'static str,
    /// Streams last as long as they last.
    streams: bool,
}

/// What surrounds every request.
#[derive(Clone)]
pub(super) struct Guard {
    methods: Arc<HashMap<String, Method>>,
    calls: Bound,
    streams: Bound,
    max_message: usize,
    timeout: Duration,
}

/// How many may be in flight at once.
#[derive(Clone)]
struct Bound {
    permits: Arc<Semaphore>,
    most: usize,
}

impl Bound {
    fn new(most: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))), most }
    }
}

impl Guard {
    pub(super) fn new(settings: &crate::settings::Grpc) -> Self {
        Self {
            methods: Arc::new(methods()),
            calls: Bound::new(settings.max_concurrent_requests),
            streams: Bound::new(settings.max_concurrent_streams),
            max_message: settings.max_message_bytes,
            timeout: settings.request_timeout,
        }
    }

    /// When to give up, and whose wish it is. The client's deadline holds for all, ours for calls that are no stream.
    fn limit(&self, method: Method, headers: &http::HeaderMap) -> Option<(Duration, &'static str)> {
        let client = headers.get("grpc-timeout").and_then(|v| parse_timeout(v.to_str().ok()?));
        let ours = (!method.streams).then_some((self.timeout, "server's"));
        match (client, ours) {
            (Some(client), Some((ours, _))) if client > ours => Some((ours, "server's")),
            (Some(client), _) => Some((client, CLIENTS)),
            (None, ours) => ours,
        }
    }
}

impl<S> tower::Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service under guard.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> tower::Service<http::Request<Body>> for Guarded<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let begun = Instant::now();
        let guard = self.guard.clone();
        let path = request.uri().path();
        let method = guard.methods.get(path).copied().unwrap_or(Method { name: "unknown", streams: false });
        let infrastructure = path.starts_with("/grpc.");
        let id = chosen_id(request.headers());
        let span = tracing::info_span!("grpc", method = method.name, request = %id);
        let mut figures = Figures::begin(method.name, guard.max_message);
        if !infrastructure {
            let bound = if method.streams { &guard.streams } else { &guard.calls };
            match bound.permits.clone().try_acquire_owned() {
                Ok(permit) => figures.hold(permit),
                Err(_) => {
                    let reply = span.in_scope(|| status::shed(bound.most).into_http());
                    return Box::pin(async move { Ok(figures.watch(reply, &id)) });
                }
            }
        }
        let cut = guard.limit(method, request.headers()).and_then(|(limit, whose)| {
            let early = if whose == CLIENTS { EARLY } else { Duration::ZERO };
            // A deadline beyond the clock's end is none.
            Some(Cut { at: begun.checked_add(limit.saturating_sub(early))?, limit, whose })
        });
        if let Some(cut) = cut {
            request.extensions_mut().insert(Deadline(cut.at));
            if method.streams {
                figures.cut_at(cut);
            }
        }
        let work = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let work = async move {
            let answered = match cut {
                None => Ok(work.await),
                Some(Cut { at, limit, whose }) => {
                    tokio::time::timeout_at(at, work).await.map_err(|_| status::deadline(limit, whose))
                }
            };
            let reply = match answered {
                Ok(Ok(reply)) => enriched(reply?, guard.max_message),
                Ok(Err(panic)) => status::internal(&format!("panic: {}", panic_text(&*panic))).into_http(),
                Err(late) => late.into_http(),
            };
            Ok(figures.watch(reply, &request_id()))
        };
        Box::pin(CURRENT.scope(id, work).instrument(span))
    }
}

/// Puts details to what the transport refused by itself: such a reply has its status among the headers.
fn enriched(reply: http::Response<Body>, limit: usize) -> http::Response<Body> {
    let bare = code(reply.headers()).is_some_and(|code| code != Code::Ok)
        && !reply.headers().contains_key("grpc-status-details-bin");
    match bare.then(|| Status::from_header_map(reply.headers())).flatten() {
        Some(bare) => status::enriched(bare, limit).into_http(),
        None => reply,
    }
}

/// The id the client gave the request, if it can be used, else a new one.
fn chosen_id(headers: &http::HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = given.filter(|id| (1..=128).contains(&id.len()));
    sane.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Reads a `grpc-timeout` header: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

/// Every method of the compiled services by its path. The names live as long as the process: there is one table.
fn methods() -> HashMap<String, Method> {
    // Unwrap safety: the descriptors are written by our own build.
    #[allow(clippy::unwrap_used)]
    let set = prost_types::FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = HashMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}/{}", service.name(), method.name());
                let path = format!("/{}.{name}", file.package());
                let streams = method.client_streaming() || method.server_streaming();
                methods.insert(path, Method { name: name.leak(), streams });
            }
        }
    }
    let standard = [
        ("/grpc.health.v1.Health/Check", "Health/Check", false),
        ("/grpc.health.v1.Health/Watch", "Health/Watch", true),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "Reflection", true),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "Reflection", true),
    ];
    for (path, name, streams) in standard {
        methods.insert(path.to_owned(), Method { name, streams });
    }
    methods
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
