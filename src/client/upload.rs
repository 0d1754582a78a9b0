//! The body of a request on its way into a stream.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::SendStream;

use super::Timeouts;
use super::connect::within;
use crate::error::{Error, Result, Stage};

/// A body that is sent while its response is read. It has the stream: dropping it before its end
/// resets that.
pub type Upload = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// All of a body.
pub fn whole(mut body: SendStream<Bytes>, data: Bytes, timeouts: Timeouts) -> Upload {
    Box::pin(async move { upload(&mut body, data, true, timeouts).await })
}

/// Sends `data` as fast as the server takes it, and ends the body if it is the last of it.
///
/// # Errors
///
/// The server takes no more: what it has said of that is with the response.
pub async fn upload(
    body: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    timeouts: Timeouts,
) -> Result<()> {
    let ended = || Error::closed(Stage::Send);
    while !data.is_empty() {
        body.reserve_capacity(data.len());
        let room = poll_fn(|cx| match body.capacity() {
            // Announced once, and only when it grows.
            0 => body
                .poll_capacity(cx)
                .map(|room| room.and_then(std::result::Result::ok)),
            room => Poll::Ready(Some(room)),
        });
        let waiting = async { room.await.ok_or_else(ended) };
        let room = within(timeouts.send(), Stage::Send, waiting).await?;
        let part = data.split_to(room.min(data.len()));
        let ends = is_last && data.is_empty();
        body.send_data(part, ends).map_err(|_| ended())?;
        if ends {
            return Ok(());
        }
    }
    match is_last {
        true => body.send_data(Bytes::new(), true).map_err(|_| ended()),
        false => Ok(()),
    }
}
