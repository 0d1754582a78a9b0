//! Opening a connection: name, TCP or unix socket, proxy, TLS.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio_rustls::client::TlsStream;

use super::connection::{Origin, Stream};
use super::link::Link;
use super::meter::Open;
use super::sharing::{obtain, share};
use super::trace::Trace;
use super::tunnel;
use super::{Connection, Destination, Generation, Timeouts, TlsTarget};
use crate::error::{Cause, Error, Result, Stage};
use crate::net::{self, Endpoint, Transport};
use crate::runtime::{self, Engine};
use crate::stats::Tally;
use crate::tls::{self, Loaded, Protocols};

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

/// Opens a connection along `route`, and notes in `trace` how far it came.
///
/// # Errors
///
/// Which of the steps failed, and why.
pub async fn open(
    engine: &'static Engine,
    route: Route,
    timeouts: Timeouts,
    trace: &mut Trace,
) -> Result<Link> {
    let destination = route.destination.clone();
    let tally = engine.tallies.of(&destination.name());
    let target = prepare(destination.tls.as_ref(), timeouts).await?;
    let proxy = destination.proxy.as_ref();
    let proxy_target = prepare(proxy.and_then(|proxy| proxy.tls.as_ref()), timeouts).await?;
    let generation = Generation(generation(&target), generation(&proxy_target));
    let transport = match &destination.proxy {
        None => dial(engine, &route, &destination.endpoint, timeouts, trace).await?,
        Some(proxy) => {
            let mut transport = dial(engine, &route, &proxy.endpoint, timeouts, trace).await?;
            let started = Instant::now();
            if let Some(target) = proxy_target {
                let endpoint = &proxy.endpoint;
                let in_use = target.loaded.in_use();
                let stream = shake_hands(tally, target, endpoint, transport, timeouts).await?;
                transport = Transport::Proxy(Box::new(stream), Box::new(in_use));
            }
            if proxy.tunnels {
                let opening = tunnel::open(transport, &destination.endpoint, proxy);
                transport = within(timeouts.connect(), Stage::Proxy, opening).await?;
            }
            trace.connect += started.elapsed();
            transport
        }
    };
    let stream = match target {
        None => Stream::Plain(transport),
        Some(target) => {
            let (session, in_use) = (target.session.clone(), target.loaded.in_use());
            trace.session = Some(session.clone());
            let started = Instant::now();
            let endpoint = &destination.endpoint;
            let stream = shake_hands(tally, target, endpoint, transport, timeouts).await?;
            trace.tls = started.elapsed();
            Stream::Tls(Box::new(stream), session, in_use)
        }
    };
    let is_http2 = speaks_http2(&stream, destination.protocols)?;
    trace.is_open = true;
    let opening = Arc::new(std::mem::take(trace));
    let origin = Origin {
        route,
        generation,
        thread: runtime::thread_number(),
        trace: opening.clone(),
        tally,
    };
    if is_http2 {
        let shared = share(engine, stream, origin, timeouts).await;
        return shared
            .map(|shared| Link::Shared(Box::new(shared)))
            // What is known of the way is not lost with the connection.
            .inspect_err(|_| {
                *trace = Trace {
                    is_open: false,
                    ..(*opening).clone()
                };
            });
    }
    let open = Open::new(tally);
    let connection = Connection::new(stream, origin, None, open);
    Ok(Link::Own(Box::new(connection)))
}

