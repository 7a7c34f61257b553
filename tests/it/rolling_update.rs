//! All servers are replaced one after another, behind a real balancer and under load: clients see
//! no error.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::support::{
    Client, Pod,
    balancer::{Backend, Balancer},
    eventually, exclusive_cpu,
    pod::lockable,
    postgres::Postgres,
    process::free_port,
    redis::RedisServer,
};

const CLIENTS: usize = 200;
const NAMES: usize = 20;

struct Deployment {
    redis: RedisServer,
    postgres: Postgres,
    redis_timeout: &'static str,
}

impl Deployment {
    async fn start(&self, backend: Backend) -> Pod {
        let pod = Pod::builder()
            .redis(&self.redis)
            .database(&self.postgres.url)
            .env("LOCKABLE_LISTEN", &format!("127.0.0.1:{}", backend.api))
            .env("LOCKABLE_ADMIN_LISTEN", &format!("127.0.0.1:{}", backend.admin))
            .env("LOCKABLE_SHUTDOWN_DELAY", "2s")
            .env("LOCKABLE_REDIS_TIMEOUT", self.redis_timeout)
            .start()
            .await;
        eventually(async || pod.admin().get("/readyz").await.status == 200).await;
        pod
    }
}

/// The holders as the clients observe them, and faults.
#[derive(Default)]
struct Observations {
    holding: HashMap<usize, usize>,
    faults: Vec<String>,
}

