//! Values by precedence: flag, environment, file, default. Collects all mistakes.

use std::{collections::BTreeMap, fmt, time::Duration};

use clap::ArgMatches;

use super::{
    kind::Kind,
    table::{SETTINGS, Setting},
};

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

/// By the setting's name.
type Values = BTreeMap<&'static str, (String, Origin)>;

pub(super) struct Reader {
    values: Values,
    /// Of judges in the file, by their names; the settings that they don't have are those of `values`.
    profiles: BTreeMap<String, Values>,
    /// The profile that is being read.
    profile: Option<String>,
    mistakes: Vec<String>,
}

/// The table of the file that holds profiles of judges.
const PROFILES: &str = "judges";
/// What the settings of a judge begin with; their keys in a profile go without.
const PROFILE_PREFIX: &str = "judge-";

impl Reader {
    pub fn new(sources: &Sources<'_>) -> Reader {
        let mut reader =
            Reader { values: Values::new(), profiles: BTreeMap::new(), profile: None, mistakes: Vec::new() };
        let flag = |name: &str| sources.flags.try_get_one::<String>(name).ok().flatten().cloned();
        let file = flag("config").or_else(|| (sources.variable)("ASSAY_CONFIG"));
        let file = file.map(|path| reader.file(&path, sources)).unwrap_or_default();
        for setting in SETTINGS {
            let value = flag(setting.name)
                .map(|value| (value, Origin::Flag))
                .or_else(|| variable(setting, sources))
                .or_else(|| file.get(&setting.key()).cloned())
                .or_else(|| Some((setting.default.to_owned(), Origin::Default)));
            // An empty text is as good as none; an empty number is a mistake where there is a default.
            let may_be_empty =
                matches!(setting.kind, Kind::Text(_) | Kind::Url) || setting.default.is_empty();
            if let Some(value) = value.filter(|(value, _)| !value.is_empty() || !may_be_empty) {
                reader.values.insert(setting.name, value);
            }
        }
        reader
    }

    /// The value of a setting, if it is set; a mistake counts as not set.
    pub fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let setting = Setting::of(name);
        let own = self.profile.as_ref().and_then(|profile| self.profiles.get(profile)?.get(name));
        let (value, origin) = own.or_else(|| self.values.get(name))?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(mistake) => {
                let shown =
                    if setting.secret { "…".to_owned() } else { setting.without_credentials(value) };
                let name = own.and(self.profile.as_ref()).map_or_else(
                    || name.to_owned(),
                    |profile| format!("{PROFILES}.{profile}.{}", setting.profile_key()),
                );
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

    /// A count or a size within the bounds of its table, if it is set.
    pub fn optional_whole<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        let kind = Setting::of(name).kind;
        self.optional(name, |text| {
            T::try_from(kind.whole(text)?).map_err(|_| "this machine cannot count as far".to_owned())
        })
    }

    /// As [`Reader::optional_whole`] of a setting with a default.
    pub fn whole<T: TryFrom<u64> + Default>(&mut self, name: &str) -> T {
        let stand_in = || T::try_from(Setting::of(name).kind.least()).unwrap_or_default();
        self.optional_whole(name).unwrap_or_else(stand_in)
    }

    /// A decimal number within the bounds of its table, if it is set.
    pub fn optional_decimal(&mut self, name: &str) -> Option<f64> {
        let kind = Setting::of(name).kind;
        self.optional(name, |text| kind.decimal(text))
    }

    /// As [`Reader::optional_decimal`] of a setting with a default.
    pub fn decimal(&mut self, name: &str) -> f64 {
        self.optional_decimal(name).unwrap_or_default()
    }

    /// A duration within the bounds of its table.
    pub fn duration(&mut self, name: &str) -> Duration {
        let kind = Setting::of(name).kind;
        self.required(name, Duration::ZERO, |text| kind.duration(text))
    }

