//! Listening sockets. They are bound at startup and accept connections once the event loop runs.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::FileTypeExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    task::{Context, Poll},
    time::Duration,
};

use crate::log_limit::{LogLimit, Site};

/// Maximum number of connections that wait in the kernel to be accepted, additionally limited by somaxconn.
const BACKLOG: i32 = 4096;
/// Delay after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listen address: `HOST:PORT`, where port 0 selects a free port, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: must be followed by a socket path".into())
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        let address = text.replace("localhost:", "127.0.0.1:");
        address
            .parse()
            .map(Address::Tcp)
            .map_err(|_| format!("{text:?} is not an address; expected HOST:PORT or unix:PATH"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket. Connections wait in the kernel until they are accepted.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Path of the socket.
        path: PathBuf,
    },
}

impl Listener {
    /// Binds a socket. A stale Unix socket, which no process listens on, is replaced.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(address) => bind_tcp(address).map(Listener::Tcp),
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                rustix::net::listen(&listener, BACKLOG)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix { listener, path: path.clone() })
            }
        }
    }

    /// The address, with the selected port.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix { path, .. } => Ok(Address::Unix(path.clone())),
        }
    }
}

/// Binds a TCP socket with a backlog for bursts.
///
/// # Errors
/// The error of the operating system.
pub(crate) fn bind_tcp(address: &SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a stale socket file: it outlives its process, and refuses connections if no process listens.
#[expect(clippy::disallowed_methods, reason = "runs before the event loop starts")]
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match UnixStream::connect(path) {
        // Plain files refuse connections too.
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Accepts the next connection. Failures are logged and retried after a delay.
pub(crate) async fn accepted<C>(poll_accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<C>>) -> C {
    loop {
        match std::future::poll_fn(&poll_accept).await {
            Ok(connection) => return connection,
            Err(error) => {
                static LINES: LogLimit = LogLimit::new(Site::Accept);
                if LINES.admits() {
                    tracing::warn!(%error, "failed to accept a connection; retrying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_formatted() {
        for (text, expected) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:50051", "127.0.0.1:50051"),
            ("[::1]:1", "[::1]:1"),
            ("unix:/run/assay.sock", "unix:/run/assay.sock"),
        ] {
            assert_eq!(text.parse::<Address>().expect("valid").to_string(), expected);
        }
        for text in ["", "unix:", "50051", "host", "1.2.3.4:99999"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let address = Address::Unix(dir.path().join("assay.sock"));
        let live = Listener::bind(&address).expect("bound");
        assert_eq!(Listener::bind(&address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(live);
        Listener::bind(&address).expect("the stale socket is replaced");
    }
}
