//! HTTP/2 by hand, for peers that break the rules.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

/// SETTINGS_INITIAL_WINDOW_SIZE of so many bytes.
pub fn window_setting(bytes: u32) -> Vec<u8> {
    [&[0, 4][..], &bytes.to_be_bytes()].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A message of gRPC, not compressed.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[0][..], &length, payload].concat()
}

/// The headers of a call, as literals that no table keeps.
pub fn headers(stream: u32, path: &str, further: &[(&str, &str)]) -> Vec<u8> {
    let fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fixed.iter().chain(further) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, 4, stream, &block)
}

/// A frame that the server sent.
#[derive(Debug)]
pub struct Received {
    pub kind: u8,
    pub payload: Vec<u8>,
}

pub struct Peer(TcpStream);

impl Peer {
    /// A connection on which nothing was said.
    pub async fn silent(address: SocketAddr) -> Peer {
        Peer(TcpStream::connect(address).await.expect("a connection"))
    }

    /// A connection with its preface, and these settings.
    pub async fn open(address: SocketAddr, settings: &[u8]) -> Peer {
        let mut peer = Peer::silent(address).await;
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await.expect("an open connection");
        peer
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The next frame; None once the connection has ended.
    pub async fn receive(&mut self) -> Option<Received> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await.ok()?;
        let [a, b, c, kind, ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Received { kind, payload })
    }

    /// Frames until the connection ends.
    pub async fn receive_all(&mut self) -> Vec<Received> {
        let mut frames = Vec::new();
        while let Some(frame) = self.receive().await {
            frames.push(frame);
        }
        frames
    }
}

/// The error code of a GOAWAY among `frames`, and what it says.
pub fn goaway(frames: &[Received]) -> Option<(u32, String)> {
    let goaway = frames.iter().find(|frame| frame.kind == GOAWAY)?;
    let code = goaway.payload[4..8].try_into().expect("four bytes");
    Some((u32::from_be_bytes(code), String::from_utf8_lossy(&goaway.payload[8..]).into_owned()))
}
