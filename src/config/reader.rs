//! Resolves each setting by precedence: flag, environment variable, file, default. Collects all errors.

use std::{collections::BTreeMap, fmt, time::Duration};

use clap::ArgMatches;

use super::{
    kind::ValueKind,
    table::{SETTINGS, Setting},
};

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueOrigin {
    Flag,
    Variable(String),
    File(String),
    Default,
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueOrigin::Flag => f.write_str("flag"),
            ValueOrigin::Variable(name) => write!(f, "environment variable {name}"),
            ValueOrigin::File(path) => write!(f, "file {path}"),
            ValueOrigin::Default => f.write_str("default"),
        }
    }
}

/// Inputs of the configuration: flags, environment variables and files.
pub(super) struct SettingSources<'a> {
    pub flags: &'a ArgMatches,
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
}

/// SettingValues by name of the setting.
type SettingValues = BTreeMap<&'static str, (String, ValueOrigin)>;

pub(super) struct SettingsReader {
    values: SettingValues,
    /// Judge profiles of the file, by name. Settings that a profile does not have are inherited from `values`.
    profiles: BTreeMap<String, SettingValues>,
    /// Judge profile that is being read, if any.
    profile: Option<String>,
    errors: Vec<String>,
}

/// Table of the file that contains judge profiles.
const PROFILES: &str = "judges";
/// Prefix of all judge settings. Their keys in a profile omit it.
const PROFILE_PREFIX: &str = "judge-";

impl SettingsReader {
    pub fn new(sources: &SettingSources<'_>) -> SettingsReader {
        let mut reader = SettingsReader {
            values: SettingValues::new(),
            profiles: BTreeMap::new(),
            profile: None,
            errors: Vec::new(),
        };
        let flag = |name: &str| sources.flags.try_get_one::<String>(name).ok().flatten().cloned();
        let file = flag("config").or_else(|| (sources.variable)("ASSAY_CONFIG"));
        let file = file.map(|path| reader.file(&path, sources)).unwrap_or_default();
        for setting in SETTINGS {
            let value = flag(setting.name)
                .map(|value| (value, ValueOrigin::Flag))
                .or_else(|| variable(setting, sources))
                .or_else(|| file.get(&setting.key()).cloned())
                .or_else(|| Some((setting.default.to_owned(), ValueOrigin::Default)));
            // An empty text counts as unset. An empty number is an error if the setting has a default.
            let may_be_empty =
                matches!(setting.kind, ValueKind::Text(_) | ValueKind::Url) || setting.default.is_empty();
            if let Some(value) = value.filter(|(value, _)| !value.is_empty() || !may_be_empty) {
                reader.values.insert(setting.name, value);
            }
        }
        reader
    }

