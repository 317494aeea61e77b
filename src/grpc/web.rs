//! Browsers: who may call from another origin, and what they may read of the answer.
//!
//! Pages from this machine may, and those the operator named. Others may not: the API knows no users, so that any
//! page a person opens could else use the service that person can reach.

use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// The rules for pages of `origins` (`https://host:port`) and of this machine.
pub(super) fn cors(origins: &[String]) -> CorsLayer {
    let named: Vec<String> = origins.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect();
    let allowed = AllowOrigin::predicate(move |origin: &HeaderValue, _| {
        let origin = origin.to_str().unwrap_or_default();
        is_local(origin) || named.iter().any(|name| name == origin)
    });
    let read = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(read.map(HeaderName::from_static))
        .max_age(std::time::Duration::from_secs(3600))
}

/// Whether a page of this origin was served by this machine.
fn is_local(origin: &str) -> bool {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some(host) = host else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for origin in [
            "http://localhost",
            "http://localhost:5173",
            "https://127.0.0.1:8080",
            "http://[::1]:80",
            "http://[::1]",
        ] {
            assert!(is_local(origin), "{origin}");
        }
        for origin in [
            "http://localhost.evil.com",
            "http://evil.com",
            "localhost",
            "http://127.0.0.1.nip.io:80",
            "null",
            "",
        ] {
            assert!(!is_local(origin), "{origin}");
        }
    }
}
