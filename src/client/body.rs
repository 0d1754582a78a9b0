//! A response body between the task that reads it and the Lua code that takes it.
//!
//! The task reads ahead by a bounded amount, so that a small body is there when it is asked for and
//! a slow consumer does not make it grow.

use std::collections::VecDeque;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::http1::{BodyDecoder, Event, Framing, Header, Limits};

/// Bytes that are read ahead of the consumer.
const READ_AHEAD: usize = 128 * 1024;

/// Up to this size, memory is taken at once for a body that is wanted as a whole. What is announced may
/// never come, but memory that is not written to costs nothing either.
const WHOLE: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Body {
    decoder: BodyDecoder,
    data: Vec<u8>,
    /// How much at the front of `data` has been taken.
    start: usize,
    /// Wire chunks that are not taken completely: bytes left of each.
    chunks: VecDeque<u64>,
    end: Option<std::result::Result<(), Error>>,
    ended_at: Option<Instant>,
    /// What the consumer waits for.
    wanted: usize,
    /// Below this much, the one who reads is told to go on.
    low: usize,
    /// Whether that is all of it, as one piece.
    wants_all: bool,
    max_size: Option<u64>,
    received: u64,
    trailers: Vec<Header>,
}

/// What taking from a body gives.
#[derive(Debug)]
pub enum Taken<T> {
    /// Some of the body.
    Data(T),
    /// All has been taken.
    End,
    /// What was asked for has not come yet.
    Pending,
}

impl Body {
    /// The body that `framing` describes.
    pub fn new(framing: Framing, limits: Limits, max_size: Option<u64>) -> Self {
        let decoder = BodyDecoder::new(framing, limits);
        let end = decoder.is_done().then_some(Ok(()));
        Self {
            decoder,
            data: Vec::new(),
            start: 0,
            chunks: VecDeque::new(),
            end,
            ended_at: None,
            wanted: 0,
            low: READ_AHEAD,
            wants_all: false,
            max_size,
            received: 0,
            trailers: Vec::new(),
        }
    }

    /// Decodes what is at the front of `input` and removes it. False when more is to be read.
    ///
    /// # Errors
    ///
    /// Broken framing, or more than the allowed size.
    pub fn decode(&mut self, input: &mut Vec<u8>) -> Result<bool> {
        let mut used = 0;
        let done = loop {
            let (step, event) = self
                .decoder
                .step(&input[used..])
                .map_err(|malformed| Error::malformed(crate::error::Stage::Body, &malformed))?;
            match event {
                Event::NeedMore => {
                    used += step;
                    break false;
                }
                Event::End => {
                    used += step;
                    break true;
                }
                Event::Chunk(size) => {
                    self.account(size)?;
                    self.begin_chunk(size);
                }
                Event::Data(range) => {
                    if self.decoder.ends_with_connection() {
                        self.account(range.len() as u64)?;
                    }
                    self.make_room(range.len());
                    let range = used + range.start..used + range.end;
                    self.data.extend_from_slice(&input[range]);
                }
            }
            used += step;
        };
        if used == input.len() {
            input.clear();
        } else {
            input.drain(..used);
        }
        if done {
            self.trailers = self.decoder.take_trailers();
        }
        Ok(done)
    }

    /// Makes room for `size` bytes: in the place of those that were taken, if that moves no more bytes
    /// than it gains. A body that is wanted as a whole gets all of it at once; growing step by step
    /// would copy it, and leave behind what was copied from.
    fn make_room(&mut self, size: usize) {
        let is_full = |data: &Vec<u8>| data.capacity() - data.len() < size;
        if is_full(&self.data) && self.start >= self.buffered() {
            self.data.drain(..self.start);
            self.start = 0;
        }
        if self.wanted < WHOLE || !is_full(&self.data) {
            return;
        }
        let announced = usize::try_from(self.decoder.announced()).unwrap_or(usize::MAX);
        // Of many small chunks, the vector doubles.
        if announced < self.data.len() {
            return;
        }
        let room = announced.min(self.data.len().max(WHOLE));
        // Where there is not so much, what comes makes its own room.
        let _ = self.data.try_reserve_exact(size.saturating_add(room));
    }

