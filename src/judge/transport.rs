//! HTTP client of one endpoint.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION},
};
use reqwest::{
    Client, Response, Url,
    redirect::{Attempt, Policy},
};
use thiserror::Error;
use tokio::{task::coop::consume_budget, time::timeout};

use super::{TraceHeaders, error::StartError, retry_after, settings::JudgeSettings};
use crate::{
    root_cause::root_cause,
    secret::Secret,
    trace::{TRACEPARENT, TRACESTATE},
};

/// Maximum bytes read from the body of an error response.
const MAX_ERROR_BODY_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: usize = 3;
/// Maximum number of chunks of a body. Each costs time: a body of one-byte chunks would take seconds.
const MAX_CHUNKS: usize = 64 << 10;
/// Maximum length of an origin in an error. DNS names are shorter.
const MAX_ORIGIN_BYTES: usize = 300;
const PATH: &str = "/chat/completions";

/// HTTP client, URL and key of one endpoint.
pub(super) struct EndpointClient {
    client: Client,
    url: Url,
    key: Option<HeaderValue>,
    max_body_bytes: usize,
}

/// Response of any status.
pub(super) struct EndpointResponse {
    pub status: StatusCode,
    /// Delay from the `Retry-After` header.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// Error of an HTTP exchange. Contains neither key nor texts, and only the origin of URLs.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum TransportError {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("the response is larger than the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the response has more than {limit} chunks")]
    TooManyChunks { limit: usize },
    #[error(transparent)]
    Redirect(#[from] RedirectError),
}

/// Reason why a redirect was not followed. Contains only the origin of its target, because the rest may hold a key.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum RedirectError {
    #[error("status {status} redirects to another origin, {origin}; set judge-url to it if it is trusted")]
    OtherOrigin { status: StatusCode, origin: String },
    #[error(
        "status {status} does not preserve the request, only 307 and 308 do; set judge-url to the new location at {origin}"
    )]
    RequestNotPreserved { status: StatusCode, origin: String },
    #[error("status {status} after {MAX_REDIRECTS} redirects at {origin}, the maximum")]
    TooMany { status: StatusCode, origin: String },
}

impl EndpointClient {
    pub fn new(settings: &JudgeSettings) -> Result<EndpointClient, StartError> {
        // Fails if a provider is installed already, which is equally good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = || settings.name.clone();
        let client = Client::builder()
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .redirect(Policy::custom(|attempt| match may_follow(&attempt) {
                true => attempt.follow(),
                // The response is then the redirect itself.
                false => attempt.stop(),
            }))
            .build()
            .map_err(|error| StartError::Client { name: name(), reason: cause(&error) })?;
        let url = completions_url(&settings.url).ok_or_else(|| StartError::BadUrl { name: name() })?;
        let key = settings.key.as_ref().map(bearer).transpose();
        let key = key.map_err(|_| StartError::BadKey { name: name() })?;
        Ok(EndpointClient { client, url, key, max_body_bytes: settings.max_body_bytes })
    }

    /// URL without user, password and query.
    pub fn endpoint(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    /// Host and port of the URL.
    pub fn host(&self) -> (&str, u16) {
        (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or_default())
    }

    /// Sends `body` and reads the whole response within `limit`.
    pub async fn send(
        &self,
        body: Vec<u8>,
        trace: &TraceHeaders,
        limit: Duration,
    ) -> Result<EndpointResponse, TransportError> {
        let answered = timeout(limit, self.exchange(body, trace)).await;
        answered.unwrap_or(Err(TransportError::TimedOut(limit)))
    }

    async fn exchange(
        &self,
        body: Vec<u8>,
        trace: &TraceHeaders,
    ) -> Result<EndpointResponse, TransportError> {
        let mut request = self.client.post(self.url.clone()).headers(trace_headers(trace));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| transport_error(&error))?;
        let status = response.status();
        if let Some(redirected) = redirected(&response) {
            return Err(redirected.into());
        }
        let retry_after = retry_after::parse(response.headers(), SystemTime::now());
        let body = match status.is_success() {
            true => self.read(response).await?,
            false => read_error_body(response).await,
        };
        Ok(EndpointResponse { status, retry_after, body })
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, TransportError> {
        let limit = self.max_body_bytes;
        let (mut body, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(&error))? {
            chunks += 1;
            if body.len() + chunk.len() > limit {
                return Err(TransportError::TooLarge { limit });
            }
            if chunks > MAX_CHUNKS {
                return Err(TransportError::TooManyChunks { limit: MAX_CHUNKS });
            }
            body.extend_from_slice(&chunk);
            // Yields: chunks that have arrived already would occupy the thread.
            consume_budget().await;
        }
        Ok(body)
    }
}

/// Reads the body of an error response up to the limit or the first failure; the status is known already.
async fn read_error_body(mut response: Response) -> Vec<u8> {
    let (mut body, mut chunks) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ERROR_BODY_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        chunks += 1;
        if chunk.len() >= room || chunks > MAX_CHUNKS {
            break;
        }
        consume_budget().await;
    }
    body
}

