//! Authorities, their certificates, and clients that connect by TLS.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use assay::{app::AppSettings, rpc::TlsFiles};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

#[derive(Clone)]
pub struct Certificate {
    pub pem: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// For this machine.
    pub fn server(&self) -> Certificate {
        self.sign(CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address"))
    }

    /// Whose name is this URI.
    pub fn client(&self, uri: &str) -> Certificate {
        let mut params = CertificateParams::new([]).expect("no names");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Certificate { pem, key: key.serialize_pem() }
    }
}

/// The files of a server with TLS.
pub struct Files {
    dir: TempDir,
}

impl Files {
    pub fn empty() -> Files {
        Files { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn new(certificate: &Certificate) -> Files {
        let files = Files::empty();
        files.set_certificate(certificate);
        files
    }

    /// One file after the other, as most tools do.
    pub fn set_certificate(&self, certificate: &Certificate) {
        self.write("cert.pem", &certificate.pem);
        self.write("key.pem", &certificate.key);
    }

    pub fn set_client_authority(&self, authority: &Authority) {
        self.write("ca.pem", &authority.pem);
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// TLS for the server of these settings; client certificates are asked for if there is an authority by now.
    pub fn apply(&self, settings: &mut AppSettings) {
        let client_authorities = Some(self.path("ca.pem")).filter(|path| path.exists());
        let files =
            TlsFiles { certificate: self.path("cert.pem"), key: self.path("key.pem"), client_authorities };
        settings.rpc.security.tls = Some(files);
    }
}

/// What a client of TLS trusts and shows.
pub fn client_config(
    authority: &Authority,
    certificate: Option<&Certificate>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.pem)).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that ring knows")
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(certificate) => {
            let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![der(&certificate.pem)], key).expect("a certificate")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

pub async fn handshake(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let connection = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(config).connect(name, connection).await
}

/// Makes channels, and remembers the certificate that the last server showed.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl Client {
    pub fn new(authority: &Authority, certificate: Option<&Certificate>) -> Client {
        let config = client_config(authority, certificate, rustls::ALL_VERSIONS);
        Client { config: Arc::new(config), seen: Arc::default() }
    }

    /// A connection of its own.
    pub async fn connect(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let client = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let client = client.clone();
            async move {
                let stream = handshake(address, client.config.clone()).await?;
                let certificate = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
                *client.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.into_owned());
                io::Result::Ok(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        endpoint.connect_with_connector(connector).await
    }

    pub fn saw(&self, certificate: &Certificate) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref() == Some(&der(&certificate.pem))
    }
}