    /// Appends the data of a frame, which is to the consumer what a chunk is.
    ///
    /// # Errors
    ///
    /// More than the allowed size.
    pub fn push(&mut self, data: &[u8]) -> Result<()> {
        self.account(data.len() as u64)?;
        if !data.is_empty() {
            self.begin_chunk(data.len() as u64);
            self.make_room(data.len());
            self.data.extend_from_slice(data);
        }
        Ok(())
    }

    /// Notes where a chunk begins. Nobody asks for that who waits for the whole body, and of chunks
    /// of one byte the notes would take eight times as much memory as the body.
    fn begin_chunk(&mut self, size: u64) {
        match self.chunks.back_mut() {
            Some(last) if self.wants_all => *last = last.saturating_add(size),
            _ => self.chunks.push_back(size),
        }
    }

    /// Sets the trailer fields of a body that came in frames.
    pub fn set_trailers(&mut self, trailers: Vec<Header>) {
        self.trailers = trailers;
    }

    /// Counts announced bytes against the limit, before they are held.
    fn account(&mut self, bytes: u64) -> Result<()> {
        self.received = self.received.saturating_add(bytes);
        match self.max_size {
            Some(max) if self.received > max => Err(Error::new(
                crate::error::Stage::Body,
                crate::error::Cause::HttpTooLarge {
                    limit: "max_body_size",
                },
            )),
            _ => Ok(()),
        }
    }

    /// Whether the end of the connection, here, ends the body as it should.
    pub fn may_end_here(&self) -> bool {
        self.decoder.ends_with_connection()
    }

    /// Ends the body. What came before an error can still be taken.
    pub fn finish(&mut self, result: std::result::Result<(), Error>) {
        if self.end.is_none() {
            self.ended_at = Some(Instant::now());
            self.end = Some(result);
        }
    }

    /// When its end came, if it did not come with the head.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Whether nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    /// Why the body ended early.
    pub fn error(&self) -> Option<&Error> {
        self.end.as_ref()?.as_ref().err()
    }

    /// Whether the whole body has come.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }

    /// Whether the consumer is far enough ahead of, or behind, the reader for it to go on.
    pub fn has_room(&self) -> bool {
        self.buffered() < self.wanted.max(READ_AHEAD)
    }

    /// Bytes that have come and were not taken.
    pub fn buffered(&self) -> usize {
        self.data.len() - self.start
    }

    /// Makes this the body of a source that a window bounds: more is asked for when half has been
    /// taken.
    pub fn set_windowed(&mut self) {
        self.low = READ_AHEAD / 2;
    }

    /// Whether the one who reads need not be told that something has been taken.
    pub fn is_full(&self) -> bool {
        self.buffered() >= self.wanted.max(self.low)
    }

    /// Bytes that wait although nobody wants them yet.
    pub fn ahead(&self) -> usize {
        let wanted = self.wanted.saturating_sub(READ_AHEAD);
        self.buffered().saturating_sub(wanted)
    }

    /// Trailer fields, after the end.
    pub fn trailers(&self) -> &[Header] {
        &self.trailers
    }

    /// How many bytes the next `take(max)` gives at the most, if that is known.
    ///
    /// With a size: that many, but not across a wire chunk. Without: one wire chunk, or the whole
    /// body where there are none.
    fn next_size(&self, max: Option<usize>) -> Option<usize> {
        let left = self.chunks.front().copied();
        let left = left.map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        match (left, max) {
            (Some(left), Some(max)) => Some(left.min(max)),
            (Some(left), None) => Some(left),
            (None, max) if self.decoder.ends_with_connection() => max,
            // Between two chunks: how long the next one is has not been read.
            (None, _) => None,
        }
    }

    /// Says what the consumer is going to wait for, so that it is read even beyond the usual bound.
    pub fn want(&mut self, max: Option<usize>) {
        self.wants_all = false;
        self.wanted = self.next_size(max).unwrap_or(match max {
            Some(_) => 0,
            None if self.decoder.ends_with_connection() => usize::MAX,
            None => 0,
        });
    }

    /// Says that the consumer is going to wait for all of it.
    pub fn want_all(&mut self) {
        self.wanted = usize::MAX;
        self.wants_all = true;
    }

