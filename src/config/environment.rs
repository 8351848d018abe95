//! The variables of the process.

use std::{collections::BTreeMap, env, ffi::OsString};

/// The variable with the password of the first administrator: the only setting without a flag.
pub(super) const ADMIN_PASSWORD: &str = "MAYFLY_ADMIN_PASSWORD";

/// The variables whose names begin with `MAYFLY_` or `OTEL_`, without empty ones, which count as unset.
pub type Environment = BTreeMap<String, OsString>;

/// Reads the variables of this process.
pub fn environment() -> Environment {
    let is_ours = |name: &str| name.starts_with("MAYFLY_") || name.starts_with("OTEL_");
    let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named.filter(|(name, value)| is_ours(name) && !value.is_empty()).collect()
}

/// Returns the names of the variables that must be settings with a flag: a misspelt one would silently leave a default
/// in force.
pub(super) fn setting_variables(environment: &Environment) -> impl Iterator<Item = &str> {
    // Kubernetes sets such variables in each container for each service: those of one called mayfly begin with MAYFLY_.
    let is_of_kubernetes = |name: &str, value: &str| {
        let has_url = ["tcp://", "udp://"].iter().any(|scheme| value.starts_with(scheme));
        has_url || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT_")
    };
    let ours = environment.iter().filter(|(name, _)| name.starts_with("MAYFLY_") && *name != ADMIN_PASSWORD);
    ours.filter(move |(name, value)| !is_of_kubernetes(name, &value.to_string_lossy())).map(|(name, _)| name.as_str())
}
