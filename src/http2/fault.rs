//! What went wrong with a stream, as far as the caller can tell the cases apart.

/// Why a stream ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server says that it has not looked at the request: it may be sent again, whatever its
    /// method (RFC 9113, 8.7).
    Unprocessed(String),
    /// The server reset the stream.
    Reset(String),
    /// The server broke the protocol.
    Malformed(String),
    /// The server sent interim responses and no end of them.
    NoFinalResponse,
    /// The connection is gone.
    Lost,
}

impl From<&h2::Error> for Fault {
    fn from(error: &h2::Error) -> Self {
        let reason = match error.reason() {
            Some(reason) => format!("{reason:?}"),
            None => error.to_string(),
        };
        if error.is_go_away() && error.is_remote() {
            // h2 tells those streams alone that are above the last one that the server names.
            return Self::Unprocessed(reason);
        }
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Self::Unprocessed(reason),
            Some(_) if error.is_remote() => Self::Reset(reason),
            Some(_) => Self::Malformed(reason),
            None => Self::Lost,
        }
    }
}

impl Fault {
    /// The fault of a request that h2 has not begun to send.
    pub fn unsent(error: &h2::Error) -> Self {
        match Self::from(error) {
            Self::Reset(reason) | Self::Malformed(reason) | Self::Unprocessed(reason) => {
                Self::Unprocessed(reason)
            }
            Self::Lost | Self::NoFinalResponse => {
                Self::Unprocessed("the connection has ended".to_owned())
            }
        }
    }
}