    pub fn boolean(&mut self, name: &str) -> bool {
        let kind = Setting::of(name).kind;
        self.required(name, false, |text| match &*text.to_ascii_lowercase() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(kind.needed()),
        })
    }

    /// Reports a combination that cannot work: `smaller` is set to more than `larger`.
    pub fn no_more_than(&mut self, smaller: &str, larger: &str, consequence: &str) {
        let amount = |name: &str| {
            let (text, _) = self.values.get(name)?;
            Some((Setting::of(name).kind.amount(text)?, text))
        };
        let (Some((small, small_text)), Some((large, large_text))) = (amount(smaller), amount(larger)) else {
            return;
        };
        if small > large {
            let mistake =
                format!("{smaller} ({small_text}) is more than {larger} ({large_text}): {consequence}");
            self.mistakes.push(mistake);
        }
    }

    pub fn mistake(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }

    /// The names of the profiles of judges.
    pub fn profiles(&self) -> Vec<String> {
        self.profiles.keys().cloned().collect()
    }

    /// Whether the profile that is being read, and not the flat settings, has a value for this.
    pub fn is_own(&self, name: &str) -> bool {
        self.profile.as_ref().is_some_and(|profile| self.profiles[profile].contains_key(name))
    }

    /// Reads with the values of a profile before the flat ones.
    pub fn within<T>(&mut self, profile: &str, read: impl FnOnce(&mut Reader) -> T) -> T {
        self.profile = Some(profile.to_owned());
        let value = read(self);
        self.profile = None;
        value
    }

    pub fn finish(mut self) -> (Vec<String>, Shown) {
        // What profiles inherit is read once for each.
        let mut told = std::collections::HashSet::new();
        self.mistakes.retain(|mistake| told.insert(mistake.clone()));
        (self.mistakes, Shown { values: self.values, profiles: self.profiles })
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
            if key == PROFILES {
                self.read_profiles(path, value);
            } else if !SETTINGS.iter().any(|setting| setting.key() == key) {
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

    fn read_profiles(&mut self, path: &str, profiles: toml::Value) {
        let toml::Value::Table(profiles) = profiles else {
            self.mistakes.push(format!("{path}: judges must be tables such as [{PROFILES}.strict]"));
            return;
        };
        for (name, values) in profiles {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            match values {
                _ if name.len() > 64 || !name.bytes().all(is_name) => self.mistakes.push(format!(
                    "{path}: {PROFILES}.{name:?}: a name has at most 64 letters, digits, dots, - and _"
                )),
                toml::Value::Table(values) => self.read_profile(path, name, values),
                _ => self.mistakes.push(format!("{path}: {PROFILES}.{name} must be a table")),
            }
        }
    }

    fn read_profile(&mut self, path: &str, name: String, table: toml::Table) {
        let mut values = Values::new();
        for (key, value) in table {
            let known = SETTINGS
                .iter()
                .find(|setting| setting.name.starts_with(PROFILE_PREFIX) && setting.profile_key() == key);
            match (known, scalar(&value)) {
                (None, _) => self.mistakes.push(format!(
                    "{path}: {PROFILES}.{name}: there is no setting {key}; as judge-{key}, see assay --help"
                )),
                (Some(_), None) => self
                    .mistakes
                    .push(format!("{path}: {PROFILES}.{name}.{key} must be a string, a number or a boolean")),
                (Some(setting), Some(value)) => {
                    values.insert(setting.name, (value, Origin::File(path.to_owned())));
                }
            }
        }
        self.profiles.insert(name, values);
    }
}

/// The settings in force, in the form of the file; secrets hidden.
#[derive(Clone, Debug)]
pub struct Shown {
    values: Values,
    profiles: BTreeMap<String, Values>,
}

impl fmt::Display for Shown {
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
                let setting = Setting::of(name);
                writeln!(f, "{} = {} # {origin}", setting.profile_key(), shown(setting, value))?;
            }
        }
        Ok(())
    }
}

fn shown(setting: &Setting, value: &str) -> toml::Value {
    if setting.secret { "(hidden)".into() } else { setting.without_credentials(value).into() }
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
