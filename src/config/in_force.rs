use clap::{ArgMatches, Command, parser::ValueSource};

use super::SecretUrl;

/// The effective value of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub variable: String,
    /// The given value or the default; empty if there is neither. Secrets are masked.
    pub value: String,
    /// Source of the value: `flag`, `environment`, `default` or `unset`.
    pub source: &'static str,
}

/// Lists the effective settings of a command, from its command line and the environment, in the
/// order of declaration.
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
