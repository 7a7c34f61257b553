//! The cost of a request compared with a baseline: axum with a small response and no Redis,
//! Lockable on Redis and embedded, and nginx with Lua and resty-redis if installed, measured in
//! turn on one machine.
//!
//! `cargo bench --bench compare [SECONDS] [ROUNDS]`: seconds per measurement and number of rounds.
//! Needs wrk and redis-server; nginx needs Debian's `nginx-light`, `libnginx-mod-http-lua` and
//! `lua-nginx-redis`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an interactive program that panics on errors"
)]

mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{
    Servers,
    bare::{BareAxum, serve_if_bare},
    cpu_of, free_port,
};

/// The numbers of concurrent connections.
const CONNECTIONS: [u32; 2] = [64, 8];

/// A server under test.
struct Contender {
    name: &'static str,
    address: String,
    authorization: Option<String>,
    /// The process ids of the server, and of Redis if it is used.
    server: Vec<u32>,
    redis: Option<u32>,
}

/// The result of one measurement.
struct Measurement {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    server_us: f64,
    redis_us: f64,
}

fn main() {
    serve_if_bare();
    let mut arguments = env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let (seconds, rounds) = (arguments.next().unwrap_or(5), arguments.next().unwrap_or(3));

    let (bare, bare_on_one) = (BareAxum::start(), BareAxum::start_on_one_thread());
    let on_redis = Servers::start(1, &[]);
    let embedded = Servers::start_embedded();
    let nginx = Nginx::start();
    let mut contenders = vec![
        axum("axum, bare", &bare),
        axum("axum, one thread", &bare_on_one),
        lockable("Lockable on Redis", &on_redis),
        lockable("Lockable, embedded", &embedded),
    ];
    contenders.extend(nginx.as_ref().map(Nginx::contender));
    if nginx.is_none() {
        println!("nginx is skipped: nginx, its Lua module or resty-redis is not installed");
    }

    let mut measurements = BTreeMap::<(u32, usize), Vec<Measurement>>::new();
    for round in 0..rounds {
        for connections in CONNECTIONS {
            for (at, contender) in contenders.iter().enumerate() {
                let measurement = contender.measure(connections, seconds, round);
                measurements.entry((connections, at)).or_default().push(measurement);
            }
        }
    }
    report(&contenders, &measurements, seconds, rounds);
}

fn axum(name: &'static str, bare: &BareAxum) -> Contender {
    Contender { name, address: bare.address.clone(), authorization: None, server: vec![bare.process.id()], redis: None }
}

fn lockable(name: &'static str, servers: &Servers) -> Contender {
    Contender {
        name,
        address: servers.addresses[0].clone(),
        authorization: Some(format!("Basic {}", STANDARD.encode(format!("{}:", servers.token)))),
        server: vec![servers.pods[0].id()],
        redis: servers.redis.as_ref().map(Child::id),
    }
}

impl Contender {
    fn measure(&self, connections: u32, seconds: u32, round: u32) -> Measurement {
        let used =
            || (self.server.iter().map(|id| cpu_of(*id)).sum::<Duration>(), self.redis.map(cpu_of).unwrap_or_default());
        let before = used();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare.lua");
        let ran = Command::new("wrk")
            .args(["--threads", "2", "--connections", &connections.to_string(), "--duration", &format!("{seconds}s")])
            .args(["--latency", "--script", script, &format!("http://{}", self.address), "--"])
            .args([self.authorization.as_deref().unwrap_or_default(), &format!("{connections}-{round}")])
            .output()
            .expect("wrk is installed");
        let after = used();
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{}: {text}", self.name);
        let line = |start: &str| {
            text.lines().find_map(|line| line.trim().strip_prefix(start)).expect("wrk prints this line").trim()
        };
        let requests: f64 = text
            .lines()
            .find(|line| line.contains(" requests in "))
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let per_request = |used: Duration| used.as_secs_f64() * 1e6 / requests;
        Measurement {
            per_second: line("Requests/sec:").parse().unwrap(),
            p50_us: microseconds(line("50%")),
            p99_us: microseconds(line("99%")),
            server_us: per_request(after.0.saturating_sub(before.0)),
            redis_us: per_request(after.1.saturating_sub(before.1)),
        }
    }
}

