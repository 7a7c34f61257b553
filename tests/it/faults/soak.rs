//! Faults at random, one after another, for as long as one likes: a moment here,
//! hours with `tests/soak`.

use std::time::{Duration, Instant};

use super::{Wanted, clients, durable};
use crate::support::{
    Pod, eventually,
    holders::Holders,
    postgres::Postgres,
    proxy::{Break, Proxy},
    redis::RedisServer,
};

/// What faults happen to.
struct House {
    redis: RedisServer,
    proxy: Proxy,
    postgres: Postgres,
    pods: Vec<Pod>,
}

impl House {
    /// The first server reaches Redis through a network that breaks.
    async fn start_pod(&self, number: usize, port: u16) -> Pod {
        let url = if number == 0 { self.proxy.url() } else { self.redis.url() };
        let pod = Pod::builder().env("LOCKABLE_REDIS_URL", &url).database(&self.postgres.url);
        let pod = pod.env("LOCKABLE_LISTEN", &format!("127.0.0.1:{port}"));
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    }

    /// Has something happen; returns what.
    async fn suffer(&mut self, random: &mut fastrand::Rng, ports: &[u16]) -> String {
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
                let breaks: [Break; 5] =
                    [Proxy::black_hole, Proxy::drop_answers, Proxy::half_open, Proxy::refuse, Proxy::slow];
                let which = random.usize(..breaks.len());
                breaks[which](&self.proxy);
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
async fn whatever_happens_no_two_hold_one_lock() {
    let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let length = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(20));
    println!("SOAK_SEED={seed}");
    let redis = durable().start();
    let proxy = Proxy::start(redis.port()).await;
    let mut house = House { redis, proxy, postgres: Postgres::own().await, pods: Vec::new() };
    let ports = [0; 2].map(|_| crate::support::process::free_port());
    for (number, port) in ports.iter().enumerate() {
        house.pods.push(house.start_pod(number, *port).await);
    }
    let clients = clients(&house.pods).await;
    // Some who wait, and some who only try.
    let patient = Wanted { seed, wait: Duration::from_secs(2), holders: 10, names: 3, ..Wanted::default() };
    let hasty = Wanted { seed: !seed, lease: Duration::from_millis(1500), prefix: "hasty", ..Wanted::default() };
    let groups = [Holders::start(&clients, &patient), Holders::start(&clients, &hasty)];

    let (mut random, begun) = (fastrand::Rng::with_seed(seed), Instant::now());
    while begun.elapsed() < length {
        let what = house.suffer(&mut random, &ports).await;
        let over = Instant::now();
        for group in &groups {
            eventually(async || group.history.first_after(over).is_some()).await;
        }
        println!("{:>6.1} s: {what}; all served again after {:?}", begun.elapsed().as_secs_f64(), over.elapsed());
        tokio::time::sleep(Duration::from_millis(random.u64(..1000))).await;
    }
    for group in groups {
        println!("{:?}", group.stop().await);
    }
}
