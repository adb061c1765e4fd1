//! Security settings: TLS, tokens and limits per client.

use std::path::PathBuf;

use super::reader::SettingsReader;
use crate::rpc::{
    CallerLimits, TlsFiles,
    guard::{OpenService, Security},
};

pub(super) fn settings(r: &mut SettingsReader) -> Security {
    Security {
        tls: tls(r),
        token_file: r.optional("token-file", path),
        open: r.required("open-services", Vec::new(), open_services),
        caller_limits: CallerLimits {
            calls: r.optional_integer("caller-calls"),
            requests_per_minute: r.optional_integer("caller-requests-per-minute"),
            callers: r.integer("callers"),
        },
        reload_every: r.duration("reload-every"),
    }
}

fn tls(r: &mut SettingsReader) -> Option<TlsFiles> {
    let client_authorities = r.optional("tls-client-ca", path);
    match (r.optional("tls-cert", path), r.optional("tls-key", path)) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_authorities }),
        (None, None) if client_authorities.is_none() => None,
        _ => {
            r.error("TLS requires both tls-cert and tls-key, and tls-client-ca requires TLS".into());
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
        _ => Err("must be health, reflection, both separated by a comma, or none".to_owned()),
    };
    value.split(',').map(service).collect()
}
