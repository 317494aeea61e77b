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
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use std::pin::Pin;
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, Service as _, ServiceExt as _};

    fn settings() -> crate::settings::Grpc {
        let all = crate::settings::Settings::load_with(&[], HashMap::new()).expect("valid defaults");
        crate::settings::Grpc { max_concurrent_requests: 1, max_concurrent_streams: 1, ..all.grpc }
    }

    fn request(path: &str, timeout: Option<&str>) -> http::Request<Body> {
        let mut request = http::Request::builder().uri(path);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        request.body(Body::empty()).expect("a request")
    }

    const GET_POOL: &str = "/activevlm.v1.PoolService/GetPool";
    const WATCH: &str = "/activevlm.v1.RoundService/WatchRounds";

    /// A body that has not come to its end.
    struct Silent;
    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    async fn silent(_: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        Ok(http::Response::new(Body::new(Silent)))
    }

    /// The status in the trailers of a reply without messages.
    async fn trailing(reply: http::Response<Body>) -> Status {
        let mut body = reply.into_body();
        let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await;
        let trailers = frame.expect("a frame").expect("no error").into_trailers().expect("trailers");
        let end = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await;
        assert!(end.is_none(), "nothing follows the trailers");
        Status::from_header_map(&trailers).expect("a status")
    }

    #[test]
    fn methods_and_their_streams_are_known_from_the_descriptors() {
        let methods = methods();
        assert_eq!(methods[GET_POOL].name, "PoolService/GetPool");
        assert!(!methods[GET_POOL].streams);
        assert!(methods["/activevlm.v1.PoolService/AddSamples"].streams);
        assert!(methods["/activevlm.v1.RoundService/WatchRounds"].streams);
    }

    #[test]
    fn the_shorter_deadline_counts_and_a_stream_has_only_the_clients() {
        let guard = Guard::new(&settings());
        let limit = |streams, timeout| {
            let method = Method { name: "x", streams };
            guard.limit(method, request("/", timeout).headers())
        };
        assert_eq!(limit(false, None), Some((guard.timeout, "server's")));
        assert_eq!(limit(false, Some("5m")), Some((Duration::from_millis(5), "client's")));
        assert_eq!(limit(false, Some("5H")), Some((guard.timeout, "server's")));
        assert_eq!(limit(true, None), None);
        assert_eq!(limit(true, Some("7S")), Some((Duration::from_secs(7), "client's")));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn one_request_more_than_allowed_is_shed_and_health_never_is() {
        let mut guarded = Guard::new(&settings()).layer(tower::service_fn(silent));
        let first = guarded.call(request(GET_POOL, None)).await.expect("an answer");
        let second = guarded.call(request(GET_POOL, None)).await.expect("an answer");
        let status = Status::from_header_map(second.headers()).expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some());
        let health = guarded.call(request("/grpc.health.v1.Health/Check", None)).await.expect("an answer");
        assert!(code(health.headers()).is_none());
        drop((first, second));
        let again = guarded.call(request(GET_POOL, None)).await.expect("an answer");
        assert!(code(again.headers()).is_none());
    }

    #[tokio::test]
    async fn those_who_watch_never_crowd_out_those_who_call() {
        let mut guarded = Guard::new(&settings()).layer(tower::service_fn(silent));
        let watching = guarded.call(request(WATCH, None)).await.expect("an answer");
        let another = guarded.call(request(WATCH, None)).await.expect("an answer");
        let status = Status::from_header_map(another.headers()).expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let calling = guarded.call(request(GET_POOL, None)).await.expect("an answer");
        assert!(code(calling.headers()).is_none());
        drop(watching);
        let again = guarded.call(request(WATCH, None)).await.expect("an answer");
        assert!(code(again.headers()).is_none());
    }

    #[tokio::test]
    async fn a_clients_deadline_ends_a_stream_that_is_under_way_and_frees_its_place() {
        let mut guarded = Guard::new(&settings()).layer(tower::service_fn(silent));
        let reply = guarded.call(request(WATCH, Some("50m"))).await.expect("an answer");
        assert!(code(reply.headers()).is_none());
        let late = trailing(reply).await;
        assert_eq!(late.code(), Code::DeadlineExceeded);
        let info = late.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(
            (info.reason.as_str(), info.metadata["deadline_ms"].as_str()),
            ("DEADLINE_EXCEEDED", "50")
        );
        let again = guarded.call(request(WATCH, None)).await.expect("an answer");
        assert!(code(again.headers()).is_none());
    }

    #[tokio::test]
    async fn a_request_is_told_its_deadline_and_answered_before_the_transport_does() {
        let told = tower::service_fn(|request: http::Request<Body>| async move {
            let Deadline(at) = *request.extensions().get::<Deadline>().expect("a deadline");
            let reply = http::Response::builder().header("left", (at - Instant::now()).as_millis() as u64);
            Ok::<_, Status>(reply.body(Body::empty()).expect("a reply"))
        });
        for (timeout, most) in [(Some("50m"), 47), (Some("5H"), 30_000), (None, 30_000)] {
            let guarded = Guard::new(&settings()).layer(told);
            let reply = guarded.oneshot(request(GET_POOL, timeout)).await.expect("an answer");
            let left: u64 = reply.headers()["left"].to_str().expect("digits").parse().expect("a number");
            assert!(left <= most, "{timeout:?}: {left}");
        }
    }

    #[tokio::test]
    async fn what_the_transport_says_at_the_end_of_an_answer_gets_details_too() {
        let large = tower::service_fn(|_: http::Request<Body>| async {
            let mut trailers = http::HeaderMap::new();
            let bare = Status::out_of_range("Error, encoded message length too large: found 9 bytes");
            bare.add_header(&mut trailers).expect("headers");
            let body = http_body_of(trailers);
            Ok::<_, Status>(http::Response::new(body))
        });
        let reply = Guard::new(&settings()).layer(large).oneshot(request(GET_POOL, None)).await;
        let status = trailing(reply.expect("an answer")).await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.reason, "MESSAGE_TOO_LARGE");
    }

    /// A body of trailers only.
    fn http_body_of(trailers: http::HeaderMap) -> Body {
        struct Trailers(Option<http::HeaderMap>);
        impl http_body::Body for Trailers {
            type Data = Bytes;
            type Error = Status;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
        Body::new(Trailers(Some(trailers)))
    }

    #[tokio::test]
    async fn a_late_request_and_a_panic_are_answered_with_details_and_the_requests_id() {
        let never = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, Status>>()
        });
        let reply = Guard::new(&settings())
            .layer(never)
            .oneshot(request(GET_POOL, Some("1m")))
            .await
            .expect("an answer");
        let late = Status::from_header_map(reply.headers()).expect("a status");
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert_eq!(late.get_details_error_info().expect("an ErrorInfo").reason, "DEADLINE_EXCEEDED");

        let broken = tower::service_fn(|_: http::Request<Body>| async {
            if true {
                panic!("a fault");
            }
            Ok::<_, Status>(http::Response::new(Body::empty()))
        });
        let mut wanted = request(GET_POOL, None);
        wanted.headers_mut().insert(REQUEST_ID, "mine".parse().expect("a header"));
        let reply = Guard::new(&settings()).layer(broken).oneshot(wanted).await.expect("an answer");
        let fault = Status::from_header_map(reply.headers()).expect("a status");
        assert_eq!(fault.code(), Code::Internal);
        assert_eq!(reply.headers()[REQUEST_ID], "mine");
        assert_eq!(fault.get_details_request_info().expect("a RequestInfo").request_id, "mine");
        assert!(!fault.message().contains("a fault"));
    }

    #[test]
    fn what_the_transport_refuses_is_told_with_details() {
        let bare = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        );
        let rich = Status::from_header_map(enriched(bare.into_http(), 8).headers()).expect("a status");
        assert_eq!(rich.code(), Code::ResourceExhausted);
        assert_eq!(rich.get_details_error_info().expect("an ErrorInfo").reason, "MESSAGE_TOO_LARGE");
    }
}
