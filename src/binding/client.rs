//! A client in Lua's hands: what `lua/resty/mtls/http.lua` calls `self.client`.

use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::{
    IntoLua, IntoLuaMulti, Lua, LuaString, MultiValue, Table, UserData, UserDataMethods,
    UserDataRef, UserDataRefMut, Value,
};

use super::DestinationHandle;
use super::arguments::{self, Defaults};
use super::heads::redacted_head;
use super::mailbox::MailboxHandle;
use super::reply::{Reply, guarded};
use super::report;
use super::strings;
use crate::client::{
    Client, Destination, Exchange, GateOptions, Released, Route, Summary, Taken, Timeouts, Until,
};
use crate::error::{Cause, Error, Result, Stage};
use crate::mailbox::{Completion, OperationId};
use crate::runtime::Engine;

/// A client that starts afresh in a forked child.
pub struct ClientHandle {
    client: Option<ManuallyDrop<Client>>,
    destination: Option<Arc<Destination>>,
    timeouts: Timeouts,
    /// The operation that was begun last, apart from waits for a body: another one's light thread
    /// must not be given what it has brought.
    operation: OperationId,
}

/// As lua_socket_connect_timeout and its siblings in ngx_lua.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for ClientHandle {
    fn default() -> Self {
        Self {
            client: None,
            destination: None,
            operation: 0,
            timeouts: Timeouts {
                connect: DEFAULT_TIMEOUT,
                send: DEFAULT_TIMEOUT,
                read: DEFAULT_TIMEOUT,
                deadline: None,
            },
        }
    }
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

    /// A time-out that the deadline has brought about is not mended by other time-outs.
    fn explain(&self, error: Error) -> Error {
        match error.cause() {
            Cause::Timeout if self.timeouts.are_over() => {
                error.with_hint("the request was not done before its deadline: raise deadline")
            }
            _ => error,
        }
    }

    /// Begins an operation: `id` is going to be completed in `mailbox`, whatever comes of it.
    fn begin(
        &mut self,
        mailbox: &mut MailboxHandle,
        id: OperationId,
        operation: impl FnOnce(&mut Client, Timeouts, Completion) -> Result<()>,
    ) -> Result<bool> {
        let timeouts = self.timeouts;
        let client = self.current()?;
        operation(client, timeouts, mailbox.submit(id)?)?;
        self.operation = id;
        Ok(true)
    }

    /// Begins a wait for part of a body, which brings nothing by itself.
    fn wait(
        &mut self,
        mailbox: &mut MailboxHandle,
        id: OperationId,
        operation: impl FnOnce(&mut Client, Timeouts, Completion) -> Result<()>,
    ) -> Result<bool> {
        let current = self.operation;
        let begun = self.begin(mailbox, id, operation);
        self.operation = current;
        begun
    }

    /// How the operation `id` ended.
    fn outcome(&mut self, id: OperationId) -> Result<()> {
        if self.operation != id {
            return Err(Error::closed(Stage::Connect)
                .with_hint("another light thread has closed this connection and uses its client"));
        }
        let outcome = self.current()?.outcome();
        outcome.map_err(|error| self.explain(error))
    }

    fn exchange(
        &mut self,
        as_sent: bool,
        lua: &Lua,
        params: &Table,
        user_agent: &LuaString,
        traceparent: Option<&LuaString>,
    ) -> Result<Exchange> {
        let http2 = as_sent && self.current()?.speaks_http2();
        let destination = self.destination.as_deref();
        if destination.is_none() {
            return Err(Error::not_connected());
        }
        let path_prefix = destination.and_then(Destination::path_prefix);
        let defaults = Defaults {
            host: destination.and_then(Destination::host_header),
            user_agent: &user_agent.as_bytes(),
            traceparent: traceparent.map(LuaString::as_bytes),
            path_prefix: path_prefix.unwrap_or_default(),
            proxy_authorization: destination.and_then(Destination::proxy_authorization),
            http2,
            tls: destination.is_some_and(|destination| destination.tls.is_some()),
            timeouts: self.timeouts,
        };
        arguments::exchange(lua, params, &defaults)
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

impl UserData for ClientHandle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_settings(methods);
        add_connecting(methods);
        add_exchanging(methods);
        add_results(methods);
        add_connection(methods);
    }
}

