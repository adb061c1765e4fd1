//! A low-overhead gRPC client that sends pre-encoded HTTP/2 frames, since it shares the cores with the measured server.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use tokio::net::TcpStream;

use super::Error;

/// Window size that fits any response, so that the server never waits for flow control.
const WINDOW: u32 = 16 << 20;

/// One connection.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Bytes>,
    address: SocketAddr,
}

/// An encoded call, which can be sent any number of times.
#[derive(Clone)]
pub struct Call {
    head: Request<()>,
    frame: Bytes,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Result<Client, Error> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(socket).await?;
        // If the connection breaks, its calls fail.
        tokio::spawn(connection);
        Ok(Client { sender, address })
    }

    /// Encodes a call of `method`, such as `package.Service/Method`.
    pub fn prepare(&self, method: &str, message: &impl Message) -> Result<Call, Error> {
        let head = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{}/{method}", self.address))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())?;
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len())?);
        message.encode(&mut frame)?;
        Ok(Call { head, frame: frame.freeze() })
    }

    /// Sends a call and returns the encoded response message.
    pub async fn send(&self, call: &Call) -> Result<Bytes, Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut body) = sender.send_request(call.head.clone(), false)?;
        body.send_data(call.frame.clone(), true)?;
        let (head, body) = answer.await?.into_parts();
        check(&head.headers)?;
        let message = read(body).await?;
        if message.len() < 5 {
            return Err("an answer without a message".into());
        }
        Ok(message.slice(5..))
    }
}

async fn read(mut body: RecvStream) -> Result<Bytes, Error> {
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if whole.is_empty() && joined.is_empty() {
            whole = chunk;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&chunk);
        }
    }
    check(&body.trailers().await?.unwrap_or_default())?;
    Ok(if joined.is_empty() { whole } else { joined.freeze() })
}

fn check(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => Err(format!("status {}", status.to_str()?).into()),
        _ => Ok(()),
    }
}
