//! Who may call, and what each caller may take.

use std::path::PathBuf;

use super::reader::Reader;
use crate::rpc::{
    CallerLimits, TlsFiles,
    guard::{OpenService, Security},
};

pub(super) fn settings(r: &mut Reader) -> Security {
    Security {
        tls: tls(r),
        token_file: r.optional("token-file", path),
        open: r.required("open-services", Vec::new(), open_services),
        caller_limits: CallerLimits {
            calls: r.optional_whole("caller-calls"),
            requests_per_minute: r.optional_whole("caller-requests-per-minute"),
            callers: r.whole("callers"),
        },
        reload_every: r.duration("reload-every"),
    }
}

fn tls(r: &mut Reader) -> Option<TlsFiles> {
    let client_authorities = r.optional("tls-client-ca", path);
    match (r.optional("tls-cert", path), r.optional("tls-key", path)) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_authorities }),
        (None, None) if client_authorities.is_none() => None,
        _ => {
            r.mistake("TLS needs both tls-cert and tls-key, and tls-client-ca needs TLS".into());
            None
        }
    }
}

fn path(value: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(value))
}

fn open_services(value: &str) -> Result<Vec<OpenService>, String> {
    if value == "none" {
        return Ok(Vec::new());
    }
    let service = |name: &str| match name.trim() {
        "health" => Ok(OpenService::Health),
        "reflection" => Ok(OpenService::Reflection),
        _ => Err("health, reflection, both with a comma, or none is needed".to_owned()),
    };
    value.split(',').map(service).collect()
}
