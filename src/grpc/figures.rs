//! What a request came to: counted once, when its answer has gone out to the end or was dropped before.
//!
//! Invariant: labels are a method of the descriptors and a status code, nothing that clients choose.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status, body::Body};

use super::guard::REQUEST_ID;

/// Counts a request when its answer has been sent to the end, or is dropped before.
pub(super) struct Figures {
    method: &'static str,
    began: Instant,
    code: Option<Code>,
    /// Held until the answer is through: a stream is in flight as long as it runs.
    permit: Option<OwnedSemaphorePermit>,
}

impl Figures {
    /// A request of `method` that begins now.
    pub(super) fn begin(method: &'static str) -> Self {
        Self { method, began: Instant::now(), code: None, permit: None }
    }

    /// Keeps `permit` until the answer is through.
    pub(super) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// The reply with its request's id, counted when its body ends.
    pub(super) fn watch(mut self, mut reply: http::Response<Body>, id: &str) -> http::Response<Body> {
        // An error without a body has its status among the headers.
        self.code = code(reply.headers());
        if let Ok(id) = id.parse() {
            reply.headers_mut().insert(REQUEST_ID, id);
        }
        reply.map(|inner| Body::new(Watched { inner, figures: self }))
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        // No status: the client went away first.
        let code = self.code.unwrap_or(Code::Cancelled);
        let labels = [("method", self.method), ("code", code_name(code))];
        metrics::counter!("active_vlm_grpc_requests_total", &labels).increment(1);
        metrics::histogram!("active_vlm_grpc_request_seconds", &labels)
            .record(self.began.elapsed().as_secs_f64());
        tracing::debug!(
            method = self.method,
            code = code_name(code),
            elapsed_ms = self.began.elapsed().as_millis() as u64,
            "answered"
        );
    }
}

struct Watched {
    inner: Body,
    figures: Figures,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.figures.code = code(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The status among headers or trailers.
pub(super) fn code(headers: &http::HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
