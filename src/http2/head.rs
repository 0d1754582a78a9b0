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
const DROPPED: [&str; 9] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that nobody on the way may keep in a table, whose use shows in the length of other heads
/// (RFC 7541, 7.1.3).
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

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
        // A path, or all of the server (RFC 9113, 8.3.1).
        let is_path = target.starts_with(b"/");
        if !is_path && (method != Method::OPTIONS || target != b"*") {
            return Err(RequestError::Path);
        }
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
    // In any number of lines, as a list (RFC 9110, 7.6.1).
    let named = head.headers.joined("Connection");
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
            let mut value = value.map_err(|_| RequestError::HeaderValue)?;
            value.set_sensitive(CREDENTIALS.contains(&field.as_str()));
            fields.append(&field, value);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeaderList, RequestTarget, Version as WireVersion};

    fn request<'a>(method: &'a str, path: &'a str, headers: &[(&str, &[&str])]) -> RequestHead<'a> {
        let mut list = HeaderList::default();
        for (name, values) in headers {
            let values = values.iter().map(|value| value.as_bytes().to_vec());
            list.set_all(*name, values.collect());
        }
        RequestHead {
            method: method.as_bytes(),
            target: RequestTarget {
                path: path.as_bytes(),
                ..RequestTarget::default()
            },
            version: WireVersion::Http2,
            headers: list,
            body_length: None,
            body_is_iterator: false,
            host: Some("h:81"),
            user_agent: None,
            proxy_authorization: None,
        }
    }

    fn sent(head: RequestHead<'_>) -> Request<()> {
        Head::new(head, true).unwrap().request
    }

    fn fields_of(headers: &[(&str, &[&str])]) -> Vec<(String, String)> {
        let request = sent(request("GET", "/", headers));
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields = request.headers().iter();
        fields
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    fn refused(head: RequestHead<'_>) -> RequestError {
        Head::new(head, true).unwrap_err()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_request_line_becomes_pseudo_header_fields() {
        let mut head = request("get", "/a/b", &[]);
        head.target.query = b"c=d?e";
        let request = sent(head);
        assert_eq!(request.method(), "GET");
        assert_eq!(request.uri(), "https://h:81/a/b?c=d?e");
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(request.headers().is_empty());
        let head = super::tests::request("GET", "", &[]);
        let request = Head::new(head, false).unwrap().request;
        assert_eq!(request.uri(), "http://h:81/");
    }

    #[test]
    fn the_host_is_the_authority_alone() {
        let request = sent(request("GET", "/", &[("HOST", &["other.example:8443"])]));
        assert_eq!(request.uri().authority().unwrap(), "other.example:8443");
        assert!(request.headers().is_empty());
    }

    #[test]
    fn paths_are_passed_on_as_over_http1() {
        for path in [
            "/%20",
            "/\"{}|[]\\^",
            "/\u{e4}",
            "/a//b/../c",
            "/;a=b,c",
            "*",
        ] {
            let request = sent(request("OPTIONS", path, &[]));
            assert_eq!(request.uri().path().as_bytes(), path.as_bytes());
        }
        for path in ["/a b", "/a\tb", "/a\r\nb", "/a\0", "/#a", "/<a>", "/\x7f"] {
            assert_eq!(refused(request("GET", path, &[])), RequestError::Path);
        }
        // `:path` begins with a slash (RFC 9113, 8.3.1).
        assert_eq!(refused(request("GET", "a", &[])), RequestError::Path);
        assert_eq!(refused(request("GET", "@evil/", &[])), RequestError::Path);
        assert_eq!(refused(request("GET", "*", &[])), RequestError::Path);
    }

    #[test]
    fn no_user_name_and_no_control_gets_into_the_authority() {
        for host in [
            "user@h",
            "h/path",
            "h h",
            "h\r\nx: y",
            "",
            "h?q",
            "h#f",
            "h:81@evil",
        ] {
            let error = refused(request("GET", "/", &[("Host", &[host])]));
            assert_eq!(error, RequestError::HeaderValue, "{host:?}");
        }
        let mut head = request("GET", "/", &[]);
        head.host = None;
        assert_eq!(refused(head), RequestError::NoHost);
    }

    #[test]
    fn fields_of_a_connection_are_dropped() {
        let fields = fields_of(&[
            ("Connection", &["close, X-One", " x-two "]),
            ("X-One", &["1"]),
            ("x-TWO", &["2"]),
            ("Keep-Alive", &["timeout=5"]),
            ("Proxy-Connection", &["keep-alive"]),
            ("Transfer-Encoding", &["chunked"]),
            ("Upgrade", &["h2c"]),
            ("HTTP2-Settings", &["AAMAAABkAAQAAP__"]),
            ("Expect", &["100-continue"]),
            ("X-Three", &["3"]),
        ]);
        assert_eq!(fields, [pair("x-three", "3")]);
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        assert_eq!(
            fields_of(&[("TE", &["gzip, Trailers"])]),
            [pair("te", "trailers")]
        );
        assert_eq!(
            fields_of(&[("TE", &["gzip", "trailers"])]),
            [pair("te", "trailers")]
        );
        assert_eq!(fields_of(&[("TE", &["gzip"])]), []);
        assert_eq!(fields_of(&[("TE", &["trailersx;q=1"])]), []);
    }

    #[test]
    fn names_are_in_lower_case_and_values_as_they_are() {
        let fields = fields_of(&[("X-CaSe", &[" a\tb ", "", "\u{fc}"])]);
        let expected = ["a\tb", "", "\u{fc}"].map(|value| pair("x-case", value));
        assert_eq!(fields, expected);
    }

    #[test]
    fn cookies_are_joined() {
        let fields = fields_of(&[("Cookie", &["a=1", "b=2; c=3"])]);
        assert_eq!(fields, [pair("cookie", "a=1; b=2; c=3")]);
    }

    #[test]
    fn credentials_are_never_indexed() {
        let request = sent(request(
            "GET",
            "/",
            &[
                ("Cookie", &["a=1"]),
                ("AUTHORIZATION", &["b"]),
                ("X", &["c"]),
            ],
        ));
        let fields = request.headers().iter();
        let sensitive: Vec<_> = fields
            .filter(|(_, value)| value.is_sensitive())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(sensitive, ["cookie", "authorization"]);
    }

    #[test]
    fn nothing_gets_in_with_a_control_character_or_a_pseudo_name() {
        for name in ["x y", "x\r\n", "", ":path", "x:"] {
            let error = refused(request("GET", "/", &[(name, &["1"])]));
            assert_eq!(error, RequestError::HeaderName, "{name:?}");
        }
        for value in ["a\r\nb: c", "a\nb", "a\0b", "\x7f"] {
            let error = refused(request("GET", "/", &[("a", &[value])]));
            assert_eq!(error, RequestError::HeaderValue, "{value:?}");
        }
        assert_eq!(refused(request("G T", "/", &[])), RequestError::Method);
        assert_eq!(refused(request("connect", "/", &[])), RequestError::Connect);
    }

    #[test]
    fn lengths_are_stated_where_they_are_known() {
        let length = |head: RequestHead<'_>| {
            let head = Head::new(head, true).unwrap();
            let stated = head.request.headers().get("content-length").cloned();
            (
                stated.map(|value| value.to_str().unwrap().to_owned()),
                head.announced,
            )
        };
        assert_eq!(length(request("GET", "/", &[])), (None, None));
        assert_eq!(
            length(request("POST", "/", &[])),
            (Some("0".to_owned()), None)
        );
        let mut head = request("PUT", "/", &[]);
        head.body_length = Some(3);
        assert_eq!(length(head), (Some("3".to_owned()), None));
        let mut head = request("PUT", "/", &[]);
        head.body_is_iterator = true;
        assert_eq!(length(head), (None, None));
        let mut head = request("PUT", "/", &[("content-length", &["7"])]);
        head.body_is_iterator = true;
        assert_eq!(length(head), (Some("7".to_owned()), Some(7)));
    }

    #[test]
    fn responses_are_what_http1_makes_of_them() {
        let response = http::Response::builder()
            .status(404)
            .header("x-one", "1")
            .header("set-cookie", "a")
            .header("set-cookie", "b");
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let head = super::response(&parts, &Limits::default()).unwrap();
        assert_eq!((head.status, head.reason.as_str()), (404, "Not Found"));
        let names: Vec<_> = head.headers.iter().map(|header| &header.name[..]).collect();
        assert_eq!(names, ["x-one", "set-cookie", "set-cookie"]);
    }

    #[test]
    fn header_lists_are_bounded_as_the_protocol_counts() {
        let mut fields = HeaderMap::new();
        fields.append("a", HeaderValue::from_static("bc"));
        fields.append("a", HeaderValue::from_static("bc"));
        let limits = |head_bytes, headers| Limits {
            head_bytes,
            headers,
        };
        let too_large = |limit| Err(Malformed::HeadTooLarge { limit });
        assert!(headers(&fields, &limits(70, 2)).is_ok());
        assert_eq!(
            headers(&fields, &limits(69, 2)).map(drop),
            too_large("max_header_size")
        );
        assert_eq!(
            headers(&fields, &limits(70, 1)).map(drop),
            too_large("max_headers")
        );
    }
}
