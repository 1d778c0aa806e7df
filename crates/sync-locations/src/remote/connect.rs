//! Connections, the first question, and the one place where a gRPC status becomes a [`LocationError`].

use std::{error::Error, io, time::Duration};

use sync_core::name::escape;
use sync_wire::v1;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use v1::sync_service_client::SyncServiceClient;

use super::{ConnectOptions, LARGEST_MESSAGE};
use crate::error::LocationError;

/// How often an idle connection asks whether the other side is there, and how long that may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Settings of all connections. Windows are set by hand: the adaptive window would begin at 65,535 bytes, and small frames
/// that wait unread in such a window end the whole connection.
pub(super) fn endpoint(url: &str, options: &ConnectOptions) -> Result<Endpoint, LocationError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| LocationError::Unreachable {
        address: escape(url).into_owned(),
        source: root_cause(&source).into(),
    })?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(options.windows.stream)
        .initial_connection_window_size(options.windows.connection)
        .max_frame_size(options.windows.frame)
        .http2_adaptive_window(false)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// Host and port.
pub(super) fn address(endpoint: &Endpoint) -> String {
    endpoint.uri().authority().map_or_else(|| endpoint.uri().to_string(), ToString::to_string)
}

/// Connects at once.
pub(super) async fn first_connection(
    endpoint: &Endpoint,
    within: Duration,
) -> Result<Channel, LocationError> {
    match tokio::time::timeout(within, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|error| not_reached(endpoint, &error)),
        Err(_) => Err(no_answer(endpoint, within)),
    }
}

/// Asks the first question. Whoever cannot answer it is no syncd.
pub(super) async fn list_shares(
    channel: Channel,
    endpoint: &Endpoint,
    within: Duration,
) -> Result<v1::ListSharesResponse, LocationError> {
    let mut client = SyncServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    match tokio::time::timeout(within, client.list_shares(v1::ListSharesRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if status.source().is_some() => Err(not_reached(endpoint, &status)),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Err(LocationError::protocol("it does not know the service sync.v1.SyncService"))
        }
        Ok(Err(status)) => Err(location_error(&status)),
        Err(_) => Err(no_answer(endpoint, within)),
    }
}

fn no_answer(endpoint: &Endpoint, within: Duration) -> LocationError {
    let source = format!("it did not answer within {:.1} s", within.as_secs_f64()).into();
    LocationError::Unreachable { address: address(endpoint), source }
}

fn not_reached(endpoint: &Endpoint, error: &(dyn Error + 'static)) -> LocationError {
    let source = match no_http2(error) {
        true => "what answers there does not speak gRPC".into(),
        false => root_cause(error).into(),
    };
    LocationError::Unreachable { address: address(endpoint), source }
}

/// What went wrong, for whoever reads a stream.
pub(super) fn location_error(status: &Status) -> LocationError {
    // A status that was received has no source. One with a source was made here, of a broken connection.
    if status.source().is_some() {
        return LocationError::Cut { source: root_cause(status).into() };
    }
    let message = escape(status.message()).into_owned();
    match status.code() {
        Code::FailedPrecondition => LocationError::Changed,
        Code::Unavailable | Code::ResourceExhausted => LocationError::Busy { message },
        // Made by proxies, and by a server's end in mid-stream.
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            LocationError::Cut { source: message.into() }
        }
        _ => LocationError::Refused { message },
    }
}

/// The error at the bottom: those above it say "transport error" and the like. An error of the system counts as the bottom.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(below) = root.source()
        && root.downcast_ref::<io::Error>().is_none_or(|error| error.raw_os_error().is_none())
    {
        root = below;
    }
    escape(&root.to_string()).into_owned()
}

/// Whether the other side said something that is not HTTP/2.
fn no_http2(error: &(dyn Error + 'static)) -> bool {
    let reasons = [h2::Reason::FRAME_SIZE_ERROR, h2::Reason::PROTOCOL_ERROR, h2::Reason::HTTP_1_1_REQUIRED];
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reasons.contains(&reason);
        }
        next = error.source();
    }
    false
}
