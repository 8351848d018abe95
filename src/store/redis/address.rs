//! Where Redis is: one server, the primary that Sentinel names, or a cluster.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use deadpool::managed::{self, Manager as _, Metrics, RecycleResult};
use deadpool_redis::{
    cluster,
    redis::{
        self, AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
        ProtocolVersion, RedisError, TlsCertificates, io::tcp::TcpSettings, sentinel::SentinelClient,
    },
    sentinel::{self, SentinelNodeConnectionInfo, SentinelServerType, TlsMode},
};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio::sync::Mutex;

use super::{link::Link, observed::Observed, watch::Told};
use crate::telemetry::metrics;

/// Where Redis is, and how it is talked to.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`; may hold a password.
    pub url: SecretString,
    /// The password, where the URL does not hold it.
    pub password: Option<SecretString>,
    /// Certificates for `rediss://`.
    pub tls: TlsFiles,
    /// How long an operation may take, connecting included.
    pub timeout: Duration,
    /// How many replicas must have a write before it is answered; 0: none.
    pub wait_replicas: u32,
    /// How long they have for it. Less than `timeout`.
    pub wait_timeout: Duration,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct TlsFiles {
    /// Whom to trust; `None`: whom the system trusts.
    pub authorities: Option<Vec<u8>>,
    /// The chain of certificates that this client shows, and their key.
    pub client: Option<(Vec<u8>, SecretSlice<u8>)>,
}

impl RedisOptions {
    /// The Redis at `url`, with the defaults of the settings.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.into(),
            password: None,
            tls: TlsFiles::default(),
            timeout: Duration::from_secs(1),
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(500),
        }
    }
}

/// Why an address is none. It quotes nothing, for what was given may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Of no known form.
    #[error(
        "not a URL such as redis://127.0.0.1:6379, rediss://user:password@redis:6379/0, unix:///run/redis.sock, \
         redis+sentinel://a:26379,b:26379/service or redis+cluster://a:6379,b:6379"
    )]
    Url,
    /// A password in the URL and another one.
    #[error("the URL holds a password already: give it there or in the file, not both")]
    TwoPasswords,
    /// Certificates for a connection that is not encrypted.
    #[error("certificates are for rediss:// URLs")]
    Plain,
    /// Certificates for a connection that deadpool-redis cannot give them to.
    #[error(
        "with Sentinel and Cluster the system's certificates are trusted, to which SSL_CERT_FILE adds one, and client \
         certificates are not supported"
    )]
    SystemTrust,
    /// What is in the files.
    #[error("the certificates are none: PEM is expected")]
    Certificates,
}

/// deadpool-redis' own managers behind one type, so that all else is the same for each kind of Redis; and, for they cannot
/// listen, what opens connections on which Redis tells of changes.
pub(super) enum Manager {
    Server(deadpool_redis::Manager, Client, Duration),
    Sentinel(sentinel::Manager, Mutex<SentinelClient>, Duration),
    Cluster(cluster::Manager),
}

