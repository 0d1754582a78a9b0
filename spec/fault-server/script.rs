//! Scripts: one word to a line, with its arguments. Bytes are in hexadecimal digits, times in seconds.

use std::io;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::wire::Ending;

/// What a server does.
#[derive(Default)]
pub struct Script {
    /// How it speaks TLS, if it does.
    pub tls: Option<TlsOptions>,
    /// The steps of each connection in turn, the last ones for all that follow.
    connections: Vec<Vec<Step>>,
}

/// `tls VERSION CERTIFICATE KEY [CLIENT_CA]`
pub struct TlsOptions {
    /// `1.2` or `1.3`
    pub version: String,
    /// Path of PEM, the chain included.
    pub certificate: String,
    /// Path of PEM.
    pub key: String,
    /// Path of the CA's certificate, if clients have to have one.
    pub client_ca: Option<String>,
}

/// `START STEP`: a position among the bytes that are sent from here on, for each connection another one.
pub struct At {
    start: u64,
    step: u64,
}

impl At {
    /// Where it is for a connection, counted from 0.
    pub fn position(&self, connection: u64) -> u64 {
        self.start + self.step * connection
    }
}

/// A line of a script.
pub enum Step {
    /// `limit START STEP close|reset|stall`: no byte is sent behind this one.
    Limit(At, Ending),
    /// `flip START STEP`: this byte is another one.
    Flip(At),
    /// `pace SECONDS`: every byte by itself, after a pause.
    Pace(Duration),
    /// `handshake`
    Handshake,
    /// `send BYTES`
    Send(Vec<u8>),
    /// `repeat COUNT|forever BYTES`
    Repeat(u64, Vec<u8>),
    /// `drip SECONDS BYTES`: as `send`, with each byte by itself after a pause.
    Drip(Duration, Vec<u8>),
    /// `record COUNT|forever TYPE BYTES`: encrypted, of any type (RFC 8446, B.1).
    Record(u64, u8, Vec<u8>),
    /// `wire BYTES`: below TLS.
    Wire(Vec<u8>),
    /// `head`: receives up to an empty line.
    Head,
    /// `take COUNT`: receives so many bytes.
    Take(usize),
    /// `drain`: receives until the client ends.
    Drain,
    /// `say WORD`: a line on stdout.
    Say(String),
    /// `half-close`: ends sending, in TLS with a `close_notify`, and goes on.
    HalfClose,
    /// `stall`: nothing more, ever.
    Stall,
    /// `cut`: ends without `close_notify`. What there is at the end of a script has one.
    Cut,
    /// `reset`
    Reset,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// The line that is none.
    pub fn parse(text: &str) -> io::Result<Self> {
        let mut script = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let parsed = match words[..] {
                ["tls", version, certificate, key, ref rest @ ..] => {
                    script.tls = Some(TlsOptions {
                        version: version.to_owned(),
                        certificate: certificate.to_owned(),
                        key: key.to_owned(),
                        client_ca: rest.first().map(|&path| path.to_owned()),
                    });
                    Some(())
                }
                ["connection"] => {
                    script.connections.push(Vec::new());
                    Some(())
                }
                _ => step(&words).and_then(|step| {
                    script.connections.last_mut()?.push(step);
                    Some(())
                }),
            };
            parsed.ok_or_else(|| io::Error::other(format!("bad line in the script: {line}")))?;
        }
        match script.connections.is_empty() {
            true => Err(io::Error::other("the script has no connection")),
            false => Ok(script),
        }
    }

    /// The steps of a connection, counted from 0.
    pub fn steps(&self, connection: usize) -> &[Step] {
        let last = self.connections.len() - 1;
        &self.connections[connection.min(last)]
    }
}

fn step(words: &[&str]) -> Option<Step> {
    Some(match *words {
        ["limit", start, step, ending] => Step::Limit(at(start, step)?, self::ending(ending)?),
        ["flip", start, step] => Step::Flip(at(start, step)?),
        ["pace", pause] => Step::Pace(seconds(pause)?),
        ["handshake"] => Step::Handshake,
        ["send", bytes] => Step::Send(self::bytes(bytes)?),
        ["repeat", count, bytes] => Step::Repeat(self::count(count)?, self::bytes(bytes)?),
        ["drip", pause, bytes] => Step::Drip(seconds(pause)?, self::bytes(bytes)?),
        ["record", count, kind, bytes] => {
            Step::Record(self::count(count)?, kind.parse().ok()?, self::bytes(bytes)?)
        }
        ["wire", bytes] => Step::Wire(self::bytes(bytes)?),
        ["head"] => Step::Head,
        ["take", count] => Step::Take(count.parse().ok()?),
        ["drain"] => Step::Drain,
        ["say", word] => Step::Say(word.to_owned()),
        ["half-close"] => Step::HalfClose,
        ["stall"] => Step::Stall,
        ["cut"] => Step::Cut,
        ["reset"] => Step::Reset,
        _ => return None,
    })
}

fn at(start: &str, step: &str) -> Option<At> {
    Some(At {
        start: start.parse().ok()?,
        step: step.parse().ok()?,
    })
}

fn ending(word: &str) -> Option<Ending> {
    match word {
        "close" => Some(Ending::Close),
        "reset" => Some(Ending::Reset),
        "stall" => Some(Ending::Stall),
        _ => None,
    }
}

fn count(word: &str) -> Option<u64> {
    match word {
        "forever" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn seconds(word: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(word.parse().ok()?).ok()
}

fn bytes(word: &str) -> Option<Vec<u8>> {
    HEXLOWER.decode(word.as_bytes()).ok()
}
