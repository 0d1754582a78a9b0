//! The mailbox of a Lua VM, as `lua/resty/mtls/wait.lua` uses it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mlua::{Table, UserData, UserDataMethods};

use super::reply::{Reply, guarded};
use crate::error::{Error, Result};
use crate::mailbox::{Completion, Listener, Mailbox, OperationId, WakerId};
use crate::runtime::Engine;

/// A mailbox that starts afresh in a forked child.
#[derive(Default)]
pub struct MailboxHandle {
    mailbox: Option<Arc<Mailbox>>,
    engine: Option<&'static Engine>,
    /// Wake sockets that nginx is about to connect to, by number: connecting over loopback yields,
    /// so that several light threads may be at it.
    listeners: HashMap<u32, Listener>,
    last_listener: u32,
}

/// number, address, port or nil, token or nil
type Listening = (u32, String, Option<u16>, Option<String>);

impl MailboxHandle {
    /// Announces an operation.
    pub fn submit(&mut self, id: OperationId) -> Result<Completion> {
        Ok(self.running()?.submit(id))
    }

    /// With a thread that completes what is submitted.
    fn running(&mut self) -> Result<Arc<Mailbox>> {
        Engine::current()?;
        self.current()
    }

    /// Whether or not there is a thread: what has been completed is there.
    fn current(&mut self) -> Result<Arc<Mailbox>> {
        let is_current = self.engine.is_some_and(Engine::is_current);
        if let (Some(mailbox), true) = (&self.mailbox, is_current) {
            return Ok(mailbox.clone());
        }
        let engine = Engine::current()?;
        let mailbox = Mailbox::new(engine);
        // The parent's stays untouched: its runtime may have held the lock while we were forked.
        std::mem::forget(self.mailbox.replace(mailbox.clone()));
        self.engine = Some(engine);
        Ok(mailbox)
    }

    fn listen(&mut self, prefix: Option<String>) -> Result<Listening> {
        let failed = |error| Error::internal(format!("cannot open a wake socket: {error}"));
        let listener = Listener::open(prefix.map(PathBuf::from).as_deref()).map_err(failed)?;
        let (address, loopback) = listener.address().map_err(failed)?;
        let (port, token) = loopback
            .map(|(port, token)| (port, token.to_owned()))
            .unzip();
        self.last_listener = self.last_listener.wrapping_add(1);
        self.listeners.insert(self.last_listener, listener);
        Ok((self.last_listener, address, port, token))
    }

    fn accept(&mut self, number: u32) -> Result<WakerId> {
        let failed = |error| Error::internal(format!("cannot open a wake socket: {error}"));
        let listener = self
            .listeners
            .remove(&number)
            .ok_or_else(|| Error::internal("no such wake socket was asked for"))?;
        let socket = listener.accept().map_err(failed)?;
        Ok(self.running()?.add_waker(socket))
    }
}

impl UserData for MailboxHandle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        // drain(ids) -> count, idle, whether there is something to log: completed operations into
        //     the array `ids`.
        methods.add_method_mut("drain", |_, this, ids: Table| {
            let drained = guarded(|| Ok(this.current()?.drain()));
            Ok(match drained.0 {
                Ok(drained) => {
                    for (index, id) in (1..).zip(&drained.completed) {
                        ids.raw_seti(index, *id)?;
                    }
                    let has_log = this.engine.is_some_and(|engine| engine.log.has_entries());
                    Reply(Ok((drained.completed.len(), drained.idle, has_log)))
                }
                Err(error) => Reply(Err(error)),
            })
        });
        // block(id, milliseconds) -> whether the operation is complete
        methods.add_method_mut("block", |_, this, (id, limit): (OperationId, u64)| {
            Ok(guarded(|| {
                Ok(this.current()?.block(id, Duration::from_millis(limit)))
            }))
        });
        // listen(nginx prefix or nil) -> number, address, port or nil, token or nil
        methods.add_method_mut("listen", |_, this, prefix: Option<String>| {
            Ok(guarded(|| this.listen(prefix)))
        });
        // accept(number) -> waker: the connection that was made to what `listen` gave
        methods.add_method_mut("accept", |_, this, number: u32| {
            Ok(guarded(|| this.accept(number)))
        });
        // forget(number): nobody connects to what `listen` gave
        methods.add_method_mut("forget", |_, this, number: u32| {
            this.listeners.remove(&number);
            Ok(())
        });
        // is_heard() -> whether somebody reads a wake socket
        methods.add_method_mut("is_heard", |_, this, ()| {
            Ok(guarded(|| Ok(this.current()?.is_heard())))
        });
        // remove(waker)
        methods.add_method_mut("remove", |_, this, waker: WakerId| {
            Ok(guarded(|| {
                this.current()?.remove_waker(waker);
                Ok(())
            }))
        });
    }
}