impl Manager {
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        let url = options.url.expose_secret();
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Url)?;
        match scheme {
            "redis+cluster" | "rediss+cluster" => {
                let nodes = split_hosts(scheme, rest, "")?;
                let nodes = nodes.iter().map(|node| options.connection_info(node)).collect::<Result<_, _>>()?;
                options.trusts_the_system()?;
                cluster::Manager::new::<ConnectionInfo>(nodes, false).map(Self::Cluster).map_err(|_| AddressError::Url)
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let (hosts, path) = rest.split_once('/').ok_or(AddressError::Url)?;
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(AddressError::Url);
                }
                options.trusts_the_system()?;
                let settings =
                    options.connection_info(&split_hosts(scheme, hosts, database)?[0])?.redis_settings().clone();
                let node = SentinelNodeConnectionInfo {
                    tls_mode: (scheme == "rediss+sentinel").then_some(TlsMode::Secure),
                    redis_connection_info: Some(settings.clone().into()),
                };
                let listening = redis::sentinel::SentinelNodeConnectionInfo::from(node.clone())
                    .set_redis_connection_info(settings.set_protocol(ProtocolVersion::RESP3))
                    .set_tcp_settings(tcp_settings());
                // The credentials are those of Redis; the sentinels are asked without.
                let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
                let sentinels = split_hosts(scheme, hosts, "")?;
                let (service, primary) = (service.to_owned(), SentinelServerType::Master);
                let listener = SentinelClient::build(sentinels.clone(), &service, Some(listening), primary.into());
                let pooled = sentinel::Manager::new(sentinels, service, Some(node), primary);
                match (pooled, listener) {
                    (Ok(pooled), Ok(listener)) => Ok(Self::Sentinel(pooled, Mutex::new(listener), options.timeout)),
                    _ => Err(AddressError::Url),
                }
            }
            _ => {
                let info = options.with_certificates(options.connection_info(url)?)?;
                let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
                let listener = Client::open(info.clone().set_redis_settings(settings));
                match (deadpool_redis::Manager::new_with_config(info, config(options.timeout)), listener) {
                    (Ok(pooled), Ok(listener)) => Ok(Self::Server(pooled, listener, options.timeout)),
                    _ => Err(AddressError::Url),
                }
            }
        }
    }

    async fn connect(&self) -> Result<Link, RedisError> {
        match self {
            Self::Server(manager, _, timeout) => Ok(Link::to_server(manager.create().await?, *timeout)),
            Self::Sentinel(manager, _, timeout) => Ok(Link::to_server(manager.create().await?, *timeout)),
            Self::Cluster(manager) => Ok(Link::Cluster(manager.create().await?)),
        }
    }

    /// A connection for all to share, and where to find what Redis tells on it; nothing, where it is to a cluster.
    pub(super) async fn open_shared(&self) -> Result<(Observed<Link>, Option<Arc<Told>>), RedisError> {
        let told = Arc::new(Told::default());
        let hearing = Arc::clone(&told);
        let config = |timeout| {
            config(timeout).set_push_sender(move |push| {
                hearing.hear(&push);
                Ok::<_, Infallible>(())
            })
        };
        let opened = match self {
            Self::Server(_, listener, timeout) => {
                listener.get_multiplexed_async_connection_with_config(&config(*timeout)).await.map(Link::Server)
            }
            Self::Sentinel(_, listener, timeout) => {
                let mut listener = listener.lock().await;
                listener.get_async_connection_with_config(&config(*timeout)).await.map(Link::Server)
            }
            Self::Cluster(_) => return Ok((self.create().await?, None)),
        };
        metrics::redis_connect(opened.is_ok());
        Ok((Observed::new(opened?), Some(told)))
    }
}

fn config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// One URL for each host of `[user:password@]host:port,host:port`.
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
    fn connection_info(&self, url: &str) -> Result<ConnectionInfo, AddressError> {
        let info = url.into_connection_info().map_err(|_| AddressError::Url)?;
        let info = info.set_tcp_settings(tcp_settings());
        let Some(password) = &self.password else { return Ok(info) };
        if info.redis_settings().password().is_some() {
            return Err(AddressError::TwoPasswords);
        }
        let settings = info.redis_settings().clone().set_password(password.expose_secret());
        Ok(info.set_redis_settings(settings))
    }

    fn with_certificates(&self, info: ConnectionInfo) -> Result<ConnectionInfo, AddressError> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return if self.tls.is_empty() { Ok(info) } else { Err(AddressError::Plain) };
        }
        let certificates = TlsCertificates {
            root_cert: self.tls.authorities.clone(),
            client_tls: self.tls.client.as_ref().map(|(certificates, key)| ClientTlsConfig {
                client_cert: certificates.clone(),
                client_key: key.expose_secret().to_vec(),
            }),
        };
        let client = Client::build_with_tls(info, certificates).map_err(|_| AddressError::Certificates)?;
        Ok(client.get_connection_info().clone())
    }

    fn trusts_the_system(&self) -> Result<(), AddressError> {
        if self.tls.is_empty() { Ok(()) } else { Err(AddressError::SystemTrust) }
    }
}

impl TlsFiles {
    fn is_empty(&self) -> bool {
        self.authorities.is_none() && self.client.is_none()
    }
}

impl managed::Manager for Manager {
    type Type = Observed<Link>;
    type Error = RedisError;

    async fn create(&self) -> Result<Observed<Link>, RedisError> {
        let link = self.connect().await;
        metrics::redis_connect(link.is_ok());
        link.map(Observed::new)
    }

    async fn recycle(&self, link: &mut Observed<Link>, metrics: &Metrics) -> RecycleResult<RedisError> {
        match (self, link.get_mut()) {
            (Self::Server(manager, ..), Link::Server(link)) => manager.recycle(link, metrics).await,
            (Self::Sentinel(manager, ..), Link::Server(link)) => manager.recycle(link, metrics).await,
            (Self::Cluster(manager), Link::Cluster(link)) => manager.recycle(link, metrics).await,
            _ => Err(managed::RecycleError::message("another manager's")),
        }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(..) => "Server",
            Self::Sentinel(..) => "Sentinel",
            Self::Cluster(..) => "Cluster",
        })
    }
}
