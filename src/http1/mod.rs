//! HTTP/1.1 and 1.0 without I/O: bytes in, events out (RFC 9110, RFC 9112).
//!
//! ```text
//!  RequestHead ──encode──▶ bytes                bytes ──head::parse──▶ ResponseHead
//!                                                                         │ framing::of
//!                                                    BodyDecoder ◀────────┘
//!                                        bytes ──decode──▶ Chunk · Data · End(trailers)
//! ```
//!
//! Everything here is a pure function of its input, so it is tested and fuzzed without sockets.
//! What a general client library normalises away is kept, since callers of resty.http rely on it:
//! letter case and order of header names, one event per wire chunk, LF-only heads, HTTP/1.0.

mod body;
mod framing;
mod head;
mod request;

pub use body::{BodyDecoder, Event};
pub use framing::Framing;
pub use head::{Header, ResponseHead, find_end, parse};
pub use request::{HeaderList, RequestError, RequestHead, RequestTarget, Version, is_field_value};

/// Interim responses in front of one final response; no server has a use for so many.
pub const MAX_INTERIM: usize = 64;

/// Bounds on what a server may make us hold before the body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one response head, and of one trailer section.
    pub head_bytes: usize,
    /// Header lines of one response head, and of one trailer section.
    pub headers: usize,
}

impl Limits {
    /// Bytes of a response head unless the caller sets `max_header_size`.
    pub const HEAD_BYTES: usize = 64 * 1024;
    /// Header lines of a response head unless the caller sets `max_headers`.
    pub const HEADERS: usize = 100;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: Self::HEAD_BYTES,
            headers: Self::HEADERS,
        }
    }
}

/// Why bytes from a server are not an HTTP/1 message that we accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// The status line does not begin with `HTTP/1.1` or `HTTP/1.0`.
    Version {
        /// Its beginning, printable.
        line: String,
    },
    /// No status code of three digits stands behind the version.
    Status {
        /// Its beginning, printable.
        line: String,
    },
    /// A header line has no colon, a forbidden byte, a bare CR, or is folded (RFC 9112, 5.2).
    HeaderLine,
    /// Content-Length is not digits alone, or does not fit 64 bits.
    ContentLength,
    /// Content-Length occurs more than once (RFC 9112, 6.3: request smuggling).
    RepeatedContentLength,
    /// Content-Length and Transfer-Encoding together (RFC 9112, 6.3).
    LengthAndEncoding,
    /// Transfer-Encoding that ends in something else than one `chunked`, or in HTTP/1.0.
    TransferEncoding,
    /// A chunk-size line is not hexadecimal digits with optional extensions.
    ChunkSize,
    /// A chunk's data is not followed by a line end.
    ChunkEnd,
    /// Interim responses (1xx) without a final one behind them.
    NoFinalResponse,
    /// More bytes of head, or more header lines, than the limits allow.
    HeadTooLarge {
        /// The limit that was passed, in words.
        limit: &'static str,
    },
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Version { line } => {
                return write!(
                    f,
                    "couldn't parse HTTP version from response status line: {line}"
                );
            }
            Self::Status { line } => {
                return write!(
                    f,
                    "couldn't parse status code from response status line: {line}"
                );
            }
            Self::HeaderLine => "a header line has no colon or a forbidden character",
            Self::ContentLength => "Content-Length is not a number",
            Self::RepeatedContentLength => "Content-Length is repeated",
            Self::LengthAndEncoding => "Content-Length and Transfer-Encoding are both present",
            Self::TransferEncoding => "Transfer-Encoding does not end in one chunked",
            Self::ChunkSize => "a chunk size is not a hexadecimal number",
            Self::NoFinalResponse => "too many interim responses and no final one",
            Self::ChunkEnd => "a chunk is longer than its size says",
            Self::HeadTooLarge { limit } => return write!(f, "the head is over {limit}"),
        })
    }
}