fn add_settings<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // set_timeouts(connect, send, read): milliseconds
    methods.add_method_mut(
        "set_timeouts",
        |_, this, (connect, send, read): (u64, u64, u64)| {
            this.timeouts.connect = Duration::from_millis(connect);
            this.timeouts.send = Duration::from_millis(send);
            this.timeouts.read = Duration::from_millis(read);
            Ok(())
        },
    );
    // set_deadline(milliseconds from now, or nil for none)
    methods.add_method_mut("set_deadline", |_, this, time: Option<u64>| {
        let after = |time| Instant::now().checked_add(Duration::from_millis(time));
        this.timeouts.deadline = time.and_then(after);
        Ok(())
    });
}

type ConnectArguments = (
    Mailbox,
    OperationId,
    UserDataRef<DestinationHandle>,
    Option<Vec<String>>,
    u64,
    Option<usize>,
    Option<usize>,
);

/// Operations that bring a connection. Like all operations they take a mailbox and the number under
/// which they are going to be completed there, and return true.
fn add_connecting<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // connect(mailbox, id, destination, addresses or nil, milliseconds to remember a name, ...)
    // With the last two, a size and a backlog, the number of connections in use is bounded.
    methods.add_method_mut("connect", |_, this, arguments: ConnectArguments| {
        let (mut mailbox, id, destination, addresses, remember, size, backlog) = arguments;
        Ok(guarded(|| {
            let route = Route {
                destination: destination.0.clone(),
                addresses: parse_addresses(&addresses.unwrap_or_default())?,
                remember_names: Duration::from_millis(remember),
            };
            let gate = size
                .zip(backlog)
                .map(|(size, backlog)| GateOptions { size, backlog });
            this.destination = Some(destination.0.clone());
            this.begin(&mut mailbox, id, |client, timeouts, completion| {
                client.connect(route, gate, timeouts, completion);
                Ok(())
            })
        }))
    });
    // handshake(mailbox, id, destination)
    methods.add_method_mut(
        "handshake",
        |_,
         this,
         (mut mailbox, id, destination): (
            Mailbox,
            OperationId,
            UserDataRef<DestinationHandle>,
        )| {
            Ok(guarded(|| {
                this.begin(&mut mailbox, id, |client, timeouts, completion| {
                    client.handshake(destination.0.clone(), timeouts, completion)
                })?;
                this.destination = Some(destination.0.clone());
                Ok(true)
            }))
        },
    );
}

fn parse_addresses(addresses: &[String]) -> Result<Arc<[IpAddr]>> {
    let parse = |address: &String| {
        crate::net::literal(address).ok_or_else(|| {
            Error::bad_argument(format!(
                "the resolver gave '{address}', which is no IP address"
            ))
        })
    };
    addresses.iter().map(parse).collect()
}

type RequestArguments = (Mailbox, OperationId, Table, LuaString, Option<LuaString>);

type ShowArguments = (Table, LuaString, Option<LuaString>);

