//! Wake sockets: how the runtime's thread reaches an nginx event loop without a patch to nginx.
//!
//! nginx connects, as a cosocket, to a listener that exists only for that moment. Nobody else may
//! take its place: the unix socket is in a directory that only this user can enter, and the peer
//! has to be this very process; on loopback, the peer has to know a one-time token.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::WakeSocket;

/// A listener for one connection.
#[derive(Debug)]
pub enum Listener {
    /// Listens on the socket `wake` in a directory of its own.
    Unix {
        /// The listening socket.
        socket: UnixListener,
        /// The directory, removed with this listener.
        directory: PathBuf,
    },
    /// Listens on loopback; the peer has to send the token first.
    Tcp {
        /// The listening socket.
        socket: TcpListener,
        /// Sixteen random bytes in hexadecimal.
        token: String,
    },
}

/// `sockaddr_un.sun_path` takes 108 bytes with the NUL at its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Names that may be taken already. What is left behind by killed processes is less than that.
const MAX_TAKEN: usize = 64;

impl Listener {
    /// Listens in the first directory that can be written to, or else on loopback. Workers may
    /// run as nobody on a read-only root, so several directories are tried.
    ///
    /// # Errors
    ///
    /// Neither a unix socket nor a loopback port could be had.
    pub fn open(prefix: Option<&Path>) -> io::Result<Self> {
        let temporary = std::env::var_os("TMPDIR").map(PathBuf::from);
        let fixed = ["/dev/shm", "/tmp"].map(PathBuf::from);
        let candidates = temporary
            .into_iter()
            .chain(fixed)
            .chain(prefix.map(Path::to_owned));
        for parent in candidates {
            if let Ok(listener) = Self::unix(&parent) {
                return Ok(listener);
            }
        }
        Ok(Self::Tcp {
            socket: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
            token: token()?,
        })
    }

    fn unix(parent: &Path) -> io::Result<Self> {
        let directory = create_directory(parent)?;
        let path = directory.join("wake");
        match UnixListener::bind(&path) {
            Ok(socket) => Ok(Self::Unix { socket, directory }),
            Err(error) => {
                remove(&directory);
                Err(error)
            }
        }
    }

    /// What a cosocket connects to: `unix:/path`, or `127.0.0.1` with a port and a token to send.
    ///
    /// # Errors
    ///
    /// The system does not tell the loopback port.
    pub fn address(&self) -> io::Result<(String, Option<(u16, &str)>)> {
        match self {
            Self::Unix { directory, .. } => {
                Ok((format!("unix:{}", directory.join("wake").display()), None))
            }
            Self::Tcp { socket, token } => {
                let port = socket.local_addr()?.port();
                Ok(("127.0.0.1".to_owned(), Some((port, token))))
            }
        }
    }

    /// Accepts the connection that nginx has made by now, and stops listening.
    ///
    /// # Errors
    ///
    /// Nobody has connected, or somebody else has.
    pub fn accept(self) -> io::Result<WakeSocket> {
        match &self {
            Self::Unix { socket, .. } => {
                socket.set_nonblocking(true)?;
                let (stream, _) = socket.accept()?;
                if peer_pid(&stream)? != std::process::id() {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                stream.set_nonblocking(true)?;
                Ok(WakeSocket::Unix(stream))
            }
            Self::Tcp { socket, token } => {
                socket.set_nonblocking(true)?;
                let (mut stream, _) = socket.accept()?;
                // nginx has sent the token; loopback delivers it at once.
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_millis(20)))?;
                let mut received = vec![0; token.len()];
                stream.read_exact(&mut received)?;
                if received != token.as_bytes() {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                stream.set_nonblocking(true)?;
                Ok(WakeSocket::Tcp(stream))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { directory, .. } = self {
            remove(directory);
        }
    }
}

/// A new directory. One that is there already is left alone, it may be in use: another copy of this
/// library in the process, or a process of our number in another container, counts like we do.
fn create_directory(parent: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..MAX_TAKEN {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("resty-mtls-{}-{number}", std::process::id()));
        if directory.join("wake").as_os_str().len() > MAX_SOCKET_PATH {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| directory),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn remove(directory: &Path) {
    // Best effort: what cannot be removed is an empty directory that only this user can enter.
    let _ = fs::remove_file(directory.join("wake"));
    let _ = fs::remove_dir(directory);
}

fn peer_pid(stream: &UnixStream) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => u32::try_from(credentials.pid).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

fn token() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
