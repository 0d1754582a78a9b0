//! Request heads: checks what the caller gives, fills in what is missing, writes the bytes.

use std::fmt;

/// Where a request goes, as its request line says it (RFC 9112, section 3.2).
#[derive(Debug, Default)]
pub struct RequestTarget<'a> {
    /// `http://host:port` in front of the path, for a plain-text proxy (absolute-form).
    pub prefix: &'a str,
    /// Path, possibly with a query of its own; `/` when empty.
    pub path: &'a [u8],
    /// Query without or with the `?`; nothing is written when empty.
    pub query: &'a [u8],
}

/// The versions of HTTP that requests are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// RFC 9112, appendix C.2.2
    Http10,
    /// RFC 9112
    Http11,
    /// RFC 9113: the head is checked and completed here, and written by `http2`.
    Http2,
}

/// What a request head is made from.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// Method in any letter case; written in capitals.
    pub method: &'a [u8],
    /// Request target.
    pub target: RequestTarget<'a>,
    /// Version of the protocol that it is written in.
    pub version: Version,
    /// Header fields of the caller. They win over every default below.
    pub headers: HeaderList,
    /// Length of the body, `None` when the caller gave none.
    pub body_length: Option<usize>,
    /// Whether the body comes piece by piece, so that the caller has to say how it is framed.
    pub body_is_iterator: bool,
    /// Value for `Host`, or `None` where the destination has no name (a unix socket).
    pub host: Option<&'a str>,
    /// Value for `User-Agent`, or `None` for none.
    pub user_agent: Option<&'a [u8]>,
    /// Value for `Proxy-Authorization`, for a plain-text proxy.
    pub proxy_authorization: Option<&'a [u8]>,
}

/// Why no request can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The method is not a token (RFC 9110, 5.6.2).
    Method,
    /// The path has a control, a space or a delimiter of URIs in it.
    Path,
    /// The query has a control, a space or a delimiter of URIs in it.
    Query,
    /// A header name is not a token.
    HeaderName,
    /// A header value has a control character in it.
    HeaderValue,
    /// An iterator body without Content-Length and without `Transfer-Encoding: chunked`.
    UnframedIterator,
    /// A unix socket has no name to put into `Host`.
    NoHost,
    /// The Content-Length of the caller is not one number.
    ContentLength,
    /// The Transfer-Encoding of the caller does not end in `chunked`.
    TransferEncoding,
    /// The Content-Length of the caller is not the length of the body.
    ContentLengthMismatch,
    /// CONNECT over HTTP/2.
    Connect,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "invalid characters found in method",
            Self::Path => "invalid characters found in path",
            Self::Query => "invalid characters found in query",
            Self::HeaderName => "invalid characters found in header key",
            Self::HeaderValue => "invalid characters found in header value",
            Self::UnframedIterator => {
                "Request body is a function but a length or chunked encoding is not specified"
            }
            Self::NoHost => {
                "Unable to generate a useful Host header for a unix domain socket. \
                 Please provide one."
            }
            Self::ContentLength => "the Content-Length header is not one number",
            Self::TransferEncoding => "the Transfer-Encoding header does not end in chunked",
            Self::ContentLengthMismatch => {
                "the Content-Length header is not the length of the body"
            }
            Self::Connect => "CONNECT cannot be sent over HTTP/2",
        })
    }
}

impl RequestTarget<'_> {
    /// Appends path and query.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self.path {
            [] => out.push(b'/'),
            path => out.extend_from_slice(path),
        }
        match self.query {
            [] => {}
            [b'?', ..] => out.extend_from_slice(self.query),
            query => {
                out.push(b'?');
                out.extend_from_slice(query);
            }
        }
    }
}

