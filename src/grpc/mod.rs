//! The wire: `activevlm.v1` over gRPC and gRPC-Web, with health and reflection.
//!
//! One file per service, a few lines per RPC: convert, call the use case, convert back. Invariants: nothing is
//! decided here; every error passes `status`; a client's mistake is told whole (`convert`). Deliberately absent:
//! transactions, rules of the loop, tensors.

mod convert;
mod figures;
mod guard;
mod health;
mod images;
mod intake;
mod labels;
mod models;
mod names;
mod page;
pub mod pb;
mod pools;
mod rounds;
mod selection;
mod status;
mod trainings;
mod web;

pub use health::Health;
pub use status::DOMAIN;

use std::time::Duration;

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{
    codec::CompressionEncoding,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::{service::Service, settings};

/// Time between pings on a silent connection, and time for their answer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why the API does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A certificate or key cannot be read.
    #[error("grpc.tls: cannot read {path}: {source}; give PEM files that this user may read")]
    Tls {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The descriptors are damaged.
    #[error("grpc: reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("grpc: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What the RPCs share.
#[derive(Clone)]
struct Api {
    service: Service,
    /// Bytes of a message at most.
    max_message: usize,
    /// Ends streams that would not end by themselves.
    shutdown: CancellationToken,
}

/// Serves until `shutdown`, then until every request in hand is answered; the caller bounds that time.
///
/// # Errors
/// Where the certificate cannot be used or the transport fails.
pub async fn serve(
    service: Service,
    listener: TcpListener,
    settings: &settings::Grpc,
    health: watch::Receiver<Health>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let max = settings.max_message_bytes;
    let api = Api { service, max_message: max, shutdown: shutdown.clone() };
    macro_rules! rpc {
        ($server:path) => {{
            use $server as Server;
            Server::new(api.clone())
                .max_decoding_message_size(max)
                .max_encoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip)
        }};
    }
    let mut server = Server::builder();
    if let Some(tls) = &settings.tls {
        let identity = Identity::from_pem(pem(&tls.cert).await?, pem(&tls.key).await?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let router = server
        // Browsers speak HTTP/1.1 to gRPC-Web.
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(web::cors(&settings.web_origins))
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(guard::Guard::new(settings))
        .add_service(rpc!(pb::pool_service_server::PoolServiceServer))
        .add_service(rpc!(pb::selection_service_server::SelectionServiceServer))
        .add_service(rpc!(pb::label_service_server::LabelServiceServer))
        .add_service(rpc!(pb::round_service_server::RoundServiceServer))
        .add_service(rpc!(pb::training_service_server::TrainingServiceServer))
        .add_service(rpc!(pb::model_service_server::ModelServiceServer))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // What most clients still ask for.
        .add_service(reflection().build_v1alpha()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        // A transport that fails is told at once.
        served = &mut serving => Ok(served?),
        () = health::report(reporter, health, shutdown) => Ok(serving.await?),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn pem(path: &std::path::Path) -> Result<Vec<u8>, ServeError> {
    tokio::fs::read(path).await.map_err(|source| ServeError::Tls { path: path.to_owned(), source })
}
