//! A server that breaks off, stalls and floods, in the middle of a TLS record if it is told to. For the specs; see
//! `spec/support/fault_server.lua`, which writes its scripts.
//!
//! It listens on a port of its own choice on 127.0.0.1 and says on stdout which, then a line for what happens on each
//! connection. It runs until it is killed.

mod script;
mod tls;
mod wire;

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use script::{Script, Step};
use tls::{Identity, Records};
use wire::{Ending, Wire};

fn main() -> io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_default();
    let script = Script::parse(&std::fs::read_to_string(&path)?)?;
    let identity = script.tls.as_ref().map(Identity::load).transpose()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    report(&format!("listens on {}", listener.local_addr()?.port()));

    let shared = Arc::new((script, identity));
    for (index, stream) in listener.incoming().enumerate() {
        let (stream, shared) = (stream?, shared.clone());
        std::thread::spawn(move || {
            let (script, identity) = &*shared;
            let number = index + 1;
            report(&format!("{number} accepted"));
            match Player::new(stream, index as u64, identity.as_ref())
                .and_then(|player| player.play(script.steps(index)))
            {
                Ok(()) => report(&format!("{number} closed")),
                Err(error) => report(&format!("{number} {error}")),
            }
        });
    }
    Ok(())
}

/// Whoever reads this may have ended, which is no reason to fail.
fn report(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// One connection on its way through its steps.
struct Player<'a> {
    wire: Wire,
    index: u64,
    identity: Option<&'a Identity>,
    /// After the handshake.
    records: Option<Records>,
    /// What has been received and belongs to no step so far.
    unread: Vec<u8>,
}

impl<'a> Player<'a> {
    fn new(stream: TcpStream, index: u64, identity: Option<&'a Identity>) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::new(stream)?,
            index,
            identity,
            records: None,
            unread: Vec::new(),
        })
    }

    fn play(mut self, steps: &[Step]) -> io::Result<()> {
        for step in steps {
            match step {
                Step::Limit(at, ending) => self.wire.limit(at.position(self.index), *ending),
                Step::Flip(at) => self.wire.flip(at.position(self.index)),
                Step::Pace(pause) => self.wire.pace(*pause),
                Step::Handshake => {
                    let identity = self.identity.ok_or(io::ErrorKind::InvalidInput)?;
                    self.records = Some(tls::handshake(identity, &mut self.wire)?);
                }
                Step::Send(bytes) => self.send(bytes)?,
                Step::Repeat(count, bytes) => {
                    for _ in 0..*count {
                        self.send(bytes)?;
                    }
                }
                Step::Drip(pause, bytes) => {
                    for byte in bytes {
                        std::thread::sleep(*pause);
                        self.send(&[*byte])?;
                    }
                }
                Step::Record(count, kind, bytes) => {
                    for _ in 0..*count {
                        let records = self.records.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
                        records.send(&mut self.wire, *kind, bytes)?;
                    }
                }
                Step::Wire(bytes) => self.wire.write(bytes)?,
                Step::Head => self.receive(|unread| {
                    let mut windows = unread.windows(4);
                    windows
                        .position(|part| part == b"\r\n\r\n")
                        .map(|at| at + 4)
                })?,
                Step::Take(count) => {
                    self.receive(|unread| (unread.len() >= *count).then_some(*count))?;
                }
                Step::Drain => while self.read()? > 0 {},
                Step::Say(word) => report(word),
                Step::HalfClose => {
                    self.close_notify()?;
                    self.wire.end_sending()?;
                }
                Step::Stall => self.wire.end(Ending::Stall)?,
                Step::Cut => return self.wire.end(Ending::Close),
                Step::Reset => return self.wire.end(Ending::Reset),
            }
        }
        self.close_notify()?;
        self.wire.end(Ending::Close)
    }

    /// Application data.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.records {
            None => self.wire.write(bytes),
            Some(records) => bytes
                .chunks(tls::RECORD)
                .try_for_each(|part| records.send(&mut self.wire, tls::APPLICATION_DATA, part)),
        }
    }

    fn close_notify(&mut self) -> io::Result<()> {
        match &mut self.records {
            None => Ok(()),
            Some(records) => records.send(&mut self.wire, tls::ALERT, &tls::CLOSE_NOTIFY),
        }
    }

    /// Receives until `complete` says how many of the unread bytes belong to the step.
    fn receive(&mut self, complete: impl Fn(&[u8]) -> Option<usize>) -> io::Result<()> {
        loop {
            if let Some(length) = complete(&self.unread) {
                self.unread.drain(..length);
                return Ok(());
            }
            if self.read()? == 0 {
                return Err(io::Error::other("the client has ended"));
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        match &mut self.records {
            None => self.wire.read(&mut self.unread),
            Some(records) => records.receive(&mut self.wire, &mut self.unread),
        }
    }
}

/// Long enough for a client to read what was sent before the connection goes.
const LINGER: Duration = Duration::from_secs(5);
