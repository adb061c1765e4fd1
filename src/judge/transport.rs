//! One HTTP request to the endpoint, and all that can go wrong with it.

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

use super::{Trace, error::StartError, retry_after, settings::Settings};
use crate::{
    root_cause::root_cause,
    secret::Secret,
    trace::{TRACEPARENT, TRACESTATE},
};

/// More of an error's body is not read.
const MAX_COMPLAINT_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: usize = 3;
/// Each costs time, however small it is: a body of single bytes would cost seconds.
const MAX_PIECES: usize = 64 << 10;
/// The longest host name that DNS has is shorter.
const MAX_ORIGIN_BYTES: usize = 300;
const PATH: &str = "/chat/completions";

pub(super) struct Transport {
    client: Client,
    url: Url,
    key: Option<HeaderValue>,
    max_body_bytes: usize,
}

/// What came back, of any status.
pub(super) struct Received {
    pub status: StatusCode,
    /// The endpoint's wish.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// Why nothing came back. Says nothing of key or texts, and of a URL its origin alone.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Broken {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Connection(String),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the answer comes in more than {limit} pieces")]
    TooManyPieces { limit: usize },
    #[error(transparent)]
    Redirected(#[from] Redirected),
}

/// Why a redirect was not followed. Of the address it led to, only the origin is told: the rest may hold a key.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Redirected {
    #[error("it answered {status}, which leads to {origin}; set judge-url to it if it is trusted")]
    Elsewhere { status: StatusCode, origin: String },
    #[error(
        "it answered {status}, and only 307 and 308 keep the request; set judge-url to the new place at {origin}"
    )]
    Changed { status: StatusCode, origin: String },
    #[error("it answered {status} after {MAX_REDIRECTS} redirects at {origin}")]
    TooOften { status: StatusCode, origin: String },
}

impl Transport {
    pub fn new(settings: &Settings) -> Result<Transport, StartError> {
        // Fails when a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = || settings.name.clone();
        let client = Client::builder()
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .redirect(Policy::custom(|attempt| match may_follow(&attempt) {
                true => attempt.follow(),
                // The answer is then the redirect itself.
                false => attempt.stop(),
            }))
            .build()
            .map_err(|error| StartError::Client { name: name(), reason: cause(&error) })?;
        let url = completions_url(&settings.url).ok_or_else(|| StartError::BadUrl { name: name() })?;
        let key = settings.key.as_ref().map(bearer).transpose();
        let key = key.map_err(|_| StartError::BadKey { name: name() })?;
        Ok(Transport { client, url, key, max_body_bytes: settings.max_body_bytes })
    }

    /// The URL without user, password and query.
    pub fn endpoint(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    /// Host and port, as far as the URL has them.
    pub fn host(&self) -> (&str, u16) {
        (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or_default())
    }

    /// Sends `body` and reads the whole answer, within `limit`.
    pub async fn send(&self, body: Vec<u8>, trace: &Trace, limit: Duration) -> Result<Received, Broken> {
        let answered = timeout(limit, self.exchange(body, trace)).await;
        answered.unwrap_or(Err(Broken::TimedOut(limit)))
    }

    async fn exchange(&self, body: Vec<u8>, trace: &Trace) -> Result<Received, Broken> {
        let mut request = self.client.post(self.url.clone()).headers(trace_headers(trace));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| broken(&error))?;
        let status = response.status();
        if let Some(redirected) = redirected(&response) {
            return Err(redirected.into());
        }
        let retry_after = retry_after::parse(response.headers(), SystemTime::now());
        let body = match status.is_success() {
            true => self.read(response).await?,
            false => read_some(response).await,
        };
        Ok(Received { status, retry_after, body })
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Broken> {
        let limit = self.max_body_bytes;
        let (mut body, mut pieces) = (Vec::new(), 0);
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            pieces += 1;
            if body.len() + chunk.len() > limit {
                return Err(Broken::TooLarge { limit });
            }
            if pieces > MAX_PIECES {
                return Err(Broken::TooManyPieces { limit: MAX_PIECES });
            }
            body.extend_from_slice(&chunk);
            // Pieces that are there already would keep the thread to themselves.
            consume_budget().await;
        }
        Ok(body)
    }
}

/// As much of an error's body as there is: its status is known, whatever becomes of the rest.
async fn read_some(mut response: Response) -> Vec<u8> {
    let (mut body, mut pieces) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_COMPLAINT_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        pieces += 1;
        if chunk.len() >= room || pieces > MAX_PIECES {
            break;
        }
        consume_budget().await;
    }
    body
}

/// Texts and key stay with the origin that was set, and redirects that would turn the request into another are not
/// followed.
fn may_follow(attempt: &Attempt<'_>) -> bool {
    let is_at_origin =
        attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    is_at_origin && keeps_request(attempt.status()) && attempt.previous().len() <= MAX_REDIRECTS
}

/// Source: RFC 9110, 15.4.8 and 15.4.9.
fn keeps_request(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// None for an answer that leads nowhere else.
fn redirected(response: &Response) -> Option<Redirected> {
    let status = response.status();
    let location = response.headers().get(LOCATION).filter(|_| status.is_redirection())?;
    let to = response.url().join(location.to_str().ok()?).ok()?;
    let origin = origin(&to);
    Some(match to.origin() == response.url().origin() {
        false => Redirected::Elsewhere { status, origin },
        true if keeps_request(status) => Redirected::TooOften { status, origin },
        true => Redirected::Changed { status, origin },
    })
}

/// Scheme, host and port; the scheme alone where there is no host.
fn origin(url: &Url) -> String {
    let origin = url.origin();
    let mut text =
        if origin.is_tuple() { origin.ascii_serialization() } else { format!("{}:", url.scheme()) };
    text.truncate(text.floor_char_boundary(MAX_ORIGIN_BYTES));
    text
}

/// `http://host/v1` means `http://host/v1/chat/completions`.
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

fn trace_headers(trace: &Trace) -> HeaderMap {
    let ids = [
        ("x-request-id", &trace.request_id),
        (TRACEPARENT, &trace.traceparent),
        (TRACESTATE, &trace.tracestate),
    ];
    // What no header can carry is left out.
    let headers = ids.into_iter().filter_map(|(name, id)| {
        Some((HeaderName::from_static(name), HeaderValue::try_from(id.as_deref()?).ok()?))
    });
    headers.collect()
}

fn broken(error: &reqwest::Error) -> Broken {
    let cause = cause(error);
    match error.is_connect() {
        true => Broken::Connect(cause),
        false => Broken::Connection(cause),
    }
}

fn cause(error: &reqwest::Error) -> String {
    root_cause(error).unwrap_or_else(|| "the request failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::completions_url;

    #[test]
    fn a_base_or_the_whole_url_will_do() {
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