    /// Whether `take(max)` has something to say.
    pub fn is_ready(&self, max: Option<usize>) -> bool {
        self.is_finished()
            || self
                .next_size(max)
                .is_some_and(|size| self.buffered() >= size)
    }

    /// Takes the next part, with `give` making of the bytes what the caller needs.
    ///
    /// # Errors
    ///
    /// Why the body ended early, after what had come before.
    pub fn take<T>(
        &mut self,
        max: Option<usize>,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Result<Taken<T>> {
        let available = self.buffered();
        let size = match self.next_size(max) {
            Some(size) if size <= available => size,
            _ => match &self.end {
                None => return Ok(Taken::Pending),
                Some(_) if available > 0 => available.min(max.unwrap_or(usize::MAX)),
                Some(Ok(())) => return Ok(Taken::End),
                Some(Err(error)) => return Err(error.clone()),
            },
        };
        if size == 0 && self.is_finished() && available == 0 {
            return Ok(Taken::End);
        }
        let given = give(&self.data[self.start..self.start + size]);
        self.advance(size);
        Ok(Taken::Data(given))
    }

    /// Takes all that is left, once the body is finished.
    ///
    /// # Errors
    ///
    /// Why the body ended early: a truncated body is never taken for a whole one.
    pub fn take_all<T>(&mut self, give: impl FnOnce(&[u8]) -> T) -> Result<Taken<T>> {
        match &self.end {
            None => Ok(Taken::Pending),
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(())) => {
                let given = give(&self.data[self.start..]);
                self.data = Vec::new();
                self.start = 0;
                self.chunks.clear();
                Ok(Taken::Data(given))
            }
        }
    }

