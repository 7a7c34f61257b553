//! Several servers of Redis that look after each other.

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

/// A process that watches a master, and replaces it with others of its kind.
pub struct Sentinel {
    port: u16,
    password: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Three of them, two of which decide, for the master at this port.
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

/// After how long a node of a cluster is taken for lost. A slow disk holds one up
/// for a second.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// Three masters with a replica each.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let node = || {
            // The nodes talk to each other on another port, which is this one and
            // 10,000 unless it is said.
            let bus = free_port().to_string();
            let timeout_ms = NODE_TIMEOUT.as_millis().to_string();
            let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout_ms, "--appendonly", "yes"];
            // A node that is lost keeps nobody from what others have.
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
            // Whoever has not answered within the node time-out has to be met again.
            if met.is_none_or(|met| met.elapsed() > 2 * NODE_TIMEOUT) {
                for other in &cluster.nodes[1..] {
                    first.cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus(other)]);
                }
                met = Some(Instant::now());
            }
            cluster.all_say("CLUSTER NODES", |nodes| nodes.lines().count() == 6)
        })
        .await;
        for number in 0..3 {
            let master = cluster.nodes[number].cli(&["CLUSTER", "MYID"]);
            eventually(async || cluster.nodes[number + 3].cli(&["CLUSTER", "REPLICATE", master.trim()]).contains("OK"))
                .await;
        }
        eventually(async || cluster.all_say("CLUSTER INFO", |info| info.contains("cluster_state:ok"))).await;
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

    /// Which of the three ranges has a lock in the public namespace.
    pub fn range_of_lock(&self, name: &str) -> usize {
        self.shard_of_lock(name) * 3 / 48
    }

    /// Which of the 48 shards has a lock in the public namespace: each has those
    /// whose places would be in its part of the slots.
    pub fn shard_of_lock(&self, name: &str) -> usize {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", &format!("-/{name}")]);
        slot.trim().parse::<usize>().unwrap() * 48 / 16_384
    }

    /// Moves the slot that this key is in to the master of another range.
    pub fn move_slot(&self, key: &str, from: usize, to: usize) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = source.cli(&["CLUSTER", "KEYSLOT", key]);
        let [source_id, target_id] = [source, target].map(|node| node.cli(&["CLUSTER", "MYID"]));
        let (slot, source_id, target_id) = (slot.trim(), source_id.trim(), target_id.trim());
        target.cli(&["CLUSTER", "SETSLOT", slot, "IMPORTING", source_id]);
        source.cli(&["CLUSTER", "SETSLOT", slot, "MIGRATING", target_id]);
        let port = target.port().to_string();
        loop {
            // A few at a time, so that others find some here and some there.
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

    /// Asks the first master of a range of slots.
    pub fn cli(&self, range: usize, args: &[&str]) -> String {
        self.nodes[range].cli(args)
    }

    /// The first master of a range of slots.
    pub fn master(&mut self, range: usize) -> &mut RedisServer {
        &mut self.nodes[range]
    }

    /// Whether the replica of that master has taken its place.
    pub fn is_promoted(&self, range: usize) -> bool {
        self.nodes[range + 3].cli(&["INFO", "replication"]).contains("role:master")
    }

    /// Waits until all nodes agree again.
    pub async fn healed(&self) {
        eventually(async || self.all_say("CLUSTER INFO", |info| info.contains("cluster_state:ok"))).await;
    }

    fn all_say(&self, command: &str, what: impl Fn(&str) -> bool) -> bool {
        let words: Vec<_> = command.split(' ').collect();
        self.nodes.iter().all(|node| what(&node.cli(&words)))
    }
}
