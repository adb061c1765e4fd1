//! Entry point for fuzzing: the settings file.

use super::{Config, SettingGroup, SettingSources, arguments};

/// Parses `text` as the settings file of a server without other settings.
pub fn config_file(text: &str) {
    let command = clap::Command::new("assay").args(arguments(&SettingGroup::ALL));
    let flags = command.get_matches_from(["assay", "--config", "assay.toml"]);
    // The only file that exists is the settings file; token files and keys that it names do not.
    let read_file = |path: &str| match path {
        "assay.toml" => Ok(text.to_owned()),
        _ => Err("there is no such file".to_owned()),
    };
    let config =
        Config::from_sources(&SettingSources { flags: &flags, variable: &|_| None, read_file: &read_file });
    match config {
        Ok(config) => assert!(!config.effective.to_string().is_empty()),
        Err(errors) => assert!(!errors.0.is_empty(), "settings are rejected without an error"),
    }
}