    /// Parses the value of a setting; `None` if it is unset or invalid. Records the error of an invalid value.
    pub fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let setting = Setting::named(name);
        let own = self.profile.as_ref().and_then(|profile| self.profiles.get(profile)?.get(name));
        let (value, origin) = own.or_else(|| self.values.get(name))?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(error) => {
                let shown =
                    if setting.secret { "…".to_owned() } else { setting.without_credentials(value) };
                let name = own.and(self.profile.as_ref()).map_or_else(
                    || name.to_owned(),
                    |profile| format!("{PROFILES}.{profile}.{}", setting.profile_key()),
                );
                self.errors.push(format!("{name} = {shown:?} ({origin}): {error}"));
                None
            }
        }
    }

    /// Parses the value of a setting with a default. An invalid value yields `placeholder` until the errors are reported.
    pub fn required<T>(
        &mut self,
        name: &str,
        placeholder: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(name, parse).unwrap_or(placeholder)
    }

    /// Parses a count or a size; `None` if it is unset or invalid.
    pub fn optional_integer<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        let kind = Setting::named(name).kind;
        self.optional(name, |text| {
            T::try_from(kind.integer(text)?)
                .map_err(|_| "exceeds the largest number of this platform".to_owned())
        })
    }

    /// Parses a count or a size of a setting with a default.
    pub fn integer<T: TryFrom<u64> + Default>(&mut self, name: &str) -> T {
        let placeholder = || T::try_from(Setting::named(name).kind.minimum()).unwrap_or_default();
        self.optional_integer(name).unwrap_or_else(placeholder)
    }

    /// Parses a decimal number; `None` if it is unset or invalid.
    pub fn optional_decimal(&mut self, name: &str) -> Option<f64> {
        let kind = Setting::named(name).kind;
        self.optional(name, |text| kind.decimal(text))
    }

    /// Parses a decimal number of a setting with a default.
    pub fn decimal(&mut self, name: &str) -> f64 {
        self.optional_decimal(name).unwrap_or_default()
    }

    /// Parses a duration of a setting with a default.
    pub fn duration(&mut self, name: &str) -> Duration {
        let kind = Setting::named(name).kind;
        self.required(name, Duration::ZERO, |text| kind.duration(text))
    }

    /// Parses a boolean: true, 1, yes, on, or false, 0, no, off.
    pub fn boolean(&mut self, name: &str) -> bool {
        let kind = Setting::named(name).kind;
        self.required(name, false, |text| match &*text.to_ascii_lowercase() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(kind.requirement()),
        })
    }

    /// Records an error if `smaller` is set to more than `larger`.
    pub fn require_at_most(&mut self, smaller: &str, larger: &str, consequence: &str) {
        let amount = |name: &str| {
            let (text, _) = self.values.get(name)?;
            Some((Setting::named(name).kind.amount(text)?, text))
        };
        let (Some((small, small_text)), Some((large, large_text))) = (amount(smaller), amount(larger)) else {
            return;
        };
        if small > large {
            self.errors.push(format!(
                "{smaller} ({small_text}) must be at most {larger} ({large_text}): {consequence}"
            ));
        }
    }

    pub fn error(&mut self, error: String) {
        self.errors.push(error);
    }

    /// Names of the judge profiles, sorted.
    pub fn profiles(&self) -> Vec<String> {
        self.profiles.keys().cloned().collect()
    }

    /// Returns true if the profile that is being read sets this itself instead of inheriting it.
    pub fn is_set_in_profile(&self, name: &str) -> bool {
        self.profile.as_ref().is_some_and(|profile| self.profiles[profile].contains_key(name))
    }

    /// Runs `read` with the values of a profile taking precedence over the inherited ones.
    pub fn in_profile<T>(&mut self, profile: &str, read: impl FnOnce(&mut SettingsReader) -> T) -> T {
        self.profile = Some(profile.to_owned());
        let value = read(self);
        self.profile = None;
        value
    }

    /// Returns all errors, without duplicates, and the effective settings.
    pub fn finish(mut self) -> (Vec<String>, EffectiveSettings) {
        // Inherited settings are read once per profile, and each time record the same error.
        let mut seen = std::collections::HashSet::new();
        self.errors.retain(|error| seen.insert(error.clone()));
        (self.errors, EffectiveSettings { values: self.values, profiles: self.profiles })
    }

    fn file(&mut self, path: &str, sources: &SettingSources<'_>) -> BTreeMap<String, (String, ValueOrigin)> {
        let table = (sources.read_file)(path).and_then(|text| {
            text.parse::<toml::Table>().map_err(|error| error.to_string().trim_end().to_owned())
        });
        let table = match table {
            Ok(table) => table,
            Err(error) => {
                self.errors.push(format!("{path}: {error}"));
                return BTreeMap::new();
            }
        };
        let mut values = BTreeMap::new();
        for (key, value) in table {
            if key == PROFILES {
                self.read_profiles(path, value);
            } else if !SETTINGS.iter().any(|setting| setting.key() == key) {
                self.errors.push(format!("{path}: unknown setting {key}: assay --help lists all settings"));
            } else if let Some(value) = scalar(&value) {
                values.insert(key, (value, ValueOrigin::File(path.to_owned())));
            } else {
                self.errors
                    .push(format!("{path}: {key} must be a string, a number, a boolean or a list of these"));
            }
        }
        values
    }

    fn read_profiles(&mut self, path: &str, profiles: toml::Value) {
        let toml::Value::Table(profiles) = profiles else {
            self.errors.push(format!("{path}: {PROFILES} must contain tables, such as [{PROFILES}.strict]"));
            return;
        };
        for (name, values) in profiles {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            match values {
                _ if name.len() > 64 || !name.bytes().all(is_name) => self.errors.push(format!(
                    "{path}: {PROFILES}.{name:?}: a profile name must have at most 64 characters: letters, digits, dots, hyphens and underscores"
                )),
                toml::Value::Table(values) => self.read_profile(path, name, values),
                _ => self.errors.push(format!("{path}: {PROFILES}.{name} must be a table")),
            }
        }
    }

    fn read_profile(&mut self, path: &str, name: String, table: toml::Table) {
        let mut values = SettingValues::new();
        for (key, value) in table {
            let known = SETTINGS
                .iter()
                .find(|setting| setting.name.starts_with(PROFILE_PREFIX) && setting.profile_key() == key);
            match (known, scalar(&value)) {
                (None, _) => self.errors.push(format!(
                    "{path}: {PROFILES}.{name}: unknown setting {key}: assay --help lists the settings of a judge with the prefix --judge-"
                )),
                (Some(_), None) => self
                    .errors
                    .push(format!("{path}: {PROFILES}.{name}.{key} must be a string, a number or a boolean")),
                (Some(setting), Some(value)) => {
                    values.insert(setting.name, (value, ValueOrigin::File(path.to_owned())));
                }
            }
        }
        self.profiles.insert(name, values);
    }
}

/// Effective settings with their sources. Displayed in the format of the file, without secrets.
#[derive(Clone, Debug)]
pub struct EffectiveSettings {
    values: SettingValues,
    profiles: BTreeMap<String, SettingValues>,
}

impl fmt::Display for EffectiveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in SETTINGS {
            match self.values.get(setting.name) {
                Some((value, origin)) => {
                    writeln!(f, "{} = {} # {origin}", setting.key(), shown(setting, value))?;
                }
                None => writeln!(f, "# {} is not set", setting.key())?,
            }
        }
        for (name, values) in &self.profiles {
            writeln!(f, "\n[{PROFILES}.{}]", toml::Value::from(name.as_str()))?;
            for (name, (value, origin)) in values {
                let setting = Setting::named(name);
                writeln!(f, "{} = {} # {origin}", setting.profile_key(), shown(setting, value))?;
            }
        }
        Ok(())
    }
}

fn shown(setting: &Setting, value: &str) -> toml::Value {
    if setting.secret { "(hidden)".into() } else { setting.without_credentials(value).into() }
}

fn variable(setting: &Setting, sources: &SettingSources<'_>) -> Option<(String, ValueOrigin)> {
    let names =
        std::iter::once(setting.variable()).chain(setting.fallbacks.iter().map(|&name| name.to_owned()));
    names
        .filter_map(|name| (sources.variable)(&name).map(|value| (value, ValueOrigin::Variable(name))))
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
