//! The head of a response that is on its way.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use h2::RecvStream;
use h2::client::ResponseFuture;
use http::Response;
use tokio::sync::oneshot;

use super::fault::Fault;
use crate::http1::MAX_INTERIM;

/// See the module. Dropping it is not to want it any more.
pub struct Coming(Pin<Box<dyn Future<Output = Result<Response<RecvStream>, Fault>> + Send + Sync>>);

impl Coming {
    /// For who waits for it at once.
    pub fn new(response: ResponseFuture) -> Self {
        Self(Box::pin(last_head(response)))
    }

    /// For who does something else first: h2 would keep all interim responses that nobody takes.
    #[must_use]
    pub fn watched(self) -> Self {
        let (mut sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let head = tokio::select! {
                head = self => Some(head),
                () = sender.closed() => None,
            };
            if let Some(head) = head {
                // Whoever wanted it may be gone.
                let _ = sender.send(head);
            }
        });
        Self(Box::pin(async move {
            receiver.await.unwrap_or(Err(Fault::Lost))
        }))
    }
}

impl Future for Coming {
    type Output = Result<Response<RecvStream>, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Coming")
    }
}

/// Skips interim responses (RFC 9110, 15.2), up to a bound.
async fn last_head(mut response: ResponseFuture) -> Result<Response<RecvStream>, Fault> {
    let mut interim = 0;
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(_))) = response.poll_informational(cx) {
            interim += 1;
            if interim > MAX_INTERIM {
                return Poll::Ready(Err(Fault::NoFinalResponse));
            }
        }
        let head = Pin::new(&mut response).poll(cx);
        head.map_err(|error| Fault::from(&error))
    })
    .await
}
