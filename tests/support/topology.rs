//! Redis servers with failover: Sentinel and Cluster.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Process, Proxy, RedisServer, Version, eventually, free_port, run};

/// The name of the primary that the sentinels watch.
const SERVICE: &str = "tokens";

/// A primary with replicas, and sentinels that promote one of them.
pub struct Sentinel {
    /// The primary first, until the first failover. `None`: killed.
    pub servers: Vec<Option<RedisServer>>,
    /// The proxy before each server, if any.
    pub links: Vec<Proxy>,
    /// The address of each server as the sentinels report it.
    ports: Vec<u16>,
    sentinels: Vec<(Process, u16)>,
    _directory: tempfile::TempDir,
}

impl Sentinel {
    /// Starts a primary, this many replicas and sentinels, and waits until they know each other.
    pub fn start(replicas: usize, sentinels: usize) -> Self {
        Self::start_version(Version::Redis7_0, replicas, sentinels)
    }

    /// Starts servers and sentinels of this version.
    pub fn start_version(version: Version, replicas: usize, sentinels: usize) -> Self {
        let settings =
            format!("sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 2000\n");
        Self::start_with(version, replicas, sentinels, &[], &settings, false)
    }

    /// Starts servers with further arguments, sentinels with these settings, and optionally a proxy before each server.
    pub fn start_with(
        version: Version,
        replicas: usize,
        sentinels: usize,
        arguments: &[&str],
        settings: &str,
        behind_proxies: bool,
    ) -> Self {
        let real: Vec<u16> = (0..=replicas).map(|_| free_port()).collect();
        let links: Vec<_> = if behind_proxies { real.iter().copied().map(Proxy::to).collect() } else { Vec::new() };
        let ports = if behind_proxies { links.iter().map(|link| link.port).collect() } else { real.clone() };
        let primary = ports[0];
        let servers: Vec<_> = real
            .iter()
            .zip(&ports)
            .map(|(port, announced)| {
                let replica_of = format!("127.0.0.1 {primary}");
                let announced_port = announced.to_string();
                let mut arguments = arguments.to_vec();
                arguments.extend(["--repl-diskless-sync-delay", "0", "--replica-announce-port", &announced_port]);
                if *announced != primary {
                    arguments.extend(["--replicaof", &replica_of]);
                }
                Some(RedisServer::start_version_on_port(version, *port, &arguments))
            })
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let settings = format!("sentinel monitor {SERVICE} 127.0.0.1 {primary} {}\n{settings}", sentinels / 2 + 1);
        let start = |_| start_sentinel(version, directory.path(), &settings);
        let sentinels = (0..sentinels).map(start).collect();
        let sentinel = Self { servers, links, ports, sentinels, _directory: directory };
        sentinel.wait_until_whole();
        sentinel
    }

    /// Waits until each sentinel knows the others and all replicas follow one primary.
    pub fn wait_until_whole(&self) {
        let replicas = self.servers.len() - 1;
        for (_, port) in &self.sentinels {
            eventually("the sentinel knows all", || {
                let master = sentinel_cli(*port, &["SENTINEL", "MASTER", SERVICE]);
                let field = |name: &str| {
                    let mut lines = master.lines().skip_while(|line| *line != name);
                    lines.nth(1).unwrap_or_default().to_owned()
                };
                let others = (self.sentinels.len() - 1).to_string();
                (field("num-slaves") == replicas.to_string()
                    && field("num-other-sentinels") == others
                    && field("flags") == "master")
                    .then_some(())
            });
        }
        eventually("all replicas follow", || {
            let primary = self.primary()?;
            let online = primary.cli(&["INFO", "replication"]).matches("state=online").count();
            (online == replicas).then_some(())
        });
    }

    /// Returns the Redis URL for the service.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// Returns the primary according to the sentinels, if that server runs and agrees.
    pub fn primary(&self) -> Option<&RedisServer> {
        let primary = &self.servers[self.index_of_primary()];
        primary.as_ref().filter(|server| server.info("role") == "master")
    }

