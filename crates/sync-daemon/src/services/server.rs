//! The gRPC server around the handlers: its limits, reflection and health.

use std::{sync::Arc, time::Duration};

use sync_wire::v1::sync_service_server::{SERVICE_NAME, SyncServiceServer};
use tonic::transport::Server;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::debug_span;

use super::{descriptions::Descriptions, fetch_files::Packing, frames::WithFrames, sync::SyncHandlers};
use crate::{
    connections::{Incoming, Peer},
    settings::DaemonSettings,
    shares::Shares,
    tasks::Tasks,
};

/// How long a request may take until its answer begins. Streams begin at once, so only a client that does not send its
/// request to the end comes near it.
const ANSWER_BEGINS_WITHIN: Duration = Duration::from_secs(60);

/// Largest header block of a request. Ours have a few hundred bytes; room is left for what proxies add.
const HEADER_LIST_BYTES: u32 = 16 << 10;

/// What the standard health service says.
#[derive(Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// Not serving yet.
    pub(crate) async fn new() -> Self {
        let health = Self(HealthReporter::new());
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// All shares were scanned.
    pub(crate) async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// The daemon is shutting down.
    pub(crate) async fn ending(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in ["", SERVICE_NAME] {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// Serves until `tasks.stop` is cancelled and all connections have ended.
///
/// # Errors
/// The server could not be set up.
pub(crate) async fn serve(
    incoming: Incoming,
    shares: Shares,
    tasks: Arc<Tasks>,
    health: &Health,
    settings: &DaemonSettings,
) -> anyhow::Result<()> {
    let limits = &settings.limits;
    let stop = tasks.stop.clone();
    let handlers = SyncHandlers {
        descriptions: Arc::new(Descriptions::new(shares.described())),
        shares,
        tasks,
        heartbeat: settings.network.heartbeat.duration(),
        packing: Packing {
            wants_in_flight: limits.max_wants_in_flight.max(1) as usize,
            largest_file: limits.max_packed_file_bytes.bytes(),
        },
        compression: settings.network.compression,
    };
    let service =
        SyncServiceServer::new(handlers).max_decoding_message_size(limits.max_message_bytes.as_usize());
    let health = tonic_health::server::HealthService::from_health_reporter(health.0.clone());
    builder(settings)
        .add_service(WithFrames(service))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(sync_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Windows are set by hand: the adaptive window would begin at 65,535 bytes, and a peer's small frames that wait unread
/// in such a window end the whole connection.
fn builder(settings: &DaemonSettings) -> Server {
    let network = &settings.network;
    Server::builder()
        .http2_adaptive_window(Some(false))
        .initial_stream_window_size(network.stream_window.as_u32())
        .initial_connection_window_size(network.connection_window.as_u32())
        .max_frame_size(network.max_frame.as_u32())
        .max_concurrent_streams(settings.limits.max_streams_per_connection)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(network.keepalive.duration()))
        .http2_keepalive_timeout(Some(network.keepalive_timeout.duration()))
        .timeout(ANSWER_BEGINS_WITHIN)
        .trace_fn(|request| {
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.asked();
                debug_span!("request", path = request.uri().path(), peer = %peer.address)
            } else {
                debug_span!("request", path = request.uri().path())
            }
        })
}
