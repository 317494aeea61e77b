//! What a request came to: counted once, when its answer has gone out to the end or was dropped before.
//!
//! Here too a stream ends at its deadline, and what the transport says at the end of an answer gets its details.
//! Invariant: labels are a method of the descriptors and a status code, nothing that clients choose.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tonic::{Code, Status, body::Body};

use super::{guard::REQUEST_ID, status};

/// When an answer is cut off, and what is said then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// When.
    pub(super) at: tokio::time::Instant,
    /// The deadline as it was set.
    pub(super) limit: Duration,
    /// Whose it is.
    pub(super) whose: &'static str,
}

/// Counts a request when its answer has been sent to the end, or is dropped before.
pub(super) struct Figures {
    method: &'static str,
    began: Instant,
    code: Option<Code>,
    /// Held until the answer is through: a stream is in flight as long as it runs.
    permit: Option<OwnedSemaphorePermit>,
    /// Where its answer may not go on without end.
    cut: Option<Cut>,
    /// Bytes of a message at most, for what is said of one that is larger.
    max_message: usize,
}

impl Figures {
    /// A request of `method` that begins now.
    pub(super) fn begin(method: &'static str, max_message: usize) -> Self {
        Self { method, began: Instant::now(), code: None, permit: None, cut: None, max_message }
    }

    /// Ends the answer at `cut`, wherever it is then.
    pub(super) fn cut_at(&mut self, cut: Cut) {
        self.cut = Some(cut);
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
        let late = self.cut.map(|cut| (Box::pin(tokio::time::sleep_until(cut.at)), cut));
        reply.map(|inner| Body::new(Watched { inner, figures: self, late }))
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
    late: Option<(Pin<Box<Sleep>>, Cut)>,
}

impl Watched {
    /// Drops what is left of the answer and ends it with `status`.
    fn end(&mut self, status: &Status) -> Option<Frame<Bytes>> {
        self.inner = Body::empty();
        self.late = None;
        // The place of a stream is free once it is told to end.
        self.figures.permit = None;
        self.figures.code = Some(status.code());
        let mut trailers = http::HeaderMap::new();
        // A status that is no valid header cannot be made here; without trailers clients see a broken stream.
        status.add_header(&mut trailers).ok().map(|()| Frame::trailers(trailers))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let told = self.figures.code.is_some();
        if let Some((sleep, cut)) = &mut self.late
            && !told
            && sleep.as_mut().poll(cx).is_ready()
        {
            let late = status::deadline(cut.limit, cut.whose);
            return Poll::Ready(self.end(&late).map(Ok));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        let Some(trailers) = trailers else { return Poll::Ready(frame) };
        self.figures.code = code(trailers);
        if self.figures.code.is_none_or(|code| code == Code::Ok)
            || trailers.contains_key("grpc-status-details-bin")
        {
            return Poll::Ready(frame);
        }
        match Status::from_header_map(trailers) {
            Some(bare) => {
                let rich = status::enriched(bare, self.figures.max_message);
                Poll::Ready(self.end(&rich).map(Ok))
            }
            None => Poll::Ready(frame),
        }
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
