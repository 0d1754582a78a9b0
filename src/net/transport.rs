//! TCP and unix-domain connections under one type.

use std::any::Any;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::resolve::with_port;
use crate::error::{Cause, Error, Result, Stage};

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// Path of a unix-domain socket.
    Unix(PathBuf),
}

/// A connected socket, or what behaves like one.
#[derive(Debug)]
pub enum Transport {
    /// TCP, without Nagle's delay.
    Tcp(TcpStream),
    /// Unix-domain socket.
    Unix(UnixStream),
    /// TLS to a proxy, inside of which the connection runs, and what is kept for as long.
    Proxy(Box<TlsStream<Transport>>, Box<dyn Any + Send + Sync>),
}

/// Connects to a unix-domain socket.
///
/// # Errors
///
/// Why not.
pub async fn unix(path: &Path) -> Result<Transport> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Transport::Unix(stream)),
        Err(error) => Err(failed(format!("unix:{}", path.display()), &error)),
    }
}

/// Connects to the first of `addresses` that can be connected to, within `limit` in all.
///
/// # Errors
///
/// Why the last one that was tried could not be connected to.
pub async fn tcp(addresses: &[IpAddr], port: u16, limit: Duration) -> Result<Transport> {
    let deadline = Instant::now() + limit;
    let mut last = Error::internal("no address was tried");
    for (index, address) in with_port(addresses, port).enumerate() {
        // One address that swallows packets must not take the time of those behind it.
        let left = deadline.saturating_duration_since(Instant::now());
        let untried = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(left / untried.max(1), connect(address)).await {
            Ok(Ok(stream)) => return Ok(Transport::Tcp(stream)),
            Ok(Err(error)) => last = failed(address.to_string(), &error),
            Err(_) => last = Error::timeout(Stage::Connect),
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A request is written in one piece; waiting for more would only delay it.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn failed(address: String, error: &io::Error) -> Error {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectRefused { address },
        // As ETIMEDOUT: the kernel gave up before our own timeout did.
        io::ErrorKind::TimedOut => Cause::Timeout,
        _ => Cause::ConnectFailed {
            address,
            reason: error.to_string(),
        },
    };
    Error::new(Stage::Connect, cause)
}

impl Transport {
    /// The address at the other end.
    pub fn peer(&self) -> Option<String> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.to_string()),
            Self::Unix(stream) => {
                let address = stream.peer_addr().ok()?;
                Some(format!("unix:{}", address.as_pathname()?.display()))
            }
            Self::Proxy(stream, _) => stream.get_ref().0.peer(),
        }
    }

    /// Writes what the socket takes at once, from any thread, without a signal and without waiting.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // MSG_NOSIGNAL: plain LuaJIT does not ignore SIGPIPE, and this may be its thread.
        let send = || self.socket().send_with_flags(bytes, libc::MSG_NOSIGNAL);
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, send),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, send),
            // Encrypting twice is nothing for the event loop; the runtime does it.
            Self::Proxy(..) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Lets go of the task that was the last to wait for data: the runtime would keep the memory of
    /// one that is long done, until another waits in its place.
    pub fn forget_waker(&self) {
        let mut nobody = Context::from_waker(Waker::noop());
        let _ = match self {
            Self::Tcp(stream) => stream.poll_read_ready(&mut nobody),
            Self::Unix(stream) => stream.poll_read_ready(&mut nobody),
            Self::Proxy(stream, _) => return stream.get_ref().0.forget_waker(),
        };
    }

    /// Whether nothing can be read: no data, no end, no error. Looks at the socket itself.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Proxy(stream, _) => is_silent(stream) && stream.get_mut().0.is_quiet(),
            _ => is_quiet(self.peek()),
        }
    }

    /// The same, from what the runtime has been told: costs no system call for a silent socket.
    pub fn seems_quiet(&mut self) -> bool {
        if let Self::Proxy(stream, _) = self {
            return is_silent(stream) && stream.get_mut().0.seems_quiet();
        }
        let this = &*self;
        is_quiet(match this {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || this.peek()),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || this.peek()),
            Self::Proxy(..) => return false,
        })
    }

    /// Reads what is there at once, from any thread, without waiting.
    pub fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Self::Proxy(..) = self {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // The socket is non-blocking, and what the runtime believes about it may be out of date.
        (&*self.socket()).read(bytes)
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit(); 1];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        self.socket().recv_with_flags(&mut byte, flags)
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            Self::Proxy(stream, _) => stream.get_ref().0.socket(),
        }
    }
}

/// Whether TLS holds data that has been decrypted and not read.
pub fn has_plaintext(stream: &mut TlsStream<Transport>) -> bool {
    let state = stream.get_mut().1.process_new_packets();
    state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
}

/// Whether TLS holds nothing that has been decrypted and not read, and no word of an end.
pub fn is_silent(stream: &mut TlsStream<Transport>) -> bool {
    let state = stream.get_mut().1.process_new_packets();
    state.is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
}

fn is_quiet(peeked: io::Result<usize>) -> bool {
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Proxy(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Proxy(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Proxy(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Proxy(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Proxy(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
