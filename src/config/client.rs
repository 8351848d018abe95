//! The settings of the commands that call a service by its API. The service itself ignores them.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, builder::FalseyValueParser};
use url::{Host, Url};

use super::values::{text, timeout};
use crate::domain::user::UserName;

/// The settings of the commands that call a service by its API.
#[derive(Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct ClientSettings {
    /// Set the URL of the service: `https://mayfly.example`
    #[arg(long, env = "MAYFLY_URL", value_name = "URL", value_parser = text(str::parse::<ServiceUrl>))]
    pub url: Option<ServiceUrl>,

    /// Log in as this user
    ///
    /// Without it, ~/.netrc (or the file in NETRC) names the user for the host of the URL.
    #[arg(long, env = "MAYFLY_USER", value_name = "NAME", value_parser = text(str::parse::<UserName>))]
    pub user: Option<UserName>,

    /// Set the file with the password of the user
    ///
    /// Without it, ~/.netrc has the password, or a prompt at the terminal asks for it.
    #[arg(long, env = "MAYFLY_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Set the file with a token: the one to verify, to show or to revoke as `self`, or to log in with
    ///
    /// A token of a trusted issuer logs in where no user is set. Mayfly's own tokens do not.
    #[arg(long, env = "MAYFLY_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Set the authorities to trust instead of the system's, a PEM file
    #[arg(long, env = "MAYFLY_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Send passwords and tokens over plain HTTP to other machines, too
    ///
    /// Without it, they are sent over HTTPS, or to this machine. Others on the network can read plain HTTP.
    #[arg(long, env = "MAYFLY_ALLOW_HTTP", value_parser = FalseyValueParser::new())]
    pub allow_http: bool,

    /// Set how long the service may take for an answer, from 1ms to 1h
    #[arg(long, env = "MAYFLY_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = timeout())]
    pub timeout: Duration,
}

/// The URL of a service, perhaps with a path, and without a slash at its end.
#[derive(Debug, Clone)]
pub struct ServiceUrl(Url);

/// The text is not a [`ServiceUrl`].
#[derive(Debug, thiserror::Error)]
pub enum ServiceUrlError {
    /// It is no URL of HTTP.
    #[error("it is not a URL such as https://mayfly.example")]
    Form,
    /// It has a user, a query or a fragment.
    #[error("a URL has no user, query and fragment here; MAYFLY_USER sets the user")]
    Extra,
}

impl ServiceUrl {
    /// The host as ~/.netrc has it: without brackets and a port.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        self.0.host().is_some_and(|host| match host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => IpAddr::V6(address).to_canonical().is_loopback(),
        })
    }

    /// Whether nobody on the way can read what is sent.
    pub fn is_private(&self) -> bool {
        self.0.scheme() == "https" || self.is_loopback()
    }
}

impl FromStr for ServiceUrl {
    type Err = ServiceUrlError;

    /// The errors do not repeat the text, which may hold a password.
    fn from_str(text: &str) -> Result<Self, ServiceUrlError> {
        let url = Url::parse(text).map_err(|_| ServiceUrlError::Form)?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(ServiceUrlError::Form);
        }
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || url.query().is_some() || url.fragment().is_some() {
            return Err(ServiceUrlError::Extra);
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}
