//! From a listener to served connections.

use tokio_util::task::TaskTracker;

use super::{
    Rpc,
    caller::Caller,
    listen::{self, Listener},
    transport::{Placed, Transport},
};

impl Rpc {
    /// Serves until `closing`, and on until the last open call has ended.
    ///
    /// # Errors
    /// If the listener cannot be handed to the reactor.
    pub async fn serve(self, listener: Listener) -> std::io::Result<()> {
        let (tasks, closing) = (TaskTracker::new(), self.transport.closing.clone());
        let accepting = async {
            match listener {
                Listener::Tcp(listener) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    loop {
                        let (io, address) = listen::accepted(|cx| listener.poll_accept(cx)).await;
                        let caller = Caller::at(address.ip());
                        let placed = self.transport.place(caller.address().or(Some(address.ip())));
                        tasks.spawn(self.clone().serve_tcp(io, placed, caller));
                    }
                }
                Listener::Unix { listener, .. } => {
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    loop {
                        let (io, _) = listen::accepted(|cx| listener.poll_accept(cx)).await;
                        let placed = self.transport.place(None);
                        tasks.spawn(self.clone().serve_unix(io, placed));
                    }
                }
            }
        };
        // From here on the operating system refuses connections.
        let accepted: std::io::Result<()> = tokio::select! {
            failed = accepting => failed,
            () = closing.cancelled() => Ok(()),
        };
        tasks.close();
        tasks.wait().await;
        accepted
    }

    async fn serve_tcp(self, io: tokio::net::TcpStream, placed: Placed, caller: Caller) {
        // Answers are small and each is written at once. A peer that has left already needs none.
        let _ = io.set_nodelay(true);
        let transport = &self.transport;
        let Some(accepted) = Transport::admit(io, placed, self.tls.is_none()).await else { return };
        match self.tls {
            None => transport.serve(accepted, caller, self.service).await,
            Some(tls) => {
                let handshake = transport.handshake(accepted, |io| tls.handshake(io, caller)).await;
                if let Some((accepted, caller)) = handshake {
                    transport.serve(accepted, caller, self.service).await;
                }
            }
        }
    }

    async fn serve_unix(self, io: tokio::net::UnixStream, placed: Placed) {
        let caller = io.peer_cred().map_or(Caller::Unknown, |user| Caller::User(user.uid()));
        if let Some(accepted) = Transport::admit(io, placed, true).await {
            self.transport.serve(accepted, caller, self.service).await;
        }
    }
}
