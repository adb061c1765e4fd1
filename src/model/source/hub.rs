//! Client for the HTTP API of the hub: list the files of a revision, describe a file, download a file.
//!
//! It uses reqwest instead of the hf-hub crate, because hf-hub 1.0 stores every response without checking status, size or
//! checksum, cannot resume a download, has no idle timeout and reads environment variables.

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

/// Maximum redirects. A renamed repository or a mirror needs one or two.
const MAX_REDIRECTS: usize = 5;
/// Maximum pause that a Retry-After header can request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Maximum files that a repository may list. Model repositories have some dozens.
const MAX_LISTED_FILES: usize = 50_000;
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// Client of a hub.
pub(super) struct Hub {
    /// Does not follow redirects: the checksum of a file is in the headers of the redirect to its storage.
    metadata: Client,
    /// Follows redirects. reqwest removes the token if the host or port changes.
    download: Client,
    endpoint: Url,
    token: Option<Secret>,
    idle_timeout: Duration,
    max_listing_bytes: u64,
}

/// Commit and files of a revision.
#[derive(Deserialize)]
pub(super) struct Listing {
    /// Commit.
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

/// Description of a file on the hub.
pub(super) struct RemoteFile {
    pub(super) file: String,
    /// Name of the blob in the cache. Invariant: a safe file name.
    pub(super) etag: String,
    /// Size, if announced.
    pub(super) bytes: Option<u64>,
    /// Checksum, if announced.
    pub(super) sha256: Option<String>,
}

impl Hub {
    pub(super) fn new(settings: &SourceSettings) -> Result<Self, SourceError> {
        // Fails if a provider is already installed, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            metadata: client(settings, Policy::none())?,
            download: client(settings, Policy::limited(MAX_REDIRECTS))?,
            endpoint: parse_url(&settings.endpoint)?,
            token: settings.token.clone(),
            idle_timeout: settings.idle_timeout,
            max_listing_bytes: settings.max_listing_bytes,
        })
    }

    /// Scheme, host and port for messages, without path and credentials.
    pub(super) fn host(&self) -> String {
        origin(&self.endpoint)
    }

    /// Requests the commit and the files of `revision` of the repository `id`.
    pub(super) async fn list(&self, id: &str, revision: &str) -> Result<Listing, FetchAttemptError> {
        let what = format!("{id} at revision {revision}");
        let url = self.url(&format!("api/models/{id}/revision/{}", revision.replace('/', "%2F")));
        let response = self.follow(Method::GET, url, &what).await?.response;
        let body = self.read_listing(response, &what).await?;
        let listing: Listing = serde_json::from_slice(&body)
            .map_err(|error| unusable(&what, format!("the list of files is not valid: {error}")))?;
        if listing.siblings.len() > MAX_LISTED_FILES {
            let files = listing.siblings.len();
            return Err(unusable(
                &what,
                format!("the repository lists {files} files, the limit is {MAX_LISTED_FILES}"),
            )
            .into());
        }
        if !is_commit(&listing.sha) {
            return Err(unusable(&what, "the list of files has no valid commit".to_owned()).into());
        }
        Ok(listing)
    }

    /// Reads the response in chunks, so that an oversized list is never held in memory.
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
            let Some(chunk) = chunk.map_err(|error| self.connection_error(error))? else { return Ok(body) };
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large().into());
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// Requests the size and checksum of a file.
    pub(super) async fn describe(&self, path: &FilePath<'_>) -> Result<RemoteFile, FetchAttemptError> {
        let what = path.to_string();
        let HubResponse { response, first_etag } =
            self.follow(Method::HEAD, self.url(&path.resolve()), &what).await?;
        let headers = response.headers();
        let linked_etag = header(headers, LINKED_ETAG).map(bare);
        // Only the linked ETag is a checksum. The storage behind the hub has ETags that look similar.
        let sha256 = linked_etag.filter(|etag| is_sha256(etag)).map(str::to_owned);
        let etag = linked_etag.map(str::to_owned).or(first_etag).filter(|etag| is_file_name(etag));
        let etag = etag.ok_or_else(|| unusable(&what, "the response has no valid ETag header".to_owned()))?;
        // The Content-Length of a redirect is not the size of the file.
        let own_length =
            || header(headers, CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
        let bytes = header(headers, LINKED_SIZE).or_else(own_length).and_then(|bytes| bytes.parse().ok());
        Ok(RemoteFile { file: path.file.to_owned(), etag, bytes, sha256 })
    }

    /// Starts a download at byte `from`. The server may still send the whole file with status 200.
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

    /// Converts a connection error. The message has no URL, since URLs of the storage contain signatures.
    pub(super) fn connection_error(&self, error: reqwest::Error) -> RetryableFetchError {
        let root = cause(&error);
        let reason = if error.is_connect() { format!("cannot connect: {root}") } else { root };
        let elsewhere = error.url().map(origin).filter(|host| *host != self.host());
        RetryableFetchError::new(match elsewhere {
            Some(host) => format!("{host}: {reason}"),
            None => reason,
        })
    }

    /// Error for a response that sent no data within the idle timeout.
    pub(super) fn stalled(&self) -> RetryableFetchError {
        RetryableFetchError::new(format!(
            "no data received for {}",
            humantime::format_duration(self.idle_timeout)
        ))
    }

    /// Sends a request and follows redirects up to the response with the metadata of the file.
    async fn follow(
        &self,
        method: Method,
        mut url: Url,
        what: &str,
    ) -> Result<HubResponse, FetchAttemptError> {
        let mut first_etag = None;
        for _ in 0..MAX_REDIRECTS {
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
            url = url
                .join(next)
                .map_err(|_| unusable(what, "a redirect has an invalid location".to_owned()))?;
        }
        Err(unusable(what, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RetryableFetchError> {
        // Compressed responses would not have the announced length.
        let sent = timeout(self.idle_timeout, request.header(ACCEPT_ENCODING, "identity").send()).await;
        sent.map_err(|_| self.stalled())?.map_err(|error| self.connection_error(error))
    }

    /// Adds the token, but only to requests to the hub itself.
    fn authorized(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        match &self.token {
            Some(token) if url.origin() == self.endpoint.origin() => request.bearer_auth(token.expose()),
            _ => request,
        }
    }

    fn refusal(&self, response: &Response, what: &str) -> FetchAttemptError {
        let (what, host, status) = (what.to_owned(), self.host(), response.status());
        // The storage responds with 403 to an expired link. The next attempt gets a new one.
        let at_hub = response.url().origin() == self.endpoint.origin();
        if !at_hub || is_retryable(status) {
            let seconds = header(response.headers(), RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
            let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
            let reason = format!("{} responded with {status}", origin(response.url()));
            return RetryableFetchError { retry_after, ..RetryableFetchError::new(reason) }.into();
        }
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SourceError::Denied { what, host, advice: self.advice(response.headers()) }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => SourceError::NotFound { what, host },
            _ => unusable(&what, format!("{host} responded with {status}")),
        };
        error.into()
    }

    fn advice(&self, headers: &HeaderMap) -> &'static str {
        let gated = header(headers, "x-error-code") == Some("GatedRepo");
        match (&self.token, gated) {
            (None, true) => "the repository is gated; accept its terms on the hub and set HF_TOKEN",
            (Some(_), true) => {
                "the repository is gated; accept its terms on the hub with the account of HF_TOKEN"
            }
            (None, false) => "the repository does not exist or is private; check --model or set HF_TOKEN",
            (Some(_), false) => "the token is not authorized for the repository; check --model and HF_TOKEN",
        }
    }

    /// URL of `path` on the hub. A query of the endpoint, such as the key of a mirror, is kept.
    fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/{path}", self.endpoint.path().trim_end_matches('/')));
        url
    }
}

/// Path of a file in one commit of a repository.
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

/// Response after redirects.
struct HubResponse {
    response: Response,
    /// ETag of the first response that had one. Later responses are from the storage.
    first_etag: Option<String>,
}

/// Creates an HTTP/1.1 client. For one large file at a time, HTTP/2 flow control only costs throughput.
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

/// Removes weakness prefix and quotes of an ETag: `W/"abc"` becomes `abc`.
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
