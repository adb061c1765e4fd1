//! The real binary as a process of its own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Error;

pub struct Server {
    pub process: Child,
    pub address: SocketAddr,
    pub bound: Duration,
    pub serving: Duration,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that has ended already is what it should be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The time from the process's start until a connection is taken, and until health says SERVING.
#[allow(clippy::disallowed_methods)]
pub async fn start(model: &Path, settings: &[&str]) -> Result<Server, Error> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let begun = Instant::now();
    let process = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["--listen", &address.to_string(), "--admin-listen", "off", "--log", "warn", "--model"])
        .arg(model)
        .args(settings)
        .stdin(Stdio::null())
        .spawn()?;
    while TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let bound = begun.elapsed();
    let mut health = HealthClient::new(connect(address).await?);
    loop {
        let status = health.check(HealthCheckRequest { service: String::new() }).await?;
        if status.get_ref().status() == ServingStatus::Serving {
            return Ok(Server { process, address, bound, serving: begun.elapsed() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub async fn connect(address: SocketAddr) -> Result<Channel, Error> {
    Ok(Endpoint::try_from(format!("http://{address}"))?.connect().await?)
}
