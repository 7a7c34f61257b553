//! The cost of a request in Redis: CPU time, compared with a minimal lock script, and memory.
//!
//! `cargo bench --bench scripts -- [LOCKS]`. All scripts use the same connection, the server's
//! with the server's arguments. They alternate, so that noise of the machine affects all of
//! them alike.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a command-line program"
)]

mod common;
#[path = "../tests/it/support/journal.rs"]
mod journal;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Child,
    time::Duration,
};

use common::{await_port, cpu, free_port, start_redis};
use futures_util::future::join_all;
use lockable::{
    config::RedisSettings,
    lock::{
        AccountId, AcquireOutcome, HeartbeatOutcome, Info, Label, Lease, LockName, NamespaceId, Note, Owner, Rate,
        RateBucket, RateCharge, ReleaseOutcome, TokenEnd,
    },
    locks::{AcquireRequest, Claimant, HeartbeatRequest, LockKey, Locks, ReleaseRequest, RenewedLease},
    store::{Redis, Script, Store},
};
use uuid::Uuid;

const ROUNDS: u32 = 5;
/// Numbers of concurrent commands.
const DEPTHS: [usize; 2] = [1, 16];

static SET: Script = Script::new(
    "bare_set",
    "return {redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 'granted' or 'held'}",
);
static EXTEND: Script = Script::new(
    "bare_extend",
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return {'renewed'} end
     return {'held'}",
);
static DELETE: Script = Script::new(
    "bare_delete",
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) return {'released'} end
     return {'held'}",
);

/// The script: a minimal one, the server's without a rate, and the server's with a rate to
/// charge.
#[derive(Clone, Copy)]
enum Variant {
    Minimal,
    Unlimited,
    RateLimited,
}

#[derive(Clone, Copy)]
enum Operation {
    Acquire,
    Heartbeat,
    Release,
}

/// The first heartbeat also removes the attempt from the grant; the others renew only.
const OPERATIONS: [(&str, Operation); 4] = [
    ("acquire", Operation::Acquire),
    ("first heartbeat", Operation::Heartbeat),
    ("heartbeat", Operation::Heartbeat),
    ("release", Operation::Release),
];

struct Bench {
    redis: Child,
    port: u16,
    store: Store,
    locks: Locks,
    count: usize,
}

#[tokio::main]
async fn main() {
    let count = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let redis = start_redis(port, folder.path());
    await_port(&format!("127.0.0.1:{port}"));
    let settings = RedisSettings {
        url: Some(format!("redis://127.0.0.1:{port}").parse().unwrap()),
        timeout: Duration::from_secs(10),
        prefix: "lockable".into(),
        wait_replicas: 0,
        pool_size: 1,
        embedded_memory: u64::MAX,
    };
    let store = Store::Redis(Redis::start(&settings, &[tokio::runtime::Handle::current()]).await.unwrap());
    let locks = journal::new_locks(store.clone()).await;
    let bench = Bench { redis, port, store, locks, count };
    bench.measure_memory().await;
    for depth in DEPTHS {
        bench.measure_cpu(depth).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.redis.kill();
        let _ = self.redis.wait();
    }
}

impl Bench {
    async fn measure_memory(&self) {
        // Loads the scripts and allocates buffers.
        for (_, operation) in OPERATIONS {
            self.run(Variant::Unlimited, operation, 16).await;
        }
        let before = self.memory();
        for (what, operation) in [("held", Operation::Acquire), ("renewed", Operation::Heartbeat)] {
            self.run(Variant::Unlimited, operation, 16).await;
            println!("memory of a {what} lock: {:.0} bytes", (self.memory() - before) / self.count as f64);
        }
        self.run(Variant::Unlimited, Operation::Release, 16).await;
    }