impl RequestHead<'_> {
    /// Appends the head to `out`, up to and with the empty line. Returns the length that it announces
    /// for a body that comes in pieces.
    ///
    /// # Errors
    ///
    /// [`RequestError`] when something in it could be read as more than what it is (header
    /// injection, request smuggling), before a byte is written.
    pub fn encode(mut self, out: &mut Vec<u8>) -> Result<Option<u64>, RequestError> {
        let announced = self.complete()?;
        out.extend(self.method.iter().map(u8::to_ascii_uppercase));
        out.push(b' ');
        out.extend_from_slice(self.target.prefix.as_bytes());
        self.target.encode(out);
        out.extend_from_slice(match self.version {
            Version::Http10 => b" HTTP/1.0\r\n",
            _ => b" HTTP/1.1\r\n",
        });
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
        Ok(announced)
    }

    /// Fills in what is missing and checks all of it. Returns the length that the head announces for
    /// a body that comes in pieces.
    ///
    /// # Errors
    ///
    /// [`RequestError`], as of [`Self::encode`].
    pub fn complete(&mut self) -> Result<Option<u64>, RequestError> {
        if self.method.is_empty() || !self.method.iter().all(|&byte| is_token(byte)) {
            return Err(RequestError::Method);
        }
        let announced = self.complete_headers()?;
        // Behind a prefix, anything but a slash would go on with the host.
        let joins_host =
            !self.target.prefix.is_empty() && !matches!(self.target.path, [] | [b'/', ..]);
        if joins_host || !self.target.path.iter().all(|&byte| is_target(byte)) {
            return Err(RequestError::Path);
        }
        if !self.target.query.iter().all(|&byte| is_target(byte)) {
            return Err(RequestError::Query);
        }
        self.headers.check()?;
        Ok(announced)
    }

    fn complete_headers(&mut self) -> Result<Option<u64>, RequestError> {
        if let Some(value) = self.proxy_authorization {
            self.headers.set_default("Proxy-Authorization", value);
        }
        let announced = self.frame_body()?;
        if !self.headers.contains("Host") {
            let host = self.host.ok_or(RequestError::NoHost)?;
            self.headers.set("Host", host.as_bytes());
        }
        if let Some(value) = self.user_agent {
            self.headers.set_default("User-Agent", value);
        }
        if self.version == Version::Http10 {
            // HTTP/1.0 closes unless both sides say otherwise (RFC 9112, appendix C.2.2).
            self.headers.set_default("Connection", b"Keep-Alive");
        }
        Ok(announced)
    }

    /// Makes the head say how long the body is, in exactly one way.
    fn frame_body(&mut self) -> Result<Option<u64>, RequestError> {
        let has_frames = self.version == Version::Http2;
        if has_frames || (self.body_length.is_none() && !self.body_is_iterator) {
            // Copied from another request, perhaps. A chunked body that never comes would take the
            // next request for its chunks. In HTTP/2 frames end bodies (RFC 9113, 8.2.2).
            self.headers.remove("Transfer-Encoding");
        }
        if self.headers.contains("Transfer-Encoding") {
            if !self.headers.ends_in_chunked() {
                return Err(RequestError::TransferEncoding);
            }
            // Both together are request smuggling's favourite (RFC 9112, 6.1).
            self.headers.remove("Content-Length");
            return Ok(None);
        }
        if self.headers.contains("Content-Length") {
            let given = self.headers.content_length()?;
            // What is over, or missing, would be taken from or for the next request.
            let length = self.body_length.unwrap_or(0) as u64;
            return match self.body_is_iterator {
                true => Ok(Some(given)),
                false if length == given => Ok(None),
                false => Err(RequestError::ContentLengthMismatch),
            };
        }
        if self.body_is_iterator && has_frames {
            return Ok(None);
        }
        if self.body_is_iterator {
            return Err(RequestError::UnframedIterator);
        }
        let expects_body = ["POST", "PUT", "PATCH"]
            .iter()
            .any(|method| self.method.eq_ignore_ascii_case(method.as_bytes()));
        match self.body_length {
            Some(length) => self
                .headers
                .set("Content-Length", length.to_string().as_bytes()),
            None if expects_body => self.headers.set("Content-Length", b"0"),
            None => {}
        }
        Ok(None)
    }
}

