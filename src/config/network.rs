//! The settings of connections: listening, TLS, proxies and browsers.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;

use super::values::{address, number, switch, text};
use crate::{
    http::{HeaderName, HeaderValue, TrustedProxies},
    server::tls::Certificate,
};

/// The settings of the listener, which `mayfly healthcheck` needs, too.
#[derive(Clone, Args)]
pub struct ListenSettings {
    /// Set the address and port of the service
    #[arg(long, env = "MAYFLY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:25441")]
    #[arg(value_parser = text(address))]
    pub listen: SocketAddr,

    /// Set the certificate of the service, and speak TLS instead of plain HTTP
    ///
    /// A PEM file with the certificate, followed by those of its authorities. It is read again when it changes.
    #[arg(long, env = "MAYFLY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
}

/// The settings of connections.
#[derive(Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkSettings {
    /// The address and certificate of the service.
    #[command(flatten)]
    pub endpoint: ListenSettings,

    /// Set the private key of the certificate, a PEM file
    #[arg(long, env = "MAYFLY_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Set the maximum number of connections at once, from 1 to 1000000
    ///
    /// At the maximum, a new connection replaces the one that has waited longest for its client. One IPv4 address or
    /// IPv6 /64 gets at most half of them, unless it is one of MAYFLY_TRUSTED_PROXIES. Each connection needs an open
    /// file; the service raises its limit of open files as far as the system allows.
    #[arg(long, env = "MAYFLY_MAX_CONNECTIONS", value_name = "NUMBER", default_value = "16384")]
    #[arg(value_parser = number(1_usize..=1_000_000))]
    pub max_connections: usize,

    /// Set the proxies and load balancers in front of the service: 10.0.0.5,2001:db8::/64
    ///
    /// Addresses and networks, separated by commas. Their X-Forwarded-For or Forwarded gives the client's address, for
    /// the log and for counting failed logins; from all other peers these headers are ignored. Name the proxies alone:
    /// every host in these networks can claim any address, and so guess passwords without a delay. Have a proxy
    /// overwrite one of the two headers and remove the other. X-Forwarded-Proto, or proto in Forwarded, decides whether
    /// the URLs of the metadata begin with https.
    #[arg(long, env = "MAYFLY_TRUSTED_PROXIES", value_name = "NETWORKS", default_value = "")]
    #[arg(value_parser = text(|networks| networks.parse::<TrustedProxies>().map(Arc::new)))]
    pub trusted_proxies: Arc<TrustedProxies>,

    /// Set the header in which a proxy names the user that it has logged in: Remote-User
    ///
    /// For oauth2-proxy, Authelia and others. Believed only from MAYFLY_TRUSTED_PROXIES, which it requires, and where
    /// neither a password nor a token is presented. Every host in these networks can log in as any user who has no
    /// password, so each proxy in them has to set this header or to remove it. A user's first token adds the user.
    #[arg(long, env = "MAYFLY_TRUSTED_USER_HEADER", value_name = "HEADER", value_parser = text(parse_header_name))]
    trusted_user_header: Option<HeaderName>,

    /// Set the sites whose pages may call the API from a browser: `https://console.example`
    ///
    /// Origins, separated by commas.
    #[arg(long, env = "MAYFLY_CORS_ORIGINS", value_name = "ORIGINS", default_value = "")]
    #[arg(value_parser = text(parse_origins))]
    // Written with its path: clap would take a field of type `Vec` for a list of values. So too the `Option` below.
    pub cors_origins: std::vec::Vec<HeaderValue>,

    /// Set to off to hide the documentation at /docs, /openapi.json and /openapi.yaml
    #[arg(long, env = "MAYFLY_DOCS", value_name = "on|off", default_value = "on", action = clap::ArgAction::Set)]
    #[arg(value_parser = text(switch))]
    pub docs: bool,

    /// Set to off to hide the page for people at /
    #[arg(long, env = "MAYFLY_UI", value_name = "on|off", default_value = "on", action = clap::ArgAction::Set)]
    #[arg(value_parser = text(switch))]
    pub ui: bool,

    /// Set the address and port of /metrics for Prometheus, or off
    #[arg(long, env = "MAYFLY_METRICS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:25442")]
    #[arg(value_parser = text(|text| if text == "off" { Ok(None) } else { address(text).map(Some) }))]
    pub metrics_listen: std::option::Option<SocketAddr>,
}

impl NetworkSettings {
    /// Returns the trusted proxies, believed in the header that names the user, if one is set.
    pub(super) fn proxies(&self) -> Result<Arc<TrustedProxies>, &'static str> {
        match &self.trusted_user_header {
            Some(header) => TrustedProxies::clone(&self.trusted_proxies).with_user_header(header.clone()).map(Arc::new),
            None => Ok(Arc::clone(&self.trusted_proxies)),
        }
    }

    /// Reads the certificate and its key, if they are set.
    pub(super) fn certificate(&self) -> Result<Option<Arc<Certificate>>, String> {
        match (&self.endpoint.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => {
                Certificate::open(chain, key).map(|pair| Some(Arc::new(pair))).map_err(|error| error.to_string())
            }
            (None, None) => Ok(None),
            _ => Err("goes with MAYFLY_TLS_KEY, and neither without the other".into()),
        }
    }
}

/// Parses the name of a header: letters, digits and hyphens, since proxies drop or rewrite other names.
fn parse_header_name(text: &str) -> Result<HeaderName, &'static str> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let name = text.parse().ok().filter(|_| is_plain);
    name.ok_or("the name of a header has letters, digits and hyphens, such as Remote-User")
}

/// Parses origins: a scheme, a host and perhaps a port (RFC 6454, section 6.2), as browsers write them.
fn parse_origins(text: &str) -> Result<Vec<HeaderValue>, String> {
    let parse = |origin: &str| {
        let host = ["https://", "http://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        let is_host =
            |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/*?#@".contains(c));
        match HeaderValue::from_str(origin) {
            Ok(value) if host.is_some_and(is_host) => Ok(value),
            _ => Err(format!("{origin:?} is not an origin such as https://console.example")),
        }
    };
    text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).map(parse).collect()
}
