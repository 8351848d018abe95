//! Parses the URL of Redis: one server, Sentinel, or a Cluster, with or without TLS.

use deadpool_redis::cluster;
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates, TlsMode,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::options::RedisOptions;

/// Why a URL or its certificates cannot be used. The text quotes nothing, because a URL may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The URL has no known form.
    #[error(
        "not a URL such as redis://127.0.0.1:6379, rediss://user:password@redis:6379/0, unix:///run/redis.sock, \
         redis+sentinel://a:26379,b:26379/service or redis+cluster://a:6379,b:6379"
    )]
    Url,
    /// A password in the URL and another one.
    #[error("the URL holds a password already: give it there or in the file, not both")]
    TwoPasswords,
    /// Certificates for a connection without TLS.
    #[error("certificates are for rediss:// URLs")]
    Plain,
    /// Certificates for Sentinel or a Cluster.
    #[error(
        "with Sentinel and Cluster the system's certificates are trusted, to which SSL_CERT_FILE adds one, and client \
         certificates are not supported"
    )]
    SystemTrust,
    /// The files hold no certificates.
    #[error("the certificates are none: PEM is expected")]
    Certificates,
}

/// Where and how to connect, for each kind of Redis; [`super::client`] hides the difference from the rest of the store.
pub(super) enum Address {
    /// One server, through a manager of deadpool-redis for each connection: a manager has one receiver of pushes.
    Server(ConnectionInfo),
    /// The primary that Sentinel names, through redis-rs: deadpool-redis gives its connections neither timeouts nor
    /// pushes.
    Sentinel(Mutex<SentinelClient>),
    /// A Cluster, and a connection to one of its nodes, whose settings are those of all nodes.
    Cluster(cluster::Manager, Box<ConnectionInfo>),
}

impl Address {
    /// Parses the URL in `options`, and adds the password and the certificates.
    pub(super) fn parse(options: &RedisOptions) -> Result<Self, AddressError> {
        let url = options.url.expose_secret();
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Url)?;
        let address = match scheme {
            "redis+cluster" | "rediss+cluster" => {
                let nodes = split_hosts(scheme, rest, "")?;
                let nodes = nodes.iter().map(|node| options.connection_info(node)).collect::<Result<Vec<_>, _>>()?;
                options.expect_no_certificates(AddressError::SystemTrust)?;
                let node = Box::new(with_pushes(&nodes[0]));
                cluster::Manager::new(nodes, false).map(|manager| Self::Cluster(manager, node))
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let (hosts, path) = rest.split_once('/').ok_or(AddressError::Url)?;
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(AddressError::Url);
                }
                options.expect_no_certificates(AddressError::SystemTrust)?;
                let info = options.connection_info(&split_hosts(scheme, hosts, database)?[0])?;
                let mut primary = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(with_pushes(&info).redis_settings().clone())
                    .set_tcp_settings(tcp_settings());
                if scheme == "rediss+sentinel" {
                    primary = primary.set_tls_mode(TlsMode::Secure);
                }
                // The user and password in the URL are those of Redis; the sentinels are asked without any.
                let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
                let sentinels = split_hosts(scheme, hosts, "")?;
                SentinelClient::build(sentinels, service, Some(primary), SentinelServerType::Master)
                    .map(|client| Self::Sentinel(Mutex::new(client)))
            }
            _ => {
                let info = options.with_certificates(options.connection_info(url)?)?;
                let info = with_pushes(&info);
                deadpool_redis::Manager::new(info.clone()).map(|_| Self::Server(info))
            }
        };
        address.map_err(|_| AddressError::Url)
    }
}

/// The same connection with RESP3, the protocol that has pushes.
fn with_pushes(info: &ConnectionInfo) -> ConnectionInfo {
    info.clone().set_redis_settings(info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3))
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// One URL for each host of `[user:password@]host:port,host:port`. `scheme`: the scheme of the whole URL, of which
/// `+sentinel` or `+cluster` is left out.
fn split_hosts(scheme: &str, authority: &str, database: &str) -> Result<Vec<String>, AddressError> {
    let scheme = scheme.split('+').next().unwrap_or(scheme);
    let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
    let at = if login.is_empty() { "" } else { "@" };
    hosts
        .trim_end_matches('/')
        .split(',')
        .map(|host| match host {
            "" => Err(AddressError::Url),
            host => Ok(format!("{scheme}://{login}{at}{host}/{database}")),
        })
        .collect()
}

impl RedisOptions {
    /// The connection that this URL describes, with the password from these options.
    fn connection_info(&self, url: &str) -> Result<ConnectionInfo, AddressError> {
        let info = url.into_connection_info().map_err(|_| AddressError::Url)?.set_tcp_settings(tcp_settings());
        let Some(password) = &self.password else { return Ok(info) };
        if info.redis_settings().password().is_some() {
            return Err(AddressError::TwoPasswords);
        }
        let settings = info.redis_settings().clone().set_password(password.expose_secret());
        Ok(info.set_redis_settings(settings))
    }

    /// Adds these options' certificates to a connection with TLS.
    fn with_certificates(&self, info: ConnectionInfo) -> Result<ConnectionInfo, AddressError> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return self.expect_no_certificates(AddressError::Plain).map(|()| info);
        }
        let certificates = TlsCertificates {
            root_cert: self.tls.authorities.clone(),
            client_tls: self.tls.client.as_ref().map(|(certificates, key)| ClientTlsConfig {
                client_cert: certificates.clone(),
                client_key: key.expose_secret().to_vec(),
            }),
        };
        let client = redis::Client::build_with_tls(info, certificates).map_err(|_| AddressError::Certificates)?;
        Ok(client.get_connection_info().clone())
    }

    /// This error, if these options hold certificates.
    fn expect_no_certificates(&self, error: AddressError) -> Result<(), AddressError> {
        if self.tls.authorities.is_none() && self.tls.client.is_none() { Ok(()) } else { Err(error) }
    }
}