    /// Returns the port of the primary according to the sentinels, whether it runs or not.
    pub fn primary_port(&self) -> u16 {
        let address = sentinel_cli(self.sentinels[0].1, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
        address.lines().nth(1).unwrap().parse().unwrap()
    }

    /// Returns the index of the primary according to the sentinels.
    pub fn index_of_primary(&self) -> usize {
        let port = self.primary_port();
        self.ports.iter().position(|other| *other == port).unwrap()
    }

    /// Kills the primary, waits until another is promoted, and starts it again as a replica.
    pub fn fail_over(&mut self) {
        self.fail_over_telling(|_| ());
    }

    /// Fails over, and tells the new primary before the killed server is started again.
    pub fn fail_over_telling(&mut self, tell: impl FnOnce(&RedisServer)) {
        let killed = self.index_of_primary();
        let stopped = self.servers[killed].take().unwrap().stop();
        eventually("another is promoted", || self.primary().map(drop));
        tell(self.primary().expect("it runs"));
        self.servers[killed] = Some(stopped.start_again());
        self.wait_until_whole();
    }
}

fn start_sentinel(version: Version, directory: &std::path::Path, settings: &str) -> (Process, u16) {
    let port = free_port();
    let file = directory.join(format!("{port}.conf"));
    let settings = format!("port {port}\nbind 127.0.0.1\n{settings}");
    fs::write(&file, settings).unwrap();
    let process = Process::spawn(
        Command::new(version.program()).arg(&file).arg("--sentinel").current_dir(directory).stdout(Stdio::null()),
    );
    (process, port)
}

fn sentinel_cli(port: u16, arguments: &[&str]) -> String {
    let output = run(Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments), "");
    String::from_utf8(output.stdout).unwrap()
}

/// A Cluster of three primaries, optionally with a replica each.
pub struct Cluster {
    /// The primaries first. `None`: killed.
    pub servers: Vec<Option<RedisServer>>,
    version: Version,
    /// The further arguments of each server.
    arguments: Vec<String>,
}

/// The number of primaries: the fewest that can vote.
const PRIMARIES: usize = 3;

impl Cluster {
    /// Starts a Cluster and waits until each node reports all slots as served.
    pub fn start(replicas: bool) -> Self {
        Self::start_version(Version::Redis7_0, replicas, &[])
    }

