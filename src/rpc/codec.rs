//! Messages in tonic's frames. Long ones are decoded and encoded without holding up the other tasks of the thread.

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

/// Messages up to this size take less than 50 µs.
const AT_ONCE: usize = 32 << 10;
/// Answers are mostly vectors, which are copied at once.
const ENCODED_AT_ONCE: usize = 256 << 10;

/// Encodes `T` and decodes `U`.
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
        if message.encoded_len() > ENCODED_AT_ONCE {
            aside(encode)
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
        let is_long = bytes.len() > AT_ONCE;
        let decode = || U::decode(bytes);
        let message = if is_long { aside(decode) } else { decode() };
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Runs `work` while another thread takes over what this one would run next, where the runtime can do that.
fn aside<R>(work: impl FnOnce() -> R) -> R {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}
