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
    time::Duration,
};

use futures::{Stream, stream};

use super::{caller::Caller, connection::Connection};

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
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
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

/// Connections of `listener` for ever. Failures to accept, such as too many open files, are logged and waited
/// out, as the next attempt may work.
pub(super) fn tcp(
    listener: TcpListener,
) -> io::Result<impl Stream<Item = io::Result<Connection<tokio::net::TcpStream>>>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(accepted(listener, async |listener: &tokio::net::TcpListener| {
        let (io, address) = listener.accept().await?;
        // Answers are small and each is written at once.
        io.set_nodelay(true)?;
        Ok(Connection { io, caller: Caller::at(address.ip()) })
    }))
}

/// As [`tcp`].
pub(super) fn unix(
    listener: UnixListener,
) -> io::Result<impl Stream<Item = io::Result<Connection<tokio::net::UnixStream>>>> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    Ok(accepted(listener, async |listener: &tokio::net::UnixListener| {
        let (io, _) = listener.accept().await?;
        let caller = io.peer_cred().map_or(Caller::Unknown, |user| Caller::User(user.uid()));
        Ok(Connection { io, caller })
    }))
}

fn accepted<L, C>(
    listener: L,
    accept: impl AsyncFn(&L) -> io::Result<C>,
) -> impl Stream<Item = io::Result<C>> {
    stream::unfold((listener, accept), async |(listener, accept)| {
        loop {
            match accept(&listener).await {
                Ok(connection) => return Some((Ok(connection), (listener, accept))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
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
