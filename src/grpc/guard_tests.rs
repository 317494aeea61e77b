//! What surrounds a request, tried on services that hold, fail or never answer.

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
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
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
    assert_eq!((info.reason.as_str(), info.metadata["deadline_ms"].as_str()), ("DEADLINE_EXCEEDED", "50"));
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
    let reply =
        Guard::new(&settings()).layer(never).oneshot(request(GET_POOL, Some("1m"))).await.expect("an answer");
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
    let bare =
        Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes");
    let rich = Status::from_header_map(enriched(bare.into_http(), 8).headers()).expect("a status");
    assert_eq!(rich.code(), Code::ResourceExhausted);
    assert_eq!(rich.get_details_error_info().expect("an ErrorInfo").reason, "MESSAGE_TOO_LARGE");
}
