//! Tracking of the HTTP/2 frames of a connection: frame boundaries, and a rate limit of control frames.
//!
//! h2 answers PING and SETTINGS, and walks over every open stream for a SETTINGS frame that changes the stream window,
//! but bounds neither. Each control frame has a price here, paid from a token bucket that refills with time and with
//! the data that the connection carries; a client without tokens is flooding the server. Source: RFC 9113, sections 4.1,
//! 6 and 10.5.

use std::time::Instant;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
/// END_STREAM of DATA and HEADERS, and ACK of SETTINGS and PING.
const FLAG_ONE: u8 = 1;

/// Initial and maximum number of tokens of a connection.
const CAPACITY: f64 = 2000.0;
const REFILL_PER_SECOND: f64 = 500.0;
/// A SETTINGS frame costs this many tokens: 40 in a burst, then 10 a second.
const SETTINGS_PRICE: f64 = 50.0;
const CONTINUATION_PRICE: f64 = 4.0;
const EMPTY_DATA_PRICE: f64 = 2.0;
/// A DATA frame adds tokens for the WINDOW_UPDATE frames and bandwidth probes (PING) that it causes.
const DATA_CREDIT: f64 = 2.0;
const HEADERS_CREDIT: f64 = 1.0;

/// The client exceeds the rate limit of control frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// Position in a sequence of frames.
#[derive(Debug)]
enum Position {
    /// Within the client preface; the value is the number of bytes so far.
    Preface(usize),
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// Within a payload; the value is the number of remaining bytes.
    Payload(usize),
    /// Not HTTP/2. The bytes are ignored.
    Other,
}

impl Position {
    const BOUNDARY: Position = Position::Header { bytes: [0; HEADER_BYTES], have: 0 };

