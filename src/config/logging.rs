//! The settings of the log.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::values::text;
use crate::telemetry::LogFormat;

/// The settings of the log.
#[derive(Clone, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogSettings {
    /// Set the least level to log: error, warn, info, debug or trace
    ///
    /// Or directives of tracing, such as info,mayfly::request=debug. Audit events are logged at every level; audit=off
    /// turns them off.
    #[arg(long, env = "MAYFLY_LOG", value_name = "FILTER", default_value = "info")]
    #[arg(value_parser = text(|filter| EnvFilter::try_new(filter).map(|_| filter.to_owned())))]
    pub log: String,

    /// Set the format of the log: text, json, or auto (text on a terminal, else json)
    #[arg(long, env = "MAYFLY_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    #[arg(value_parser = text(parse_log_format))]
    pub log_format: LogFormat,
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    LogFormat::from_str(text, false).map_err(|_| format!("{text:?} is not one of auto, text and json"))
}
