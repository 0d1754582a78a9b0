//! Heads of requests and responses: pseudo-header fields, and what HTTP/2 does without.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::http1::{Header, Limits, Malformed, RequestError, RequestHead, ResponseHead};

/// A request head that can be sent, also twice.
#[derive(Debug, Clone)]
pub struct Head {
    /// For h2.
    pub request: Request<()>,
    /// The length that it announces for a body that comes in pieces.
    pub announced: Option<u64>,
}

/// Fields that are about one HTTP/1.1 connection, and an error in HTTP/2 (RFC 9113, 8.2.2). An
/// Expect is one that nobody waits for: what the server makes of the head, it says with a frame.
const DROPPED: [&str; 8] = [
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Head {
    /// Checks and completes `head`, and makes frames' fields of it.
    ///
    /// # Errors
    ///
    /// [`RequestError`], as for HTTP/1.1.
    pub fn new(mut head: RequestHead<'_>, is_tls: bool) -> Result<Self, RequestError> {
        let announced = head.complete()?;
        let method = Method::from_bytes(&head.method.to_ascii_uppercase())
            .map_err(|_| RequestError::Method)?;
        // It has other pseudo-header fields (RFC 9113, 8.5), and what follows is no response.
        if method == Method::CONNECT {
            return Err(RequestError::Connect);
        }
        let mut target = Vec::new();
        head.target.encode(&mut target);
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri(head.headers.get("Host"), &target, is_tls)?;
        *request.headers_mut() = fields(&head)?;
        Ok(Self { request, announced })
    }
}

/// `:scheme`, `:authority` and `:path` (RFC 9113, 8.3.1).
fn uri(host: Option<&[u8]>, target: &[u8], is_tls: bool) -> Result<Uri, RequestError> {
    let host = host.ok_or(RequestError::NoHost)?;
    // No user name belongs there.
    if host.contains(&b'@') {
        return Err(RequestError::HeaderValue);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host).map_err(|_| RequestError::HeaderValue)?);
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| RequestError::Path)?);
    Uri::from_parts(parts).map_err(|_| RequestError::Path)
}

fn fields(head: &RequestHead<'_>) -> Result<HeaderMap, RequestError> {
    let named = head.headers.get("Connection").unwrap_or_default();
    let is_named = |name: &[u8]| {
        let mut options = named.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        options.any(|option| option.eq_ignore_ascii_case(name))
    };
    let mut fields = HeaderMap::new();
    for (name, values) in head.headers.iter() {
        let field = HeaderName::from_bytes(name).map_err(|_| RequestError::HeaderName)?;
        if field == "te" && values.iter().any(|value| has_trailers(value)) {
            fields.insert(field, HeaderValue::from_static("trailers"));
            continue;
        }
        if DROPPED.contains(&field.as_str()) || is_named(name) {
            continue;
        }
        // One field of cookies goes for all of them (RFC 6265, 5.4).
        let joined = (field == http::header::COOKIE).then(|| vec![values.join(&b"; "[..])]);
        for value in joined.as_deref().unwrap_or(values) {
            let value = HeaderValue::from_bytes(value.trim_ascii());
            fields.append(&field, value.map_err(|_| RequestError::HeaderValue)?);
        }
    }
    Ok(fields)
}

fn has_trailers(value: &[u8]) -> bool {
    let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// The head of a response as HTTP/1 has it: HTTP/2 has no reason phrase, so that it is the usual one.
///
/// # Errors
///
/// It is over the limits.
pub fn response(head: &http::response::Parts, limits: &Limits) -> Result<ResponseHead, Malformed> {
    Ok(ResponseHead {
        minor_version: 1,
        status: head.status.as_u16(),
        reason: head
            .status
            .canonical_reason()
            .unwrap_or_default()
            .to_owned(),
        headers: headers(&head.headers, limits)?,
    })
}

/// The fields of a head or of trailers.
///
/// # Errors
///
/// They are over the limits, counted as HTTP/2 does (RFC 9113, 6.5.2).
pub fn headers(fields: &HeaderMap, limits: &Limits) -> Result<Vec<Header>, Malformed> {
    const OVERHEAD: usize = 32;
    let size_of =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + OVERHEAD;
    let size: usize = fields.iter().map(size_of).sum();
    if size > limits.head_bytes {
        let limit = "max_header_size";
        return Err(Malformed::HeadTooLarge { limit });
    }
    if fields.len() > limits.headers {
        let limit = "max_headers";
        return Err(Malformed::HeadTooLarge { limit });
    }
    let header = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    };
    Ok(fields.iter().map(header).collect())
}
