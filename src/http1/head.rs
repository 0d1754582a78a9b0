//! Response heads: status line and header lines.

use super::{Limits, Malformed};

/// One header line, with the name in the letter case the server used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Field name as sent.
    pub name: String,
    /// Field value without surrounding white space; any bytes but controls.
    pub value: Vec<u8>,
}

/// The status line and the header lines of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub minor_version: u8,
    /// 100 to 999.
    pub status: u16,
    /// Reason phrase, possibly empty.
    pub reason: String,
    /// Header lines in the order they came.
    pub headers: Vec<Header>,
}

impl ResponseHead {
    /// Values of every header line with this name, in any letter case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.as_slice())
    }

    /// Whether the connection may carry another request after this response (RFC 9112, 9.3).
    pub fn keeps_alive(&self) -> bool {
        let mut close = false;
        let mut keep_alive = false;
        for value in self.values("Connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                close |= option.eq_ignore_ascii_case(b"close");
                keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        !close && (self.minor_version == 1 || keep_alive)
    }
}

/// Where the head at the start of `buffer` ends, or `None` when it is not complete.
///
/// `from` is a position that an earlier call has looked at, so that a head that drips in is not
/// searched again from the start. A lone LF ends a line as well (RFC 9112, 2.2).
pub fn find_end(buffer: &[u8], from: usize) -> Option<usize> {
    // The line end before an empty line may be up to three bytes back.
    let mut position = from.saturating_sub(3);
    while let Some(offset) = buffer[position..].iter().position(|&byte| byte == b'\n') {
        let next = position + offset + 1;
        match buffer.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            _ => position = next,
        }
    }
    None
}

/// Parses a complete head, `head` being everything up to and with the empty line.
///
/// # Errors
///
/// [`Malformed`] when it is not one, or has more lines than `limits` allow.
pub fn parse(head: &[u8], limits: &Limits) -> Result<ResponseHead, Malformed> {
    // httparse skips empty lines in front; a response has none (RFC 9112, 2.2 allows them to
    // servers only), and accepting them would hide garbage behind an earlier response.
    if matches!(head.first(), Some(b'\r' | b'\n') | None) {
        return Err(status_line(head));
    }
    let mut few = [httparse::EMPTY_HEADER; Limits::HEADERS];
    let mut many;
    let lines = match few.get_mut(..limits.headers) {
        Some(lines) => lines,
        None => {
            many = vec![httparse::EMPTY_HEADER; limits.headers];
            &mut many[..]
        }
    };
    let mut response = httparse::Response::new(lines);
    let status = response.parse(head).map_err(|error| match error {
        httparse::Error::TooManyHeaders => Malformed::HeadTooLarge {
            limit: "max_headers",
        },
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Malformed::HeaderLine,
        // httparse reports a lone CR between header lines as a bad line end.
        httparse::Error::NewLine => Malformed::HeaderLine,
        _ => status_line(head),
    })?;
    if !status.is_complete() {
        return Err(Malformed::HeaderLine);
    }
    let (Some(minor_version), Some(status)) = (response.version, response.code) else {
        return Err(status_line(head));
    };
    if status < 100 {
        return Err(status_line(head));
    }
    Ok(ResponseHead {
        minor_version,
        status,
        reason: response.reason.unwrap_or_default().to_owned(),
        headers: response
            .headers
            .iter()
            .map(|header| Header {
                name: header.name.to_owned(),
                value: header.value.trim_ascii().to_vec(),
            })
            .collect(),
    })
}

/// What is wrong with the first line. It is shown, as far as that is short and printable: mostly it
/// is from a server that speaks another protocol.
fn status_line(head: &[u8]) -> Malformed {
    const SHOWN: usize = 80;
    let line = head
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next()
        .unwrap_or_default();
    let shown = line[..line.len().min(SHOWN)].escape_ascii().to_string();
    match line.starts_with(b"HTTP/1.1") || line.starts_with(b"HTTP/1.0") {
        true => Malformed::Status { line: shown },
        false => Malformed::Version { line: shown },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<ResponseHead, Malformed> {
        parse(head.as_bytes(), &Limits::default())
    }

    #[test]
    fn keeps_order_and_letter_case() {
        let head = parsed("HTTP/1.1 200 OK\r\nX-b: 1\r\nx-A: 2\r\nX-B:  3 \r\n\r\n").unwrap();
        let names: Vec<_> = head.headers.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["X-b", "x-A", "X-B"]);
        assert_eq!(head.values("x-b").collect::<Vec<_>>(), [b"1", b"3"]);
    }

    #[test]
    fn accepts_lf_only_and_empty_reasons() {
        for text in [
            "HTTP/1.0 200 OK\nA: b\n\n",
            "HTTP/1.1 200\r\nA: b\r\n\r\n",
            "HTTP/1.1 200 \r\nA: b\r\n\r\n",
        ] {
            let head = parsed(text).unwrap();
            assert_eq!((head.status, head.headers.len()), (200, 1), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_could_smuggle() {
        for text in [
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rX: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: value\r\n\r\n",
        ] {
            assert_eq!(parsed(text), Err(Malformed::HeaderLine), "{text:?}");
        }
        for text in [
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 -20 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            let wrong = matches!(
                parsed(text),
                Err(Malformed::Version { .. } | Malformed::Status { .. })
            );
            assert!(wrong, "{text:?}");
        }
    }

    #[test]
    fn bounds_the_number_of_lines() {
        let lines = |n| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(n));
        assert!(parsed(&lines(100)).is_ok());
        assert!(matches!(
            parsed(&lines(101)),
            Err(Malformed::HeadTooLarge { .. })
        ));
        let limits = Limits {
            headers: 1000,
            ..Limits::default()
        };
        assert_eq!(
            parse(lines(1000).as_bytes(), &limits)
                .unwrap()
                .headers
                .len(),
            1000
        );
    }

    #[test]
    fn finds_the_end_wherever_the_head_is_cut() {
        for text in [
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\n\nbody\n\n",
        ] {
            let bytes = text.as_bytes();
            let end = text.find("body").unwrap();
            for cut in 0..bytes.len() {
                let found = find_end(&bytes[..cut], 0);
                assert_eq!(found, (cut >= end).then_some(end), "{text:?} cut at {cut}");
                if found.is_none() {
                    assert_eq!(find_end(bytes, cut), Some(end), "{text:?} from {cut}");
                }
            }
        }
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: closed\r\n\r\n", true),
        ] {
            assert_eq!(parsed(text).unwrap().keeps_alive(), expected, "{text:?}");
        }
    }
}
