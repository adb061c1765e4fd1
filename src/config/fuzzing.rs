//! Entry points for fuzzing: the settings file.

use super::{Config, Group, Sources, arguments};

/// Reads `text` as the settings file of a server that has no other settings.
pub fn config_file(text: &str) {
    let groups = [
        Group::Serving,
        Group::Security,
        Group::Model,
        Group::Compute,
        Group::Judge,
        Group::Telemetry,
        Group::Log,
    ];
    let command = clap::Command::new("assay").args(arguments(&groups));
    let flags = command.get_matches_from(["assay", "--config", "assay.toml"]);
    // Only the settings file itself exists: token files and keys that it names do not.
    let read_file = |path: &str| match path {
        "assay.toml" => Ok(text.to_owned()),
        _ => Err("there is no such file".to_owned()),
    };
    let config = Config::from_sources(&Sources { flags: &flags, variable: &|_| None, read_file: &read_file });
    match config {
        Ok(config) => assert!(!config.shown.to_string().is_empty()),
        Err(mistakes) => assert!(!mistakes.0.is_empty(), "settings are refused without a reason"),
    }
}
