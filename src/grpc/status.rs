//! The one place where errors become codes and rich details.
//!
//! Invariant: every status carries an `ErrorInfo` with a stable reason in the domain `activevlm.dev`; a fault of
//! ours shows clients a fixed text and the request's id, and is logged here, once, with its chain. A status travels in
//! headers, and clients bound those (8 KiB is common): whatever a request holds, its status is smaller.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::guard;
use crate::domain::{Error, Violation};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "activevlm.dev";

/// Violations told one by one.
const VIOLATIONS: usize = 20;
/// Bytes of all their fields and texts.
const VIOLATIONS_BYTES: usize = 3 << 10;
/// Bytes of one text.
const TEXT_BYTES: usize = 512;
/// Bytes of a name in a text or a detail.
const NAME_BYTES: usize = 256;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let error = match error {
            Error::Invalid(violations) => return invalid(violations),
            other => other,
        };
        let text = clip(&error.to_string(), TEXT_BYTES);
        match error {
            Error::Invalid(violations) => invalid(violations),
            Error::NotFound { kind, name } => {
                let name = clip(&name, NAME_BYTES);
                let mut details = info("NOT_FOUND", &[("kind", kind)]);
                details.set_resource_info(kind, name, "", text.as_str());
                Self::with_error_details(Code::NotFound, text, details)
            }
            Error::AlreadyExists { kind, name } => {
                let name = clip(&name, NAME_BYTES);
                let mut details = info("ALREADY_EXISTS", &[("kind", kind)]);
                details.set_resource_info(kind, name, "", text.as_str());
                Self::with_error_details(Code::AlreadyExists, text, details)
            }
            Error::LeaseLost(_) => precondition(Code::FailedPrecondition, "LEASE_LOST", "lease", text),
            Error::NotReady(_) => precondition(Code::FailedPrecondition, "NOT_READY", "state", text),
            Error::EtagMismatch { name, .. } => {
                precondition(Code::Aborted, "ETAG_MISMATCH", &clip(&name, NAME_BYTES), text)
            }
            Error::RequestIdReused(id) => {
                precondition(Code::FailedPrecondition, "REQUEST_ID_REUSED", &clip(&id, NAME_BYTES), text)
            }
            Error::Overloaded { what, retry_after } => {
                retry(Code::ResourceExhausted, "OVERLOADED", what, retry_after, text)
            }
            Error::Unavailable { what, retry_after, source } => {
                let cause = source.as_deref().map(|e| chain(e)).unwrap_or_default();
                tracing::warn!(what, cause, "unavailable");
                retry(Code::Unavailable, "UNAVAILABLE", what, retry_after, text)
            }
            Error::Fenced(_) => precondition(Code::Aborted, "JOB_SUPERSEDED", "job", text),
            Error::Internal(source) => internal(&chain(source.as_ref())),
        }
    }
}

