//! How long a response body is (RFC 9112, section 6.3).

use super::{Malformed, ResponseHead};

/// What ends a response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, whatever the headers say: HEAD, 1xx, 204, 304, a 2xx to CONNECT.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Chunks, up to the one of size zero.
    Chunked,
    /// The end of the connection.
    Close,
}

impl Framing {
    /// The framing of the response to a request with `method`.
    ///
    /// # Errors
    ///
    /// Where two readers could disagree on the length, the response is refused: what follows it
    /// on the connection could otherwise be taken for the next response.
    pub fn of(head: &ResponseHead, method: &str) -> Result<Self, Malformed> {
        let length = content_length(head)?;
        let chunked = chunked(head)?;
        if method == "HEAD"
            || head.status < 200
            || matches!(head.status, 204 | 304)
            || (method == "CONNECT" && head.status < 300)
        {
            return Ok(Self::None);
        }
        match (chunked, length) {
            (Some(_), Some(_)) => Err(Malformed::LengthAndEncoding),
            (Some(true), None) => Ok(Self::Chunked),
            (Some(false), None) | (None, None) => Ok(Self::Close),
            (None, Some(length)) => Ok(Self::Length(length)),
        }
    }
}

/// Digits and nothing else: `+5`, `0x2`, `5, 5` and `5 ` inside a list are read differently by
/// different servers.
fn content_length(head: &ResponseHead) -> Result<Option<u64>, Malformed> {
    let mut values = head.values("Content-Length");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || value.contains(&b',') {
        return Err(Malformed::RepeatedContentLength);
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::ContentLength);
    }
    let digits = std::str::from_utf8(value).map_err(|_| Malformed::ContentLength)?;
    digits
        .parse()
        .map(Some)
        .map_err(|_| Malformed::ContentLength)
}

/// `Some(true)` when the last coding is `chunked`, `Some(false)` for other codings without it.
fn chunked(head: &ResponseHead) -> Result<Option<bool>, Malformed> {
    let codings: Vec<&[u8]> = head
        .values("Transfer-Encoding")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty())
        .collect();
    let is_chunked = |coding: &&&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let Some(last) = codings.last() else {
        // Present and empty: one reader sees a coding, another none.
        return match head.values("Transfer-Encoding").next() {
            Some(_) => Err(Malformed::TransferEncoding),
            None => Ok(None),
        };
    };
    let count = codings.iter().filter(is_chunked).count();
    match count {
        // RFC 9112, 6.1: Transfer-Encoding in HTTP/1.0 means that the framing is faulty.
        _ if head.minor_version == 0 => Err(Malformed::TransferEncoding),
        0 => Ok(Some(false)),
        1 if is_chunked(&last) => Ok(Some(true)),
        // Servers are known to repeat the line. It is applied once, and there is no other way to
        // read it that some server could mean.
        _ if count == codings.len() => Ok(Some(true)),
        _ => Err(Malformed::TransferEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, parse};
    use super::*;

    fn framing(version: &str, lines: &[&str], method: &str) -> Result<Framing, Malformed> {
        let text = format!("{version} 200 OK\r\n{}\r\n\r\n", lines.join("\r\n"));
        let text = text.replace("\r\n\r\n\r\n", "\r\n\r\n");
        Framing::of(&parse(text.as_bytes(), &Limits::default()).unwrap(), method)
    }

    #[test]
    fn follows_rfc_9112() {
        let cases: &[(&[&str], Framing)] = &[
            (&[], Framing::Close),
            (&["Content-Length: 0"], Framing::Length(0)),
            (&["content-length: 12"], Framing::Length(12)),
            (&["Transfer-Encoding: chunked"], Framing::Chunked),
            (&["Transfer-Encoding: gzip, Chunked"], Framing::Chunked),
            (
                &["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
                Framing::Chunked,
            ),
            (
                &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
                Framing::Chunked,
            ),
            (&["Transfer-Encoding: identity"], Framing::Close),
        ];
        for (lines, expected) in cases {
            assert_eq!(
                framing("HTTP/1.1", lines, "GET"),
                Ok(*expected),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn refuses_ambiguity() {
        use Malformed::*;
        let cases: &[(&[&str], Malformed)] = &[
            (
                &["Content-Length: 5", "Content-Length: 5"],
                RepeatedContentLength,
            ),
            (
                &["Content-Length: 5", "Content-Length: 6"],
                RepeatedContentLength,
            ),
            (&["Content-Length: 5, 5"], RepeatedContentLength),
            (&["Content-Length: +5"], ContentLength),
            (&["Content-Length: -5"], ContentLength),
            (&["Content-Length: 0x2"], ContentLength),
            (&["Content-Length: 5 5"], ContentLength),
            (&["Content-Length: 1e3"], ContentLength),
            (&["Content-Length:"], ContentLength),
            (&["Content-Length: 18446744073709551616"], ContentLength),
            (
                &["Content-Length: 5", "Transfer-Encoding: chunked"],
                LengthAndEncoding,
            ),
            (
                &["Transfer-Encoding:", "Content-Length: 4"],
                TransferEncoding,
            ),
            (&["Transfer-Encoding: chunked, gzip"], TransferEncoding),
            (
                &["Transfer-Encoding: chunked, gzip, chunked"],
                TransferEncoding,
            ),
        ];
        for (lines, expected) in cases {
            let got = framing("HTTP/1.1", lines, "GET");
            assert_eq!(got.as_ref(), Err(expected), "{lines:?}");
        }
        assert_eq!(
            framing("HTTP/1.0", &["Transfer-Encoding: chunked"], "GET"),
            Err(TransferEncoding)
        );
    }

    #[test]
    fn some_responses_never_have_a_body() {
        let lines: &[&str] = &["Content-Length: 5"];
        assert_eq!(framing("HTTP/1.1", lines, "HEAD"), Ok(Framing::None));
        assert_eq!(framing("HTTP/1.1", &[], "CONNECT"), Ok(Framing::None));
        for status in [100, 103, 204, 304] {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
            let head = parse(text.as_bytes(), &Limits::default()).unwrap();
            assert_eq!(Framing::of(&head, "GET"), Ok(Framing::None));
        }
    }
}
