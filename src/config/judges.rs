//! Judges: one from the flat settings, and one from each profile of the file.

use std::path::PathBuf;

use super::{
    reader::{Reader, Sources},
    text, url,
};
use crate::{
    judge::{Prices, Settings, store::Mode},
    secret::Secret,
};

/// The name of the judge that is not in a profile.
const DEFAULT: &str = "default";

/// The default one first, then the others by name.
pub(super) fn settings(r: &mut Reader, sources: &Sources<'_>) -> Vec<Settings> {
    let flat = judge(r, sources, DEFAULT);
    let address = |r: &mut Reader| (r.optional("judge-url", url), r.optional("judge-model", text));
    let flat = match address(r) {
        (Some(url), Some(model)) => Some(Settings { url, model, ..flat }),
        (Some(_), None) => {
            r.mistake("judge-url is set and judge-model is not: set it to the model's name there".into());
            None
        }
        (None, Some(_)) => {
            r.mistake(
                "judge-model is set and judge-url is not: set it to the endpoint that serves it".into(),
            );
            None
        }
        (None, None) => None,
    };
    let mut judges: Vec<Settings> = flat.into_iter().collect();
    for name in r.profiles() {
        let (of_profile, address) = r.within(&name, |r| (judge(r, sources, &name), address(r)));
        match address {
            _ if name == DEFAULT => {
                r.mistake(format!("judges.{DEFAULT}: set judge_url and judge_model in its place"));
            }
            (Some(url), Some(model)) => judges.push(Settings { url, model, ..of_profile }),
            (None, _) => r.mistake(format!("judges.{name} has no url: set it there, or judge_url for all")),
            (_, None) => {
                r.mistake(format!("judges.{name} has no model: set it there, or judge_model for all"))
            }
        }
    }
    one_writer_each(r, &judges);
    judges
}

/// A file of recorded answers takes one writer, and profiles inherit its path.
fn one_writer_each(r: &mut Reader, judges: &[Settings]) {
    for (index, judge) in judges.iter().enumerate() {
        let Mode::Record(path) = &judge.store else { continue };
        if judges[..index].iter().any(|other| other.store == judge.store) {
            let (name, path) = (&judge.name, path.display());
            r.mistake(format!(
                "judges.{name} records into {path}, as another judge does: set record in each profile"
            ));
        }
    }
}

/// All but its address.
fn judge(r: &mut Reader, sources: &Sources<'_>, name: &str) -> Settings {
    let max_concurrency = r.whole("judge-concurrency");
    let defaults = Settings::new(name, "", "");
    Settings {
        key: key(r, sources),
        max_concurrency,
        initial_concurrency: defaults.initial_concurrency.min(max_concurrency),
        requests_per_minute: r.optional_whole("judge-requests-per-minute"),
        tokens_per_minute: r.optional_whole("judge-tokens-per-minute"),
        queue: r.whole("judge-queue"),
        connect_timeout: r.duration("judge-connect-timeout"),
        attempt_timeout: r.duration("judge-timeout"),
        attempts: r.whole("judge-attempts"),
        max_answer_tokens: r.whole("judge-max-tokens"),
        temperature: r.decimal("judge-temperature") as f32,
        seed: r.optional_whole("judge-seed"),
        prices: prices(r),
        cache_bytes: r.whole("judge-cache"),
        store: store(r),
        ..defaults
    }
}

/// A profile with a URL of its own does not send it the key of another endpoint.
fn key(r: &mut Reader, sources: &Sources<'_>) -> Option<Secret> {
    let read = |path: &str| {
        let key = (sources.read_file)(path).map_err(|error| format!("it cannot be read: {error}"))?;
        match key.trim_end_matches(['\r', '\n']) {
            "" => Err("the file is empty".to_owned()),
            key => Ok(Secret::new(key)),
        }
    };
    let inherits = !r.is_own("judge-url");
    let file = r.is_own("judge-key-file") || (inherits && !r.is_own("judge-key"));
    let given = r.is_own("judge-key") || inherits;
    let from_file = if file { r.optional("judge-key-file", read) } else { None };
    from_file.or_else(|| given.then(|| r.optional("judge-key", |key| Ok(Secret::new(key))))?)
}

fn prices(r: &mut Reader) -> Option<Prices> {
    let prompt = r.optional_decimal("judge-price-prompt");
    let cached = r.optional_decimal("judge-price-cached");
    let completion = r.optional_decimal("judge-price-completion");
    match (prompt, completion) {
        (Some(prompt_usd), Some(completion_usd)) => {
            Some(Prices { prompt_usd, cached_prompt_usd: cached.unwrap_or(prompt_usd), completion_usd })
        }
        (None, None) if cached.is_none() => None,
        _ => {
            r.mistake("prices need both judge-price-prompt and judge-price-completion".into());
            None
        }
    }
}

fn store(r: &mut Reader) -> Mode {
    let path = |path: &str| Ok(PathBuf::from(path));
    match (r.optional("judge-record", path), r.optional("judge-replay", path)) {
        (None, None) => Mode::Off,
        (Some(record), None) => Mode::Record(record),
        (None, Some(replay)) => Mode::Replay(replay),
        (Some(_), Some(_)) => {
            r.mistake("judge-record and judge-replay are both set: answers are either added or read".into());
            Mode::Off
        }
    }
}
