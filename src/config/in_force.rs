use clap::{ArgMatches, Command, parser::ValueSource};

use super::SecretUrl;

/// A setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub variable: String,
    /// What was given or is the default; empty when there is neither. Secrets
    /// are hidden.
    pub value: String,
    /// Where the value is from.
    pub source: &'static str,
}

/// Lists the settings of a command as the command line and the environment have
/// them, in the order in which they are declared.
pub fn in_force(command: &Command, matches: &ArgMatches) -> Vec<InForce> {
    let settings = command.get_arguments().filter_map(|arg| {
        let variable = arg.get_env()?.to_string_lossy().into_owned();
        let id = arg.get_id().as_str();
        let given = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned());
        let given: Vec<String> = given.collect();
        let hidden = |value: &String| value.parse::<SecretUrl>().map_or("***".into(), |url| url.to_string());
        let value = match arg.is_hide_env_values_set() {
            true => given.iter().map(hidden).collect::<Vec<_>>().join(","),
            false => given.join(","),
        };
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            Some(_) => "default",
            None => "unset",
        };
        Some(InForce { variable, value, source })
    });
    settings.collect()
}