    async fn measure_cpu(&self, depth: usize) {
        let variants = [Variant::Minimal, Variant::Unlimited, Variant::RateLimited];
        let mut cpu_time = [[Duration::ZERO; OPERATIONS.len()]; 3];
        for _ in 0..ROUNDS {
            for (variant, cpu_time) in variants.iter().zip(&mut cpu_time) {
                for ((_, operation), cpu_time) in OPERATIONS.into_iter().zip(cpu_time) {
                    let before = cpu(&self.redis);
                    self.run(*variant, operation, depth).await;
                    *cpu_time += cpu(&self.redis).saturating_sub(before);
                }
            }
        }
        println!("Redis CPU time per command, {depth} concurrent");
        for (at, (operation, _)) in OPERATIONS.iter().enumerate() {
            let each =
                cpu_time.map(|cpu_time| cpu_time[at].as_secs_f64() * 1e6 / (self.count * ROUNDS as usize) as f64);
            let [minimal, unlimited, limited] = each;
            println!(
                "  {operation:15}  minimal {minimal:5.2} µs, without rate {unlimited:5.2} µs ({:.2}), with rate {limited:5.2} µs ({:.2})",
                unlimited / minimal,
                limited / minimal
            );
        }
    }

    async fn run(&self, variant: Variant, operation: Operation, depth: usize) {
        for first in (0..self.count).step_by(depth) {
            let numbers = first..self.count.min(first + depth);
            join_all(numbers.map(|number| self.send(variant, operation, number))).await;
        }
    }

    async fn send(&self, variant: Variant, operation: Operation, number: usize) {
        let name = format!("{number:040}");
        let owner = Uuid::from_u128(number as u128).to_string();
        if matches!(variant, Variant::Minimal) {
            let key = self.store.key("0", "bare", &name);
            let (script, args): (_, &[&str]) = match operation {
                Operation::Acquire => (&SET, &[&owner, "60000"]),
                Operation::Heartbeat => (&EXTEND, &[&owner, "60000"]),
                Operation::Release => (&DELETE, &[&owner]),
            };
            assert_ne!(self.store.eval(script, &[&key], args).await.unwrap().status(), "held");
            return;
        }
        let charge = match variant {
            Variant::RateLimited => RateCharge::InScript(RateBucket {
                key: self.store.key("0", "rate", "token").into(),
                rate: Rate { per_second: 1_000_000, burst: 1_000_000 },
            }),
            _ => RateCharge::Done,
        };
        let lock = LockKey { namespace: NamespaceId::Public, name: LockName::parse(name).unwrap() };
        let account = AccountId(Uuid::from_u128(7));
        let claimant = Claimant { account, owner: Some(Owner::parse(owner).unwrap()) };
        let lease = Lease::from_secs(60);
        match operation {
            Operation::Acquire => {
                let (token, note, info) = (TokenEnd::of(Uuid::nil()), Note::default(), Info::default());
                let (label, held_max, waiting_max) = (Label::parse("first").unwrap(), 1_000_000, 10_000);
                let request = AcquireRequest {
                    lock,
                    claimant,
                    lease,
                    is_lease_asked: true,
                    label,
                    token,
                    note,
                    info,
                    held_max,
                    waiting_max,
                    charge,
                };
                let answer = self.locks.acquire(&request).await.unwrap();
                assert!(matches!(answer.outcome, AcquireOutcome::Granted(_)));
            }
            Operation::Heartbeat => {
                let lease = RenewedLease::For(lease);
                let request = HeartbeatRequest { lock, claimant, lease, fence: None, charge };
                let answer = self.locks.heartbeat(&request).await.unwrap();
                assert!(matches!(answer.outcome, HeartbeatOutcome::Renewed(_)));
            }
            Operation::Release => {
                let request = ReleaseRequest { lock, claimant, fence: None, token: TokenEnd::of(Uuid::nil()), charge };
                let answer = self.locks.release(&request).await.unwrap();
                assert_eq!(answer.outcome, ReleaseOutcome::Released);
            }
        }
    }

    /// The memory that Redis uses, in bytes.
    fn memory(&self) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"INFO memory\r\nQUIT\r\n").unwrap();
        let mut info = String::new();
        stream.read_to_string(&mut info).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        line.trim().parse().unwrap()
    }
}