    /// Advances over `bytes` and reports each complete frame header.
    fn advance(&mut self, mut bytes: &[u8], mut report: impl FnMut(FrameHeader)) {
        while !bytes.is_empty() {
            match self {
                Position::Other => return,
                Position::Preface(have) => {
                    let expected = &PREFACE[*have..];
                    let count = expected.len().min(bytes.len());
                    if expected[..count] != bytes[..count] {
                        *self = Position::Other;
                        return;
                    }
                    *have += count;
                    bytes = &bytes[count..];
                    if *have == PREFACE.len() {
                        *self = Position::BOUNDARY;
                    }
                }
                Position::Header { bytes: header, have } => {
                    let count = (HEADER_BYTES - *have).min(bytes.len());
                    header[*have..*have + count].copy_from_slice(&bytes[..count]);
                    *have += count;
                    bytes = &bytes[count..];
                    if *have == HEADER_BYTES {
                        let header = FrameHeader::parse(header);
                        *self = header.after();
                        report(header);
                    }
                }
                Position::Payload(left) => {
                    let count = (*left).min(bytes.len());
                    *left -= count;
                    bytes = &bytes[count..];
                    if *left == 0 {
                        *self = Position::BOUNDARY;
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct FrameHeader {
    payload_bytes: usize,
    kind: u8,
    flags: u8,
}

impl FrameHeader {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> FrameHeader {
        let payload_bytes = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        FrameHeader { payload_bytes, kind: bytes[3], flags: bytes[4] }
    }

    fn after(self) -> Position {
        if self.payload_bytes == 0 { Position::BOUNDARY } else { Position::Payload(self.payload_bytes) }
    }

    /// Price of the frame in tokens. A negative price adds tokens.
    fn price(self) -> f64 {
        let flagged = self.flags & FLAG_ONE != 0;
        match self.kind {
            DATA if self.payload_bytes == 0 && !flagged => EMPTY_DATA_PRICE,
            DATA => -DATA_CREDIT,
            HEADERS => -HEADERS_CREDIT,
            SETTINGS if !flagged => SETTINGS_PRICE,
            CONTINUATION => CONTINUATION_PRICE,
            _ => 1.0,
        }
    }
}

/// Frames from the client, with the token bucket of its control frames.
#[derive(Debug)]
pub(super) struct InboundFrames {
    position: Position,
    tokens: f64,
    refilled: Instant,
    any: bool,
}

impl InboundFrames {
    pub fn new(now: Instant) -> InboundFrames {
        InboundFrames { position: Position::Preface(0), tokens: CAPACITY, refilled: now, any: false }
    }

    /// Processes received bytes.
    ///
    /// # Errors
    /// [`Flood`] when the tokens are used up.
    pub fn pass(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let mut tokens = (self.tokens + elapsed * REFILL_PER_SECOND).min(CAPACITY);
        let (mut any, mut lowest) = (self.any, tokens);
        self.position.advance(bytes, |header| {
            any = true;
            tokens = (tokens - header.price()).min(CAPACITY);
            lowest = lowest.min(tokens);
        });
        (self.any, self.tokens) = (any, tokens);
        if lowest < 0.0 { Err(Flood) } else { Ok(()) }
    }

    /// Adds tokens for DATA frames sent to the client.
    pub fn credit(&mut self, data_frames: usize) {
        self.tokens = (self.tokens + data_frames as f64 * DATA_CREDIT).min(CAPACITY);
    }

    /// Whether the client has sent a preface and a frame, or uses another protocol.
    pub fn has_sent_frame(&self) -> bool {
        self.any || matches!(self.position, Position::Other)
    }
}

/// Frames to the client. Tracks boundaries, so that a frame can be inserted between two others.
#[derive(Debug)]
pub(super) struct OutboundFrames(Position);

impl OutboundFrames {
    pub fn new() -> OutboundFrames {
        OutboundFrames(Position::BOUNDARY)
    }

    /// Processes written bytes. Returns the number of DATA frames that started.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut data_frames = 0;
        self.0.advance(bytes, |header| data_frames += usize::from(header.kind == DATA));
        data_frames
    }

    /// Whether the last written byte ended a frame.
    pub fn is_at_boundary(&self) -> bool {
        matches!(self.0, Position::Header { have: 0, .. })
    }
}

/// A GOAWAY frame with ENHANCE_YOUR_CALM and the highest stream id.
pub(super) fn enhance_your_calm(debug: &str) -> Vec<u8> {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    const LAST_STREAM: u32 = (1 << 31) - 1;
    let payload_bytes = u32::try_from(8 + debug.len()).expect("a short text");
    let mut frame = payload_bytes.to_be_bytes()[1..].to_vec();
    frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(LAST_STREAM.to_be_bytes());
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(debug.as_bytes());
    frame
}

/// The frames sent to a refused connection: the required SETTINGS frame, and GOAWAY.
pub(super) fn refusal(debug: &str) -> Vec<u8> {
    let mut frames = vec![0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    frames.extend(enhance_your_calm(debug));
    frames
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload_bytes: usize) -> Vec<u8> {
        let length = u32::try_from(payload_bytes).expect("short").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER_BYTES + payload_bytes, 0);
        bytes
    }

    fn opened(now: Instant) -> InboundFrames {
        let mut frames = InboundFrames::new(now);
        frames.pass(PREFACE, now).expect("a preface");
        assert!(!frames.has_sent_frame());
        frames.pass(&frame(SETTINGS, 0, 6), now).expect("the first settings");
        assert!(frames.has_sent_frame());
        frames
    }

    /// How many such frames in a row pass on a fresh connection.
    fn passed(frame: &[u8]) -> usize {
        let now = Instant::now();
        let mut frames = opened(now);
        (0..100_000).take_while(|_| frames.pass(frame, now).is_ok()).count()
    }

    #[test]
    fn many_control_frames_are_a_flood_and_data_is_not() {
        const PING: u8 = 6;
        assert_eq!(passed(&frame(SETTINGS, 0, 6)), 39);
        assert_eq!(passed(&frame(PING, 0, 8)), 1950);
        assert_eq!(passed(&frame(0xfa, 0, 3)), 1950);
        assert_eq!(passed(&frame(CONTINUATION, 0, 0)), 487);
        assert_eq!(passed(&frame(DATA, 0, 0)), 975);
        assert_eq!(passed(&frame(DATA, 0, 100)), 100_000);
        assert_eq!(passed(&frame(HEADERS, 5, 50)), 100_000);
    }

    #[test]
    fn time_and_data_refill_the_bucket() {
        let mut now = Instant::now();
        let mut frames = opened(now);
        let settings = frame(SETTINGS, 0, 6);
        for _ in 0..200 {
            now += Duration::from_millis(100);
            frames.pass(&settings, now).expect("ten a second are allowed");
        }
        for _ in 0..39 {
            frames.pass(&settings, now).expect("a burst");
        }
        frames.credit(25);
        frames.pass(&settings, now).expect("earned by data");
        assert_eq!(frames.pass(&settings, now), Err(Flood));
    }

    #[test]
    fn another_protocol_is_ignored() {
        let mut frames = InboundFrames::new(Instant::now());
        frames.pass(b"GET /livez HTTP/1.1\r\n", Instant::now()).expect("not frames");
        assert!(frames.has_sent_frame());
    }

    #[test]
    fn a_refusal_is_two_whole_frames() {
        let mut frames = OutboundFrames::new();
        let bytes = refusal("connection limit");
        assert_eq!(frames.pass(&bytes), 0);
        assert!(frames.is_at_boundary());
        frames.pass(&bytes[..bytes.len() - 1]);
        assert!(!frames.is_at_boundary());
    }

    proptest! {
        #[test]
        fn the_split_of_bytes_does_not_matter(
            kinds in prop::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..40),
            cuts in prop::collection::vec(1_usize..30, 1..60),
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|&(kind, flags, bytes)| frame(kind, flags, bytes)).collect();
            let now = Instant::now();
            let (mut whole, mut parts) = (opened(now), opened(now));
            whole.pass(&bytes, now).expect("few frames");
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, after) = rest.split_at((*cuts.next().expect("a cycle")).min(rest.len()));
                parts.pass(part, now).expect("few frames");
                rest = after;
            }
            prop_assert_eq!(whole.tokens, parts.tokens);
        }
    }
}