/// Operations that send requests, read responses, and wait for bodies.
fn add_exchanging<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // request(mailbox, id, params, user_agent, traceparent or nil)
    methods.add_method_mut("request", |lua, this, arguments: RequestArguments| {
        let (mut mailbox, id, params, user_agent, traceparent) = arguments;
        Ok(guarded(|| {
            let exchange = this.exchange(true, lua, &params, &user_agent, traceparent.as_ref())?;
            this.begin(&mut mailbox, id, |client, _, completion| {
                client.request(exchange, completion)
            })
        }))
    });
    // show(params, user_agent, traceparent or nil) -> the request head as it would be sent, without
    //     what is secret in it
    methods.add_method_mut("show", |lua, this, arguments: ShowArguments| {
        let (params, user_agent, traceparent) = arguments;
        Ok(guarded(|| {
            let exchange = this.exchange(false, lua, &params, &user_agent, traceparent.as_ref())?;
            Ok(redacted_head(exchange.bytes()))
        }))
    });
    // send_request(mailbox, id, params, user_agent, traceparent or nil)
    //     -> true, whether the body has to wait for await_continue
    methods.add_method_mut("send_request", |lua, this, arguments: RequestArguments| {
        let (mut mailbox, id, params, user_agent, traceparent) = arguments;
        Ok(guarded(|| {
            let exchange = this.exchange(true, lua, &params, &user_agent, traceparent.as_ref())?;
            let waits = exchange.continue_at.is_some();
            this.begin(&mut mailbox, id, |client, _, completion| {
                client.send_request(exchange, completion)
            })?;
            Ok((true, waits))
        }))
    });
    // send(mailbox, id, bytes)
    methods.add_method_mut(
        "send",
        |_, this, (mut mailbox, id, bytes): (Mailbox, OperationId, LuaString)| {
            Ok(guarded(|| {
                let bytes = bytes.as_bytes().to_vec();
                this.begin(&mut mailbox, id, |client, timeouts, completion| {
                    client.send(bytes, timeouts, completion)
                })
            }))
        },
    );
    // finish_body() -> true: all of a body that was sent in pieces has been sent
    methods.add_method_mut("finish_body", |_, this, ()| {
        Ok(guarded(|| this.current()?.finish_body().map(|()| true)))
    });
    // await_continue(mailbox, id, params)
    methods.add_method_mut(
        "await_continue",
        |lua, this, (mut mailbox, id, params): (Mailbox, OperationId, Table)| {
            Ok(guarded(|| {
                let exchange = arguments::response(lua, &params, this.timeouts)?;
                this.begin(&mut mailbox, id, |client, _, completion| {
                    client.await_continue(exchange, completion)
                })
            }))
        },
    );
    // receive(mailbox, id, params)
    methods.add_method_mut(
        "receive",
        |lua, this, (mut mailbox, id, params): (Mailbox, OperationId, Table)| {
            Ok(guarded(|| {
                let exchange = arguments::response(lua, &params, this.timeouts)?;
                this.begin(&mut mailbox, id, |client, _, completion| {
                    client.receive(exchange, completion)
                })
            }))
        },
    );
    // await_part(mailbox, id, max or nil)
    methods.add_method_mut(
        "await_part",
        |_, this, (mut mailbox, id, max): (Mailbox, OperationId, Option<usize>)| {
            Ok(guarded(|| {
                this.wait(&mut mailbox, id, |client, _, completion| {
                    client.await_body(Until::Part(max), completion);
                    Ok(())
                })
            }))
        },
    );
    // await_whole(mailbox, id)
    methods.add_method_mut(
        "await_whole",
        |_, this, (mut mailbox, id): (Mailbox, OperationId)| {
            Ok(guarded(|| {
                this.wait(&mut mailbox, id, |client, _, completion| {
                    client.await_body(Until::Whole, completion);
                    Ok(())
                })
            }))
        },
    );
}

