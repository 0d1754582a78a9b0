//! Reports as Lua gets them: sessions, certificates, timings.

use std::time::Duration;

use mlua::{Lua, Table};

use crate::client::{Timing, Trace};
use crate::tls::{Certificate, ClientAuth, Identity, Session};

/// A time in Lua's unit.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Milliseconds: resolve, connect and tls, all nil if the connection was used before; from sending to
/// the first byte; and the total up to the end of the head.
pub fn timings(timing: &Timing) -> [Option<f64>; 5] {
    let opening = |step: fn(&Trace) -> Duration| {
        let trace = timing.opening.as_ref()?;
        Some(milliseconds(step(trace)))
    };
    let first_byte = timing.first_byte.saturating_duration_since(timing.began);
    [
        opening(|trace| trace.resolve),
        opening(|trace| trace.connect),
        opening(|trace| trace.tls),
        Some(milliseconds(first_byte)),
        Some(milliseconds(timing.total(timing.head))),
    ]
}

/// What `httpc:get_ssl_info` returns.
pub fn of_session(lua: &Lua, session: &Session) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    add_protocol(&table, session)?;
    let chain = session.chain();
    if let Some(leaf) = chain.first() {
        table.raw_set("server", certificate(lua, leaf)?)?;
    }
    table.raw_set("chain", certificates(lua, chain.iter())?)?;
    if session.is_established() && !session.resumed() {
        table.raw_set("requested", session.request().is_some())?;
    }
    let was_sent = session.request() == Some(ClientAuth::Sent);
    if let Some(identity) = session.identity()
        && (was_sent || session.resumed())
    {
        table.raw_set("identity", certificate(lua, &identity.leaf)?)?;
    }
    Ok(table)
}

/// What `http.diagnose` goes by.
pub fn of_trace(lua: &Lua, trace: &Trace) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("address", trace.address.as_deref())?;
    table.raw_set("resolve", milliseconds(trace.resolve))?;
    table.raw_set("connect", milliseconds(trace.connect))?;
    table.raw_set("tls", milliseconds(trace.tls))?;
    let Some(session) = &trace.session else {
        return Ok(table);
    };
    add_protocol(&table, session)?;
    table.raw_set("chain", certificates(lua, session.chain().iter())?)?;
    if session.version().is_some() {
        table.raw_set("requested", session.request().is_some())?;
    }
    table.raw_set("answer", session.request().map(answer))?;
    let authorities = session.authorities();
    let names = authorities.iter().map(|name| name.text.as_str());
    table.raw_set("authorities", lua.create_sequence_from(names)?)?;
    if let Some(found) = session.identity() {
        table.raw_set("identity", identity(lua, found)?)?;
    }
    Ok(table)
}

fn add_protocol(table: &Table, session: &Session) -> mlua::Result<()> {
    table.raw_set("version", session.version())?;
    table.raw_set("cipher", session.cipher())?;
    table.raw_set("alpn", session.alpn())?;
    if session.is_established() {
        table.raw_set("resumed", session.resumed())?;
    }
    Ok(())
}

fn answer(auth: ClientAuth) -> &'static str {
    match auth {
        ClientAuth::Sent => "sent",
        ClientAuth::NoIdentity => "no_identity",
        ClientAuth::NoCommonScheme => "no_common_scheme",
    }
}

fn identity(lua: &Lua, identity: &Identity) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("chain", certificates(lua, identity.chain())?)?;
    let warnings = identity.warnings.iter().map(String::as_str);
    table.raw_set("warnings", lua.create_sequence_from(warnings)?)?;
    table.raw_set("certificate_option", identity.certificate_option)?;
    table.raw_set("key_option", identity.key_option)?;
    Ok(table)
}

fn certificates<'a>(
    lua: &Lua,
    chain: impl Iterator<Item = &'a Certificate>,
) -> mlua::Result<Table> {
    let list = lua.create_table()?;
    for found in chain {
        list.push(certificate(lua, found)?)?;
    }
    Ok(list)
}

fn certificate(lua: &Lua, certificate: &Certificate) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("subject", certificate.subject.as_str())?;
    table.raw_set("issuer", certificate.issuer.as_str())?;
    table.raw_set("serial", certificate.serial.as_str())?;
    table.raw_set("not_before", certificate.not_before.to_string())?;
    table.raw_set("not_after", certificate.not_after.to_string())?;
    table.raw_set("sha256", certificate.sha256.as_str())?;
    table.raw_set("key", certificate.key.as_str())?;
    table.raw_set("is_ca", certificate.is_ca)?;
    table.raw_set("self_signed", certificate.self_signed)?;
    table.raw_set("expired", certificate.has_expired())?;
    table.raw_set("not_yet_valid", certificate.is_not_yet_valid())?;
    let strings = |list: &[String]| lua.create_sequence_from(list.iter().map(String::as_str));
    table.raw_set("names", strings(&certificate.names)?)?;
    if let Some(usages) = &certificate.usages {
        table.raw_set("usages", strings(usages)?)?;
    }
    Ok(table)
}
