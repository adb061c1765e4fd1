//! Responses of the fake hub.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    time::SystemTime,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::{Fault, MODEL_ID, lock};

pub struct Shared {
    pub model_dir: PathBuf,
    pub storage_url: Mutex<String>,
    pub inner: Mutex<Inner>,
    pub changed: Condvar,
}

#[derive(Default)]
pub struct Inner {
    pub fault: Option<(Fault, usize)>,
    pub requests: Vec<String>,
    pub uses_storage: bool,
    pub ignores_ranges: bool,
    pub required_token: Option<String>,
    pub storage_saw_token: bool,
    /// The list never ends.
    pub lists_without_end: bool,
    /// Number of listed files that do not exist.
    pub listed_beside: usize,
    /// File that is announced without size and checksum.
    pub unsized_file: Option<UnsizedFile>,
    pub hashes: HashMap<(PathBuf, u64, SystemTime), String>,
}

#[derive(Clone)]
pub struct UnsizedFile {
    pub name: String,
    pub is_endless: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Hub,
    Storage,
}

pub fn router(shared: &Arc<Shared>, role: Role) -> Router {
    Router::new().fallback(answer).with_state((Arc::clone(shared), role))
}

async fn answer(State((shared, role)): State<(Arc<Shared>, Role)>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let place = Place::parse(role, parts.uri.path());
    shared.log(&parts.method, &place, &parts.headers);
    match shared.take_fault(|fault| !fault.concerns_bodies()) {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Unavailable { retry_after_seconds }) => return unavailable(retry_after_seconds),
        _ => {}
    }
    if role == Role::Hub && !shared.admits(&parts.headers) {
        return (StatusCode::UNAUTHORIZED, [("x-error-code", "GatedRepo")]).into_response();
    }
    match place {
        Place::List { revision } => shared.list(&revision),
        Place::Resolve { file } => shared.resolve(&file, &parts.method, &parts.headers),
        Place::Content { file } => shared.content(&file, &parts.method, &parts.headers),
        Place::Nowhere { .. } => (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")]).into_response(),
    }
}

enum Place {
    List { revision: String },
    Resolve { file: String },
    Content { file: String },
    Nowhere { path: String },
}

impl Place {
    fn parse(role: Role, path: &str) -> Self {
        let nowhere = || Self::Nowhere { path: path.to_owned() };
        if role == Role::Storage {
            return Self::Content { file: path.trim_start_matches('/').to_owned() };
        }
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{MODEL_ID}/revision/")) {
            return Self::List { revision: revision.to_owned() };
        }
        if let Some(file) = path.strip_prefix("/api/resolve-cache/") {
            return Self::Content { file: file.to_owned() };
        }
        let resolve = path.strip_prefix(&format!("/{MODEL_ID}/resolve/"));
        let file = resolve.and_then(|path| path.split_once('/')).map(|(_revision, file)| file.to_owned());
        file.map_or_else(nowhere, |file| Self::Resolve { file })
    }
}

impl Shared {
    fn log(&self, method: &Method, place: &Place, headers: &HeaderMap) {
        let what = match place {
            Place::List { .. } => "list".to_owned(),
            Place::Resolve { file } => file.clone(),
            Place::Content { file } => format!("storage {file}"),
            Place::Nowhere { path } => path.clone(),
        };
        let from = start_of_range(headers).map(|from| format!(" from {from}")).unwrap_or_default();
        let mut inner = lock(&self.inner);
        inner.requests.push(format!("{method} {what}{from}"));
        let is_weights = matches!(place, Place::Content { file } if is_weights(file));
        inner.storage_saw_token |= is_weights && headers.contains_key(header::AUTHORIZATION);
        self.changed.notify_all();
    }

