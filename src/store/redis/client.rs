//! Opens connections to one server, to the primary that Sentinel names, or to a Cluster.

use std::{convert::Infallible, sync::Arc, time::Duration};

use deadpool::managed::{self, Manager as _, Metrics, RecycleResult};
use redis::{AsyncConnectionConfig, ConnectionAddr, RedisError, RedisResult, cmd};

use super::{
    address::{Address, AddressError},
    any_connection::{AnyConnection, Endpoint, Request, Uninstrumented},
    invalidations::Invalidations,
    options::RedisOptions,
};
use crate::telemetry::metrics;

/// Opens connections to one address; also the manager of the pool of connections.
pub(super) struct Client {
    address: Address,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(options: &RedisOptions) -> Result<Self, AddressError> {
        Ok(Self { address: Address::parse(options)?, timeout: options.timeout })
    }

    /// Whether sentinels may promote another primary.
    pub(super) fn is_sentinel(&self) -> bool {
        matches!(self.address, Address::Sentinel(_))
    }

    /// Opens a connection on which pushes are recorded.
    pub(super) async fn connect(&self) -> RedisResult<AnyConnection> {
        let (invalidations, config) = self.recording_config();
        let opened = match &self.address {
            Address::Server(info) => {
                let manager = deadpool_redis::Manager::new_with_config(info.clone(), config)?;
                manager.create().await.map(Endpoint::Server)
            }
            Address::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(&config).await.map(Endpoint::Server)
            }
            Address::Cluster(manager, _) => manager.create().await.map(Endpoint::Cluster),
        };
        metrics::redis_connect(opened.is_ok());
        Ok(AnyConnection::new(opened?, invalidations))
    }

    /// Opens a connection to one node of the Cluster, on which pushes are recorded. `host`: `None` if no node knows it,
    /// which is the case only where there is one node.
    pub(super) async fn connect_to_node(&self, host: Option<&str>, port: u16) -> RedisResult<AnyConnection> {
        let Address::Cluster(_, node) = &self.address else { unreachable!("only a Cluster has nodes") };
        let mut address = node.addr().clone();
        if let ConnectionAddr::Tcp(node_host, node_port)
        | ConnectionAddr::TcpTls { host: node_host, port: node_port, .. } = &mut address
        {
            *node_port = port;
            if let Some(host) = host {
                host.clone_into(node_host);
            }
        }
        let (invalidations, config) = self.recording_config();
        let manager = deadpool_redis::Manager::new_with_config(node.as_ref().clone().set_addr(address), config)?;
        let opened = manager.create().await.map(Endpoint::Server);
        metrics::redis_connect(opened.is_ok());
        Ok(AnyConnection::new(opened?, invalidations))
    }

    /// The settings of a connection, and where they record the changes that Redis reports on it.
    fn recording_config(&self) -> (Arc<Invalidations>, AsyncConnectionConfig) {
        let invalidations = Arc::new(Invalidations::default());
        let recording = Arc::clone(&invalidations);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_push_sender(move |push| {
                recording.record(&push);
                Ok::<_, Infallible>(())
            });
        (invalidations, config)
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