/// What the server has chosen (RFC 7301). Without TLS it is known beforehand (RFC 9113, 3.3).
fn speaks_http2(stream: &Stream, protocols: Protocols) -> Result<bool> {
    let Some(session) = stream.session() else {
        return Ok(protocols == Protocols::Http2);
    };
    let chosen = session.alpn();
    let is_http2 = chosen == Some(Protocols::H2);
    if protocols == Protocols::Http2 && !is_http2 {
        let chosen = match chosen {
            Some(chosen) => format!("it chose {chosen} by ALPN"),
            None => "it chose no protocol by ALPN".to_owned(),
        };
        return Err(Error::new(Stage::Tls, Cause::Http2Unsupported { chosen }));
    }
    Ok(is_http2 && protocols != Protocols::Http1)
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
    trace: &mut Trace,
) -> Result<Link> {
    let entering = engine.gates.get(&route.destination, gate.size);
    let entering = entering.enter(gate.backlog);
    let permit = within(timeouts.connect(), Stage::Connect, entering).await?;
    let mut link = match engine.pool.take(&route.destination) {
        Some(mut pooled) => {
            pooled.count_reuse();
            Link::Own(pooled)
        }
        None => obtain(engine, route, timeouts, trace).await?,
    };
    link.set_permit(Some(permit));
    Ok(link)
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
    trace: &mut Trace,
) -> Result<Connection> {
    let Some(target) = prepare(destination.tls.as_ref(), timeouts).await? else {
        return Ok(connection);
    };
    let (transport, origin, permit, open) = connection.into_plain()?;
    let tally = engine.tallies.of(&destination.name());
    // The proxy was trusted as the connection's first destination says.
    let generation = match destination.proxy == origin.route.destination.proxy {
        true => Generation(target.session.generation(), origin.generation.1),
        false => Generation::NEVER,
    };
    let (session, in_use) = (target.session.clone(), target.loaded.in_use());
    *trace = Trace {
        address: origin.trace.address.clone(),
        resolve: origin.trace.resolve,
        connect: origin.trace.connect,
        session: Some(session.clone()),
        ..Trace::default()
    };
    let started = Instant::now();
    let endpoint = &destination.endpoint;
    let stream = shake_hands(tally, target, endpoint, transport, timeouts).await?;
    trace.tls = started.elapsed();
    let route = Route {
        destination,
        ..origin.route
    };
    let trace = Arc::new(Trace {
        is_open: true,
        ..std::mem::take(trace)
    });
    let origin = Origin {
        route,
        generation,
        thread: runtime::thread_number(),
        trace,
        tally,
    };
    let stream = Stream::Tls(Box::new(stream), session, in_use);
    let open = open.moved_to(tally);
    Ok(Connection::new(stream, origin, permit, open))
}

async fn dial(
    engine: &'static Engine,
    route: &Route,
    endpoint: &Endpoint,
    timeouts: Timeouts,
    trace: &mut Trace,
) -> Result<Transport> {
    let limit = timeouts.connect();
    let dialling = async {
        let started = Instant::now();
        let transport = match endpoint {
            Endpoint::Unix(path) => net::unix(path).await?,
            Endpoint::Tcp(host, port) if route.addresses.is_empty() => {
                let addresses = engine.resolver.resolve(host, route.remember_names).await?;
                trace.resolve = started.elapsed();
                net::tcp(&addresses, *port, limit).await?
            }
            Endpoint::Tcp(_, port) => net::tcp(&route.addresses, *port, limit).await?,
        };
        trace.address = transport.peer();
        trace.connect = started.elapsed().saturating_sub(trace.resolve);
        Ok(transport)
    };
    within(limit, Stage::Connect, dialling).await
}

/// What a handshake needs.
struct Prepared {
    session: Arc<tls::Session>,
    /// Keys and trust anchors that have been read.
    loaded: Loaded,
    server_name: ServerName<'static>,
}

fn generation(prepared: &Option<Prepared>) -> u64 {
    prepared
        .as_ref()
        .map_or(0, |prepared| prepared.session.generation())
}

async fn prepare(target: Option<&TlsTarget>, timeouts: Timeouts) -> Result<Option<Prepared>> {
    let Some(target) = target else {
        return Ok(None);
    };
    let preparing = tls::prepare(&target.profile);
    let loaded = within(timeouts.connect(), Stage::Options, preparing).await?;
    Ok(Some(Prepared {
        session: tls::Session::new(&loaded),
        loaded,
        server_name: target.server_name.clone(),
    }))
}

async fn shake_hands(
    tally: &Tally,
    prepared: Prepared,
    endpoint: &Endpoint,
    transport: Transport,
    timeouts: Timeouts,
) -> Result<TlsStream<Transport>> {
    let Prepared {
        session,
        loaded,
        server_name,
    } = prepared;
    let handshake = session.handshake(&loaded, endpoint, server_name, transport);
    let shaken = within(timeouts.connect(), Stage::Tls, handshake).await;
    match &shaken {
        Ok(_) if session.resumed() => tally.handshakes_resumed.increment(),
        Ok(_) => tally.handshakes_full.increment(),
        Err(error) => tally.count_failed_handshake(error.code()),
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

impl Connection {
    /// Counts that it came out of the pool.
    pub fn count_reuse(&mut self) {
        self.reused += 1;
        self.tally().connections_reused.increment();
    }
}
