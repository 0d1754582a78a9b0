//! Request parameters: from a Lua table to bytes and a typed [`Exchange`].

use bytes::Bytes;
use mlua::{BorrowedBytes, FromLua, Lua, Table, Value};

use crate::client::{Exchange, Message, Request, Timeouts};
use crate::error::{Error, Result};
use crate::http1::{HeaderList, Limits, RequestHead, RequestTarget, Version};
use crate::http2;

/// What the client adds to a request of its own.
pub struct Defaults<'a> {
    /// `Host`, where the destination has a name.
    pub host: Option<String>,
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// `traceparent` of the request that is being served (W3C Trace Context).
    pub traceparent: Option<BorrowedBytes>,
    /// `http://host:port`, for a proxy that passes requests on.
    pub path_prefix: String,
    /// `Proxy-Authorization`, for a proxy that passes requests on.
    pub proxy_authorization: Option<&'a [u8]>,
    /// Whether the connection speaks HTTP/2.
    pub http2: bool,
    /// Whether it is TLS.
    pub tls: bool,
    /// Time-outs.
    pub timeouts: Timeouts,
}

/// The header counts that a caller may allow.
const MAX_HEADERS: usize = 1000;

/// Reads `params` and writes the request. A body that is a function is left to the caller.
pub fn exchange(lua: &Lua, params: &Table, defaults: &Defaults<'_>) -> Result<Exchange> {
    let method = string(lua, params, "method")?.unwrap_or_else(|| b"GET".to_vec());
    let path = string(lua, params, "path")?.unwrap_or_default();
    let query = match get(params, "query")? {
        Value::Table(arguments) => encode_args(lua, &arguments)?,
        Value::Nil => Vec::new(),
        other => bytes(lua, "query", &other)?,
    };
    let body = body(lua, get(params, "body")?)?;
    let user_agent = match get(params, "use_default_user_agent")? {
        Value::Boolean(false) => None,
        _ => Some(defaults.user_agent),
    };
    let mut headers = headers(lua, get(params, "headers")?)?;
    if let Some(traceparent) = &defaults.traceparent {
        headers.set_default("traceparent", traceparent);
    }
    let version = match version(params)? {
        // What the connection speaks.
        _ if defaults.http2 => Version::Http2,
        version => version,
    };
    // HTTP/1.0 has no interim responses to wait for (RFC 9110, 10.1.1), and over HTTP/2 the server
    // can stop the body at any time.
    let expects_continue = version == Version::Http11 && headers.expects_continue();
    let head = RequestHead {
        method: &method,
        target: RequestTarget {
            prefix: &defaults.path_prefix,
            path: &path,
            query: &query,
        },
        version,
        headers,
        body_length: body.bytes().map(<[u8]>::len),
        body_is_iterator: matches!(body, Body::Iterator),
        host: defaults.host.as_deref(),
        user_agent,
        proxy_authorization: defaults.proxy_authorization,
    };
    // RFC 9110, 9.2.2: what is sent twice must mean the same as what is sent once.
    let retry_stale = is_idempotent(&method) && boolean(params, "retry_stale")?.unwrap_or(true);
    if defaults.http2 {
        let request = Request {
            in_pieces: head.body_is_iterator,
            head: http2::Head::new(head, defaults.tls)?,
            body: Bytes::copy_from_slice(body.bytes().unwrap_or_default()),
        };
        return Ok(Exchange {
            message: Message::Frames(Box::new(request)),
            retry_stale,
            ..response(lua, params, defaults.timeouts)?
        });
    }
    let mut wire = Vec::with_capacity(1024);
    let announced = head.encode(&mut wire)?;
    let head_length = wire.len();
    if let Some(bytes) = body.bytes() {
        wire.extend_from_slice(bytes);
    }
    let waits = expects_continue && (wire.len() > head_length || matches!(body, Body::Iterator));
    Ok(Exchange {
        continue_at: waits.then_some(head_length),
        announced,
        retry_stale,
        message: Message::Bytes(wire),
        ..response(lua, params, defaults.timeouts)?
    })
}

/// How to read the response to `params`, for one whose request has been sent by itself.
pub fn response(lua: &Lua, params: &Table, timeouts: Timeouts) -> Result<Exchange> {
    let method = string(lua, params, "method")?.unwrap_or_else(|| b"GET".to_vec());
    let headers = number(params, "max_headers")?.unwrap_or(Limits::HEADERS as u64);
    let head_bytes = number(params, "max_header_size")?.unwrap_or(Limits::HEAD_BYTES as u64);
    Ok(Exchange {
        message: Message::Bytes(Vec::new()),
        continue_at: None,
        announced: None,
        method: String::from_utf8_lossy(&method).to_ascii_uppercase(),
        limits: Limits {
            headers: usize::try_from(headers)
                .unwrap_or(MAX_HEADERS)
                .min(MAX_HEADERS),
            head_bytes: usize::try_from(head_bytes).unwrap_or(usize::MAX),
        },
        max_body_size: number(params, "max_body_size")?,
        timeouts,
        retry_stale: false,
    })
}

enum Body {
    None,
    /// Lua's own, which is copied once only, to where it is sent from.
    Text(BorrowedBytes),
    Parts(Vec<u8>),
    Iterator,
}

impl Body {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::None | Self::Iterator => None,
            Self::Text(text) => Some(text),
            Self::Parts(bytes) => Some(bytes),
        }
    }
}