/// A request that is wrong: the first violations whole, the rest by their number.
fn invalid(violations: Vec<Violation>) -> Status {
    let total = violations.len();
    let (mut fields, mut room) = (Vec::new(), VIOLATIONS_BYTES);
    for Violation { field, description } in violations.into_iter().take(VIOLATIONS) {
        let (field, description) = (clip(&field, NAME_BYTES), clip(&description, TEXT_BYTES));
        let size = field.len() + description.len();
        if size > room {
            break;
        }
        room -= size;
        fields.push(FieldViolation::new(field, description));
    }
    let told: Vec<_> = fields.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    let mut text = clip(&format!("invalid request: {}", told.join("; ")), TEXT_BYTES);
    let more = total - fields.len();
    if more > 0 {
        text.push_str(&format!("; and {more} more: mend these first"));
    }
    let mut details = info("INVALID_REQUEST", &[("violation_count", &total.to_string())]);
    details.set_bad_request(fields);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

/// `text`, or its beginning where it has more than `most` bytes.
pub(super) fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

/// A fault of ours: `cause` goes to the log, a fixed text and the request's id to the client.
pub(super) fn internal(cause: &str) -> Status {
    tracing::error!(cause, "internal error");
    let id = guard::request_id();
    let text = format!("internal error: it is logged under request {id:?}, please tell the operator");
    let mut details = info("INTERNAL", &[]);
    details.set_request_info(id, "");
    Status::with_error_details(Code::Internal, text, details)
}

/// Too many requests in flight.
pub(super) fn shed(limit: usize) -> Status {
    let error =
        Error::Overloaded { what: "the server's queue of requests", retry_after: Duration::from_millis(200) };
    tracing::debug!(limit, "request shed");
    error.into()
}

/// The request ran past `limit`.
pub(super) fn deadline(limit: Duration, whose: &str) -> Status {
    let text = format!(
        "the request was not done within the {whose} deadline of {} ms: repeat it with the same request_id and a longer one",
        limit.as_millis()
    );
    let details = info("DEADLINE_EXCEEDED", &[("deadline_ms", &limit.as_millis().to_string())]);
    Status::with_error_details(Code::DeadlineExceeded, text, details)
}

/// A stream that ends because the server does.
pub(super) fn going_away() -> Status {
    let text = "the server is shutting down: reconnect, and go on with the last resume_token".to_owned();
    retry(Code::Unavailable, "SHUTTING_DOWN", "server", Duration::from_secs(1), text)
}

/// What the transport refused by itself, with details; `limit` is that of messages, in bytes.
pub(super) fn enriched(bare: Status, limit: usize) -> Status {
    if bare.code() == Code::Ok || !bare.details().is_empty() {
        return bare;
    }
    let text = bare.message();
    let (code, reason, text) = match bare.code() {
        Code::OutOfRange if text.contains("encoded message length too large") => {
            let cure = "ask for less at once; operators raise grpc.max_message_bytes";
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE", format!("{text}; {cure}"))
        }
        Code::OutOfRange if text.contains("message length too large") => {
            let cure = "send fewer items per message, or images in chunks (AddSamples.image_chunk); operators raise grpc.max_message_bytes";
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE", format!("{text}; {cure}"))
        }
        // The client's bytes are wrong, not we.
        Code::Internal if text.contains("failed to decode Protobuf") => (
            Code::InvalidArgument,
            "MALFORMED_MESSAGE",
            format!("{text}: encode it by this server's descriptors"),
        ),
        Code::Unimplemented if text.is_empty() => {
            let text = "this server has no such method: reflection lists those it has";
            (Code::Unimplemented, "NO_SUCH_METHOD", text.to_owned())
        }
        code => (code, "TRANSPORT", text.to_owned()),
    };
    let details = info(reason, &[("max_message_bytes", &limit.to_string())]);
    Status::with_error_details_and_metadata(code, text, details, bare.metadata().clone())
}

fn info(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<_, _> = metadata.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn precondition(code: Code, reason: &str, subject: &str, text: String) -> Status {
    let mut details = info(reason, &[]);
    details.add_precondition_failure_violation(reason, subject, text.as_str());
    Status::with_error_details(code, text, details)
}

fn retry(code: Code, reason: &str, what: &str, after: Duration, text: String) -> Status {
    let mut details = info(reason, &[("what", what)]);
    details.set_retry_info(Some(after));
    Status::with_error_details(code, text, details)
}

/// An error and all it came from, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::JobId;

    /// One of each variant, with its code and reason; a new variant does not compile in the map above.
    fn every_variant() -> Vec<(Error, Code, &'static str)> {
        let retry_after = Duration::from_millis(1500);
        vec![
            (Error::invalid("size", "must be at least 1"), Code::InvalidArgument, "INVALID_REQUEST"),
            (Error::NotFound { kind: "Pool", name: "pools/a".into() }, Code::NotFound, "NOT_FOUND"),
            (
                Error::AlreadyExists { kind: "Pool", name: "pools/a".into() },
                Code::AlreadyExists,
                "ALREADY_EXISTS",
            ),
            (Error::LeaseLost("it has expired".into()), Code::FailedPrecondition, "LEASE_LOST"),
            (Error::NotReady("label first".into()), Code::FailedPrecondition, "NOT_READY"),
            (
                Error::EtagMismatch { name: "pools/a".into(), expected: "1".into() },
                Code::Aborted,
                "ETAG_MISMATCH",
            ),
            (Error::RequestIdReused("r1".into()), Code::FailedPrecondition, "REQUEST_ID_REUSED"),
            (Error::Overloaded { what: "engine", retry_after }, Code::ResourceExhausted, "OVERLOADED"),
            (
                Error::Unavailable { what: "storage", retry_after, source: None },
                Code::Unavailable,
                "UNAVAILABLE",
            ),
            (Error::Fenced(JobId::new()), Code::Aborted, "JOB_SUPERSEDED"),
            (Error::internal("relation \"secret\" does not exist"), Code::Internal, "INTERNAL"),
        ]
    }

    #[test]
    fn every_error_has_its_code_and_a_stable_reason() {
        for (error, code, reason) in every_variant() {
            let text = format!("{error:?}");
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{text}");
            let info = status.get_details_error_info().expect("every status has an ErrorInfo");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN), "{text}");
        }
    }

    #[test]
    fn all_violations_arrive_with_their_fields() {
        let error =
            Error::Invalid(vec![Violation::new("size", "too small"), Violation::new("parent", "empty")]);
        let details = Status::from(error).get_details_bad_request().expect("a BadRequest");
        let fields: Vec<_> = details.field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["size", "parent"]);
    }

    #[test]
    fn however_much_is_wrong_the_status_fits_the_headers_of_any_client() {
        let size = |status: Status| {
            let headers = status.into_http::<()>().into_parts().0.headers;
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>()
        };
        let many: Vec<_> = (0..1000)
            .map(|i| {
                Violation::new(format!("labels[{i}].sample"), "names none of the samples: write pools/…")
            })
            .collect();
        let status = Status::from(Error::Invalid(many));
        let told = status.get_details_bad_request().expect("a BadRequest").field_violations.len();
        assert_eq!(told, VIOLATIONS);
        assert!(status.message().ends_with("and 980 more: mend these first"), "{}", status.message());
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["violation_count"], "1000");
        assert!(size(status) < 8 << 10);
        let long = "ä".repeat(1 << 20);
        for error in [
            Error::Invalid((0..100).map(|_| Violation::new(long.as_str(), long.as_str())).collect()),
            Error::NotFound { kind: "Pool", name: long.clone() },
            Error::EtagMismatch { name: long.clone(), expected: long.clone() },
            Error::RequestIdReused(long.clone()),
            Error::NotReady(long.clone()),
        ] {
            let status = Status::from(error);
            assert!(size(status.clone()) < 8 << 10, "{:?}", status.code());
        }
    }

    #[test]
    fn details_say_which_resource_what_precondition_and_when_to_retry() {
        let status = Status::from(Error::NotFound { kind: "Pool", name: "pools/a".into() });
        let resource = status.get_details_resource_info().expect("a ResourceInfo");
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("Pool", "pools/a"));
        let status = Status::from(Error::EtagMismatch { name: "pools/a".into(), expected: "1".into() });
        let failure = status.get_details_precondition_failure().expect("a PreconditionFailure");
        assert_eq!(failure.violations[0].subject, "pools/a");
        let retry_after = Duration::from_millis(1500);
        for error in [
            Error::Overloaded { what: "engine", retry_after },
            Error::Unavailable { what: "storage", retry_after, source: None },
        ] {
            let info = Status::from(error).get_details_retry_info().expect("a RetryInfo");
            assert_eq!(info.retry_delay, Some(retry_after));
        }
    }

    #[test]
    fn what_the_transport_refuses_by_itself_gets_details_and_the_right_code() {
        let large = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        );
        let broken = Status::internal("failed to decode Protobuf message: invalid tag value: 0");
        for (bare, code, reason) in [
            (large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            (broken, Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (Status::unimplemented(""), Code::Unimplemented, "NO_SUCH_METHOD"),
            (Status::unknown("?"), Code::Unknown, "TRANSPORT"),
        ] {
            let rich = enriched(bare, 8);
            let info = rich.get_details_error_info().expect("an ErrorInfo");
            assert_eq!((rich.code(), info.reason.as_str()), (code, reason));
            assert_eq!(info.metadata["max_message_bytes"], "8");
        }
        let ours = Status::from(Error::NotReady("label first".into()));
        assert_eq!(enriched(ours, 8).get_details_error_info().expect("an ErrorInfo").reason, "NOT_READY");
    }

    #[test]
    fn a_fault_of_ours_tells_clients_nothing_but_the_request() {
        let status = Status::from(Error::internal("relation \"secret\" does not exist"));
        assert!(!status.message().contains("secret"));
        assert!(status.get_details_request_info().is_some());
    }
}