/// Parses a time of wrk's output.
fn microseconds(text: &str) -> f64 {
    let at = text.find(|c: char| c.is_alphabetic()).unwrap();
    let (number, unit) = text.split_at(at);
    number.parse::<f64>().unwrap()
        * match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            other => panic!("unknown unit {other} in the output of wrk"),
        }
}

/// Prints the medians, and their ratios to those of the bare server.
fn report(
    contenders: &[Contender],
    measurements: &BTreeMap<(u32, usize), Vec<Measurement>>,
    seconds: u32,
    rounds: u32,
) {
    println!("acquire and release alternately on fresh names, {rounds} rounds of {seconds} s per server; medians");
    for connections in CONNECTIONS {
        println!("\n{connections} connections");
        println!(
            "{:20} {:>10} {:>9} {:>9} {:>12} {:>12} {:>10} {:>10}",
            "", "requests/s", "p50 µs", "p99 µs", "server µs/rq", "Redis µs/rq", "x bare rq/s", "x bare CPU"
        );
        let medians: Vec<_> = (0..contenders.len()).map(|at| Median::of(&measurements[&(connections, at)])).collect();
        for (contender, median) in contenders.iter().zip(&medians) {
            let Median { per_second, p50_us, p99_us, server_us, redis_us } = median;
            let redis = if contender.redis.is_some() { format!("{redis_us:.1}") } else { "-".into() };
            println!(
                "{:20} {per_second:10.0} {p50_us:9.0} {p99_us:9.0} {server_us:12.1} {redis:>12} {:10.2} {:10.2}",
                contender.name,
                per_second / medians[0].per_second,
                server_us / medians[0].server_us,
            );
        }
    }
}

struct Median {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    server_us: f64,
    redis_us: f64,
}

impl Median {
    fn of(measurements: &[Measurement]) -> Self {
        let median = |of: fn(&Measurement) -> f64| {
            let mut values: Vec<f64> = measurements.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            per_second: median(|measurement| measurement.per_second),
            p50_us: median(|measurement| measurement.p50_us),
            p99_us: median(|measurement| measurement.p99_us),
            server_us: median(|measurement| measurement.server_us),
            redis_us: median(|measurement| measurement.redis_us),
        }
    }
}

/// nginx with Lua and resty-redis, which runs similar scripts in Redis.
struct Nginx {
    process: Child,
    redis: Child,
    address: String,
    _folder: tempfile::TempDir,
}

/// The files of Debian's packages.
const MODULES: [&str; 3] = [
    "/usr/share/nginx/modules/ndk_http_module.so",
    "/usr/share/nginx/modules/ngx_http_lua_module.so",
    "/usr/share/lua/5.1/nginx/redis.lua",
];

impl Nginx {
    fn start() -> Option<Self> {
        if !MODULES.iter().all(|module| Path::new(module).exists()) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (port, redis_port) = (free_port(), free_port());
        let redis = common::start_redis(redis_port, folder.path());
        let configuration = include_str!("nginx.conf")
            .replace("FOLDER", folder.path().to_str().unwrap())
            .replace("REDIS_PORT", &redis_port.to_string())
            .replace("PORT", &port.to_string());
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let process = Command::new("nginx").arg("-c").arg(&file).stderr(Stdio::null()).spawn().expect("nginx starts");
        let address = format!("127.0.0.1:{port}");
        common::await_port(&address);
        Some(Self { process, redis, address, _folder: folder })
    }

    fn contender(&self) -> Contender {
        // The master process is idle; its children serve.
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let server = fs::read_to_string(children).unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
        Contender {
            name: "nginx, resty-redis",
            address: self.address.clone(),
            authorization: None,
            server,
            redis: Some(self.redis.id()),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that its children end, too.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
        let _ = self.redis.kill();
        let _ = self.redis.wait();
    }
}
