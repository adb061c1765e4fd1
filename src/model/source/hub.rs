//! The three requests of the hub's HTTP API that fetching a model takes.
//!
//! Written on reqwest rather than on the hf-hub crate: hf-hub 1.0 stores whatever a download
//! answers (no check of status, size or checksum), starts again from zero after a cut, has no
//! idle limit, and reads the environment on its own.

use std::time::Duration;

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    SourceSettings,
    cache::is_commit,
    error::{FetchAttemptError, RetryableFetchError, SourceError},
    verify::is_sha256,
};
use crate::{
    root_cause::root_cause,
    secret::{Secret, shown_url},
};

/// A renamed repository or a mirror takes one or two hops; more is a loop.
const MAX_HOPS: usize = 5;
/// A server that asks for a longer pause than this is asked again sooner.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Repositories of models have some dozens.
const MAX_LISTED_FILES: usize = 50_000;
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

pub(super) struct Hub {
    /// Follows nothing: a file's checksum is in the headers of the redirect to its storage.
    metadata: Client,
    /// Follows redirects; reqwest drops the token where host or port change.
    download: Client,
    endpoint: Url,
    token: Option<Secret>,
    idle_timeout: Duration,
    max_listing_bytes: u64,
}

/// What a revision means right now.
#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(super) fn paths(&self) -> Vec<String> {
        self.siblings.iter().map(|sibling| sibling.rfilename.clone()).collect()
    }
}

