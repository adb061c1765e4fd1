//! Values by precedence: flag, environment, file, default. Collects all mistakes.

use std::{collections::BTreeMap, fmt};

use clap::ArgMatches;

use super::table::{SETTINGS, Setting};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    Variable(String),
    File(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The outside world, as far as settings are concerned.
pub(super) struct Sources<'a> {
    pub flags: &'a ArgMatches,
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
}

pub(super) struct Reader {
    values: BTreeMap<&'static str, (String, Origin)>,
    mistakes: Vec<String>,
}

impl Reader {
    pub fn new(sources: &Sources<'_>) -> Reader {
        let mut reader = Reader { values: BTreeMap::new(), mistakes: Vec::new() };
        let flag = |name: &str| sources.flags.try_get_one::<String>(name).ok().flatten().cloned();
        let file = flag("config").or_else(|| (sources.variable)("ASSAY_CONFIG"));
        let file = file.map(|path| reader.file(&path, sources)).unwrap_or_default();
        for setting in &SETTINGS {
            let value = flag(setting.name)
                .map(|value| (value, Origin::Flag))
                .or_else(|| variable(setting, sources))
                .or_else(|| file.get(&setting.key()).cloned())
                .or_else(|| Some((setting.default.to_owned(), Origin::Default)));
            if let Some(value) = value.filter(|(value, _)| !value.is_empty()) {
                reader.values.insert(setting.name, value);
            }
        }
        reader
    }

    /// The value of a setting, if it is set; a mistake counts as not set.
    pub fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let setting = Setting::of(name);
        let (value, origin) = self.values.get(setting.name)?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(mistake) => {
                let shown = if setting.secret { "…" } else { value };
                self.mistakes.push(format!("{name} = {shown:?} ({origin}): {mistake}"));
                None
            }
        }
    }

    /// As [`Reader::optional`]; `stand_in` only stands until the mistakes are reported.
    pub fn required<T>(
        &mut self,
        name: &str,
        stand_in: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(name, parse).unwrap_or(stand_in)
    }

    pub fn mistake(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }

    pub fn finish(self) -> (Vec<String>, Shown) {
        (self.mistakes, Shown(self.values))
    }

    fn file(&mut self, path: &str, sources: &Sources<'_>) -> BTreeMap<String, (String, Origin)> {
        let table = (sources.read_file)(path).and_then(|text| {
            text.parse::<toml::Table>().map_err(|error| error.to_string().trim_end().to_owned())
        });
        let table = match table {
            Ok(table) => table,
            Err(mistake) => {
                self.mistakes.push(format!("{path}: {mistake}"));
                return BTreeMap::new();
            }
        };
        let mut values = BTreeMap::new();
        for (key, value) in table {
            if !SETTINGS.iter().any(|setting| setting.key() == key) {
                self.mistakes.push(format!("{path}: there is no setting {key}; see assay --help"));
            } else if let Some(value) = scalar(&value) {
                values.insert(key, (value, Origin::File(path.to_owned())));
            } else {
                self.mistakes
                    .push(format!("{path}: {key} must be a string, a number, a boolean or a list of these"));
            }
        }
        values
    }
}

/// The settings in force, in the form of the file; secrets hidden.
#[derive(Clone, Debug)]
pub struct Shown(BTreeMap<&'static str, (String, Origin)>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in &SETTINGS {
            match self.0.get(setting.name) {
                Some((_, origin)) if setting.secret => {
                    writeln!(f, "{} = \"(hidden)\" # {origin}", setting.key())?
                }
                Some((value, origin)) => {
                    writeln!(f, "{} = {} # {origin}", setting.key(), toml::Value::from(value.as_str()))?;
                }
                None => writeln!(f, "# {} is not set", setting.key())?,
            }
        }
        Ok(())
    }
}

fn variable(setting: &Setting, sources: &Sources<'_>) -> Option<(String, Origin)> {
    let names =
        std::iter::once(setting.variable()).chain(setting.fallbacks.iter().map(|&name| name.to_owned()));
    names
        .filter_map(|name| (sources.variable)(&name).map(|value| (value, Origin::Variable(name))))
        .find(|(value, _)| !value.is_empty())
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        _ => None,
    }
}
