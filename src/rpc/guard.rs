//! Who may call: TLS, tokens, methods, and what one caller may take.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, header::AUTHORIZATION};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::{
    caller::{Caller, CallerLimits, Exceeded, Place, Quotas},
    layer::METHODS,
    reload::{Reloader, Source},
    tls::{self, Tls, TlsFiles},
    tokens::Tokens,
};

#[derive(Clone, Debug)]
pub struct Security {
    /// None for plain text; Unix sockets always are.
    pub tls: Option<TlsFiles>,
    /// None to let everybody call who can connect.
    pub token_file: Option<PathBuf>,
    /// What needs no token.
    pub open: Vec<OpenService>,
    pub caller_limits: CallerLimits,
    /// How often the files are looked at.
    pub reload_every: Duration,
}

impl Default for Security {
    fn default() -> Security {
        Security {
            tls: None,
            token_file: None,
            open: vec![OpenService::Health],
            caller_limits: CallerLimits::default(),
            reload_every: Duration::from_secs(2),
        }
    }
}

/// A service that tells nothing of callers' texts, and may be served to whoever can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenService {
    Health,
    Reflection,
}

/// A file of certificates or tokens that the server cannot start with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("TLS cannot be served: {0}")]
    Tls(String),
    #[error("the tokens cannot be used: {0}")]
    Tokens(String),
    #[error("no thread to look at the files: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a call goes no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a token is needed, as the metadata authorization: Bearer TOKEN")]
    TokenMissing,
    #[error("the token is not known here, or no longer")]
    TokenUnknown,
    #[error("the token of {name} is not good for {method}")]
    MethodNotAllowed { name: Arc<str>, method: &'static str },
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

/// A call that goes on; its place is taken for as long as this is held.
pub(super) struct Admitted {
    pub caller: Caller,
    _place: Option<Place>,
}

/// What is asked before each call.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(super) tls: Option<Tls>,
    tokens: Option<watch::Receiver<Tokens>>,
    open: Arc<[OpenService]>,
    quotas: Option<Quotas>,
}

impl Guard {
    /// Reads all files; they are read again for as long as the second is held.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn open(settings: &Security, registry: &mut Registry) -> Result<(Guard, Reloader), SecurityError> {
        let tls = settings.tls.as_ref().map(|files| tls::open(files, registry)).transpose();
        let tls = tls.map_err(SecurityError::Tls)?;
        let tokens = settings.token_file.clone().map(open_tokens).transpose();
        let tokens = tokens.map_err(SecurityError::Tokens)?;
        let (tls, tls_source) = tls.unzip();
        let (tokens, tokens_source) = tokens.unzip();
        let sources = tls_source.into_iter().chain(tokens_source).collect();
        let reloader = Reloader::start(sources, settings.reload_every, registry)?;
        let quotas = Quotas::new(&settings.caller_limits);
        Ok((Guard { tls, tokens, open: settings.open.clone().into(), quotas }, reloader))
    }

    pub(super) fn admit<B>(&self, method: &'static str, request: &Request<B>) -> Result<Admitted, Refusal> {
        let service = service_of(method);
        let caller = match &self.tokens {
            Some(tokens) if !service.is_some_and(|service| self.open.contains(&service)) => {
                by_token(&tokens.borrow(), method, request.headers())?
            }
            _ => request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Unknown),
        };
        // A probe that is refused for its caller's sake would end the pod.
        let quotas = self.quotas.as_ref().filter(|_| service != Some(OpenService::Health));
        let place = quotas.map(|quotas| quotas.take(&caller, Instant::now())).transpose()?;
        Ok(Admitted { caller, _place: place })
    }
}

fn open_tokens(file: PathBuf) -> Result<(watch::Receiver<Tokens>, Source), String> {
    let name = file.display().to_string();
    Source::open("tokens", vec![file], move |contents| {
        let text = std::str::from_utf8(&contents[0]).map_err(|_| format!("{name}: it is not UTF-8"))?;
        Tokens::parse(text, &METHODS).map_err(|mistake| format!("{name}: {mistake}"))
    })
}

fn by_token(tokens: &Tokens, method: &'static str, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let token = bearer(headers).ok_or(Refusal::TokenMissing)?;
    let grant = tokens.find(token).ok_or(Refusal::TokenUnknown)?;
    if !grant.allows(method) {
        return Err(Refusal::MethodNotAllowed { name: grant.name.clone(), method });
    }
    Ok(Caller::Token(grant.name.clone()))
}

/// The scheme's case does not matter. Source: RFC 9110, 11.1.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// None for those that always need a token.
fn service_of(method: &str) -> Option<OpenService> {
    if method.starts_with("grpc.health.") {
        Some(OpenService::Health)
    } else if method.starts_with("grpc.reflection.") {
        Some(OpenService::Reflection)
    } else {
        None
    }
}
