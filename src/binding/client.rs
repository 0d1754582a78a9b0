//! A client in Lua's hands: what `lua/resty/mtls/http.lua` calls `self.client`.

use std::mem::ManuallyDrop;
use std::time::Duration;

use mlua::{IntoLua, Lua, Table, UserData, UserDataMethods, UserDataRef, UserDataRefMut, Value};

use super::DestinationHandle;
use super::arguments::{self, Defaults};
use super::mailbox::MailboxHandle;
use super::reply::{Reply, guarded};
use crate::client::{Client, Destination, Released, Taken, Timeouts, Until};
use crate::error::Result;
use crate::http1::{Header, normalised_eq};
use crate::mailbox::OperationId;
use crate::runtime::Engine;

/// A client that starts afresh in a forked child.
#[derive(Default)]
pub struct ClientHandle {
    client: Option<ManuallyDrop<Client>>,
    /// `Host` of the destination.
    host: Option<String>,
}

impl ClientHandle {
    fn current(&mut self) -> Result<&mut Client> {
        let is_current = |client: &ManuallyDrop<Client>| client.engine().is_current();
        if !self.client.as_ref().is_some_and(is_current) {
            // The parent's is left alone: its runtime may have held the lock while we were forked,
            // and its socket is in an epoll set that is shared with the parent.
            self.client = None;
        }
        match &mut self.client {
            Some(client) => Ok(client),
            none => Ok(none.insert(ManuallyDrop::new(Client::new(Engine::current()?)))),
        }
    }

    fn head_for(&mut self, destination: &Destination) {
        self.host = destination.host_header();
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && client.engine().is_current()
        {
            drop(ManuallyDrop::into_inner(client));
        }
    }
}

type Mailbox = UserDataRefMut<MailboxHandle>;

/// connect, send and read time-outs in milliseconds
type Milliseconds = (u64, u64, u64);

fn timeouts((connect, send, read): Milliseconds) -> Timeouts {
    Timeouts {
        connect: Duration::from_millis(connect),
        send: Duration::from_millis(send),
        read: Duration::from_millis(read),
    }
}

impl UserData for ClientHandle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_operations(methods);
        add_results(methods);
        add_connection(methods);
    }
}

/// Operations: each takes a mailbox and the number under which it is going to be completed there.
fn add_operations<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // connect(mailbox, id, destination, connect, send, read) -> true
    methods.add_method_mut(
        "connect",
        |_,
         this,
         (mut mailbox, id, destination, connect, send, read): (
            Mailbox,
            OperationId,
            UserDataRef<DestinationHandle>,
            u64,
            u64,
            u64,
        )| {
            Ok(guarded(|| {
                this.head_for(&destination.0);
                let completion = mailbox.submit(id)?;
                let timeouts = timeouts((connect, send, read));
                this.current()?
                    .connect(destination.0.clone(), timeouts, completion);
                Ok(true)
            }))
        },
    );
    // request(mailbox, id, params, user_agent, connect, send, read) -> true
    methods.add_method_mut(
        "request",
        |lua,
         this,
         (mut mailbox, id, params, user_agent, connect, send, read): (
            Mailbox,
            OperationId,
            Table,
            mlua::LuaString,
            u64,
            u64,
            u64,
        )| {
            Ok(guarded(|| {
                let defaults = Defaults {
                    host: this.host.as_deref(),
                    user_agent: &user_agent.as_bytes(),
                    path_prefix: "",
                    proxy_authorization: None,
                    timeouts: timeouts((connect, send, read)),
                };
                let exchange = arguments::exchange(lua, &params, &defaults)?;
                let client = this.current()?;
                let completion = mailbox.submit(id)?;
                client.request(exchange, completion)?;
                Ok(true)
            }))
        },
    );
    // send_request(mailbox, id, params, user_agent, send) -> true: the head, and a body of bytes
    methods.add_method_mut(
        "send_request",
        |lua,
         this,
         (mut mailbox, id, params, user_agent, send): (
            Mailbox,
            OperationId,
            Table,
            mlua::LuaString,
            u64,
        )| {
            Ok(guarded(|| {
                let timeouts = timeouts((send, send, send));
                let defaults = Defaults {
                    host: this.host.as_deref(),
                    user_agent: &user_agent.as_bytes(),
                    path_prefix: "",
                    proxy_authorization: None,
                    timeouts,
                };
                let exchange = arguments::exchange(lua, &params, &defaults)?;
                let client = this.current()?;
                let completion = mailbox.submit(id)?;
                client.send(exchange.bytes, timeouts.send, completion)?;
                Ok(true)
            }))
        },
    );
    // receive(mailbox, id, params, read) -> true
    methods.add_method_mut(
        "receive",
        |lua, this, (mut mailbox, id, params, read): (Mailbox, OperationId, Table, u64)| {
            Ok(guarded(|| {
                let timeouts = timeouts((read, read, read));
                let exchange = arguments::response(lua, &params, timeouts)?;
                let client = this.current()?;
                let completion = mailbox.submit(id)?;
                client.receive(exchange, completion)?;
                Ok(true)
            }))
        },
    );
    // await_part(mailbox, id, max or nil) -> true
    methods.add_method_mut(
        "await_part",
        |_, this, (mut mailbox, id, max): (Mailbox, OperationId, Option<usize>)| {
            Ok(guarded(|| {
                let completion = mailbox.submit(id)?;
                this.current()?.await_body(Until::Part(max), completion);
                Ok(true)
            }))
        },
    );
    // await_whole(mailbox, id) -> true
    methods.add_method_mut(
        "await_whole",
        |_, this, (mut mailbox, id): (Mailbox, OperationId)| {
            Ok(guarded(|| {
                let completion = mailbox.submit(id)?;
                this.current()?.await_body(Until::Whole, completion);
                Ok(true)
            }))
        },
    );
}

