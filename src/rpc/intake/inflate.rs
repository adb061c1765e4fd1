//! Decompression of messages: bounded by the size that was reserved, and away from the reactor.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::priority::Priority;

/// How a call's messages are compressed. Source: gRPC over HTTP/2, *Message-Encoding*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

/// The window that a zstd frame may ask for: 2^23 bytes, as RFC 9659 asks of HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;
/// What is as small as this is decompressed where it is: less than 100 µs of work.
const AT_ONCE: usize = 16 << 10;

/// Why a message cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InflateError {
    #[error("the message decompresses to more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the compressed message cannot be read")]
    Corrupt,
}

impl Encoding {
    /// Looks up the value of `grpc-encoding`. None for `identity` and for encodings that are not supported.
    pub fn named(name: &[u8]) -> Option<Encoding> {
        match name {
            b"gzip" => Some(Encoding::Gzip),
            b"zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }

    /// Bytes that decompressing `message` may give, as the message itself says it, or the limit where it does not.
    ///
    /// # Errors
    /// [`InflateError::TooLarge`] if that is more than the limit.
    pub fn inflated_bytes(self, message: &[u8], limit: usize) -> Result<usize, InflateError> {
        let told = match self {
            // The last four bytes: the length modulo 2^32. Source: RFC 1952, section 2.3.1.
            Encoding::Gzip => match message {
                [0x1f, 0x8b, .., a, b, c, d] => Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
                _ => return Err(InflateError::Corrupt),
            },
            Encoding::Zstd => {
                zstd::zstd_safe::get_frame_content_size(message).map_err(|_| InflateError::Corrupt)?
            }
        };
        match told {
            Some(bytes) if bytes > limit as u64 => Err(InflateError::TooLarge { limit }),
            Some(bytes) => Ok(usize::try_from(bytes).unwrap_or(limit)),
            None => Ok(limit),
        }
    }

    /// At most `most` bytes, which [`Encoding::inflated_bytes`] told, behind room for a prefix of `before` bytes.
    fn inflate(self, message: &[u8], most: usize, before: usize) -> Result<Vec<u8>, InflateError> {
        let read = |reader: &mut dyn Read| {
            let mut inflated = vec![0; before];
            // One byte more than was announced shows that the announcement was wrong.
            reader.take(most as u64 + 1).read_to_end(&mut inflated).map(|_| inflated)
        };
        let inflated: io::Result<Vec<u8>> = match self {
            Encoding::Gzip => read(&mut flate2::read::GzDecoder::new(message)),
            Encoding::Zstd => zstd::Decoder::new(message).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                read(&mut decoder)
            }),
        };
        let inflated = inflated.map_err(|_| InflateError::Corrupt)?;
        if inflated.len() - before > most {
            Err(InflateError::TooLarge { limit: most })
        } else {
            Ok(inflated)
        }
    }
}

/// The thread that decompresses.
pub(super) struct Inflater(rayon::ThreadPool);

impl Inflater {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start() -> io::Result<Inflater> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "assay-inflate".into())
            .start_handler(|_| Priority::Text.take())
            .build();
        pool.map(Inflater).map_err(io::Error::other)
    }

    /// Decompresses `message` to at most `most` bytes behind `before` zeros; on the calling thread where that is quick.
    pub async fn run(
        &self,
        encoding: Encoding,
        message: Bytes,
        most: usize,
        before: usize,
    ) -> Result<Vec<u8>, InflateError> {
        if message.len() + most <= AT_ONCE {
            return encoding.inflate(&message, most, before);
        }
        let (done, inflated) = oneshot::channel();
        self.0.spawn(move || {
            if !done.is_closed() {
                // A caller that left needs nothing.
                let _ = done.send(encoding.inflate(&message, most, before));
            }
        });
        inflated.await.unwrap_or(Err(InflateError::Corrupt))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn check(encoding: Encoding, message: &[u8], limit: usize, expected: Result<usize, InflateError>) {
        let inflated =
            encoding.inflated_bytes(message, limit).and_then(|most| encoding.inflate(message, most, 0));
        assert_eq!(inflated.map(|inflated| inflated.len()), expected, "{encoding:?}");
    }

    #[test]
    fn a_message_is_decompressed_up_to_the_limit() {
        let plain = vec![0; 1 << 20];
        let zstd = zstd::encode_all(&plain[..], 3).expect("memory");
        let known = zstd::bulk::compress(&plain, 3).expect("memory");
        for (encoding, message) in
            [(Encoding::Gzip, gzip(&plain)), (Encoding::Zstd, zstd), (Encoding::Zstd, known)]
        {
            check(encoding, &message, 1 << 20, Ok(1 << 20));
        }
        check(Encoding::Gzip, &gzip(&plain), 1000, Err(InflateError::TooLarge { limit: 1000 }));
    }

    #[test]
    fn a_message_that_lies_about_its_size_is_refused() {
        let mut message = gzip(&vec![0; 1 << 20]);
        let end = message.len() - 4;
        message[end..].copy_from_slice(&10_u32.to_le_bytes());
        check(Encoding::Gzip, &message, 1 << 20, Err(InflateError::TooLarge { limit: 10 }));
        let stream = zstd::encode_all(&vec![0; 1 << 20][..], 3).expect("memory");
        check(Encoding::Zstd, &stream, 1000, Err(InflateError::TooLarge { limit: 1000 }));
    }

    #[test]
    fn bytes_that_are_not_compressed_are_refused() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            check(encoding, b"plain text, not compressed\0\0\0\0", 1 << 20, Err(InflateError::Corrupt));
            check(encoding, b"", 1 << 20, Err(InflateError::Corrupt));
        }
    }
}