fn body(lua: &Lua, value: Value) -> Result<Body> {
    match value {
        Value::Nil => Ok(Body::None),
        Value::Function(_) => Ok(Body::Iterator),
        Value::Table(parts) => {
            let mut whole = Vec::new();
            for part in parts.sequence_values::<Value>() {
                let part = part.map_err(|error| unreadable("body", &error))?;
                whole.extend_from_slice(&bytes(lua, "body", &part)?);
            }
            Ok(Body::Parts(whole))
        }
        Value::String(text) => Ok(Body::Text(text.as_bytes())),
        other => Ok(Body::Parts(bytes(lua, "body", &other)?)),
    }
}

fn headers(lua: &Lua, value: Value) -> Result<HeaderList> {
    let mut list = HeaderList::default();
    let table = match value {
        Value::Nil => return Ok(list),
        Value::Table(table) => table,
        other => return Err(wrong_type("headers", "a table", &other)),
    };
    for pair in table.pairs::<Value, Value>() {
        let (name, value) = pair.map_err(|error| unreadable("headers", &error))?;
        let name = bytes(lua, "headers", &name)?;
        match value {
            Value::Table(values) => {
                let mut all = Vec::new();
                for pair in values.pairs::<Value, Value>() {
                    let (_, value) = pair.map_err(|error| unreadable("headers", &error))?;
                    all.push(bytes(lua, "headers", &value)?);
                }
                list.set_all(name, all);
            }
            value => list.set(name, &bytes(lua, "headers", &value)?),
        }
    }
    Ok(list)
}

/// A query string as `ngx.encode_args` makes it, which plain LuaJIT has not.
fn encode_args(lua: &Lua, arguments: &Table) -> Result<Vec<u8>> {
    let mut query = Vec::new();
    let mut add = |name: &[u8], value: &Value| -> Result<()> {
        let value = match value {
            Value::Boolean(false) => return Ok(()),
            Value::Boolean(true) => None,
            value => Some(bytes(lua, "query", value)?),
        };
        if !query.is_empty() {
            query.push(b'&');
        }
        escape(name, &mut query);
        if let Some(value) = value {
            query.push(b'=');
            escape(&value, &mut query);
        }
        Ok(())
    };
    for pair in arguments.pairs::<Value, Value>() {
        let (name, value) = pair.map_err(|error| unreadable("query", &error))?;
        let name = bytes(lua, "query", &name)?;
        match value {
            Value::Table(values) => {
                for value in values.sequence_values::<Value>() {
                    add(&name, &value.map_err(|error| unreadable("query", &error))?)?;
                }
            }
            value => add(&name, &value)?,
        }
    }
    Ok(query)
}

/// Percent-encodes what encodeURIComponent does, as ngx.escape_uri: all but the unreserved characters
/// (RFC 3986, 2.3) and `!'()*`.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte) {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
        }
    }
}

fn version(params: &Table) -> Result<Version> {
    match get(params, "version")? {
        Value::Nil => Ok(Version::Http11),
        Value::Number(1.1) => Ok(Version::Http11),
        Value::Integer(1) => Ok(Version::Http10),
        Value::Number(1.0) => Ok(Version::Http10),
        _ => Err(Error::bad_argument(
            "bad 'version': a request is HTTP/1.1 or HTTP/1.0, or what http_version says",
        )),
    }
}

fn is_idempotent(method: &[u8]) -> bool {
    ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"]
        .iter()
        .any(|idempotent| method.eq_ignore_ascii_case(idempotent.as_bytes()))
}

fn string(lua: &Lua, params: &Table, name: &str) -> Result<Option<Vec<u8>>> {
    match get(params, name)? {
        Value::Nil => Ok(None),
        value @ Value::Boolean(_) => Err(wrong_type(name, "a string", &value)),
        value => bytes(lua, name, &value).map(Some),
    }
}

fn boolean(params: &Table, name: &str) -> Result<Option<bool>> {
    match get(params, name)? {
        Value::Nil => Ok(None),
        Value::Boolean(value) => Ok(Some(value)),
        other => Err(wrong_type(name, "a boolean", &other)),
    }
}

fn number(params: &Table, name: &str) -> Result<Option<u64>> {
    match get(params, name)? {
        Value::Nil => Ok(None),
        Value::Integer(value) if value >= 0 => Ok(Some(value.unsigned_abs())),
        // A float to integer cast saturates, and NaN has been sorted out by the comparison.
        Value::Number(value) if value >= 0.0 => Ok(Some(value as u64)),
        other => Err(wrong_type(name, "a positive number", &other)),
    }
}

/// Text as `tostring` shows it, for what has an obvious text.
fn bytes(lua: &Lua, name: &str, value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(_) | Value::Number(_) => mlua::LuaString::from_lua(value.clone(), lua)
            .map(|text| text.as_bytes().to_vec())
            .map_err(|error| unreadable(name, &error)),
        Value::Boolean(true) => Ok(b"true".to_vec()),
        Value::Boolean(false) => Ok(b"false".to_vec()),
        other => Err(wrong_type(name, "strings", other)),
    }
}

fn get(params: &Table, name: &str) -> Result<Value> {
    params.get(name).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, error: &mlua::Error) -> Error {
    // mlua's own texts span lines, with a traceback; the first says what is wrong.
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    Error::bad_argument(format!("cannot read '{name}': {first}"))
}

fn wrong_type(name: &str, expected: &str, got: &Value) -> Error {
    Error::bad_argument(format!(
        "bad '{name}': expected {expected}, got {}",
        got.type_name()
    ))
}
