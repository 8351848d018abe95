//! Opens connections to one server, to the primary that Sentinel names, or to a Cluster.

use std::{convert::Infallible, sync::Arc, time::Duration};

use deadpool::managed::{self, Manager as _, Metrics, RecycleResult};
use deadpool_redis::cluster;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult, TlsCertificates, TlsMode, cmd,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::{
    any_connection::{AnyConnection, Endpoint, Request, Uninstrumented},
    invalidations::Invalidations,
    options::{AddressError, RedisOptions},
};
use crate::telemetry::metrics;

/// One way to connect for each kind of Redis, so that the rest of the store treats them alike.
enum Kind {
    /// Through a manager of deadpool-redis for each connection: a manager has one receiver of pushes.
    Server(ConnectionInfo),
    /// Through redis-rs: deadpool-redis gives the connections of Sentinel neither timeouts nor pushes.
    Sentinel(Mutex<SentinelClient>),
    Cluster(cluster::Manager),
}

pub(super) struct Client {
    kind: Kind,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        let url = options.url.expose_secret();
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Url)?;
        let kind = match scheme {
            "redis+cluster" | "rediss+cluster" => {
                let nodes = split_hosts(scheme, rest, "")?;
                let nodes = nodes.iter().map(|node| options.connection_info(node)).collect::<Result<Vec<_>, _>>()?;
                options.expect_no_certificates(AddressError::SystemTrust)?;
                cluster::Manager::new(nodes, false).map(Kind::Cluster)
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
                // The credentials are those of Redis; the sentinels are asked without.
                let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
                let sentinels = split_hosts(scheme, hosts, "")?;
                SentinelClient::build(sentinels, service, Some(primary), SentinelServerType::Master)
                    .map(|client| Kind::Sentinel(Mutex::new(client)))
            }
            _ => {
                let info = options.with_certificates(options.connection_info(url)?)?;
                let info = with_pushes(&info);
                deadpool_redis::Manager::new(info.clone()).map(|_| Kind::Server(info))
            }
        };
        Ok(Self { kind: kind.map_err(|_| AddressError::Url)?, timeout: options.timeout })
    }

    /// Whether sentinels may promote another primary.
    pub(super) fn is_sentinel(&self) -> bool {
        matches!(self.kind, Kind::Sentinel(_))
    }

    pub(super) async fn connect(&self) -> RedisResult<AnyConnection> {
        let invalidations = Arc::new(Invalidations::default());
        let recording = Arc::clone(&invalidations);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_push_sender(move |push| {
                recording.record(&push);
                Ok::<_, Infallible>(())
            });
        let opened = match &self.kind {
            Kind::Server(info) => {
                let manager = deadpool_redis::Manager::new_with_config(info.clone(), config)?;
                manager.create().await.map(Endpoint::Server)
            }
            Kind::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(&config).await.map(Endpoint::Server)
            }
            Kind::Cluster(manager) => manager.create().await.map(Endpoint::Cluster),
        };
        metrics::redis_connect(opened.is_ok());
        Ok(AnyConnection::new(opened?, invalidations))
    }
}

/// Pushes need RESP3.
fn with_pushes(info: &ConnectionInfo) -> ConnectionInfo {
    info.clone().set_redis_settings(info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3))
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
        let info = url.into_connection_info().map_err(|_| AddressError::Url)?.set_tcp_settings(tcp_settings());
        let Some(password) = &self.password else { return Ok(info) };
        if info.redis_settings().password().is_some() {
            return Err(AddressError::TwoPasswords);
        }
        let settings = info.redis_settings().clone().set_password(password.expose_secret());
        Ok(info.set_redis_settings(settings))
    }

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

    fn expect_no_certificates(&self, error: AddressError) -> Result<(), AddressError> {
        if self.tls.authorities.is_none() && self.tls.client.is_none() { Ok(()) } else { Err(error) }
    }
}

impl managed::Manager for Client {
    type Type = AnyConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<AnyConnection> {
        self.connect().await
    }

    async fn recycle(&self, connection: &mut AnyConnection, _: &Metrics) -> RecycleResult<RedisError> {
        Uninstrumented(&cmd("PING")).send(connection).await?;
        Ok(())
    }
}
