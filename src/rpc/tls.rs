//! TLS of the TCP listeners. The configuration is reloaded when its files change; open connections keep theirs.

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

use super::{caller::Caller, reload::WatchedFiles};

/// PEM files of the TLS configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of the server, followed by intermediate certificates.
    pub certificate: PathBuf,
    /// Private key of the server.
    pub key: PathBuf,
    /// Certificate authorities of clients. If set, clients need a certificate of one of them (mTLS).
    pub client_authorities: Option<PathBuf>,
}

/// The current TLS configuration, used by new handshakes.
#[derive(Clone)]
pub(super) struct Tls {
    current: watch::Receiver<Arc<ServerConfig>>,
    handshakes: Family<HandshakeLabels, Counter>,
}

/// Loads the files. The second value reloads them on change.
///
/// # Errors
/// Name and error of the invalid file, without its contents.
pub(super) fn open(files: &TlsFiles, registry: &mut Registry) -> Result<(Tls, WatchedFiles), String> {
    let mut paths = vec![files.certificate.clone(), files.key.clone()];
    paths.extend(files.client_authorities.clone());
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let make = move |contents: &[Vec<u8>]| server_config(&names, contents).map(Arc::new);
    let (current, source) = WatchedFiles::open("tls", paths, make)?;
    let handshakes = Family::<HandshakeLabels, Counter>::default();
    registry.register("assay_tls_handshakes", "TLS handshakes, by outcome", handshakes.clone());
    Ok((Tls { current, handshakes }, source))
}

impl Tls {
    /// Performs the handshake of one connection; None if it fails. A client certificate identifies the caller.
    pub async fn handshake(self, io: TcpStream, caller: Caller) -> Option<(TlsStream<TcpStream>, Caller)> {
        let acceptor = TlsAcceptor::from(self.current.borrow().clone());
        let count = |outcome| self.handshakes.get_or_create(&HandshakeLabels { outcome }).inc();
        match acceptor.accept(io).await {
            Ok(io) => {
                count("ok");
                let certificate = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let name = certificate.map(|certificate| Caller::Certificate(name_of(certificate).into()));
                Some((io, name.unwrap_or(caller)))
            }
            Err(error) => {
                count("failed");
                tracing::debug!(%caller, %error, "TLS handshake failed");
                None
            }
        }
    }
}

/// Builds the configuration. `contents` are the certificate, the key and optionally the client authorities.
fn server_config(names: &[String], contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
    let chain = certificates(&names[0], &contents[0])?;
    let key = PrivateKeyDer::from_pem_slice(&contents[1])
        .map_err(|_| format!("{}: no PEM private key found", names[1]))?;
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
        .map_err(|error| format!("{} and {}: invalid certificate or key: {error}", names[0], names[1]))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| format!("{name}: invalid PEM certificate"))?;
    if certificates.is_empty() {
        return Err(format!("{name}: no PEM certificate found"));
    }
    Ok(certificates)
}

/// Name in a client certificate: the first URI (as in SPIFFE), otherwise the first DNS name, otherwise the fingerprint.
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
    format!("sha256:{}", hex::encode(digest))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    outcome: &'static str,
}
