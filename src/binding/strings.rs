//! Byte strings on their way to Lua.

use std::time::{Duration, Instant};

use mlua::{Lua, LuaString, ffi};

use crate::http1::Header;

/// Allocations below this are not worth guarding: where they fail, so do Rust's own, which ends the
/// process.
const GUARDED: usize = 64 * 1024;

/// Strings from here on are rare enough to collect garbage for each.
const LARGE: usize = 8 * 1024 * 1024;

/// For how long garbage is collected for a string, beside about 400 µs that making it takes.
const COLLECT_PER_MEBIBYTE: Duration = Duration::from_micros(100);

/// Has Lua look for garbage before it is given a string of `length` bytes. By itself it waits until
/// memory has doubled, and large strings that nobody needs any more would stay until then.
pub fn make_room(lua: &Lua, length: usize) -> mlua::Result<()> {
    if length < LARGE {
        return Ok(());
    }
    let mebibytes = u32::try_from(length >> 20).unwrap_or(u32::MAX);
    let limit = COLLECT_PER_MEBIBYTE.saturating_mul(mebibytes);
    let begun = Instant::now();
    while !lua.gc_step()? && begun.elapsed() < limit {}
    Ok(())
}

/// A Lua string. Of the module's calls only this one guards against Lua being out of memory, since a
/// body may be larger than anything else: guarding every call of Lua's made up half of a request.
pub fn new(lua: &Lua, bytes: &[u8]) -> mlua::Result<LuaString> {
    if bytes.len() < GUARDED {
        return lua.create_string(bytes);
    }
    // SAFETY: it runs in a protected call with room for a value on the stack, and leaves one string
    // there, of bytes that are valid for as long as it runs.
    unsafe {
        lua.exec_raw((), |state| {
            ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len());
        })
    }
}

/// A table of headers: names as sent; a name that occurs again, in any letter case, makes its value an
/// array. Made on Lua's stack, where mlua would keep a reference for each string.
pub fn header_table(lua: &Lua, headers: &[Header]) -> mlua::Result<mlua::Table> {
    let size = length(headers.len());
    // SAFETY: it runs in a protected call. At most five values are on the stack at a time, which has
    // room for twenty (LUA_MINSTACK); each step leaves the table on top and takes what it pushed.
    // Nothing is owned here that an error of Lua's would leave behind.
    unsafe {
        lua.exec_raw((), |state| {
            ffi::lua_createtable(state, 0, size);
            for (index, header) in headers.iter().enumerate() {
                let same = |other: &&Header| other.name.eq_ignore_ascii_case(&header.name);
                if headers[..index].iter().any(|other| same(&other)) {
                    continue;
                }
                let values = || headers[index..].iter().filter(same);
                push(state, header.name.as_bytes());
                match values().count() {
                    1 => push(state, &header.value),
                    count => {
                        ffi::lua_createtable(state, length(count), 0);
                        for (number, header) in (1..).zip(values()) {
                            push(state, &header.value);
                            ffi::lua_rawseti(state, -2, number);
                        }
                    }
                }
                ffi::lua_rawset(state, -3);
            }
        })
    }
}

/// How much room to make: Lua only takes it for a hint.
fn length(count: usize) -> std::ffi::c_int {
    count.try_into().unwrap_or(0)
}

/// # Safety
///
/// The stack needs room for a value, and the call to be protected.
unsafe fn push(state: *mut ffi::lua_State, bytes: &[u8]) {
    // SAFETY: as the caller promises; the bytes are copied.
    unsafe { ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len()) };
}