/// Whether to follow a redirect: only within the configured origin, and only if it preserves method and body.
fn may_follow(attempt: &Attempt<'_>) -> bool {
    let is_at_origin =
        attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    is_at_origin && keeps_request(attempt.status()) && attempt.previous().len() <= MAX_REDIRECTS
}

/// Whether a redirect preserves method and body. Source: RFC 9110, sections 15.4.8 and 15.4.9.
fn keeps_request(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// Error for a response that redirects; `None` for any other.
fn redirected(response: &Response) -> Option<RedirectError> {
    let status = response.status();
    let location = response.headers().get(LOCATION).filter(|_| status.is_redirection())?;
    let to = response.url().join(location.to_str().ok()?).ok()?;
    let origin = origin(&to);
    Some(match to.origin() == response.url().origin() {
        false => RedirectError::OtherOrigin { status, origin },
        true if keeps_request(status) => RedirectError::TooMany { status, origin },
        true => RedirectError::RequestNotPreserved { status, origin },
    })
}

/// Scheme, host and port; only the scheme if there is no host.
fn origin(url: &Url) -> String {
    let origin = url.origin();
    let mut text =
        if origin.is_tuple() { origin.ascii_serialization() } else { format!("{}:", url.scheme()) };
    text.truncate(text.floor_char_boundary(MAX_ORIGIN_BYTES));
    text
}

/// Parses the configured URL and completes its path: `http://host/v1` becomes `http://host/v1/chat/completions`.
fn completions_url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path.ends_with(PATH) { path } else { path + PATH };
    url.set_path(&path);
    Some(url)
}

fn bearer(key: &Secret) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose().trim()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn trace_headers(trace: &TraceHeaders) -> HeaderMap {
    let ids = [
        ("x-request-id", &trace.request_id),
        (TRACEPARENT, &trace.traceparent),
        (TRACESTATE, &trace.tracestate),
    ];
    // Values that a header cannot carry are omitted.
    let headers = ids.into_iter().filter_map(|(name, id)| {
        Some((HeaderName::from_static(name), HeaderValue::try_from(id.as_deref()?).ok()?))
    });
    headers.collect()
}

fn transport_error(error: &reqwest::Error) -> TransportError {
    let cause = cause(error);
    match error.is_connect() {
        true => TransportError::Connect(cause),
        false => TransportError::Connection(cause),
    }
}

fn cause(error: &reqwest::Error) -> String {
    root_cause(error).unwrap_or_else(|| "the request failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::completions_url;

    #[test]
    fn a_base_url_is_completed() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(completions_url(text).map(String::from).as_deref(), expected, "{text}");
        };
        check("http://host/v1", Some("http://host/v1/chat/completions"));
        check("http://host:8000/v1/", Some("http://host:8000/v1/chat/completions"));
        check("https://host", Some("https://host/chat/completions"));
        check("https://host/a/chat/completions", Some("https://host/a/chat/completions"));
        check("https://host/a?api-version=1", Some("https://host/a/chat/completions?api-version=1"));
        check("ftp://host/v1", None);
        check("host/v1", None);
    }
}
