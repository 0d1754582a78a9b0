//! Requests of a hostile caller: what is sent is one request with the fields that were given, over HTTP/1.1 and over
//! HTTP/2, or nothing is.
//!
//! An input is lines: method, path, query, body length, then a name and a value in turn.

#![no_main]
#![allow(dead_code, unused_imports, reason = "responses are not read here")]

use libfuzzer_sys::fuzz_target;

use self::http1::{HeaderList, RequestHead, RequestTarget, Version};

#[path = "../../src/http1/mod.rs"]
mod http1;
#[path = "../../src/http2/head.rs"]
mod head;

fuzz_target!(|input: &[u8]| {
    // A line end is what the fuzzer has to be able to put anywhere.
    let lines: Vec<&[u8]> = input.split(|&byte| byte == 0xff).collect();
    let line = |index: usize| lines.get(index).copied().unwrap_or_default();
    let fields = || {
        let mut list = HeaderList::default();
        for pair in lines.get(4..).unwrap_or_default().chunks_exact(2) {
            list.set(pair[0], pair[1]);
        }
        list
    };
    let request = |version| RequestHead {
        method: line(0),
        target: RequestTarget {
            prefix: "",
            path: line(1),
            query: line(2),
        },
        version,
        headers: fields(),
        body_length: line(3).first().map(|&length| usize::from(length)),
        body_is_iterator: line(3).len() > 1,
        host: Some("target.server"),
        user_agent: Some(b"fuzzer"),
        proxy_authorization: None,
    };

    for version in [Version::Http10, Version::Http11] {
        let mut wire = Vec::new();
        match request(version).encode(&mut wire) {
            Ok(_) => check(&wire, &request(version)),
            Err(_) => assert!(wire.is_empty(), "nothing is written of what is refused"),
        }
    }
    if let Ok(frames) = head::Head::new(request(Version::Http2), true) {
        let uri = frames.request.uri();
        assert!(uri.authority().is_some() && uri.path().starts_with(['/', '*']));
        for name in ["connection", "host", "keep-alive", "transfer-encoding", "upgrade"] {
            assert!(!frames.request.headers().contains_key(name));
        }
    }
});

/// As a server would read it.
fn check(wire: &[u8], asked: &RequestHead<'_>) {
    let mut space = [httparse::EMPTY_HEADER; 512];
    let mut read = httparse::Request::new(&mut space);
    let status = match read.parse(wire) {
        // More lines than there is space for, in a long input.
        Err(httparse::Error::TooManyHeaders) => return,
        // httparse wants UTF-8 of targets; callers of resty.http may send any bytes above ASCII.
        Err(httparse::Error::Token)
            if !asked.target.path.is_ascii() || !asked.target.query.is_ascii() =>
        {
            return;
        }
        other => other,
    };
    assert_eq!(status, Ok(httparse::Status::Complete(wire.len())), "one request, and all of it");
    let method = asked.method.to_ascii_uppercase();
    assert_eq!(read.method.map(str::as_bytes), Some(&method[..]));

    let named = |name: &str| {
        let is_named = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
        read.headers.iter().filter(is_named).count()
    };
    assert_eq!(named("Host"), 1);
    assert!(named("Content-Length") <= 1);
    assert!(named("Content-Length") == 0 || named("Transfer-Encoding") == 0);
    for field in read.headers.iter() {
        let given = asked.headers.iter();
        let is_ours = ["Host", "User-Agent", "Connection", "Content-Length"];
        assert!(
            is_ours.iter().any(|name| name.eq_ignore_ascii_case(field.name))
                || given.into_iter().any(|(name, _)| name == field.name.as_bytes()),
            "nobody gave {}",
            field.name
        );
    }
}
