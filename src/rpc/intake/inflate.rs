//! Decompression of messages, bounded by the reserved memory and outside the event loop.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::priority::Priority;

/// Compression of the messages of a call. Source: gRPC over HTTP/2, *Message-Encoding*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

/// Maximum window of a zstd frame: 2^23 bytes, the limit for HTTP. Source: RFC 9659.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Maximum size of compressed and decompressed bytes that are decompressed on the calling thread, in less than 100 µs.
const INLINE_BYTES: usize = 16 << 10;

/// Error of decompressing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InflateError {
    #[error("decompressed message exceeds the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("compressed message is corrupt")]
    Corrupt,
}

impl Compression {
    /// Parses the value of `grpc-encoding`. None for `identity` and unsupported encodings.
    pub fn named(name: &[u8]) -> Option<Compression> {
        match name {
            b"gzip" => Some(Compression::Gzip),
            b"zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The decompressed size that `message` declares, in bytes; `limit` if it declares none.
    ///
    /// # Errors
    /// [`InflateError::TooLarge`] if the size is above `limit`, [`InflateError::Corrupt`] if the header is invalid.
    pub fn inflated_bytes(self, message: &[u8], limit: usize) -> Result<usize, InflateError> {
        let declared = match self {
            // The last four bytes: the length modulo 2^32. Source: RFC 1952, section 2.3.1.
            Compression::Gzip => match message {
                [0x1f, 0x8b, .., a, b, c, d] => Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
                _ => return Err(InflateError::Corrupt),
            },
            Compression::Zstd => {
                zstd::zstd_safe::get_frame_content_size(message).map_err(|_| InflateError::Corrupt)?
            }
        };
        match declared {
            Some(bytes) if bytes > limit as u64 => Err(InflateError::TooLarge { limit }),
            Some(bytes) => Ok(usize::try_from(bytes).unwrap_or(limit)),
            None => Ok(limit),
        }
    }

    /// Decompresses at most `max_bytes`, the result of [`Compression::inflated_bytes`], after `prefix` zero bytes.
    fn inflate(self, message: &[u8], max_bytes: usize, prefix: usize) -> Result<Vec<u8>, InflateError> {
        let read = |reader: &mut dyn Read| {
            let mut inflated = vec![0; prefix];
            // One byte more than declared shows that the declared size is wrong.
            reader.take(max_bytes as u64 + 1).read_to_end(&mut inflated).map(|_| inflated)
        };
        let inflated: io::Result<Vec<u8>> = match self {
            Compression::Gzip => read(&mut flate2::read::GzDecoder::new(message)),
            Compression::Zstd => zstd::Decoder::new(message).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                read(&mut decoder)
            }),
        };
        let inflated = inflated.map_err(|_| InflateError::Corrupt)?;
        if inflated.len() - prefix > max_bytes {
            Err(InflateError::TooLarge { limit: max_bytes })
        } else {
            Ok(inflated)
        }
    }
}

/// The decompression thread.
pub(super) struct Inflater(rayon::ThreadPool);

impl Inflater {
    /// # Errors
    /// The error of the operating system if the thread cannot be started.
    pub fn start() -> io::Result<Inflater> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "assay-inflate".into())
            .start_handler(|_| Priority::Text.apply())
            .build();
        pool.map(Inflater).map_err(io::Error::other)
    }

    /// Decompresses `message` to at most `max_bytes` after `prefix` zero bytes. Small messages are decompressed on the
    /// calling thread.
    pub async fn run(
        &self,
        encoding: Compression,
        message: Bytes,
        max_bytes: usize,
        prefix: usize,
    ) -> Result<Vec<u8>, InflateError> {
        if message.len() + max_bytes <= INLINE_BYTES {
            return encoding.inflate(&message, max_bytes, prefix);
        }
        let (done, inflated) = oneshot::channel();
        self.0.spawn(move || {
            if !done.is_closed() {
                // The receiver is gone if the call was cancelled meanwhile.
                let _ = done.send(encoding.inflate(&message, max_bytes, prefix));
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

    fn check(encoding: Compression, message: &[u8], limit: usize, expected: Result<usize, InflateError>) {
        let inflated = encoding
            .inflated_bytes(message, limit)
            .and_then(|max_bytes| encoding.inflate(message, max_bytes, 0));
        assert_eq!(inflated.map(|inflated| inflated.len()), expected, "{encoding:?}");
    }

    #[test]
    fn a_message_is_decompressed_up_to_the_limit() {
        let plain = vec![0; 1 << 20];
        let zstd = zstd::encode_all(&plain[..], 3).expect("memory");
        let known = zstd::bulk::compress(&plain, 3).expect("memory");
        for (encoding, message) in
            [(Compression::Gzip, gzip(&plain)), (Compression::Zstd, zstd), (Compression::Zstd, known)]
        {
            check(encoding, &message, 1 << 20, Ok(1 << 20));
        }
        check(Compression::Gzip, &gzip(&plain), 1000, Err(InflateError::TooLarge { limit: 1000 }));
    }

    #[test]
    fn a_wrong_declared_size_is_rejected() {
        let mut message = gzip(&vec![0; 1 << 20]);
        let end = message.len() - 4;
        message[end..].copy_from_slice(&10_u32.to_le_bytes());
        check(Compression::Gzip, &message, 1 << 20, Err(InflateError::TooLarge { limit: 10 }));
        let stream = zstd::encode_all(&vec![0; 1 << 20][..], 3).expect("memory");
        check(Compression::Zstd, &stream, 1000, Err(InflateError::TooLarge { limit: 1000 }));
    }

    #[test]
    fn uncompressed_bytes_are_rejected() {
        for encoding in [Compression::Gzip, Compression::Zstd] {
            check(encoding, b"plain text, not compressed\0\0\0\0", 1 << 20, Err(InflateError::Corrupt));
            check(encoding, b"", 1 << 20, Err(InflateError::Corrupt));
        }
    }
}
