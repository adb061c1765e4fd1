//! Judge settings: the default judge from the top-level settings, and one judge per profile of the file.

use std::path::PathBuf;

use super::{
    reader::{SettingSources, SettingsReader},
    text, url,
};
use crate::{
    judge::{JudgeSettings, Prices, store::StoreMode},
    secret::Secret,
};

/// Name of the judge that the top-level settings configure.
const DEFAULT: &str = "default";

/// Reads the settings of all judges: the default judge first, then the profiles by name.
pub(super) fn settings(r: &mut SettingsReader, sources: &SettingSources<'_>) -> Vec<JudgeSettings> {
    let flat = judge(r, sources, DEFAULT);
    let address = |r: &mut SettingsReader| (r.optional("judge-url", url), r.optional("judge-model", text));
    let flat = match address(r) {
        (Some(url), Some(model)) => Some(JudgeSettings { url, model, ..flat }),
        (Some(_), None) => {
            r.error("judge-url requires judge-model: set it to the name of the model at the endpoint".into());
            None
        }
        (None, Some(_)) => {
            r.error("judge-model requires judge-url: set it to the endpoint that serves the model".into());
            None
        }
        (None, None) => None,
    };
    let mut judges: Vec<JudgeSettings> = flat.into_iter().collect();
    for name in r.profiles() {
        let (profile, address) = r.in_profile(&name, |r| (judge(r, sources, &name), address(r)));
        match address {
            _ if name == DEFAULT => {
                r.error(format!("judges.{DEFAULT}: the name is reserved for the top-level settings: set judge_url and judge_model instead"));
            }
            (Some(url), Some(model)) => judges.push(JudgeSettings { url, model, ..profile }),
            (None, _) => r.error(format!(
                "judges.{name} has no url: set it in the profile, or set judge_url for all profiles"
            )),
            (_, None) => r.error(format!(
                "judges.{name} has no model: set it in the profile, or set judge_model for all profiles"
            )),
        }
    }
    require_distinct_records(r, &judges);
    judges
}

/// Rejects judges that record to the same file, which supports one writer only. Profiles inherit the path.
fn require_distinct_records(r: &mut SettingsReader, judges: &[JudgeSettings]) {
    for (index, judge) in judges.iter().enumerate() {
        let StoreMode::Record(path) = &judge.store else { continue };
        if judges[..index].iter().any(|other| other.store == judge.store) {
            let (name, path) = (&judge.name, path.display());
            r.error(format!(
                "judges.{name} records to {path}, and so does another judge: set a different record file in each profile"
            ));
        }
    }
}

/// Reads all settings of one judge except its URL and model.
fn judge(r: &mut SettingsReader, sources: &SettingSources<'_>, name: &str) -> JudgeSettings {
    let max_concurrency = r.integer("judge-concurrency");
    let defaults = JudgeSettings::new(name, "", "");
    JudgeSettings {
        key: key(r, sources),
        max_concurrency,
        initial_concurrency: defaults.initial_concurrency.min(max_concurrency),
        requests_per_minute: r.optional_integer("judge-requests-per-minute"),
        tokens_per_minute: r.optional_integer("judge-tokens-per-minute"),
        queue: r.integer("judge-queue"),
        connect_timeout: r.duration("judge-connect-timeout"),
        attempt_timeout: r.duration("judge-timeout"),
        attempts: r.integer("judge-attempts"),
        max_answer_tokens: r.integer("judge-max-tokens"),
        temperature: r.decimal("judge-temperature") as f32,
        seed: r.optional_integer("judge-seed"),
        prices: prices(r),
        cache_bytes: r.integer("judge-cache"),
        store: store(r),
        ..defaults
    }
}

/// Reads the API key. A profile with its own URL does not inherit the key of another endpoint.
fn key(r: &mut SettingsReader, sources: &SettingSources<'_>) -> Option<Secret> {
    let read = |path: &str| {
        let key = (sources.read_file)(path).map_err(|error| format!("cannot read the file: {error}"))?;
        match key.trim_end_matches(['\r', '\n']) {
            "" => Err("the file is empty".to_owned()),
            key => Ok(Secret::new(key)),
        }
    };
    let inherits = !r.is_set_in_profile("judge-url");
    let file = r.is_set_in_profile("judge-key-file") || (inherits && !r.is_set_in_profile("judge-key"));
    let given = r.is_set_in_profile("judge-key") || inherits;
    let from_file = if file { r.optional("judge-key-file", read) } else { None };
    from_file.or_else(|| given.then(|| r.optional("judge-key", |key| Ok(Secret::new(key))))?)
}

fn prices(r: &mut SettingsReader) -> Option<Prices> {
    let prompt = r.optional_decimal("judge-price-prompt");
    let cached = r.optional_decimal("judge-price-cached");
    let completion = r.optional_decimal("judge-price-completion");
    match (prompt, completion) {
        (Some(prompt_usd), Some(completion_usd)) => {
            Some(Prices { prompt_usd, cached_prompt_usd: cached.unwrap_or(prompt_usd), completion_usd })
        }
        (None, None) if cached.is_none() => None,
        _ => {
            r.error("judge prices require both judge-price-prompt and judge-price-completion".into());
            None
        }
    }
}

fn store(r: &mut SettingsReader) -> StoreMode {
    let path = |path: &str| Ok(PathBuf::from(path));
    match (r.optional("judge-record", path), r.optional("judge-replay", path)) {
        (None, None) => StoreMode::Off,
        (Some(record), None) => StoreMode::Record(record),
        (None, Some(replay)) => StoreMode::Replay(replay),
        (Some(_), Some(_)) => {
            r.error("judge-record and judge-replay are mutually exclusive: unset one of them".into());
            StoreMode::Off
        }
    }
}
