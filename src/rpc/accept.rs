//! The accept loops of the listeners.

use tokio_util::task::TaskTracker;

use super::{
    RpcServer,
    caller::Caller,
    listen::{self, Listener},
    transport::{ConnectionAdmission, ConnectionServer},
};

impl RpcServer {
    /// Serves the listener until shutdown, and returns after the last open call has finished.
    ///
    /// # Errors
    /// The error of the operating system if the listener cannot be registered with the event loop.
    pub async fn serve(self, listener: Listener) -> std::io::Result<()> {
        let (tasks, closing) = (TaskTracker::new(), self.transport.closing.clone());
        let accepting = async {
            match listener {
                Listener::Tcp(listener) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    loop {
                        let (io, address) = listen::accepted(|cx| listener.poll_accept(cx)).await;
                        let caller = Caller::at(address.ip());
                        let admission =
                            self.transport.acquire_permit(caller.address().or(Some(address.ip())));
                        tasks.spawn(self.clone().serve_tcp(io, admission, caller));
                    }
                }
                Listener::Unix { listener, .. } => {
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    loop {
                        let (io, _) = listen::accepted(|cx| listener.poll_accept(cx)).await;
                        let admission = self.transport.acquire_permit(None);
                        tasks.spawn(self.clone().serve_unix(io, admission));
                    }
                }
            }
        };
        // The listener is closed now, so the operating system refuses connections.
        let accepted: std::io::Result<()> = tokio::select! {
            failed = accepting => failed,
            () = closing.cancelled() => Ok(()),
        };
        tasks.close();
        tasks.wait().await;
        accepted
    }

    async fn serve_tcp(self, io: tokio::net::TcpStream, admission: ConnectionAdmission, caller: Caller) {
        // Responses are small, and each is written immediately. It fails only if the client has disconnected.
        let _ = io.set_nodelay(true);
        let transport = &self.transport;
        let Some(accepted) = ConnectionServer::admit(io, admission, self.tls.is_none()).await else { return };
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

    async fn serve_unix(self, io: tokio::net::UnixStream, admission: ConnectionAdmission) {
        let caller = io.peer_cred().map_or(Caller::Unknown, |user| Caller::User(user.uid()));
        if let Some(accepted) = ConnectionServer::admit(io, admission, true).await {
            self.transport.serve(accepted, caller, self.service).await;
        }
    }
}
