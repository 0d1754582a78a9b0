//! The bytes of a connection, below TLS, with what is done to them.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::LINGER;

/// How a connection ends.
#[derive(Clone, Copy)]
pub enum Ending {
    /// FIN, once everything has been sent.
    Close,
    /// RST.
    Reset,
    /// It does not.
    Stall,
}

/// See the module.
pub struct Wire {
    stream: TcpStream,
    /// How many bytes have been sent.
    sent: u64,
    limit: Option<(u64, Ending)>,
    flipped: Option<u64>,
    pace: Option<Duration>,
}

impl Wire {
    /// A connection that nothing is done to so far.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            sent: 0,
            limit: None,
            flipped: None,
            pace: None,
        })
    }

    /// Ends the connection once this many further bytes have been sent, in front of the next one.
    pub fn limit(&mut self, position: u64, ending: Ending) {
        self.limit = Some((self.sent + position, ending));
    }

    /// Inverts this one of the bytes that are sent from now on.
    pub fn flip(&mut self, position: u64) {
        self.flipped = Some(self.sent + position);
    }

    /// Sends every byte by itself from now on.
    pub fn pace(&mut self, pause: Duration) {
        self.pace = Some(pause);
    }

    /// Sends bytes as far as the limit allows. What is over it is an error, after the connection has ended.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if let Some(index) = self.flipped.and_then(|at| self.index_of(at))
            && let Some(byte) = bytes.get_mut(index)
        {
            *byte = !*byte;
        }
        if let Some((at, ending)) = self.limit
            && let Some(index) = self.index_of(at)
            && index < bytes.len()
        {
            bytes.truncate(index);
            self.write_all(&bytes)?;
            self.end(ending)?;
            return Err(io::Error::other(format!("ended at byte {at}")));
        }
        self.write_all(&bytes)
    }

    fn index_of(&self, position: u64) -> Option<usize> {
        usize::try_from(position.checked_sub(self.sent)?).ok()
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent += bytes.len() as u64;
        let Some(pause) = self.pace else {
            return self.stream.write_all(bytes);
        };
        bytes.iter().try_for_each(|&byte| {
            std::thread::sleep(pause);
            self.stream.write_all(&[byte])
        })
    }

    /// Appends what comes next: how many bytes, 0 at the end.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let mut space = [0; 65536];
        let count = self.stream.read(&mut space)?;
        bytes.extend_from_slice(&space[..count]);
        Ok(count)
    }

    /// Reads exactly this many bytes. False at the end of the connection.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends sending.
    pub fn end_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Ends the connection. A socket that is closed with something unread resets the connection, and takes back what
    /// the client has not read. So the client is given time to end its side.
    pub fn end(&mut self, ending: Ending) -> io::Result<()> {
        match ending {
            Ending::Close => {
                // The client may have reset the connection by now.
                let _ = self.end_sending();
                self.stream.set_read_timeout(Some(LINGER))?;
                let mut space = [0; 65536];
                while !matches!(self.stream.read(&mut space), Ok(0) | Err(_)) {}
                Ok(())
            }
            // Goes out when the socket is dropped.
            Ending::Reset => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)),
            Ending::Stall => loop {
                std::thread::park();
            },
        }
    }
}
