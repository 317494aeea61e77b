//! gRPC-Web as a browser speaks it: HTTP/1.1, CORS, trailers in the body.

use crate::support::{Reply, exchange, spawn_app, spawn_app_with};
use active_vlm::grpc::pb;
use prost::Message as _;
use std::net::SocketAddr;

const GET_POOL: &str = "/activevlm.v1.PoolService/GetPool";
const TYPE: (&str, &str) = ("content-type", "application/grpc-web+proto");

/// A call of GetPool from a page of `origin`.
async fn get_pool(address: SocketAddr, origin: &str, name: &str) -> Reply {
    let message = pb::GetPoolRequest { name: name.to_owned() }.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
    body.extend(message);
    exchange(address, &format!("POST {GET_POOL}"), &[TYPE, ("origin", origin), ("x-grpc-web", "1")], &body)
        .await
}

/// The frames of an answer: whether it holds trailers, and its bytes.
fn frames(mut body: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let (frame, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((flag & 0x80 != 0, frame.to_vec()));
        body = after;
    }
    frames
}

#[tokio::test]
async fn a_page_of_this_machine_calls_by_grpc_web_and_may_read_what_it_needs() {
    let app = spawn_app().await;
    let pool = app.client.create_pool("p", pb::Policy::default()).await.expect("a pool");
    let origin = "http://localhost:5173";
    let reply = get_pool(app.address, origin, "pools/p").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, "application/grpc-web+proto"),
        "{reply:?}"
    );
    assert_eq!(reply.header("access-control-allow-origin"), origin);
    let exposed = reply.header("access-control-expose-headers");
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    assert!(!reply.header("x-request-id").is_empty(), "{reply:?}");
    let frames = frames(&reply.body);
    let [(false, message), (true, trailers)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(pb::Pool::decode(message.as_slice()).expect("a pool"), pool);
    assert!(String::from_utf8_lossy(trailers).contains("grpc-status:0"), "{frames:?}");
}

#[tokio::test]
async fn a_refusal_reaches_the_page_with_its_code_and_details() {
    let app = spawn_app().await;
    let reply = get_pool(app.address, "http://127.0.0.1:8080", "pools/none").await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, "5"), "{reply:?}");
    assert!(!reply.header("grpc-status-details-bin").is_empty(), "{reply:?}");
}

#[tokio::test]
async fn a_browsers_preflight_is_answered_for_pages_that_may_call_and_no_others() {
    let named = "https://labels.example.org";
    let app = spawn_app_with(|settings| settings.grpc.web_origins = vec![named.to_owned()]).await;
    let preflight = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,x-grpc-web,grpc-timeout"),
        ];
        exchange(app.address, &format!("OPTIONS {GET_POOL}"), &headers, &[]).await
    };
    for origin in [named, "http://localhost:5173"] {
        let reply = preflight(origin).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, origin), "{reply:?}");
        assert!(reply.header("access-control-allow-methods").contains("POST"), "{reply:?}");
        assert!(reply.header("access-control-allow-headers").contains("grpc-timeout"), "{reply:?}");
    }
    let foreign = "https://evil.example.org";
    assert_eq!(preflight(foreign).await.header("access-control-allow-origin"), "");
    assert_eq!(get_pool(app.address, foreign, "pools/p").await.header("access-control-allow-origin"), "");
}