    /// Starts a Cluster of this version, with more arguments for each server.
    pub fn start_version(version: Version, replicas: bool, arguments: &[&str]) -> Self {
        let count = if replicas { 2 * PRIMARIES } else { PRIMARIES };
        let servers: Vec<_> = (0..count).map(|_| start_node(version, arguments)).collect();
        for (index, server) in servers.iter().enumerate() {
            if index < PRIMARIES {
                let (first, last) = (index * 16384 / PRIMARIES, (index + 1) * 16384 / PRIMARIES - 1);
                server.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
            server.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            join(server, &servers[0]);
        }
        for (index, server) in servers.iter().enumerate().skip(PRIMARIES) {
            let primary = servers[index - PRIMARIES].cli(&["CLUSTER", "MYID"]);
            eventually("the node knows its primary", || {
                (server.cli(&["CLUSTER", "REPLICATE", &primary]) == "OK").then_some(())
            });
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let cluster = Self { servers: servers.into_iter().map(Some).collect(), version, arguments };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until each running node reports all slots as served, and each replica is in sync.
    pub fn wait_until_whole(&self) {
        for server in self.servers.iter().flatten() {
            eventually("the cluster is whole", || {
                let info = server.cli(&["CLUSTER", "INFO"]);
                let nodes = format!("cluster_known_nodes:{}", self.servers.len());
                let in_step = server.info("role") == "master" || server.info("master_link_status") == "up";
                (info.contains("cluster_state:ok") && info.contains(&nodes) && in_step).then_some(())
            });
        }
    }

    /// Returns the Redis URL for the service.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().flatten().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns the index of the primary that serves this key's slot.
    pub fn primary_of(&self, key: &str) -> usize {
        let servers = || self.servers.iter().enumerate().filter_map(|(index, server)| Some((index, server.as_ref()?)));
        let holds =
            |server: &RedisServer| server.info("role") == "master" && !server.cli(&["GET", key]).contains("MOVED");
        servers().find(|(_, server)| holds(server)).expect("a primary serves each slot").0
    }

    /// Adds a primary without slots, and returns its index.
    pub fn add_primary(&mut self) -> usize {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let server = start_node(self.version, &arguments);
        join(&server, self.server(0));
        self.servers.push(Some(server));
        self.wait_until_whole();
        self.servers.len() - 1
    }

    /// Makes a replica change places with its primary, and waits until all nodes know.
    pub fn promote(&self, replica: usize) {
        let server = self.server(replica);
        let primary = server.info("master_port");
        let primary = self.servers.iter().flatten().find(|server| server.port.to_string() == primary).unwrap();
        let [new, old] = [server, primary].map(|server| server.cli(&["CLUSTER", "MYID"]));
        let mut asked_at = None::<Instant>;
        eventually("it is promoted", || {
            // A promotion that took 5 s is given up, which may happen on a busy machine.
            if asked_at.is_none_or(|asked_at| asked_at.elapsed() > Duration::from_secs(6)) {
                server.cli(&["CLUSTER", "FAILOVER"]);
                asked_at = Some(Instant::now());
            }
            (server.info("role") == "master").then_some(())
        });
        for node in self.servers.iter().flatten() {
            eventually("each node knows that they changed places", || {
                let nodes = node.cli(&["CLUSTER", "NODES"]);
                let is = |id: &str, role: &str| nodes.lines().any(|line| line.starts_with(id) && line.contains(role));
                (is(&new, "master") && is(&old, &format!("slave {new}"))).then_some(())
            });
        }
        self.wait_until_whole();
    }

    /// Returns a running server.
    pub fn server(&self, index: usize) -> &RedisServer {
        self.servers[index].as_ref().expect("it runs")
    }

    /// Moves the slot of this key to another of the first primaries, key by key, as resharding does.
    pub fn move_slot_of(&self, key: &str) {
        self.move_slot(key, (self.primary_of(key) + 1) % PRIMARIES);
    }

    /// Moves the slot of this key to this primary, key by key.
    pub fn move_slot(&self, key: &str, to: usize) {
        let from = self.move_keys_of_slot(key, to);
        let slot = self.server(from).cli(&["CLUSTER", "KEYSLOT", key]);
        let id = self.server(to).cli(&["CLUSTER", "MYID"]);
        let is_primary = |index: &usize| self.server(*index).info("role") == "master";
        let others = (0..self.servers.len()).filter(|index| ![to, from].contains(index)).filter(is_primary);
        for index in [to, from].into_iter().chain(others) {
            assert_eq!(self.server(index).cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]), "OK");
        }
    }

    /// Moves all keys in the slot of this key to this primary, but not yet the slot. Returns the index of the primary
    /// that serves the slot.
    pub fn move_keys_of_slot(&self, key: &str, to: usize) -> usize {
        let from = self.primary_of(key);
        let (source, target) = (self.server(from), self.server(to));
        let slot = source.cli(&["CLUSTER", "KEYSLOT", key]);
        let [source_id, target_id] = [source, target].map(|server| server.cli(&["CLUSTER", "MYID"]));
        assert_eq!(target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]), "OK");
        assert_eq!(source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]), "OK");
        loop {
            let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            if keys.is_empty() {
                return from;
            }
            for key in keys.lines() {
                source.cli(&["MIGRATE", "127.0.0.1", &target.port.to_string(), key, "0", "5000"]);
            }
        }
    }
}

fn start_node(version: Version, arguments: &[&str]) -> RedisServer {
    // The cluster bus of a node needs a port of its own.
    let (port, bus) = (free_port(), free_port().to_string());
    let basic = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
    let arguments = [&basic[..], &["--repl-diskless-sync-delay", "0"], arguments].concat();
    RedisServer::start_version_on_port(version, port, &arguments)
}

/// Makes a node know all nodes that the other knows.
fn join(node: &RedisServer, other: &RedisServer) {
    let bus = other.cli(&["CONFIG", "GET", "cluster-port"]);
    node.cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), bus.lines().last().unwrap()]);
}
