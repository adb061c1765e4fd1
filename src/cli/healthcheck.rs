//! `assay healthcheck`: checks the health of a server, for exec probes in images without a shell.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgMatches};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::config::ValueKind;

const TIMEOUT: ValueKind =
    ValueKind::Duration { min: Duration::from_millis(1), max: Duration::from_hours(24) };

pub(super) const AFTER_HELP: &str = "Prints the status of grpc.health.v1.Health.

Exit code: 0 if the status is SERVING, 1 otherwise, 64 for invalid flags.

Examples:
  assay healthcheck                                   readiness: the model is ready
  assay healthcheck --service liveness                liveness: the event loop responds
  assay healthcheck --address unix:/run/assay.sock    through a Unix socket of the gRPC server";

pub(super) fn arguments() -> Vec<Arg> {
    vec![
        Arg::new("address")
            .long("address")
            .value_name("ADDRESS")
            .default_value("127.0.0.1:9090")
            .help("Address of the admin port or of the gRPC server: HOST:PORT or unix:PATH."),
        Arg::new("service").long("service").value_name("NAME").default_value("").help(
            "Health service to check: liveness, or a service name such as assay.v1.EmbeddingService. Default: the readiness of the whole server.",
        ),
        Arg::new("timeout")
            .long("timeout")
            .value_name("DURATION")
            .default_value("1s")
            .value_parser(|text: &str| TIMEOUT.duration(text))
            .help("Timeout of the whole check, with a unit: ms, s, m or h."),
    ]
}

#[expect(clippy::disallowed_methods, reason = "the command only waits for this response")]
pub(super) fn run(flags: &ArgMatches) -> anyhow::Result<bool> {
    let text = |name: &str| flags.get_one::<String>(name).cloned().unwrap_or_default();
    let timeout = flags.get_one::<Duration>("timeout").copied().unwrap_or(Duration::from_secs(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let check = check(text("address"), text("service"));
    let status = runtime
        .block_on(async { tokio::time::timeout(timeout, check).await })
        .with_context(|| format!("{} did not respond within {timeout:?}", text("address")))??;
    report(status);
    Ok(status == ServingStatus::Serving)
}

#[expect(clippy::print_stdout, reason = "the requested output")]
fn report(status: ServingStatus) {
    println!("{}", status.as_str_name());
}

async fn check(address: String, service: String) -> anyhow::Result<ServingStatus> {
    let channel = connect(&address).await.with_context(|| format!("cannot connect to {address}"))?;
    let response = HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    let response = response.map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))?;
    Ok(response.get_ref().status())
}

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = match address.strip_prefix("unix:") {
        Some(path) => Endpoint::try_from(format!("unix://{path}"))?,
        None => Endpoint::try_from(format!("http://{address}"))?,
    };
    Ok(endpoint.connect().await?)
}
