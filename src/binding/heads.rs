//! Heads of requests and responses, as Lua sees them.

use mlua::{Lua, Table};

use crate::http1::Header;

/// Names as sent; a name that occurs again, in any letter case, makes its value an array.
pub fn header_table(lua: &Lua, headers: &[Header]) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, headers.len())?;
    for (index, header) in headers.iter().enumerate() {
        let same = |other: &&Header| other.name.eq_ignore_ascii_case(&header.name);
        if headers[..index].iter().any(|other| same(&other)) {
            continue;
        }
        let mut values = headers[index..].iter().filter(same);
        let first = values.next().map_or(&[][..], |header| &header.value);
        let rest: Vec<_> = values.collect();
        if rest.is_empty() {
            table.raw_set(header.name.as_str(), lua.create_string(first)?)?;
            continue;
        }
        let array = lua.create_table_with_capacity(1 + rest.len(), 0)?;
        array.raw_push(lua.create_string(first)?)?;
        for header in rest {
            array.raw_push(lua.create_string(&header.value)?)?;
        }
        table.raw_set(header.name.as_str(), array)?;
    }
    Ok(table)
}

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
