//! What a refusal must carry.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Asserts that a call was refused with this code and reason, and gives the details.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    let status = result.expect_err("a refusal");
    let details = status.get_error_details();
    let info = details.error_info().map(|info| (info.reason.as_str(), info.domain.as_str()));
    assert_eq!((status.code(), info), (code, Some((reason, active_vlm::grpc::DOMAIN))), "{status:?}");
    details
}

/// The fields a refusal finds fault with, sorted.
pub fn fields(details: &ErrorDetails) -> Vec<&str> {
    let found = details.bad_request().expect("violations of fields");
    let mut fields: Vec<&str> = found.field_violations.iter().map(|v| v.field.as_str()).collect();
    fields.sort_unstable();
    fields
}
