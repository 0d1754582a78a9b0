//! Counters and clock for Lua.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

use mlua::{Lua, LuaString, Table};

use super::reply::{Reply, guarded};
use super::report::milliseconds;
use crate::client;
use crate::net::Endpoint;
use crate::runtime::Engine;
use crate::stats::{Snapshot, Stats, Tally};

/// `stats(with_destinations) -> {name = number or {code = number}, destinations = {name = …}}`
///
/// To look at the counters starts no thread: the master of nginx may do it as well.
pub fn stats(lua: &Lua, with_destinations: bool) -> mlua::Result<Reply<Table>> {
    let (all, destinations) = match guarded(|| Ok(Engine::started().map(Engine::figures))).0 {
        Ok(figures) => figures.unwrap_or_else(nothing),
        Err(error) => return Ok(Reply(Err(error))),
    };
    let table = table(lua, &all)?;
    if with_destinations {
        let list = lua.create_table()?;
        for (name, snapshot) in &destinations {
            list.raw_set(name.as_str(), self::table(lua, snapshot)?)?;
        }
        table.raw_set("destinations", list)?;
    }
    Ok(Reply(Ok(table)))
}

/// The figures of a process that has done nothing yet.
fn nothing() -> (Snapshot, BTreeMap<String, Snapshot>) {
    let mut all = Stats::default().snapshot();
    all.add(&Tally::default().snapshot());
    all.set("connections_idle", 0);
    all.set("keys_held", 0);
    (all, BTreeMap::new())
}

fn table(lua: &Lua, snapshot: &Snapshot) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, value) in &snapshot.counters {
        table.raw_set(*name, *value)?;
    }
    for (name, counts) in &snapshot.by_code {
        let by_code = lua.create_table()?;
        for (code, count) in counts {
            by_code.raw_set(code.as_str(), *count)?;
        }
        table.raw_set(*name, by_code)?;
    }
    Ok(table)
}

type FailureArguments = (LuaString, bool, Option<LuaString>, Option<u16>);

/// `count_failure(code, is_tls, host or nil, port or nil) -> true`: a host without a port is the path
/// of a unix socket.
pub fn count_failure(_: &Lua, arguments: FailureArguments) -> mlua::Result<Reply<bool>> {
    let (code, is_tls, host, port) = arguments;
    Ok(guarded(|| {
        let tallies = &Engine::current()?.tallies;
        let tally = match host.map(|host| host.to_string_lossy()) {
            None => tallies.other(),
            Some(host) => {
                let endpoint = match port {
                    Some(port) => Endpoint::Tcp(host, port),
                    None => Endpoint::Unix(host.into()),
                };
                tallies.of(&client::name(is_tls, &endpoint))
            }
        };
        tally.count_failure(&code.to_string_lossy());
        Ok(true)
    }))
}

/// `now() -> milliseconds` since some moment. nginx's own time stands still while Lua runs.
pub fn now(_: &Lua, (): ()) -> mlua::Result<f64> {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    Ok(milliseconds(BEGAN.get_or_init(Instant::now).elapsed()))
}

/// `pass_time(minutes)`: for specs. As if so much time had passed for profiles. `cache.lua` has the same
/// for the caches of Lua.
pub fn pass_time(_: &Lua, minutes: u64) -> mlua::Result<Reply<bool>> {
    Ok(guarded(|| {
        for _ in 0..minutes.min(1000) {
            Engine::current()?.minute_passes();
        }
        Ok(true)
    }))
}
