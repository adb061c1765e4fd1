//! The byte stream of a connection, with a rate limit of control frames.

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
    registry::ConnectionPermit,
};

/// Time after GOAWAY until the connection of a flooding client is reset.
const FLOOD_CLOSE_DELAY: Duration = Duration::from_millis(200);

/// I/O of a connection that closes it when the client exceeds the rate limit of control frames.
#[pin_project::pin_project]
pub(super) struct GuardedIo<C> {
    #[pin]
    io: C,
    inbound: InboundFrames,
    outbound: OutboundFrames,
    permit: Arc<ConnectionPermit>,
    /// Set when the client exceeds the rate limit. Until then, received bytes are discarded.
    close_timer: Option<Pin<Box<Sleep>>>,
}

impl<C> GuardedIo<C> {
    pub fn new(io: C, permit: Arc<ConnectionPermit>) -> GuardedIo<C> {
        let inbound = InboundFrames::new(Instant::now());
        GuardedIo { io, inbound, outbound: OutboundFrames::new(), permit, close_timer: None }
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
            if let Some(close_timer) = this.close_timer
                && close_timer.as_mut().poll(cx).is_ready()
            {
                let flood = io::Error::new(io::ErrorKind::ConnectionAborted, "too many control frames");
                return Poll::Ready(Err(flood));
            }
            ready!(this.io.as_mut().poll_read(cx, buffer))?;
            let arrived = &buffer.filled()[before..];
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.close_timer.is_some() {
                buffer.set_filled(before);
                continue;
            }
            if this.inbound.pass(arrived, Instant::now()).is_ok() {
                if this.inbound.has_sent_frame() {
                    this.permit.establish();
                }
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
            this.permit.note_flood();
            if this.outbound.is_at_boundary() {
                // The frame is lost if the send buffer is full.
                let _ = this
                    .io
                    .as_mut()
                    .poll_write(cx, &enhance_your_calm("too_many_pings or other control frames"));
            }
            *this.close_timer = Some(Box::pin(tokio::time::sleep(FLOOD_CLOSE_DELAY)));
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
