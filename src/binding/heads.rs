//! Request heads, as logs show them.

/// The head at the start of a request, for a log. Whoever reads logs must not learn to log in, so
/// that only values are shown that are known to be harmless, and no query.
pub fn redacted_head(request: &[u8]) -> String {
    const SHOWN: [&str; 8] = [
        "host",
        "user-agent",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "expect",
        "traceparent",
    ];
    let end = crate::http1::find_end(request, 0).unwrap_or(request.len());
    let text = String::from_utf8_lossy(&request[..end]);
    let redact = |line: &str| match line.split_once(": ") {
        Some((name, _)) if !SHOWN.contains(&name.to_ascii_lowercase().as_str()) => {
            format!("{name}: (redacted)")
        }
        _ => line.to_owned(),
    };
    let mut lines = text.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let request_line = match (request_line.split_once('?'), request_line.rsplit_once(' ')) {
        (Some((target, _)), Some((_, version))) => format!("{target}?(redacted) {version}"),
        _ => request_line.to_owned(),
    };
    let lines: Vec<_> = std::iter::once(request_line)
        .chain(lines.map(redact))
        .collect();
    lines.join("\r\n")
}
