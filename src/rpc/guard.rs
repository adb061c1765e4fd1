//! Authentication, authorization and rate limits of calls: TLS, bearer tokens, methods and per-caller limits.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, header::AUTHORIZATION};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::{
    caller::{Caller, CallerLimitExceeded, CallerLimits, CallerPermit, Quotas},
    layer::METHODS,
    reload::{Reloader, WatchedFiles},
    tls::{self, Tls, TlsFiles},
    tokens::BearerTokens,
};

/// Security settings of the serving port.
#[derive(Clone, Debug)]
pub struct Security {
    /// TLS files; None for plain text. Unix sockets always use plain text.
    pub tls: Option<TlsFiles>,
    /// File of bearer tokens; None to accept calls without a token.
    pub token_file: Option<PathBuf>,
    /// Services that need no token.
    pub open: Vec<OpenService>,
    /// Limits per client.
    pub caller_limits: CallerLimits,
    /// Interval between checks of the files for changes.
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

/// A service that can be served without a token, because it exposes no data of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenService {
    /// Health checks.
    Health,
    /// Server reflection.
    Reflection,
}

/// Error of loading certificates or tokens at startup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("cannot load the TLS files: {0}")]
    Tls(String),
    #[error("cannot load the token file: {0}")]
    Tokens(String),
    #[error("cannot start the reload thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Reason to reject a call before its handler runs.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallRejection {
    #[error("bearer token missing; send the metadata authorization: Bearer TOKEN")]
    TokenMissing,
    #[error("bearer token is unknown or revoked")]
    TokenUnknown,
    #[error("token \"{name}\" is not authorized for {method}")]
    MethodNotAllowed { name: Arc<str>, method: &'static str },
    #[error(transparent)]
    CallerLimitExceeded(#[from] CallerLimitExceeded),
}

/// An admitted call. It counts as in flight until this value is dropped.
pub(super) struct AdmittedCall {
    pub caller: Caller,
    _permit: Option<CallerPermit>,
}

/// Authentication, authorization and rate limits, checked before each call.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(super) tls: Option<Tls>,
    tokens: Option<watch::Receiver<BearerTokens>>,
    open: Arc<[OpenService]>,
    quotas: Option<Quotas>,
}

impl Guard {
    /// Loads all files. They are reloaded on change until the returned [`Reloader`] is dropped.
    ///
    /// # Errors
    /// [`SecurityError`] if a file cannot be loaded.
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

    pub(super) fn admit<B>(
        &self,
        method: &'static str,
        request: &Request<B>,
    ) -> Result<AdmittedCall, CallRejection> {
        let service = service_of(method);
        let caller = match &self.tokens {
            Some(tokens) if !service.is_some_and(|service| self.open.contains(&service)) => {
                by_token(&tokens.borrow(), method, request.headers())?
            }
            _ => request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Unknown),
        };
        // Health checks are exempt: a rate-limited probe would restart the pod.
        let quotas = self.quotas.as_ref().filter(|_| service != Some(OpenService::Health));
        let permit = quotas.map(|quotas| quotas.take(&caller, Instant::now())).transpose()?;
        Ok(AdmittedCall { caller, _permit: permit })
    }
}

fn open_tokens(file: PathBuf) -> Result<(watch::Receiver<BearerTokens>, WatchedFiles), String> {
    let name = file.display().to_string();
    WatchedFiles::open("tokens", vec![file], move |contents| {
        let text = std::str::from_utf8(&contents[0]).map_err(|_| format!("{name}: not UTF-8"))?;
        BearerTokens::parse(text, &METHODS).map_err(|error| format!("{name}: {error}"))
    })
}

fn by_token(
    tokens: &BearerTokens,
    method: &'static str,
    headers: &HeaderMap,
) -> Result<Caller, CallRejection> {
    let token = bearer(headers).ok_or(CallRejection::TokenMissing)?;
    let grant = tokens.find(token).ok_or(CallRejection::TokenUnknown)?;
    if !grant.allows(method) {
        return Err(CallRejection::MethodNotAllowed { name: grant.name.clone(), method });
    }
    Ok(Caller::Token(grant.name.clone()))
}

/// The bearer token in the `authorization` header. The scheme is case-insensitive. Source: RFC 9110, 11.1.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The service of a method if it can be served without a token, otherwise None.
fn service_of(method: &str) -> Option<OpenService> {
    if method.starts_with("grpc.health.") {
        Some(OpenService::Health)
    } else if method.starts_with("grpc.reflection.") {
        Some(OpenService::Reflection)
    } else {
        None
    }
}
