//! Opening a connection: name, TCP or unix socket, TLS.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{Connection, Destination, Timeouts};
use crate::error::{Error, Result, Stage};
use crate::net;
use crate::stats::Stats;
use crate::tls;

/// Opens a connection to `destination`.
///
/// # Errors
///
/// Which of the steps failed, and why.
pub async fn open(
    destination: Arc<Destination>,
    timeouts: Timeouts,
    stats: &'static Stats,
) -> Result<Connection> {
    let connecting = net::connect(&destination.endpoint);
    let transport = within(timeouts.connect, Stage::Connect, connecting).await?;
    let Some(target) = &destination.tls else {
        return Ok(Connection::plain(transport, destination, stats));
    };
    let handshake = tls::handshake(&target.profile, target.server_name.clone(), transport);
    match within(timeouts.connect, Stage::Tls, handshake).await {
        Ok((stream, session)) => {
            match session.resumed {
                true => stats.handshakes_resumed.increment(),
                false => stats.handshakes_full.increment(),
            }
            Ok(Connection::tls(stream, session, destination, stats))
        }
        Err(error) => {
            stats.handshakes_failed.increment();
            Err(error)
        }
    }
}

/// Bounds one step in time.
pub async fn within<T>(
    time: Duration,
    stage: Stage,
    step: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(time, step).await {
        Ok(result) => result,
        Err(_) => Err(Error::timeout(stage)),
    }
}
