//! The byte stream of a connection, watched for floods of control frames.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    frames::{InboundFrames, OutboundFrames, enhance_your_calm},
    registry::Place,
};

/// Time in which a flooding peer can receive the GOAWAY before its connection is reset.
const FAREWELL: Duration = Duration::from_millis(200);

#[pin_project::pin_project]
pub(super) struct GuardedIo<C> {
    #[pin]
    io: C,
    inbound: InboundFrames,
    outbound: OutboundFrames,
    place: Arc<Place>,
    /// Set once the peer has flooded: what it sends is read and dropped until then.
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<C> GuardedIo<C> {
    pub fn new(io: C, place: Arc<Place>) -> GuardedIo<C> {
        let inbound = InboundFrames::new(Instant::now());
        GuardedIo { io, inbound, outbound: OutboundFrames::new(), place, farewell: None }
    }
}

impl<C: AsyncRead + AsyncWrite> AsyncRead for GuardedIo<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let before = buffer.filled().len();
        loop {
            if let Some(farewell) = this.farewell
                && farewell.as_mut().poll(cx).is_ready()
            {
                let flood = io::Error::new(io::ErrorKind::ConnectionAborted, "a flood of control frames");
                return Poll::Ready(Err(flood));
            }
            ready!(this.io.as_mut().poll_read(cx, buffer))?;
            let arrived = &buffer.filled()[before..];
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.farewell.is_some() {
                buffer.set_filled(before);
                continue;
            }
            if this.inbound.pass(arrived, Instant::now()).is_ok() {
                if this.inbound.has_spoken() {
                    this.place.establish();
                }
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
            this.place.note_flood();
            if this.outbound.is_at_boundary() {
                // A peer whose window is full cannot be told why.
                let _ = this
                    .io
                    .as_mut()
                    .poll_write(cx, &enhance_your_calm("too_many_pings or other control frames"));
            }
            *this.farewell = Some(Box::pin(tokio::time::sleep(FAREWELL)));
        }
    }
}

impl<C: AsyncWrite> AsyncWrite for GuardedIo<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = ready!(this.io.poll_write(cx, bytes))?;
        let data_frames = this.outbound.pass(&bytes[..written]);
        this.inbound.credit(data_frames);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = ready!(this.io.poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let count = left.min(slice.len());
            let data_frames = this.outbound.pass(&slice[..count]);
            this.inbound.credit(data_frames);
            left -= count;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
