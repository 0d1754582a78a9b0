//! Results on their way to Lua.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua::{IntoLuaMulti, Lua, MultiValue, Value};

use crate::error::{Error, Result};

/// A result as Lua gets it: the values, or `nil, message, {code, stage, alert, hint}`.
pub struct Reply<T>(pub Result<T>);

impl<T: IntoLuaMulti> IntoLuaMulti for Reply<T> {
    fn into_lua_multi(self, lua: &Lua) -> mlua::Result<MultiValue> {
        match self.0 {
            Ok(values) => values.into_lua_multi(lua),
            Err(error) => {
                let details = lua.create_table()?;
                details.raw_set("code", error.code())?;
                details.raw_set("stage", error.stage())?;
                details.raw_set("alert", error.alert())?;
                details.raw_set("hint", error.hint())?;
                (Value::Nil, error.to_string(), details).into_lua_multi(lua)
            }
        }
    }
}

/// Runs `call`, and makes of a panic what it is: a defect that the caller is told of.
pub fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Reply<T> {
    Reply(
        catch_unwind(AssertUnwindSafe(call))
            .unwrap_or_else(|_| Err(Error::internal("a panic was caught; see standard error"))),
    )
}