    fn advance(&mut self, size: usize) {
        self.start += size;
        if let Some(left) = self.chunks.front_mut() {
            *left = left.saturating_sub(size as u64);
            if *left == 0 {
                self.chunks.pop_front();
            }
        }
        if self.start == self.data.len() {
            self.data.clear();
            self.start = 0;
        }
        // A body that was once asked for whole must not keep its memory while the rest trickles.
        if self.data.is_empty() && self.data.capacity() > 4 * READ_AHEAD {
            self.data = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(body: &mut Body, max: Option<usize>) -> Option<Vec<u8>> {
        match body.take(max, <[u8]>::to_vec).unwrap() {
            Taken::Data(data) => Some(data),
            Taken::End => None,
            Taken::Pending => panic!("pending"),
        }
    }

    fn complete(framing: Framing, wire: &[u8]) -> Body {
        let mut body = Body::new(framing, Limits::default(), None);
        let done = body.decode(&mut wire.to_vec()).unwrap();
        assert_eq!(done, !body.may_end_here());
        body.finish(Ok(()));
        body
    }

    #[test]
    fn chunks_are_taken_one_by_one() {
        let mut body = complete(Framing::Chunked, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
        assert_eq!(taken(&mut body, None).unwrap(), b"abc");
        assert_eq!(taken(&mut body, None).unwrap(), b"de");
        assert_eq!(taken(&mut body, None), None);
        assert_eq!(taken(&mut body, None), None);
    }

    #[test]
    fn sized_takes_stop_at_chunk_boundaries() {
        let mut body = complete(Framing::Chunked, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
        assert_eq!(taken(&mut body, Some(2)).unwrap(), b"ab");
        assert_eq!(taken(&mut body, Some(2)).unwrap(), b"c");
        assert_eq!(taken(&mut body, Some(9)).unwrap(), b"de");
        assert_eq!(taken(&mut body, Some(9)), None);
    }

    #[test]
    fn without_a_size_a_body_of_known_length_comes_whole() {
        let mut body = complete(Framing::Length(5), b"abcde");
        assert_eq!(taken(&mut body, None).unwrap(), b"abcde");
        assert_eq!(taken(&mut body, None), None);
        let mut body = complete(Framing::Close, b"abcde");
        assert_eq!(taken(&mut body, Some(2)).unwrap(), b"ab");
        assert_eq!(taken(&mut body, None).unwrap(), b"cde");
        assert_eq!(taken(&mut body, None), None);
        let mut body = complete(Framing::Length(0), b"");
        assert_eq!(taken(&mut body, None), None);
    }

    #[test]
    fn a_body_that_is_taken_in_parts_stays_in_the_memory_of_what_is_read_ahead() {
        let record = vec![b'x'; 16 * 1024];
        let mut body = Body::new(Framing::Length(u64::MAX), Limits::default(), None);
        let mut taken = 0;
        while taken < 64 * READ_AHEAD {
            while body.has_room() {
                body.decode(&mut record.clone()).unwrap();
            }
            while let Taken::Data(size) = body.take(Some(64 * 1024), <[u8]>::len).unwrap() {
                taken += size;
            }
        }
        assert!(body.data.capacity() <= 4 * READ_AHEAD);
    }

    #[test]
    fn a_body_that_is_wanted_as_a_whole_is_given_its_memory_at_once() {
        let mut body = Body::new(Framing::Length(9 << 20), Limits::default(), None);
        body.want_all();
        body.decode(&mut vec![b'x'; 1024]).unwrap();
        assert_eq!(body.data.capacity(), 9 << 20);
        // What is announced is no promise.
        let mut body = Body::new(Framing::Length(u64::MAX), Limits::default(), None);
        body.want_all();
        body.decode(&mut vec![b'x'; 1024]).unwrap();
        assert_eq!(body.data.capacity(), WHOLE + 1024);
    }

    #[test]
    fn what_came_before_an_error_is_taken_first() {
        let mut body = Body::new(Framing::Length(9), Limits::default(), None);
        assert!(!body.decode(&mut b"abcde".to_vec()).unwrap());
        assert!(matches!(body.take(Some(9), |_| ()), Ok(Taken::Pending)));
        assert_eq!(taken(&mut body, Some(2)).unwrap(), b"ab");
        body.finish(Err(Error::closed(crate::error::Stage::Body)));
        assert_eq!(taken(&mut body, None).unwrap(), b"cde");
        assert_eq!(body.take(None, |_| ()).unwrap_err().code(), "closed");
        assert_eq!(body.take_all(|_| ()).unwrap_err().code(), "closed");
    }

    #[test]
    fn the_chunks_of_a_body_that_is_wanted_whole_are_not_remembered() {
        let mut body = Body::new(Framing::Chunked, Limits::default(), None);
        assert!(!body.decode(&mut b"1\r\na\r\n1\r\nb\r\n".to_vec()).unwrap());
        assert_eq!(taken(&mut body, None).unwrap(), b"a");
        body.want_all();
        body.decode(&mut b"1\r\nc\r\n".repeat(1000)).unwrap();
        assert_eq!(body.chunks.len(), 1);
        // Somebody else may go on, who asks for less.
        body.want(Some(3));
        body.decode(&mut b"1\r\nd\r\n0\r\n\r\n".to_vec()).unwrap();
        body.finish(Ok(()));
        assert_eq!(taken(&mut body, Some(3)).unwrap(), b"bcc");
        assert_eq!(taken(&mut body, None).unwrap(), [b'c'; 998]);
        assert_eq!(taken(&mut body, None).unwrap(), b"d");
        assert_eq!(taken(&mut body, None), None);
    }

    #[test]
    fn the_reader_stops_ahead_of_a_slow_consumer() {
        let mut body = Body::new(Framing::Length(1 << 30), Limits::default(), None);
        body.decode(&mut vec![0; READ_AHEAD]).unwrap();
        assert!(!body.has_room());
        body.want(Some(READ_AHEAD + 1));
        assert!(body.has_room());
        body.want(Some(10));
        assert!(!body.has_room());
        assert!(body.is_ready(Some(10)));
    }

    #[test]
    fn the_size_limit_is_checked_before_the_bytes_come() {
        let mut body = Body::new(Framing::Length(11), Limits::default(), Some(10));
        assert_eq!(
            body.decode(&mut b"a".to_vec()).unwrap_err().code(),
            "http_too_large"
        );
        let mut body = Body::new(Framing::Close, Limits::default(), Some(10));
        assert!(body.decode(&mut vec![0; 10]).is_ok());
        assert!(body.decode(&mut vec![0; 1]).is_err());
    }
}
