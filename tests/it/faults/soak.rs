//! Random faults, one after another: for 20 seconds by default, for hours with `tests/soak`.

use std::time::{Duration, Instant};

use super::{WorkloadConfig, clients, durable};
use crate::support::{
    Pod, eventually,
    postgres::Postgres,
    proxy::{NetworkFault, Proxy},
    redis::RedisServer,
    workload::Workload,
};

/// The processes that faults are injected into.
struct SoakEnvironment {
    redis: RedisServer,
    proxy: Proxy,
    postgres: Postgres,
    pods: Vec<Pod>,
}

impl SoakEnvironment {
    /// Starts a server. The first one reaches Redis through the proxy.
    async fn start_pod(&self, number: usize, port: u16) -> Pod {
        let url = if number == 0 { self.proxy.url() } else { self.redis.url() };
        let pod = Pod::builder().env("LOCKABLE_REDIS_URL", &url).database(&self.postgres.url);
        let pod = pod.env("LOCKABLE_LISTEN", &format!("127.0.0.1:{port}"));
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    }

    /// Injects one random fault and returns its description.
    async fn inject_fault(&mut self, random: &mut fastrand::Rng, ports: &[u16]) -> String {
        let long = Duration::from_millis(random.u64(100..3000));
        match random.usize(..10) {
            0 => {
                self.redis.restart();
                "redis killed".into()
            }
            1 => {
                let bytes = random.u64(..256 * 1024);
                self.redis.restart_without_tail(bytes);
                format!("redis killed, {bytes} bytes lost")
            }
            2 => {
                self.redis.restart_empty();
                "redis back empty".into()
            }
            3 => {
                self.redis.cli(&["FLUSHALL"]);
                "redis emptied".into()
            }
            4 => {
                self.redis.pause();
                tokio::time::sleep(long).await;
                self.redis.resume();
                format!("redis stopped for {long:?}")
            }
            5 => {
                let faults: [NetworkFault; 5] =
                    [Proxy::black_hole, Proxy::drop_responses, Proxy::half_open, Proxy::refuse, Proxy::slow];
                let which = random.usize(..faults.len());
                faults[which](&self.proxy);
                tokio::time::sleep(long).await;
                self.proxy.pass();
                format!("network broken in way {which} for {long:?}")
            }
            6 => {
                let number = random.usize(..self.pods.len());
                self.pods[number].kill();
                self.pods[number] = self.start_pod(number, ports[number]).await;
                format!("server {number} killed")
            }
            7 => {
                let number = random.usize(..self.pods.len());
                self.pods[number].stop().await;
                self.pods[number] = self.start_pod(number, ports[number]).await;
                format!("server {number} stopped")
            }
            8 => {
                self.postgres.stop();
                tokio::time::sleep(long).await;
                self.postgres.start();
                format!("postgres away for {long:?}")
            }
            _ => {
                self.redis.cli(&["SCRIPT", "FLUSH"]);
                self.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
                "scripts and connections gone".into()
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_never_cause_two_holders() {
    let seed = number("SOAK_SEED").unwrap_or(20_260_916);
    let length = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(20));
    println!("SOAK_SEED={seed}");
    let redis = durable().start();
    let proxy = Proxy::start(redis.port()).await;
    let mut environment = SoakEnvironment { redis, proxy, postgres: Postgres::own().await, pods: Vec::new() };
    let ports = [0; 2].map(|_| crate::support::process::free_port());
    for (number, port) in ports.iter().enumerate() {
        environment.pods.push(environment.start_pod(number, *port).await);
    }
    let clients = clients(&environment.pods).await;
    // Some clients wait for their lock, others poll.
    let waiting =
        WorkloadConfig { seed, wait: Duration::from_secs(2), holders: 10, names: 3, ..WorkloadConfig::default() };
    let polling = WorkloadConfig {
        seed: !seed,
        lease: Duration::from_millis(1500),
        prefix: "polling",
        ..WorkloadConfig::default()
    };
    let groups = [Workload::start(&clients, &waiting), Workload::start(&clients, &polling)];

    let (mut random, begun) = (fastrand::Rng::with_seed(seed), Instant::now());
    while begun.elapsed() < length {
        let what = environment.inject_fault(&mut random, &ports).await;
        let over = Instant::now();
        for group in &groups {
            eventually(async || group.history.first_grant_after(over).is_some()).await;
        }
        println!("{:>6.1} s: {what}; all served again after {:?}", begun.elapsed().as_secs_f64(), over.elapsed());
        tokio::time::sleep(Duration::from_millis(random.u64(..1000))).await;
    }
    for group in groups {
        println!("{:?}", group.stop().await);
    }
}
