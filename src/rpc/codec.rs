//! Codec of messages. Long messages are encoded and decoded without blocking other tasks of the thread.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Maximum size of a message that is decoded inline, in less than 50 µs.
const INLINE_DECODE_BYTES: usize = 32 << 10;
/// Maximum size of a message that is encoded inline. Responses are mostly vectors, which are cheap to copy.
const INLINE_ENCODE_BYTES: usize = 256 << 10;

/// Codec that encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Codec<T, U> {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Codec<T, U>;
    type Decoder = Codec<T, U>;

    fn encoder(&mut self) -> Self::Encoder {
        Codec::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Codec::default()
    }
}

impl<T: Message, U> Encoder for Codec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut encode = || message.encode(buffer).expect("the buffer grows");
        if message.encoded_len() > INLINE_ENCODE_BYTES {
            run_blocking(encode)
        } else {
            encode()
        }
        Ok(())
    }
}

impl<T, U: Message + Default> Decoder for Codec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let is_long = bytes.len() > INLINE_DECODE_BYTES;
        let decode = || U::decode(bytes);
        let message = if is_long { run_blocking(decode) } else { decode() };
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Runs `work` while another thread takes over the other tasks of this one. Runs it inline on a current-thread runtime.
fn run_blocking<R>(work: impl FnOnce() -> R) -> R {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}
