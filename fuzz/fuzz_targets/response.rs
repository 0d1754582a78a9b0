//! Responses of a hostile server: no bytes make the parser panic, and where the network cuts them
//! does not matter.
//!
//! An input is the server's bytes with four bytes behind them that say how they are to be read:
//!
//! ```text
//!  bytes of the server … │ method │ first cut, little-endian │ length of the second piece
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;

use self::http1::{BodyDecoder, Event, Framing, Header, Limits, Malformed, ResponseHead};

#[allow(dead_code, unused_imports, reason = "requests are not read here")]
#[path = "../../src/http1/mod.rs"]
mod http1;

/// Small, so that the fuzzer reaches them.
const LIMITS: Limits = Limits {
    head_bytes: 512,
    headers: 8,
};

fuzz_target!(|input: &[u8]| {
    let Some((wire, &[method, low, high, length])) = input.split_last_chunk::<4>() else {
        return;
    };
    let method = ["GET", "HEAD", "CONNECT"][usize::from(method % 3)];
    let first = usize::from(u16::from_le_bytes([low, high])) % (wire.len() + 1);
    let second = wire.len().min(first + usize::from(length));

    let whole = read(method, &[wire]);
    let cut = read(
        method,
        &[&wire[..first], &wire[first..second], &wire[second..]],
    );
    assert_eq!(whole, cut, "cut at {first} and {second}");
    check(&whole, wire);
});

/// What a connection brought: responses, one behind the other.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    responses: Vec<Response>,
    /// Bytes that have not been used, unless there is an error.
    rest: Vec<u8>,
    error: Option<Malformed>,
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    head: ResponseHead,
    framing: Framing,
    chunks: Vec<Chunk>,
    trailers: Vec<Header>,
    complete: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Chunk {
    /// As announced; `None` for a body that the end of the connection ends.
    size: Option<u64>,
    data: Vec<u8>,
}

/// Reads as `src/client` does, with the pieces for what each read of the socket gives.
fn read(method: &str, pieces: &[&[u8]]) -> Seen {
    let mut seen = Seen::default();
    let mut body = None;
    let mut searched = 0;
    for piece in pieces {
        seen.rest.extend_from_slice(piece);
        if let Err(error) = advance(method, &mut seen, &mut body, &mut searched) {
            // The connection is closed: how much behind the error has come means nothing.
            seen.rest.clear();
            seen.error = Some(error);
            break;
        }
    }
    seen
}

/// Uses as much of `seen.rest` as can be used.
fn advance(
    method: &str,
    seen: &mut Seen,
    body: &mut Option<BodyDecoder>,
    searched: &mut usize,
) -> Result<(), Malformed> {
    loop {
        let Some(decoder) = body else {
            match next_head(&mut seen.rest, searched)? {
                None => return Ok(()),
                Some(head) => {
                    let framing = Framing::of(&head, method)?;
                    *body = Some(BodyDecoder::new(framing, LIMITS));
                    seen.responses.push(Response {
                        head,
                        framing,
                        chunks: Vec::new(),
                        trailers: Vec::new(),
                        complete: false,
                    });
                }
            }
            continue;
        };
        let Some(response) = seen.responses.last_mut() else {
            unreachable!("a body belongs to a response")
        };
        let (used, event) = decoder.step(&seen.rest)?;
        match event {
            Event::NeedMore => {
                seen.rest.drain(..used);
                return Ok(());
            }
            Event::End => {
                response.complete = true;
                response.trailers = decoder.take_trailers();
                *body = None;
            }
            Event::Chunk(size) => response.chunks.push(Chunk {
                size: Some(size),
                data: Vec::new(),
            }),
            Event::Data(range) => {
                if response.chunks.is_empty() {
                    response.chunks.push(Chunk::default());
                }
                let Some(chunk) = response.chunks.last_mut() else {
                    unreachable!("there is at least one")
                };
                chunk.data.extend_from_slice(&seen.rest[range]);
            }
        }
        seen.rest.drain(..used);
    }
}

fn next_head(
    buffer: &mut Vec<u8>,
    searched: &mut usize,
) -> Result<Option<ResponseHead>, Malformed> {
    if let Some(end) = http1::find_end(buffer, *searched)
        && end <= LIMITS.head_bytes
    {
        let head = http1::parse(&buffer[..end], &LIMITS)?;
        buffer.drain(..end);
        *searched = 0;
        return Ok(Some(head));
    }
    *searched = buffer.len();
    if *searched >= LIMITS.head_bytes {
        let limit = "max_header_size";
        return Err(Malformed::HeadTooLarge { limit });
    }
    Ok(None)
}

/// What holds for everything that was accepted.
fn check(seen: &Seen, wire: &[u8]) {
    assert!(
        wire.ends_with(&seen.rest),
        "what is left is the end of what came"
    );
    for (index, response) in seen.responses.iter().enumerate() {
        let is_last = index + 1 == seen.responses.len();
        assert!(
            response.complete || is_last,
            "only the last response may be cut off"
        );
        assert!(response.head.headers.len() <= LIMITS.headers);
        assert!(response.trailers.len() <= LIMITS.headers);
        for header in response.head.headers.iter().chain(&response.trailers) {
            assert!(!header.name.is_empty() && header.name.is_ascii());
            let forbidden = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
            assert!(
                !header.value.iter().any(forbidden),
                "a header line is one line"
            );
        }
        for (index, chunk) in response.chunks.iter().enumerate() {
            let is_last = is_last && index + 1 == response.chunks.len();
            match chunk.size {
                Some(size) if is_last && !response.complete => {
                    assert!(chunk.data.len() as u64 <= size);
                }
                Some(size) => assert_eq!(chunk.data.len() as u64, size),
                None => assert_eq!(response.framing, Framing::Close),
            }
        }
    }
}
