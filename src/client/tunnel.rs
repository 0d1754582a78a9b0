//! The tunnel through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Proxy;
use crate::error::{Cause, Error, Result, Stage};
use crate::http1::{self, Limits, Malformed};
use crate::net::Endpoint;

/// Asks the proxy at the other end of `transport` to connect it to `endpoint`.
///
/// # Errors
///
/// The proxy's refusal, or why its answer could not be used.
pub async fn open<IO>(mut transport: IO, endpoint: &Endpoint, proxy: &Proxy) -> Result<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let closed = |_| Error::closed(Stage::Proxy);
    let request = request(endpoint, proxy)?;
    transport.write_all(&request).await.map_err(closed)?;
    transport.flush().await.map_err(closed)?;

    let limits = Limits::default();
    let malformed = |malformed| Error::malformed(Stage::Proxy, &malformed);
    // Room for all of an answer: what was left in the socket would go unnoticed below.
    let mut buffer = Vec::with_capacity(4096);
    for _ in 0..http1::MAX_INTERIM {
        let mut searched = 0;
        let end = loop {
            if let Some(end) = http1::find_end(&buffer, searched) {
                break end;
            }
            searched = buffer.len();
            if buffer.len() > limits.head_bytes {
                let limit = "max_header_size";
                return Err(malformed(Malformed::HeadTooLarge { limit }));
            }
            if transport.read_buf(&mut buffer).await.map_err(closed)? == 0 {
                return Err(Error::closed(Stage::Proxy));
            }
        };
        let head = http1::parse(&buffer[..end], &limits).map_err(malformed)?;
        buffer.drain(..end);
        match head.status {
            100..=199 => {}
            200..=299 if buffer.is_empty() => return Ok(transport),
            // Behind the tunnel it is for us to speak first; this is not the server.
            200..=299 => {
                return Err(Error::new(
                    Stage::Proxy,
                    Cause::HttpMalformed {
                        reason: "the proxy sent data in front of the tunnel".to_owned(),
                    },
                ));
            }
            status => return Err(Error::new(Stage::Proxy, Cause::ProxyRefused { status })),
        }
    }
    Err(malformed(Malformed::NoFinalResponse))
}

fn request(endpoint: &Endpoint, proxy: &Proxy) -> Result<Vec<u8>> {
    let Endpoint::Tcp(host, port) = endpoint else {
        return Err(Error::bad_argument(
            "a unix socket cannot be reached through a proxy",
        ));
    };
    let authority = super::authority(host, *port);
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    request.extend_from_slice(
        concat!(
            "User-Agent: lua-resty-mtls/",
            env!("CARGO_PKG_VERSION"),
            " (Lua)\r\n"
        )
        .as_bytes(),
    );
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    Ok(request)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn answered(answer: &[u8]) -> Result<()> {
        let (client, mut proxy) = tokio::io::duplex(65536);
        proxy.write_all(answer).await.unwrap();
        let endpoint = Endpoint::Tcp("target.server".to_owned(), 443);
        let options = Proxy {
            endpoint: endpoint.clone(),
            tls: None,
            authorization: None,
            tunnels: true,
        };
        open(client, &endpoint, &options).await.map(|_| ())
    }

    #[tokio::test]
    async fn what_is_in_front_of_the_tunnel_is_refused_however_long_the_answer_is() {
        for length in 19..300 {
            let padding = "x".repeat(length - 19);
            let answer = format!("HTTP/1.1 200 {padding}OK\r\n\r\n");
            assert_eq!(answered(answer.as_bytes()).await, Ok(()));
            let refused = answered(format!("{answer}evil").as_bytes()).await;
            assert_eq!(refused.unwrap_err().code(), "http_malformed", "{length}");
        }
    }

    #[tokio::test]
    async fn interim_answers_are_skipped_but_not_without_end() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let good = format!("{}HTTP/1.1 200 OK\r\n\r\n", interim.repeat(3));
        assert_eq!(answered(good.as_bytes()).await, Ok(()));
        let endless = answered(interim.repeat(1000).as_bytes()).await;
        assert_eq!(endless.unwrap_err().code(), "http_malformed");
    }
}