/// What operations have brought, without waiting.
fn add_results<M: UserDataMethods<ClientHandle>>(methods: &mut M) {
    // outcome(id) -> true
    methods.add_method_mut("outcome", |_, this, id: OperationId| {
        Ok(guarded(|| this.outcome(id).map(|()| true)))
    });
    // response(id) -> status, reason, headers, whether it has a body, whether trailers may follow,
    //     whether the connection can be kept, and in milliseconds: resolve, connect, tls, first
    //     byte, total up to the end of the head; status is false if the operation brought no response
    methods.add_method_mut("response", |lua, this, id: OperationId| {
        let summary = guarded(|| {
            this.outcome(id)?;
            Ok(this.current()?.take_head())
        });
        Ok(Reply(match summary.0 {
            Ok(Some(Summary {
                head,
                has_body,
                has_trailers,
                keeps_alive,
                timing,
            })) => {
                let headers = strings::header_table(lua, &head.headers)?;
                let [resolve, connect, tls, first_byte, total] = report::timings(&timing);
                let values = (
                    head.status,
                    head.reason,
                    headers,
                    has_body,
                    has_trailers,
                    keeps_alive,
                    resolve,
                    connect,
                    tls,
                    first_byte,
                    total,
                );
                Ok(values.into_lua_multi(lua)?)
            }
            Ok(None) => Ok(false.into_lua_multi(lua)?),
            Err(error) => Err(error),
        }))
    });
    // take_part(max or nil) -> string, or nil at the end, or false if it has to be waited for
    // With the end of the body comes, fourth, how long all of it took in milliseconds.
    methods.add_method_mut("take_part", |lua, this, max: Option<usize>| {
        let part = guarded(|| {
            let part = this
                .current()?
                .take_part(max, |bytes| strings::new(lua, bytes));
            part.map_err(|error| this.explain(error))
        });
        let is_end = matches!(part.0, Ok(Taken::End));
        taken(part, is_end, this, lua)
    });
    // take_whole() -> string, or false if it has to be waited for; and as above
    methods.add_method_mut("take_whole", |lua, this, ()| {
        let size = guarded(|| Ok(this.current()?.buffered()));
        strings::make_room(lua, size.0.unwrap_or(0))?;
        let whole = guarded(|| {
            let whole = this.current()?.take_whole(|bytes| strings::new(lua, bytes));
            whole.map_err(|error| this.explain(error))
        });
        let is_end = matches!(whole.0, Ok(Taken::Data(_) | Taken::End));
        taken(whole, is_end, this, lua)
    });
    // trailers() -> headers
    methods.add_method_mut("trailers", |lua, this, ()| {
        let trailers = guarded(|| Ok(this.current()?.trailers()));
        Ok(Reply(match trailers.0 {
            Ok(trailers) => Ok(strings::header_table(lua, &trailers)?),
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
                this.destination = Some(destination.0.clone());
                Ok(this.current()?.check_out(&destination.0))
            }))
        },
    );
    // report() -> what is known of the way to the last connection; nil before the first
    methods.add_method_mut("report", |lua, this, ()| {
        let trace = guarded(|| Ok(this.current()?.trace()));
        Ok(Reply(match trace.0 {
            Ok(Some(trace)) => Ok(Some(report::of_trace(lua, &trace)?)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }))
    });
    // ssl_info() -> what is known of the TLS session of the last connection
    methods.add_method_mut("ssl_info", |lua, this, ()| {
        let trace = guarded(|| this.current()?.trace().ok_or_else(Error::not_connected));
        Ok(Reply(match trace.0 {
            Ok(trace) => match &trace.session {
                _ if !trace.is_open => Err(Error::not_connected()),
                Some(session) => Ok(Some(report::of_session(lua, session)?)),
                None => Ok(None),
            },
            Err(error) => Err(error),
        }))
    });
    // attempt() -> which attempt at the last connect or request it was, how often its connection had
    //     come out of the pool, nil without one; also after a failure
    methods.add_method_mut("attempt", |_, this, ()| {
        Ok(guarded(|| {
            let attempt = this.current()?.attempt();
            Ok((attempt.number, attempt.reused))
        }))
    });
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
    // close(whether nobody else may use the connection from now on) -> whether there was one
    methods.add_method_mut("close", |_, this, ends: Option<bool>| {
        Ok(guarded(|| {
            let client = this.current()?;
            if ends == Some(true) {
                client.retire();
            }
            Ok(client.close())
        }))
    });
}

fn taken(
    taken: Reply<Taken<mlua::Result<LuaString>>>,
    is_end: bool,
    this: &mut ClientHandle,
    lua: &Lua,
) -> mlua::Result<Reply<MultiValue>> {
    let value = match taken.0 {
        Ok(Taken::Data(string)) => string?.into_lua(lua)?,
        Ok(Taken::End) => Value::Nil,
        Ok(Taken::Pending) => Value::Boolean(false),
        Err(error) => return Ok(Reply(Err(error))),
    };
    let total = match is_end {
        true => this.current().ok().and_then(|client| client.total_time()),
        false => None,
    };
    let values = match total {
        Some(total) => (value, Value::Nil, Value::Nil, report::milliseconds(total)),
        None => return Ok(Reply(Ok(value.into_lua_multi(lua)?))),
    };
    Ok(Reply(Ok(values.into_lua_multi(lua)?)))
}
