//! What Lua sees of this library. mlua is used here and nowhere else.
//!
//! Functions that can fail return their values, or `nil, message, details`, and no panic gets out: a
//! plugin that forgot a `pcall` must not lose its request to a defect here. Arguments have the types
//! that `lua/resty/mtls` gives them; what comes from users is checked on the way.

mod arguments;
mod client;
mod figures;
mod heads;
mod mailbox;
mod options;
mod reply;
mod report;
#[expect(
    unsafe_code,
    reason = "large strings and header tables are made on Lua's stack"
)]
mod strings;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use mlua::{Lua, LuaString, Table, UserData, Value};

use self::client::ClientHandle;
use self::mailbox::MailboxHandle;
use self::reply::{Reply, guarded};
use crate::client::Destination;
use crate::log::Level;
use crate::runtime::Engine;
use crate::tls::Profile;

/// A TLS profile in Lua's hands.
struct ProfileHandle(Arc<Profile>);

impl UserData for ProfileHandle {}

/// A destination in Lua's hands.
struct DestinationHandle(Arc<Destination>);

impl UserData for DestinationHandle {}

/// Raised when the Lua files begin to need something else of this module, or to give it something
/// else: `lua/resty/mtls/http.lua` has the same number, and refuses a library of another.
const INTERFACE: u32 = 1;

/// The module table.
pub fn module(lua: &Lua) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    module.set("version", env!("CARGO_PKG_VERSION"))?;
    module.set("interface", INTERFACE)?;
    module.set(
        "mailbox",
        lua.create_function(|_, ()| Ok(MailboxHandle::default()))?,
    )?;
    module.set(
        "client",
        lua.create_function(|_, ()| Ok(ClientHandle::default()))?,
    )?;
    module.set("profile", lua.create_function(profile)?)?;
    module.set("destination", lua.create_function(destination)?)?;
    module.set("stats", lua.create_function(figures::stats)?)?;
    module.set(
        "count_failure",
        lua.create_function(figures::count_failure)?,
    )?;
    module.set("now", lua.create_function(figures::now)?)?;
    module.set("pass_time", lua.create_function(figures::pass_time)?)?;
    module.set("set_default", lua.create_function(set_default)?)?;
    module.set("take_log", lua.create_function(take_log)?)?;
    module.set("defaults", lua.create_function(defaults)?)?;
    module.set("in_network", lua.create_function(in_network)?)?;
    module.set("warn_unverified", lua.create_function(warn_unverified)?)?;
    Ok(module)
}

/// `profile(options) -> profile`: of a connect call's option table, what is about TLS.
fn profile(_: &Lua, options: Table) -> mlua::Result<Reply<ProfileHandle>> {
    Ok(guarded(|| {
        let options = options::profile(&options, allows_keylog())?;
        Ok(ProfileHandle(Engine::current()?.profiles.get(options)))
    }))
}

/// `destination{profile, host, port, server_name, pool, proxy} -> destination`
///
/// Without a profile the scheme is http; without a port the host is a unix socket's path. `proxy` is
/// `{profile, host, port, authorization, tunnels}`, its profile for a proxy that speaks TLS.
fn destination(_: &Lua, given: Table) -> mlua::Result<Reply<DestinationHandle>> {
    Ok(guarded(|| {
        let destination = options::destination(&given)?;
        Ok(DestinationHandle(Arc::new(destination)))
    }))
}

/// `warn_unverified() -> boolean`: true once per process, for the one who has to warn.
fn warn_unverified(_: &Lua, (): ()) -> mlua::Result<Reply<bool>> {
    Ok(guarded(|| {
        let warned = &Engine::current()?.warned_unverified;
        Ok(!warned.swap(true, Ordering::Relaxed))
    }))
}

/// `in_network(host, network) -> boolean`: whether an address is in a network such as 10.0.0.0/8.
fn in_network(_: &Lua, (host, network): (LuaString, LuaString)) -> mlua::Result<bool> {
    let (host, network) = (host.to_string_lossy(), network.to_string_lossy());
    Ok(crate::net::in_network(&host, &network))
}

/// Defaults of connect options, for Lua VMs that come later in this process: `lua_code_cache off`
/// makes one per request.
static DEFAULTS: Mutex<BTreeMap<String, DefaultValue>> = Mutex::new(BTreeMap::new());

#[derive(Clone)]
enum DefaultValue {
    Boolean(bool),
    Number(f64),
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
}

/// `set_default(name, value)`
fn set_default(_: &Lua, (name, value): (String, Value)) -> mlua::Result<()> {
    let value = match value {
        Value::Boolean(value) => DefaultValue::Boolean(value),
        Value::Integer(value) => DefaultValue::Number(value as f64),
        Value::Number(value) => DefaultValue::Number(value),
        Value::String(value) => DefaultValue::Text(value.as_bytes().to_vec()),
        Value::Table(list) => {
            let items = list.sequence_values::<LuaString>();
            let items = items.map(|item| Ok(item?.as_bytes().to_vec()));
            DefaultValue::List(items.collect::<mlua::Result<_>>()?)
        }
        _ => return Ok(()),
    };
    let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    defaults.insert(name, value);
    Ok(())
}

/// Only the process as a whole can allow it, not a connect call: plugins hand on options that come
/// from elsewhere.
fn allows_keylog() -> bool {
    let defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    matches!(
        defaults.get("allow_keylog"),
        Some(DefaultValue::Boolean(true))
    )
}

/// `take_log() -> {{"error" or "warn", text}, …}`, or nil if there is nothing to say
fn take_log(lua: &Lua, (): ()) -> mlua::Result<Reply<Option<Table>>> {
    let entries = match Engine::current() {
        Ok(engine) => engine.log.take(),
        Err(error) => return Ok(Reply(Err(error))),
    };
    if entries.is_empty() {
        return Ok(Reply(Ok(None)));
    }
    let list = lua.create_table()?;
    for entry in entries {
        let level = match entry.level {
            Level::Error => "error",
            Level::Warn => "warn",
        };
        list.push(lua.create_sequence_from([level, entry.text.as_str()])?)?;
    }
    Ok(Reply(Ok(Some(list))))
}

/// `defaults() -> {name = value}`
fn defaults(lua: &Lua, (): ()) -> mlua::Result<Table> {
    let defaults = DEFAULTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let table = lua.create_table()?;
    for (name, value) in defaults {
        match value {
            DefaultValue::Boolean(value) => table.raw_set(name, value)?,
            DefaultValue::Number(value) => table.raw_set(name, value)?,
            DefaultValue::Text(value) => table.raw_set(name, lua.create_string(&value)?)?,
            DefaultValue::List(items) => {
                let list = lua.create_table()?;
                for item in items {
                    list.push(lua.create_string(&item)?)?;
                }
                table.raw_set(name, list)?;
            }
        }
    }
    Ok(table)
}
