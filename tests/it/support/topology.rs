//! Redis servers with failover: Sentinel and Cluster.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use super::{
    eventually,
    process::{Process, free_port},
    redis::RedisServer,
};

/// A Redis Sentinel process.
pub struct Sentinel {
    port: u16,
    password: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Starts three sentinels with a quorum of two for the master at this port.
    pub async fn trio(master: &str, port: u16, password: &str) -> Vec<Self> {
        let trio: Vec<_> = (0..3).map(|_| Self::start(master, port, password)).collect();
        eventually(async || {
            trio.iter().all(|sentinel| {
                let known = sentinel.cli(&["SENTINEL", "MASTER", master]);
                let field =
                    |name: &str| known.lines().skip_while(|line| *line != name).nth(1).unwrap_or_default().to_owned();
                field("num-other-sentinels") == "2" && field("num-slaves") != "0" && field("flags") == "master"
            })
        })
        .await;
        trio
    }

    fn start(master: &str, master_port: u16, password: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = folder.path().join("sentinel.conf");
        let lines = format!(
            "port {port}\nbind 127.0.0.1\nrequirepass {password}\nsentinel sentinel-pass {password}\n\
             sentinel monitor {master} 127.0.0.1 {master_port} 2\nsentinel auth-pass {master} {password}\n\
             sentinel down-after-milliseconds {master} 1000\nsentinel failover-timeout {master} 5000\n"
        );
        fs::write(&config, lines).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&config).arg("--sentinel").stdout(std::process::Stdio::null());
        Self { port, password: password.into(), _process: Process::start(command), _folder: folder }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn cli(&self, args: &[&str]) -> String {
        let ran = Command::new("redis-cli")
            .env("REDISCLI_AUTH", &self.password)
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(ran.stdout).unwrap()
    }
}

/// The cluster node timeout. It exceeds one second because a slow disk can block a node that long.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// A Redis Cluster of three masters with one replica each.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let node = || {
            // The default bus port is the port plus 10,000, which may exceed the valid range or be
            // in use.
            let bus = free_port().to_string();
            let timeout_ms = NODE_TIMEOUT.as_millis().to_string();
            let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout_ms, "--appendonly", "yes"];
            // The other slots stay available when a node is lost.
            let args = [&args[..], &["--cluster-require-full-coverage", "no", "--cluster-port", &bus]].concat();
            RedisServer::builder().args(&args).start()
        };
        let cluster = Self { nodes: (0..6).map(|_| node()).collect() };
        let first = &cluster.nodes[0];
        for (number, range) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")].iter().enumerate() {
            cluster.nodes[number].cli(&["CLUSTER", "ADDSLOTSRANGE", range.0, range.1]);
            cluster.nodes[number].cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        let bus = |node: &RedisServer| node.cli(&["CONFIG", "GET", "cluster-port"]).lines().nth(1).unwrap().to_owned();
        let mut met: Option<Instant> = None;
        eventually(async || {
            // A node that did not answer within the node timeout forgets the handshake; repeat it.
            if met.is_none_or(|met| met.elapsed() > 2 * NODE_TIMEOUT) {
                for other in &cluster.nodes[1..] {
                    first.cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus(other)]);
                }
                met = Some(Instant::now());
            }
            cluster.all_nodes_report("CLUSTER NODES", |nodes| nodes.lines().count() == 6)
        })
        .await;
        for number in 0..3 {
            let master = cluster.nodes[number].cli(&["CLUSTER", "MYID"]);
            eventually(async || cluster.nodes[number + 3].cli(&["CLUSTER", "REPLICATE", master.trim()]).contains("OK"))
                .await;
        }
        eventually(async || cluster.all_nodes_report("CLUSTER INFO", |info| info.contains("cluster_state:ok"))).await;
        eventually(async || {
            cluster.nodes[3..].iter().all(|node| node.cli(&["INFO", "replication"]).contains("master_link_status:up"))
        })
        .await;
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns the index of the master that stores a lock of the public namespace.
    pub fn range_of_lock(&self, name: &str) -> usize {
        self.shard_of_lock(name) * 3 / 48
    }

    /// Returns the shard of a lock in the public namespace. Shard n contains the locks whose keys
    /// hash into the n-th of 48 parts of the slots.
    pub fn shard_of_lock(&self, name: &str) -> usize {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", &format!("-/{name}")]);
        slot.trim().parse::<usize>().unwrap() * 48 / 16_384
    }

    /// Migrates the slot of this key to the master of another range.
    pub fn move_slot(&self, key: &str, from: usize, to: usize) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = source.cli(&["CLUSTER", "KEYSLOT", key]);
        let [source_id, target_id] = [source, target].map(|node| node.cli(&["CLUSTER", "MYID"]));
        let (slot, source_id, target_id) = (slot.trim(), source_id.trim(), target_id.trim());
        target.cli(&["CLUSTER", "SETSLOT", slot, "IMPORTING", source_id]);
        source.cli(&["CLUSTER", "SETSLOT", slot, "MIGRATING", target_id]);
        let port = target.port().to_string();
        loop {
            // Migrate a few keys at a time, so that clients see the slot partly here and partly
            // there.
            let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", slot, "3"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            source.cli(&[&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"], &keys[..]].concat());
        }
        for node in [target, source] {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", slot, "NODE", target_id]).trim(), "OK");
        }
    }

    /// Runs a command on the first master of a slot range.
    pub fn cli(&self, range: usize, args: &[&str]) -> String {
        self.nodes[range].cli(args)
    }

    /// Returns the first master of a slot range.
    pub fn master(&mut self, range: usize) -> &mut RedisServer {
        &mut self.nodes[range]
    }

    /// Returns whether the replica of that master was promoted.
    pub fn is_promoted(&self, range: usize) -> bool {
        self.nodes[range + 3].cli(&["INFO", "replication"]).contains("role:master")
    }

    /// Waits until all nodes report a healthy cluster.
    pub async fn wait_until_healthy(&self) {
        eventually(async || self.all_nodes_report("CLUSTER INFO", |info| info.contains("cluster_state:ok"))).await;
    }

    fn all_nodes_report(&self, command: &str, what: impl Fn(&str) -> bool) -> bool {
        let words: Vec<_> = command.split(' ').collect();
        self.nodes.iter().all(|node| what(&node.cli(&words)))
    }
}
