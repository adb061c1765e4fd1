//! Sockets that are bound before anything else, and accepted from when the reactor runs.

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

/// Connections that may wait in the kernel until they are accepted; the kernel's own limit (somaxconn) holds too.
const BACKLOG: i32 = 4096;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen: `HOST:PORT`, port 0 for any free one, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path".into())
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        let address = text.replace("localhost:", "127.0.0.1:");
        address.parse().map(Address::Tcp).map_err(|_| format!("{text} is neither HOST:PORT nor unix:PATH"))
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

/// A bound socket; connections wait in the kernel until someone accepts.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

impl Listener {
    /// # Errors
    /// The operating system's; a Unix socket that nobody answers on is replaced.
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

    /// The address with the port that was picked.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix { path, .. } => Ok(Address::Unix(path.clone())),
        }
    }
}

/// A bound TCP socket with a backlog that suits bursts.
///
/// # Errors
/// The operating system's.
pub(crate) fn bind_tcp(address: &SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket file outlives its process; one that refuses connections is nobody's.
#[expect(clippy::disallowed_methods, reason = "it runs before the reactor starts")]
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match UnixStream::connect(path) {
        // Plain files refuse connections too.
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// The next connection that `poll_accept` gives. Failures to accept are logged and waited out, as the next attempt may work.
pub(crate) async fn accepted<C>(poll_accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<C>>) -> C {
    loop {
        match std::future::poll_fn(&poll_accept).await {
            Ok(connection) => return connection,
            Err(error) => {
                static LINES: LogLimit = LogLimit::new(Site::Accept);
                if LINES.admits() {
                    tracing::warn!(%error, "a connection could not be accepted");
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
    fn addresses_are_read_and_written_alike() {
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
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let address = Address::Unix(dir.path().join("assay.sock"));
        let live = Listener::bind(&address).expect("bound");
        assert_eq!(Listener::bind(&address).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(live);
        Listener::bind(&address).expect("the stale socket is replaced");
    }
}
