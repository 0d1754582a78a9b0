//! Opening a connection: name, TCP or unix socket, proxy, TLS.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::client::TlsStream;

use super::tunnel;
use super::{Connection, Destination, Timeouts, TlsTarget};
use crate::error::{Error, Result, Stage};
use crate::net::{self, Endpoint, Transport};
use crate::runtime::Engine;
use crate::tls;

/// A bound on the connections in use to a destination.
#[derive(Debug, Clone, Copy)]
pub struct GateOptions {
    /// Connections at a time.
    pub size: usize,
    /// Operations that may wait for one.
    pub backlog: usize,
}

/// How to get to a destination.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where to.
    pub destination: Arc<Destination>,
    /// What the caller's resolver said about the host to dial; empty to ask the system's.
    pub addresses: Arc<[IpAddr]>,
    /// How long an answer of the system's resolver is used again.
    pub remember_names: Duration,
}

/// Opens a connection along `route`.
///
/// # Errors
///
/// Which of the steps failed, and why.
pub async fn open(
    engine: &'static Engine,
    route: Route,
    timeouts: Timeouts,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Connection> {
    let destination = route.destination.clone();
    let target = prepare(destination.tls.as_ref(), timeouts).await?;
    let proxy = destination.proxy.as_ref();
    let proxy_target = prepare(proxy.and_then(|proxy| proxy.tls.as_ref()), timeouts).await?;
    let transport = match &destination.proxy {
        None => dial(engine, &route, &destination.endpoint, timeouts).await?,
        Some(proxy) => {
            let mut transport = dial(engine, &route, &proxy.endpoint, timeouts).await?;
            if let Some(target) = proxy_target {
                let (stream, _) = shake_hands(engine, target, transport, timeouts).await?;
                transport = Transport::Proxy(Box::new(stream));
            }
            if proxy.tunnels {
                let opening = tunnel::open(transport, &destination.endpoint, proxy);
                transport = within(timeouts.connect(), Stage::Proxy, opening).await?;
            }
            transport
        }
    };
    match target {
        None => Ok(Connection::plain(transport, route, permit, &engine.stats)),
        Some(target) => {
            let (stream, session) = shake_hands(engine, target, transport, timeouts).await?;
            let stats = &engine.stats;
            Ok(Connection::tls(stream, session, route, permit, stats))
        }
    }
}

/// Waits for a place among the connections in use, then takes an idle one or opens another.
///
/// # Errors
///
/// The queue is full, the wait was too long, or why there is no connection.
pub async fn open_bounded(
    engine: &'static Engine,
    route: Route,
    gate: GateOptions,
    timeouts: Timeouts,
) -> Result<Connection> {
    let entering = engine.gates.get(&route.destination, gate.size);
    let entering = entering.enter(gate.backlog);
    let permit = within(timeouts.connect(), Stage::Connect, entering).await?;
    match engine.pool.take(&route.destination) {
        Some(mut pooled) => {
            engine.count_reuse(&mut pooled);
            pooled.permit = Some(permit);
            Ok(pooled)
        }
        None => open(engine, route, timeouts, Some(permit)).await,
    }
}

/// Runs the TLS handshake on a connection that has been plain so far.
///
/// # Errors
///
/// Why there is no TLS connection now.
pub async fn upgrade(
    engine: &'static Engine,
    connection: Connection,
    destination: Arc<Destination>,
    timeouts: Timeouts,
) -> Result<Connection> {
    let Some(target) = prepare(destination.tls.as_ref(), timeouts).await? else {
        return Ok(connection);
    };
    let (transport, route, rest) = connection.into_plain()?;
    let (stream, session) = shake_hands(engine, target, transport, timeouts).await?;
    let route = Route {
        destination,
        ..route
    };
    Ok(Connection::upgraded(stream, session, route, rest))
}

async fn dial(
    engine: &'static Engine,
    route: &Route,
    endpoint: &Endpoint,
    timeouts: Timeouts,
) -> Result<Transport> {
    let limit = timeouts.connect();
    let dialling = async {
        match endpoint {
            Endpoint::Unix(path) => net::unix(path).await,
            Endpoint::Tcp(host, port) if route.addresses.is_empty() => {
                let addresses = engine.resolver.resolve(host, route.remember_names).await?;
                net::tcp(&addresses, *port, limit).await
            }
            Endpoint::Tcp(_, port) => net::tcp(&route.addresses, *port, limit).await,
        }
    };
    within(limit, Stage::Connect, dialling).await
}

/// What a handshake needs: keys and trust anchors that have been read, and the server's name.
type Prepared = (tls::Loaded, ServerName<'static>);

async fn prepare(target: Option<&TlsTarget>, timeouts: Timeouts) -> Result<Option<Prepared>> {
    let Some(target) = target else {
        return Ok(None);
    };
    let preparing = tls::prepare(&target.profile);
    let loaded = within(timeouts.connect(), Stage::Options, preparing).await?;
    Ok(Some((loaded, target.server_name.clone())))
}

async fn shake_hands(
    engine: &'static Engine,
    (loaded, server_name): Prepared,
    transport: Transport,
    timeouts: Timeouts,
) -> Result<(TlsStream<Transport>, tls::Session)> {
    let handshake = tls::handshake(loaded, server_name, transport);
    let shaken = within(timeouts.connect(), Stage::Tls, handshake).await;
    match &shaken {
        Ok((_, session)) if session.resumed => engine.stats.handshakes_resumed.increment(),
        Ok(_) => engine.stats.handshakes_full.increment(),
        Err(_) => engine.stats.handshakes_failed.increment(),
    }
    shaken
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

impl Engine {
    /// Counts that a connection came out of the pool.
    pub fn count_reuse(&self, connection: &mut Connection) {
        connection.reused += 1;
        self.stats.connections_reused.increment();
    }
}
