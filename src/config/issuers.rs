//! The setting of the trusted issuers.

use std::path::PathBuf;

use clap::Args;

use crate::service::issuers::{IssuersError, TrustedIssuers};

/// The setting of the trusted issuers.
#[derive(Clone, Args)]
#[command(next_help_heading = "Users")]
pub(super) struct IssuerSettings {
    /// Set the issuers whose JWTs log in, a TOML file; `mayfly issuer check` checks it
    ///
    /// Teams and machines log in with the JWTs that they already have: of an OpenID provider, a CI system or
    /// Kubernetes. The file is read again when it changes.
    #[arg(long, env = "MAYFLY_ISSUERS_FILE", value_name = "FILE")]
    issuers_file: Option<PathBuf>,
}

impl IssuerSettings {
    /// Reads the issuers. `own`: the `iss` of this service's tokens.
    pub(super) fn issuers(&self, own: Option<&str>) -> Result<TrustedIssuers, IssuersError> {
        match &self.issuers_file {
            Some(file) => TrustedIssuers::open(file, own),
            None => Ok(TrustedIssuers::none()),
        }
    }
}