    fn take_fault(&self, concerned: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut inner = lock(&self.inner);
        let (fault, times) = inner.fault.filter(|(fault, _)| concerned(*fault))?;
        inner.fault = (times > 1).then(|| (fault, times - 1));
        Some(fault)
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let expected = lock(&self.inner).required_token.as_ref().map(|token| format!("Bearer {token}"));
        expected.is_none_or(|expected| {
            headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes())
        })
    }

    fn list(&self, revision: &str) -> Response {
        let commit = self.commit();
        if revision != "main" && revision != commit {
            return (StatusCode::NOT_FOUND, [("x-error-code", "RevisionNotFound")]).into_response();
        }
        let (without_end, beside) = {
            let inner = lock(&self.inner);
            (inner.lists_without_end, inner.listed_beside)
        };
        if without_end {
            return endless(&format!("{{\"sha\": \"{commit}\", \"siblings\": ["), "{\"rfilename\": \"a\"},");
        }
        let beside = (0..beside).map(|number| format!("beside-{number}"));
        let files = self.files().into_iter().chain(beside);
        let siblings: Vec<_> = files.map(|file| serde_json::json!({ "rfilename": file })).collect();
        let list = serde_json::json!({ "id": MODEL_ID, "sha": commit, "siblings": siblings });
        ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
    }

    fn resolve(&self, file: &str, method: &Method, headers: &HeaderMap) -> Response {
        let path = self.model_dir.join(file);
        if !path.is_file() {
            return (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response();
        }
        let uses_storage = lock(&self.inner).uses_storage;
        let mut response = match (uses_storage, is_weights(file)) {
            (true, true) => redirect(&format!("{}/{file}?signature=s", lock(&self.storage_url))),
            (true, false) => redirect(&format!("/api/resolve-cache/{file}?etag=e")),
            (false, _) => None,
        }
        .unwrap_or_else(|| self.content(file, method, headers));
        self.describe(&path, file, response.headers_mut());
        response
    }

    /// ETag of a file: the checksum for large files and a git id for small ones, as on the real hub.
    fn describe(&self, path: &Path, file: &str, headers: &mut HeaderMap) {
        let (hash, bytes) = (self.hash(path), fs::metadata(path).expect("a served file").len());
        let value = |text: String| text.parse::<http::HeaderValue>().expect("plain ASCII");
        headers.insert("x-repo-commit", value(self.commit()));
        if is_weights(file) && self.unsized_file(file).is_none() {
            headers.insert("x-linked-etag", value(format!("\"{hash}\"")));
            headers.insert("x-linked-size", value(bytes.to_string()));
        } else {
            headers.insert(header::ETAG, value(format!("\"{}\"", &hash[..40])));
        }
    }

    fn unsized_file(&self, file: &str) -> Option<UnsizedFile> {
        lock(&self.inner).unsized_file.clone().filter(|unsized_file| unsized_file.name == file)
    }

    /// ETag of the storage, which looks like a checksum but is not one.
    fn content(&self, file: &str, method: &Method, headers: &HeaderMap) -> Response {
        let Ok(whole) = fs::read(self.model_dir.join(file)) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        if let Some(unsized_file) = self.unsized_file(file) {
            let whole = String::from_utf8_lossy(&whole);
            return match unsized_file.is_endless {
                true => endless(&whole, &" ".repeat(4096)),
                false => Body::from_stream(head(Bytes::from(whole.into_owned()), usize::MAX)).into_response(),
            };
        }
        let ranges = !lock(&self.inner).ignores_ranges;
        let from = start_of_range(headers).filter(|_| ranges).unwrap_or(0);
        if from > 0 && from >= whole.len() {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        let rest = Bytes::from(whole).slice(from..);
        let mut response = Response::builder().header(header::CONTENT_LENGTH, rest.len());
        response = response.header(header::ETAG, format!("\"{}\"", "5".repeat(64)));
        if from > 0 {
            let total = from + rest.len();
            response = response.status(StatusCode::PARTIAL_CONTENT);
            response = response.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{total}", total - 1));
        }
        let body = if method == Method::HEAD { Body::empty() } else { self.body(file, rest) };
        response.body(body).expect("valid headers")
    }

    fn body(&self, file: &str, bytes: Bytes) -> Body {
        let fault = if is_weights(file) { self.take_fault(Fault::concerns_bodies) } else { None };
        match fault {
            Some(Fault::Stall { after_bytes }) => {
                Body::from_stream(head(bytes, after_bytes).chain(stream::pending()))
            }
            Some(Fault::Short { after_bytes }) => {
                let cut = stream::once(async { Err(std::io::Error::other("cut")) });
                Body::from_stream(head(bytes, after_bytes).chain(cut))
            }
            Some(Fault::WrongBytes) => Body::from(bytes.iter().map(|byte| !byte).collect::<Vec<u8>>()),
            _ => Body::from(bytes),
        }
    }

    pub fn commit(&self) -> String {
        let mut hasher = Sha256::new();
        for file in self.files() {
            hasher.update(self.hash(&self.model_dir.join(&file)));
            hasher.update(file);
        }
        hex(&hasher.finalize())[..40].to_owned()
    }

    /// Checksum of a file, cached because weights may be large.
    fn hash(&self, path: &Path) -> String {
        let metadata = fs::metadata(path).expect("a served file");
        let key = (path.to_owned(), metadata.len(), metadata.modified().expect("a time"));
        if let Some(hash) = lock(&self.inner).hashes.get(&key) {
            return hash.clone();
        }
        let hash = hex(&Sha256::digest(fs::read(path).expect("a served file")));
        lock(&self.inner).hashes.insert(key, hash.clone());
        hash
    }

    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.model_dir, "", &mut files);
        files.sort();
        files
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("the served directory").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), files),
            false => files.push(name),
        }
    }
}

fn head(bytes: Bytes, length: usize) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let head = bytes.slice(..length.min(bytes.len()));
    // A pause lets the bytes leave before the connection is closed.
    stream::once(async move { Ok(head) }).chain(stream::once(async {
        tokio::task::yield_now().await;
        Ok(Bytes::new())
    }))
}

/// An endless body without a length.
fn endless(start: &str, more: &str) -> Response {
    let (start, more) = (Bytes::from(start.to_owned()), Bytes::from(more.to_owned()));
    let pieces = stream::iter([start]).chain(stream::repeat(more));
    Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>)).into_response()
}

fn redirect(location: &str) -> Option<Response> {
    Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location.to_owned())]).into_response())
}

fn unavailable(retry_after_seconds: Option<u64>) -> Response {
    let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
    if let Some(seconds) = retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors")
}

/// Parses `bytes=100-`.
fn start_of_range(headers: &HeaderMap) -> Option<usize> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
