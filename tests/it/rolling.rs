//! All servers are replaced, one after the other, behind a real balancer and
//! under load: nobody notices.

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
    crowd_turn, eventually,
    pod::lockable,
    postgres::Postgres,
    process::free_port,
    redis::RedisServer,
};

const CLIENTS: usize = 200;
const NAMES: usize = 20;

struct Site {
    redis: RedisServer,
    postgres: Postgres,
    redis_timeout: &'static str,
}

impl Site {
    async fn start(&self, place: Backend) -> Pod {
        let pod = Pod::builder()
            .redis(&self.redis)
            .database(&self.postgres.url)
            .env("LOCKABLE_LISTEN", &format!("127.0.0.1:{}", place.api))
            .env("LOCKABLE_ADMIN_LISTEN", &format!("127.0.0.1:{}", place.admin))
            .env("LOCKABLE_SHUTDOWN_DELAY", "2s")
            .env("LOCKABLE_REDIS_TIMEOUT", self.redis_timeout)
            .start()
            .await;
        eventually(async || pod.admin().get("/readyz").await.status == 200).await;
        pod
    }
}

/// Who is in, as those see it who hold the locks.
#[derive(Default)]
struct Record {
    holding: HashMap<usize, usize>,
    faults: Vec<String>,
}

async fn take_turns(
    number: usize,
    client: Client,
    record: Arc<Mutex<Record>>,
    turns: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    let name = number % NAMES;
    let note = |fault: String| record.lock().unwrap().faults.push(fault);
    let acquire = format!("/v1/acquire/rolling-{name}?owner=client-{number}&wait=20s");
    while !over.load(Ordering::Relaxed) {
        let granted = client.get(&acquire).await;
        if granted.status != 200 {
            note(format!("acquire: {} {}", granted.status, granted.text));
            continue;
        }
        if granted.json["response"] != true {
            // It is leaving; the next one has the place.
            if granted.json["reason"] != "draining" && granted.json["reason"] != "timed_out" {
                note(format!("acquire: {}", granted.text));
            }
            continue;
        }
        if let Some(other) = record.lock().unwrap().holding.insert(name, number) {
            note(format!("{name}: {number} came in while {other} was there"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let renewed = client.get(&format!("/v1/heartbeat/rolling-{name}?owner=client-{number}")).await;
        record.lock().unwrap().holding.remove(&name);
        let released = client.get(&format!("/v1/release/rolling-{name}?owner=client-{number}")).await;
        for (what, answer) in [("heartbeat", renewed), ("release", released)] {
            if answer.status != 200 || answer.json["response"] != true {
                note(format!("{what}: {} {}", answer.status, answer.text));
            }
        }
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Marks that it is in, and says so if somebody else is.
const ALONE: &str = "mkdir \"$0\" || echo overlap; sleep 0.02; rmdir \"$0\"";

/// Runs commands under a lock, one after the other: nothing goes wrong with any,
/// and all that is said is that it waits.
async fn run_commands(
    number: usize,
    program: impl Fn(&[&str]) -> tokio::process::Command,
    folder: PathBuf,
    record: Arc<Mutex<Record>>,
    turns: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    let name = format!("rolling-{}", number % NAMES);
    let place = folder.join(&name);
    while !over.load(Ordering::Relaxed) {
        let args = ["run", &name, "--", "sh", "-c", ALONE, place.to_str().unwrap()];
        let ran = program(&args).kill_on_drop(true).output().await.unwrap();
        let [said, complained] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let is_quiet = complained.lines().all(|line| line.starts_with("lockable: waiting for "));
        if ran.status.code() != Some(0) || !said.is_empty() || !is_quiet {
            record.lock().unwrap().faults.push(format!("{:?} {said} {complained}", ran.status));
        }
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_are_replaced_and_no_client_notices() {
    replaced_under("500ms", |Clients { origin, token, record, turns, over, .. }| {
        let client = |number| {
            take_turns(number, Client::new(&origin, Some(&token)), record.clone(), turns.clone(), over.clone())
        };
        (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_are_replaced_and_no_command_notices() {
    // That so many processes keep the processors busy is not what is tried.
    replaced_under("10s", |Clients { origin, token, folder, record, turns, over }| {
        let program = move |args: &[&str]| {
            let mut command = lockable(args);
            command.env("LOCKABLE_URL", &origin).env("LOCKABLE_AUTH_TOKEN", &token);
            command
        };
        let client =
            |number| run_commands(number, program.clone(), folder.clone(), record.clone(), turns.clone(), over.clone());
        (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect()
    })
    .await;
}

/// What clients need to begin, and to say how it went.
struct Clients {
    origin: String,
    token: String,
    folder: PathBuf,
    record: Arc<Mutex<Record>>,
    turns: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

async fn replaced_under(redis_timeout: &'static str, start: impl FnOnce(Clients) -> Vec<JoinHandle<()>>) {
    let _crowd = crowd_turn().await;
    let site = Site { redis: RedisServer::start(), postgres: Postgres::database().await, redis_timeout };
    let places = [(); 3].map(|()| Backend { api: free_port(), admin: free_port() });
    let mut pods = Vec::new();
    for place in places {
        pods.push(site.start(place).await);
    }
    pods[0].operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let token = pods[0].account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let balancer = Balancer::start(&places, &[]);
    let origin = balancer.origin();
    let probe = Client::new(&origin, Some(&token));
    eventually(async || probe.try_get("/v1/account").await.is_some_and(|answer| answer.status == 200)).await;

    let (record, turns, over) =
        (Arc::<Mutex<Record>>::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients = start(Clients {
        origin,
        token,
        folder: folder.path().to_owned(),
        record: record.clone(),
        turns: turns.clone(),
        over: over.clone(),
    });
    for (pod, place) in pods.iter_mut().zip(places) {
        let before = turns.load(Ordering::Relaxed);
        eventually(async || turns.load(Ordering::Relaxed) > before + 100).await;
        assert_eq!(pod.stop().await, Some(0));
        *pod = site.start(place).await;
    }
    let before = turns.load(Ordering::Relaxed);
    eventually(async || turns.load(Ordering::Relaxed) > before + 200).await;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let faults = std::mem::take(&mut record.lock().unwrap().faults);
    assert_eq!(faults, Vec::<String>::new(), "{} turns were taken", turns.load(Ordering::Relaxed));
}

/// The balancer keeps its own connection to the server: it has to say that the client of
/// a request is gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_behind_the_balancer_is_granted_nothing() {
    let site = Site { redis: RedisServer::start(), postgres: Postgres::database().await, redis_timeout: "3s" };
    let place = Backend { api: free_port(), admin: free_port() };
    let pod = site.start(place).await;
    let token = pod.account("business").await.token;
    let balancer = Balancer::start(&[place], &[]);
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
