//! The release binary as a child process.

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
    /// Time from the start of the process until it serves.
    pub rss_at_start_kib: f64,
}

/// Resident memory of a process, from /proc.
pub struct Memory {
    pub rss_kib: f64,
    pub peak_kib: f64,
}

/// Reads the memory of a process.
pub struct Sampler(u32);

impl Server {
    pub fn sampler(&self) -> Sampler {
        Sampler(self.process.id())
    }

    pub fn memory(&self) -> Result<Memory, Error> {
        self.sampler().memory()
    }
}

impl Sampler {
    #[allow(clippy::disallowed_methods)]
    pub fn memory(&self) -> Result<Memory, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let of = |name: &str| -> Result<f64, Error> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Memory { rss_kib: of("VmRSS:")?, peak_kib: of("VmHWM:")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the server, and measures the time until it accepts a connection and until health is SERVING.
#[allow(clippy::disallowed_methods)]
pub async fn start(binary: &Path, model: &Path, settings: &[&str]) -> Result<Server, Error> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let begun = Instant::now();
    let process = Command::new(binary)
        .args(["--listen", &address.to_string(), "--admin-listen", "off", "--log", "warn", "--model"])
        .arg(model)
        .args(settings)
        .stdin(Stdio::null())
        .spawn()?;
    let (bound, serving) = (Duration::ZERO, Duration::ZERO);
    let mut server = Server { process, address, bound, serving, rss_at_start_kib: 0.0 };
    while TcpStream::connect(address).is_err() {
        if let Some(status) = server.process.try_wait()? {
            return Err(format!("the server ended with {status}").into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    server.bound = begun.elapsed();
    let mut health = HealthClient::new(connect(address).await?);
    loop {
        let status = health.check(HealthCheckRequest { service: String::new() }).await?;
        if status.get_ref().status() == ServingStatus::Serving {
            server.serving = begun.elapsed();
            server.rss_at_start_kib = server.memory()?.rss_kib;
            return Ok(server);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub async fn connect(address: SocketAddr) -> Result<Channel, Error> {
    Ok(Endpoint::try_from(format!("http://{address}"))?.connect().await?)
}
