//! TLS of the TCP listeners: made of files, and made again when they change. A connection keeps what it began with.

use std::{path::PathBuf, sync::Arc};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use webpki::EndEntityCert;

use super::{caller::Caller, reload::Source};

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Of authorities; with them, a caller without a certificate of one of them is refused.
    pub client_authorities: Option<PathBuf>,
}

/// What the next handshake uses.
#[derive(Clone)]
pub(super) struct Tls {
    current: watch::Receiver<Arc<ServerConfig>>,
    handshakes: Family<Labels, Counter>,
}

/// Reads the files, and returns what keeps reading them.
///
/// # Errors
/// Which file is wrong, and how; never what is in it.
pub(super) fn open(files: &TlsFiles, registry: &mut Registry) -> Result<(Tls, Source), String> {
    let mut paths = vec![files.certificate.clone(), files.key.clone()];
    paths.extend(files.client_authorities.clone());
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let make = move |contents: &[Vec<u8>]| server_config(&names, contents).map(Arc::new);
    let (current, source) = Source::open("tls", paths, make)?;
    let handshakes = Family::<Labels, Counter>::default();
    registry.register("assay_tls_handshakes", "TLS handshakes by how they ended", handshakes.clone());
    Ok((Tls { current, handshakes }, source))
}

impl Tls {
    /// The TLS handshake of one connection; None where it fails. A client certificate gives the caller its name.
    pub async fn handshake(self, io: TcpStream, caller: Caller) -> Option<(TlsStream<TcpStream>, Caller)> {
        let acceptor = TlsAcceptor::from(self.current.borrow().clone());
        let count = |outcome| self.handshakes.get_or_create(&Labels { outcome }).inc();
        match acceptor.accept(io).await {
            Ok(io) => {
                count("ok");
                let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let name = certificate.map(|certificate| Caller::Certificate(name_of(certificate).into()));
                Some((io, name.unwrap_or(caller)))
            }
            Err(error) => {
                count("failed");
                tracing::debug!(%caller, %error, "a TLS handshake failed");
                None
            }
        }
    }
}

/// `contents` are those of certificate, key and, if there is a third, client authorities.
fn server_config(names: &[String], contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
    let chain = certificates(&names[0], &contents[0])?;
    let key = PrivateKeyDer::from_pem_slice(&contents[1])
        .map_err(|_| format!("{}: there is no private key in PEM", names[1]))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match contents.get(2) {
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&names[2], authorities)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", names[2]))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("{}: {error}", names[2]))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{} and {} cannot be used: {error}", names[0], names[1]))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| format!("{name}: a certificate in it is not PEM"))?;
    if certificates.is_empty() {
        return Err(format!("{name}: there is no certificate in PEM"));
    }
    Ok(certificates)
}

/// By what a caller's certificate is told from others: its first URI (as SPIFFE has it), else its first DNS name, else
/// its fingerprint.
fn name_of(certificate: &CertificateDer<'_>) -> String {
    let parsed = EndEntityCert::try_from(certificate).ok();
    let name = parsed.as_ref().and_then(|certificate| {
        certificate.valid_uri_names().next().or_else(|| certificate.valid_dns_names().next())
    });
    name.map_or_else(|| fingerprint(certificate), str::to_owned)
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(certificate);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}