async fn hold_repeatedly(
    number: usize,
    client: Client,
    observed: Arc<Mutex<Observations>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let name = number % NAMES;
    let note = |fault: String| observed.lock().unwrap().faults.push(fault);
    let acquire = format!("/v1/acquire/rolling-{name}?owner=client-{number}&wait=20s");
    while !stop.load(Ordering::Relaxed) {
        let granted = client.get(&acquire).await;
        if granted.status != 200 {
            note(format!("acquire: {} {}", granted.status, granted.text));
            continue;
        }
        if granted.json["response"] != true {
            // The server is stopping; the owner keeps its position.
            if granted.json["reason"] != "draining" && granted.json["reason"] != "timed_out" {
                note(format!("acquire: {}", granted.text));
            }
            continue;
        }
        if let Some(other) = observed.lock().unwrap().holding.insert(name, number) {
            note(format!("{name}: {number} entered while {other} was inside"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let renewed = client.get(&format!("/v1/heartbeat/rolling-{name}?owner=client-{number}")).await;
        observed.lock().unwrap().holding.remove(&name);
        let released = client.get(&format!("/v1/release/rolling-{name}?owner=client-{number}")).await;
        for (what, answer) in [("heartbeat", renewed), ("release", released)] {
            if answer.status != 200 || answer.json["response"] != true {
                note(format!("{what}: {} {}", answer.status, answer.text));
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Creates a marker, and prints `overlap` if another command has created it.
const DETECT_OVERLAP: &str = "mkdir \"$0\" || echo overlap; sleep 0.02; rmdir \"$0\"";

/// Runs commands under a lock, one after another. Each must succeed and print nothing but that it
/// waits.
async fn run_commands(
    number: usize,
    program: impl Fn(&[&str]) -> tokio::process::Command,
    folder: PathBuf,
    observed: Arc<Mutex<Observations>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let name = format!("rolling-{}", number % NAMES);
    let marker = folder.join(&name);
    while !stop.load(Ordering::Relaxed) {
        let args = ["run", &name, "--", "sh", "-c", DETECT_OVERLAP, marker.to_str().unwrap()];
        let ran = program(&args).kill_on_drop(true).output().await.unwrap();
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let is_expected = stderr.lines().all(|line| line.starts_with("lockable: waiting for "));
        if ran.status.code() != Some(0) || !stdout.is_empty() || !is_expected {
            observed.lock().unwrap().faults.push(format!("{:?} {stdout} {stderr}", ran.status));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_update_is_invisible_to_clients() {
    replace_servers_under_load("500ms", |LoadContext { origin, token, observed, rounds, stop, .. }| {
        let client = |number| {
            hold_repeatedly(number, Client::new(&origin, Some(&token)), observed.clone(), rounds.clone(), stop.clone())
        };
        (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_update_is_invisible_to_commands() {
    // A long Redis timeout, because so many processes keep the processors busy.
    replace_servers_under_load("10s", |LoadContext { origin, token, folder, observed, rounds, stop }| {
        let program = move |args: &[&str]| {
            let mut command = lockable(args);
            command.env("LOCKABLE_URL", &origin).env("LOCKABLE_AUTH_TOKEN", &token);
            command
        };
        let client = |number| {
            run_commands(number, program.clone(), folder.clone(), observed.clone(), rounds.clone(), stop.clone())
        };
        (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect()
    })
    .await;
}

/// The inputs of the clients, and where they report results.
struct LoadContext {
    origin: String,
    token: String,
    folder: PathBuf,
    observed: Arc<Mutex<Observations>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

async fn replace_servers_under_load(
    redis_timeout: &'static str,
    start: impl FnOnce(LoadContext) -> Vec<JoinHandle<()>>,
) {
    let _cpu = exclusive_cpu().await;
    let deployment = Deployment { redis: RedisServer::start(), postgres: Postgres::database().await, redis_timeout };
    let backends = [(); 3].map(|()| Backend { api: free_port(), admin: free_port() });
    let mut pods = Vec::new();
    for backend in backends {
        pods.push(deployment.start(backend).await);
    }
    pods[0].operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let token = pods[0].account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let balancer = Balancer::start(&backends, &[]);
    let origin = balancer.origin();
    let probe = Client::new(&origin, Some(&token));
    eventually(async || probe.try_get("/v1/account").await.is_some_and(|answer| answer.status == 200)).await;

    let (observed, rounds, stop) =
        (Arc::<Mutex<Observations>>::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients = start(LoadContext {
        origin,
        token,
        folder: folder.path().to_owned(),
        observed: observed.clone(),
        rounds: rounds.clone(),
        stop: stop.clone(),
    });
    for (pod, backend) in pods.iter_mut().zip(backends) {
        let before = rounds.load(Ordering::Relaxed);
        eventually(async || rounds.load(Ordering::Relaxed) > before + 100).await;
        assert_eq!(pod.stop().await, Some(0));
        *pod = deployment.start(backend).await;
    }
    let before = rounds.load(Ordering::Relaxed);
    eventually(async || rounds.load(Ordering::Relaxed) > before + 200).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let faults = std::mem::take(&mut observed.lock().unwrap().faults);
    assert_eq!(faults, Vec::<String>::new(), "{} rounds were completed", rounds.load(Ordering::Relaxed));
}

/// The balancer has its own connection to the server, and must pass on that the client has
/// disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn client_disconnected_behind_the_balancer_is_granted_nothing() {
    let deployment =
        Deployment { redis: RedisServer::start(), postgres: Postgres::database().await, redis_timeout: "3s" };
    let backend = Backend { api: free_port(), admin: free_port() };
    let pod = deployment.start(backend).await;
    let token = pod.account("business").await.token;
    let balancer = Balancer::start(&[backend], &[]);
    let client = Client::new(&balancer.origin(), Some(&token));
    eventually(async || client.try_get("/v1/account").await.is_some_and(|answer| answer.status == 200)).await;
    assert_eq!(client.get("/v1/acquire/gone?owner=holder").await.json["response"], true);
    let waiting = async || client.get("/v1/locks/gone").await.json["waiting"].clone();
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/acquire/gone?wait=55s&lease=10m").await }
    });
    eventually(async || waiting().await == 1).await;
    waiter.abort();
    eventually(async || waiting().await == 0).await;
    assert_eq!(client.get("/v1/release/gone?owner=holder").await.json["response"], true);
    assert_eq!(client.get("/v1/acquire/gone?owner=next").await.json["response"], true);
}