/// Header fields as the caller spelled them, one entry a name.
///
/// Names are the same in any letter case (RFC 9110, 5.1).
#[derive(Debug, Default)]
pub struct HeaderList(Vec<(Vec<u8>, Vec<Vec<u8>>)>);

impl HeaderList {
    /// Sets a field to `value`, in place of what was there under another spelling.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: &[u8]) {
        self.set_all(name, vec![value.to_vec()]);
    }

    /// Sets a field to several values, written as one line each.
    pub fn set_all(&mut self, name: impl AsRef<[u8]>, values: Vec<Vec<u8>>) {
        match self.position(name.as_ref()) {
            Some(index) => self.0[index].1 = values,
            None => self.0.push((name.as_ref().to_vec(), values)),
        }
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let index = self.position(name.as_bytes())?;
        self.0[index].1.first().map(Vec::as_slice)
    }

    /// All values of a field as one list (RFC 9110, 5.3).
    pub fn joined(&self, name: &str) -> Vec<u8> {
        let index = self.position(name.as_bytes());
        index
            .map(|index| self.0[index].1.join(&b','))
            .unwrap_or_default()
    }

    /// Whether the field `Expect: 100-continue` is there.
    pub fn expects_continue(&self) -> bool {
        self.get("Expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Sets a field unless it is there.
    pub fn set_default(&mut self, name: &str, value: &[u8]) {
        if !self.contains(name) {
            self.set(name, value);
        }
    }

    /// Names and values, in the caller's spelling.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[Vec<u8>])> {
        let fields = self.0.iter();
        fields.map(|(name, values)| (name.as_slice(), values.as_slice()))
    }

    fn contains(&self, name: &str) -> bool {
        self.position(name.as_bytes()).is_some()
    }

    fn remove(&mut self, name: &str) {
        self.0
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name.as_bytes()));
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.0
            .iter()
            .position(|(present, _)| present.eq_ignore_ascii_case(name))
    }

    fn ends_in_chunked(&self) -> bool {
        let joined = self.joined("Transfer-Encoding");
        let last = joined.rsplit(|&byte| byte == b',').next();
        last.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
    }

    /// Digits of one value: two would be read differently by different servers.
    fn content_length(&self) -> Result<u64, RequestError> {
        let values = self
            .position(b"Content-Length")
            .map(|index| &self.0[index].1);
        match values.map(Vec::as_slice) {
            Some([value]) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .ok_or(RequestError::ContentLength)
            }
            _ => Err(RequestError::ContentLength),
        }
    }

    fn check(&self) -> Result<(), RequestError> {
        for (name, values) in &self.0 {
            if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
                return Err(RequestError::HeaderName);
            }
            if !values.iter().all(|value| is_field_value(value)) {
                return Err(RequestError::HeaderValue);
            }
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for (name, values) in &self.0 {
            for value in values {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// `tchar` (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a request target: no control, no space, none of the delimiters that a URI
/// has to escape (RFC 3986, 2.2 and 2.3), except those that gateways are known to pass on
/// (`"`, `{`, `}`, `|`, `[`, `]`, `\`, `^`) and bytes of UTF-8.
fn is_target(byte: u8) -> bool {
    !matches!(byte, 0..=b' ' | b'#' | b'<' | b'>' | b'`' | 0x7f)
}

/// Whether bytes can be a header field's value: `field-vchar`, space and tab (RFC 9110, 5.5).
pub fn is_field_value(bytes: &[u8]) -> bool {
    !bytes
        .iter()
        .any(|byte| matches!(byte, 0..=8 | 10..=31 | 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>(method: &'a str, path: &'a str, headers: &[(&str, &str)]) -> RequestHead<'a> {
        let mut list = HeaderList::default();
        for (name, value) in headers {
            list.set(*name, value.as_bytes());
        }
        RequestHead {
            method: method.as_bytes(),
            target: RequestTarget {
                path: path.as_bytes(),
                ..RequestTarget::default()
            },
            version: Version::Http11,
            headers: list,
            body_length: None,
            body_is_iterator: false,
            host: Some("h"),
            user_agent: None,
            proxy_authorization: None,
        }
    }

    fn text(head: RequestHead<'_>) -> Result<String, RequestError> {
        let mut out = Vec::new();
        head.encode(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn writes_what_the_caller_spelled() {
        let mut request = head("get", "", &[("x-LOW", "1"), ("Host", "other")]);
        request.target.query = b"a=b";
        request.user_agent = Some(b"ua");
        assert_eq!(
            text(request).unwrap(),
            "GET /?a=b HTTP/1.1\r\nx-LOW: 1\r\nHost: other\r\nUser-Agent: ua\r\n\r\n"
        );
    }

    #[test]
    fn fills_in_lengths() {
        let mut request = head("PUT", "/", &[]);
        request.body_length = Some(3);
        assert!(text(request).unwrap().contains("Content-Length: 3\r\n"));
        for method in ["POST", "put", "PATCH"] {
            assert!(
                text(head(method, "/", &[]))
                    .unwrap()
                    .contains("Content-Length: 0\r\n")
            );
        }
        assert!(
            !text(head("GET", "/", &[]))
                .unwrap()
                .contains("Content-Length")
        );
        let both = [("Transfer-Encoding", "chunked"), ("content-length", "4")];
        let mut request = head("POST", "/", &both);
        request.body_is_iterator = true;
        assert!(!text(request).unwrap().contains("ength"));
    }

    #[test]
    fn http_1_0_asks_to_be_kept_alive() {
        let mut request = head("GET", "/", &[]);
        request.version = Version::Http10;
        assert_eq!(
            text(request).unwrap(),
            "GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n"
        );
    }

    #[test]
    fn refuses_injection() {
        use RequestError::*;
        let cases = [
            (head("GET /\r\nX: y", "/", &[]), Method),
            (head("", "/", &[]), Method),
            (head("GET", "/a b", &[]), Path),
            (head("GET", "/a\r\nX: y", &[]), Path),
            (head("GET", "/", &[("X y", "z")]), HeaderName),
            (head("GET", "/", &[("X:", "z")]), HeaderName),
            (head("GET", "/", &[("", "z")]), HeaderName),
            (head("GET", "/", &[("X", "y\r\nZ: 1")]), HeaderValue),
            (head("GET", "/", &[("X", "y\0")]), HeaderValue),
            (head("GET", "/", &[("Content-Length", "+1")]), ContentLength),
            (
                head("GET", "/", &[("Content-Length", "1")]),
                ContentLengthMismatch,
            ),
        ];
        for (request, expected) in cases {
            let shown = format!("{request:?}");
            assert_eq!(text(request), Err(expected), "{shown}");
        }
        let mut request = head("PUT", "/", &[("Transfer-Encoding", "gzip")]);
        request.body_length = Some(3);
        assert_eq!(text(request), Err(TransferEncoding));
        let mut request = head("GET", "@evil.example/", &[]);
        request.target.prefix = "http://good.example";
        assert_eq!(text(request), Err(Path));
        let mut request = head("GET", "/", &[]);
        request.target.query = b"a=b c";
        assert_eq!(text(request), Err(Query));
    }

    #[test]
    fn an_iterator_needs_framing_and_a_unix_socket_a_host() {
        let mut request = head("POST", "/", &[]);
        request.body_is_iterator = true;
        assert_eq!(text(request), Err(RequestError::UnframedIterator));
        let mut request = head("GET", "/", &[]);
        request.host = None;
        assert_eq!(text(request), Err(RequestError::NoHost));
    }
}