/// What operations have brought, without waiting.
fn add_results<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // outcome() -> true
    methods.add_method_mut("outcome", |_, this, ()| {
        Ok(guarded(|| this.current()?.outcome().map(|()| true)))
    });
    // response() -> status, reason, headers, whether the connection can be kept
    methods.add_method_mut("response", |lua, this, ()| {
        let head = guarded(|| {
            let client = this.current()?;
            client.outcome()?;
            client
                .take_head()
                .ok_or_else(|| crate::error::Error::internal("the response was taken already"))
        });
        Ok(Reply(match head.0 {
            Ok((head, keeps_alive)) => {
                let headers = header_table(lua, &head.headers)?;
                Ok((head.status, head.reason, headers, keeps_alive))
            }
            Err(error) => Err(error),
        }))
    });
    // take_part(max or nil) -> string, or nil at the end, or false if it has to be waited for
    methods.add_method_mut("take_part", |lua, this, max: Option<usize>| {
        taken(
            guarded(|| {
                this.current()?
                    .take_part(max, |bytes| lua.create_string(bytes))
            }),
            lua,
        )
    });
    // take_whole() -> string, or false if it has to be waited for
    methods.add_method_mut("take_whole", |lua, this, ()| {
        taken(
            guarded(|| this.current()?.take_whole(|bytes| lua.create_string(bytes))),
            lua,
        )
    });
    // trailers() -> headers
    methods.add_method_mut("trailers", |lua, this, ()| {
        let trailers = guarded(|| Ok(this.current()?.trailers()));
        Ok(Reply(match trailers.0 {
            Ok(trailers) => Ok(header_table(lua, &trailers)?),
            Err(error) => Err(error),
        }))
    });
}

/// The connection itself, without waiting.
fn add_connection<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // check_out(destination) -> whether the pool had a connection
    methods.add_method_mut(
        "check_out",
        |_, this, destination: UserDataRef<DestinationHandle>| {
            Ok(guarded(|| {
                this.head_for(&destination.0);
                Ok(this.current()?.check_out(&destination.0))
            }))
        },
    );
    // reused_times() -> number, or false without a connection
    methods.add_method_mut("reused_times", |lua, this, ()| {
        let times = guarded(|| Ok(this.current()?.reused_times()));
        Ok(Reply(match times.0 {
            Ok(Some(times)) => Ok(times.into_lua(lua)?),
            Ok(None) => Ok(Value::Boolean(false)),
            Err(error) => Err(error),
        }))
    });
    // keep_alive(milliseconds, size) -> "pooled", "closed", "unread" or "none"
    methods.add_method_mut("keep_alive", |_, this, (timeout, size): (u64, usize)| {
        Ok(guarded(|| {
            // As with cosockets, 0 means that it never expires.
            let timeout = (timeout > 0).then(|| Duration::from_millis(timeout));
            Ok(match this.current()?.keep_alive(timeout, size) {
                Released::Pooled => "pooled",
                Released::Closed => "closed",
                Released::Unread => "unread",
                Released::None => "none",
            })
        }))
    });
    // close() -> whether there was a connection
    methods.add_method_mut("close", |_, this, ()| {
        Ok(guarded(|| Ok(this.current()?.close())))
    });
}

fn taken(
    taken: Reply<Taken<mlua::Result<mlua::LuaString>>>,
    lua: &Lua,
) -> mlua::Result<Reply<Value>> {
    Ok(Reply(match taken.0 {
        Ok(Taken::Data(string)) => Ok(string?.into_lua(lua)?),
        Ok(Taken::End) => Ok(Value::Nil),
        Ok(Taken::Pending) => Ok(Value::Boolean(false)),
        Err(error) => Err(error),
    }))
}

/// Names as sent; a name that occurs again, in any letter case, makes its value an array.
fn header_table(lua: &Lua, headers: &[Header]) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, headers.len())?;
    for (index, header) in headers.iter().enumerate() {
        let same = |other: &&Header| normalised_eq(other.name.as_bytes(), header.name.as_bytes());
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
