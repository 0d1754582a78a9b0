//! Answers of a hostile proxy to CONNECT: none makes the client panic or read for ever, and none opens a tunnel in
//! front of which something was sent.
//!
//! An input is the proxy's bytes with two bytes behind them: where the network cuts them.

#![no_main]
#![allow(dead_code, unused_imports, reason = "only the tunnel is run here")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::net::Endpoint;

#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/http1/mod.rs"]
mod http1;
#[path = "../../src/net/mod.rs"]
mod net;
#[path = "../../src/threads.rs"]
mod threads;
#[path = "../../src/client/tunnel.rs"]
mod tunnel;

/// As much of `client::Proxy` as the tunnel looks at.
pub struct Proxy {
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<Vec<u8>>,
}

fn authority(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

fuzz_target!(|input: &[u8]| {
    let Some((wire, &[low, high])) = input.split_last_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes([low, high])) % (wire.len() + 1);
    let (whole, used) = open(&[wire]);
    let (in_pieces, used_of_pieces) = open(&[&wire[..cut], &wire[cut..]]);
    assert!(used <= wire.len() && used_of_pieces <= wire.len());
    match (&whole, &in_pieces) {
        (Ok(()), Ok(())) => assert_eq!(used, wire.len(), "nothing stands in front of the tunnel"),
        // What comes later may be the server's.
        (Err(_), Ok(())) => {
            assert_eq!(used_of_pieces, cut);
            assert_eq!(open(&[&wire[..cut]]).0, Ok(()));
        }
        (Ok(()), Err(error)) => panic!("cut at {cut}, it is refused: {error}"),
        (Err(whole), Err(in_pieces)) => {
            for error in [whole, in_pieces] {
                assert!(
                    ["closed", "http_malformed", "http_too_large", "proxy_refused"]
                        .contains(&error.code()),
                    "{}: {error}",
                    error.code()
                );
                assert_eq!(error.stage(), "proxy");
            }
        }
    }
});

/// Opens a tunnel through a proxy that sends `pieces` and closes. How many bytes were read?
fn open(pieces: &[&[u8]]) -> (Result<(), error::Error>, usize) {
    let endpoint = Endpoint::Tcp("target.server".to_owned(), 443);
    let proxy = Proxy {
        authorization: Some(b"Basic c2VjcmV0".to_vec()),
    };
    let mut used = 0;
    let stream = Stream {
        pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
        used: &mut used,
    };
    let mut opening = Box::pin(tunnel::open(stream, &endpoint, &proxy));
    // The proxy never keeps anybody waiting.
    let polled = opening
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .map_ok(|_| ());
    drop(opening);
    match polled {
        Poll::Ready(opened) => (opened, used),
        Poll::Pending => panic!("it waits for nothing"),
    }
}

struct Stream<'a> {
    pieces: std::collections::VecDeque<Vec<u8>>,
    used: &'a mut usize,
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.pieces.front_mut() {
            let count = piece.len().min(space.remaining());
            if count > 0 {
                space.put_slice(&piece[..count]);
                piece.drain(..count);
                *self.used += count;
                break;
            }
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