/// A file as the hub describes it.
pub(super) struct RemoteFile {
    pub(super) file: String,
    /// Names the blob in the cache. Invariant: safe as a file name.
    pub(super) etag: String,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

impl Hub {
    pub(super) fn new(settings: &SourceSettings) -> Result<Self, SourceError> {
        // Fails when a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            metadata: client(settings, Policy::none())?,
            download: client(settings, Policy::limited(MAX_HOPS))?,
            endpoint: parse_url(&settings.endpoint)?,
            token: settings.token.clone(),
            idle_timeout: settings.idle_timeout,
            max_listing_bytes: settings.max_listing_bytes,
        })
    }

    /// Scheme, host and port, without path or credentials, for messages.
    pub(super) fn host(&self) -> String {
        origin(&self.endpoint)
    }

    /// Asks what `revision` of `id` is and which files it has.
    pub(super) async fn list(&self, id: &str, revision: &str) -> Result<Listing, FetchAttemptError> {
        let what = format!("{id} at revision {revision}");
        let url = self.url(&format!("api/models/{id}/revision/{}", revision.replace('/', "%2F")));
        let response = self.follow(Method::GET, url, &what).await?.response;
        let body = self.read_listing(response, &what).await?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| {
            unusable(&what, format!("the list of files is not what a hub sends ({error})"))
        })?;
        if listing.siblings.len() > MAX_LISTED_FILES {
            let files = listing.siblings.len();
            return Err(
                unusable(&what, format!("it lists {files} files, the limit is {MAX_LISTED_FILES}")).into()
            );
        }
        if !is_commit(&listing.sha) {
            return Err(unusable(&what, "the list of files names no commit".to_owned()).into());
        }
        Ok(listing)
    }

    /// Reads piece by piece, so that a list that is too large is never held.
    async fn read_listing(&self, mut response: Response, what: &str) -> Result<Vec<u8>, FetchAttemptError> {
        let limit = self.max_listing_bytes;
        let too_large = || SourceError::TooLarge {
            what: format!("the list of files of {what} from {}", self.host()),
            limit,
            setting: "hub-max-listing-bytes",
        };
        if response.content_length().is_some_and(|bytes| bytes > limit) {
            return Err(too_large().into());
        }
        let mut body = Vec::new();
        loop {
            let chunk = timeout(self.idle_timeout, response.chunk()).await.map_err(|_| self.stalled())?;
            let Some(chunk) = chunk.map_err(|error| self.trouble(error))? else { return Ok(body) };
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large().into());
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// Asks for a file's size and checksum.
    pub(super) async fn describe(&self, path: &FilePath<'_>) -> Result<RemoteFile, FetchAttemptError> {
        let what = path.to_string();
        let HubResponse { response, first_etag } =
            self.follow(Method::HEAD, self.url(&path.resolve()), &what).await?;
        let headers = response.headers();
        let linked_etag = header(headers, LINKED_ETAG).map(bare);
        // Only the linked tag is a checksum: storage behind the hub has tags of its own that look alike.
        let sha256 = linked_etag.filter(|etag| is_sha256(etag)).map(str::to_owned);
        let etag = linked_etag.map(str::to_owned).or(first_etag).filter(|etag| is_file_name(etag));
        let etag = etag.ok_or_else(|| unusable(&what, "no usable ETag header".to_owned()))?;
        // The length of a redirect is not that of the file.
        let own_length =
            || header(headers, CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
        let bytes = header(headers, LINKED_SIZE).or_else(own_length).and_then(|bytes| bytes.parse().ok());
        Ok(RemoteFile { file: path.file.to_owned(), etag, bytes, sha256 })
    }

    /// Starts a download at byte `from`. The answer may be the whole file all the same (status 200).
    pub(super) async fn open(&self, path: &FilePath<'_>, from: u64) -> Result<Response, FetchAttemptError> {
        let url = self.url(&path.resolve());
        let mut request = self.authorized(self.download.get(url.clone()), &url);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = self.send(request).await?;
        if response.status().is_success() || response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        Err(self.refusal(&response, &path.to_string()))
    }

    /// The failure of a connection, without the URL: those of storage carry signatures.
    pub(super) fn trouble(&self, error: reqwest::Error) -> RetryableFetchError {
        let root = cause(&error);
        let reason = if error.is_connect() { format!("cannot connect: {root}") } else { root };
        let elsewhere = error.url().map(origin).filter(|host| *host != self.host());
        RetryableFetchError::new(match elsewhere {
            Some(host) => format!("{host}: {reason}"),
            None => reason,
        })
    }

    pub(super) fn stalled(&self) -> RetryableFetchError {
        RetryableFetchError::new(format!("no bytes for {}", humantime::format_duration(self.idle_timeout)))
    }

    /// Sends a request, following redirects up to the one that carries the file's metadata.
    async fn follow(
        &self,
        method: Method,
        mut url: Url,
        what: &str,
    ) -> Result<HubResponse, FetchAttemptError> {
        let mut first_etag = None;
        for _ in 0..MAX_HOPS {
            let request = self.metadata.request(method.clone(), url.clone());
            let response = self.send(self.authorized(request, &url)).await?;
            let headers = response.headers();
            first_etag =
                first_etag.or_else(|| header(headers, ETAG.as_str()).map(|etag| bare(etag).to_owned()));
            if response.status().is_success() || headers.contains_key(LINKED_ETAG) {
                return Ok(HubResponse { response, first_etag });
            }
            let next = header(headers, LOCATION.as_str()).filter(|_| response.status().is_redirection());
            let Some(next) = next else { return Err(self.refusal(&response, what)) };
            url = url.join(next).map_err(|_| unusable(what, "a redirect to nowhere".to_owned()))?;
        }
        Err(unusable(what, format!("more than {MAX_HOPS} redirects")).into())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RetryableFetchError> {
        // Compressed answers have other lengths than the ones announced.
        let sent = timeout(self.idle_timeout, request.header(ACCEPT_ENCODING, "identity").send()).await;
        sent.map_err(|_| self.stalled())?.map_err(|error| self.trouble(error))
    }

    /// The token goes to the hub alone.
    fn authorized(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        match &self.token {
            Some(token) if url.origin() == self.endpoint.origin() => request.bearer_auth(token.expose()),
            _ => request,
        }
    }

    fn refusal(&self, response: &Response, what: &str) -> FetchAttemptError {
        let (what, host, status) = (what.to_owned(), self.host(), response.status());
        // Storage answers 403 to a link that has expired; the next attempt gets a fresh one.
        let at_hub = response.url().origin() == self.endpoint.origin();
        if !at_hub || is_retryable(status) {
            let seconds = header(response.headers(), RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
            let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
            let reason = format!("{} answered {status}", origin(response.url()));
            return RetryableFetchError { retry_after, ..RetryableFetchError::new(reason) }.into();
        }
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SourceError::Denied { what, host, advice: self.advice(response.headers()) }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => SourceError::NotFound { what, host },
            _ => unusable(&what, format!("{host} answered {status}")),
        };
        error.into()
    }

    fn advice(&self, headers: &HeaderMap) -> &'static str {
        let gated = header(headers, "x-error-code") == Some("GatedRepo");
        match (&self.token, gated) {
            (None, true) => "it is gated; accept its terms on the hub, then set HF_TOKEN",
            (Some(_), true) => "it is gated; accept its terms on the hub with the account of HF_TOKEN",
            (None, false) => "it does not exist or is private; check --model, or set HF_TOKEN",
            (Some(_), false) => "the token is not valid for it; check --model and HF_TOKEN",
        }
    }

    /// A query of the endpoint, such as the key of a mirror, stays behind the path.
    fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/{path}", self.endpoint.path().trim_end_matches('/')));
        url
    }
}

/// A file of one commit of a repository.
pub(super) struct FilePath<'a> {
    pub(super) id: &'a str,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
}

impl FilePath<'_> {
    fn resolve(&self) -> String {
        format!("{}/resolve/{}/{}", self.id, self.commit, self.file)
    }
}

impl std::fmt::Display for FilePath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.file, self.id)
    }
}

struct HubResponse {
    response: Response,
    /// Of the first hop that had one: later hops are storage.
    first_etag: Option<String>,
}

/// HTTP/1.1 alone: for one big file at a time, HTTP/2 flow control only costs throughput.
fn client(settings: &SourceSettings, redirects: Policy) -> Result<Client, SourceError> {
    Client::builder()
        .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .redirect(redirects)
        .http1_only()
        .build()
        .map_err(|error| SourceError::Client { reason: cause(&error) })
}

fn parse_url(text: &str) -> Result<Url, SourceError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| SourceError::BadEndpoint { endpoint: shown_url(text) })
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `W/"abc"` -> `abc`
fn bare(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

fn is_file_name(etag: &str) -> bool {
    (1..=128).contains(&etag.len())
        && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn is_retryable(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn unusable(what: &str, reason: String) -> SourceError {
    SourceError::Unusable { what: what.to_owned(), reason }
}

fn cause(error: &reqwest::Error) -> String {
    root_cause(error).unwrap_or_else(|| "the request failed".to_owned())
}
