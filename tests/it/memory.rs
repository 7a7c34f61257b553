//! The maximum memory of an account in Redis, which docs/operations.md states per plan.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::support::{Client, Cluster, eventually};

/// The figures of docs/operations.md.
const LOCK_BYTES: u64 = 4 * 1024;
const WAITING_BYTES: u64 = 7 * 1024;

/// Returns a text of this many bytes that ends with a number.
fn long(bytes: usize, number: usize) -> String {
    format!("{:x>bytes$}", format!("-{number}"))
}

/// Returns an owner of 128 characters, most of which take two bytes.
fn long_owner(number: usize) -> String {
    format!("{:é>128}", format!("-{number}"))
}

/// Returns a lock info of the maximum size. The server stores all of it, and a note made of all
/// fields but the ID.
fn info(number: usize, run: usize) -> String {
    let begun =
        json!({ "ID": long_owner(number * 1000 + run), "Operation": long(290, 0), "Who": long(190, 0), "Info": "" });
    let rest = 2048 - begun.to_string().len();
    let info =
        json!({ "ID": begun["ID"], "Operation": begun["Operation"], "Who": begun["Who"], "Info": long(rest, 0) });
    info.to_string()
}

fn path(number: usize) -> String {
    format!("/v1/terraform/{}?namespace=deploy", long(200, number))
}

async fn cluster_with(locks: u32, waiters: u32) -> (Cluster, Client) {
    let cluster = Cluster::start(1).await;
    let (locks, waiters) = (locks.to_string(), waiters.to_string());
    let plan = ["plan", "set", "business", "--rate", "1000000", "--burst", "1000000", "--locks", &locks];
    cluster.operator(&[&plan[..], &["--waiters", &waiters]].concat()).await;
    let account = cluster.account("business").await;
    cluster.operator(&["namespace", "create", "--account", &account.email, "deploy"]).await;
    let made = cluster.operator(&["token", "create", "--account", &account.email, "--label", &long(128, 1)]).await;
    let client = cluster.pods[0].client(made["token"].as_str().unwrap());
    (cluster, client)
}

/// Returns the memory that Redis uses, without the history, which has a limit of its own.
fn used_memory(cluster: &Cluster) -> u64 {
    const HISTORY: &str = "local sum = 0 for _, kind in ipairs({'history', 'recorded'}) do \
                           for _, key in ipairs(redis.call('KEYS', '*:' .. kind .. ':*')) do \
                           sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0') end end return sum";
    let history = eval(cluster, HISTORY);
    let info = cluster.redis.cli(&["INFO", "memory"]);
    let used: u64 = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap();
    used - history
}

fn eval(cluster: &Cluster, script: &str) -> u64 {
    cluster.redis.cli(&["eval", script, "0"]).trim().parse().unwrap()
}

/// Returns the number of queue entries, reservations included.
fn entries(cluster: &Cluster) -> u64 {
    const SCRIPT: &str = "local sum = 0 for _, key in ipairs(redis.call('KEYS', '*:entries:*')) do \
                          sum = sum + redis.call('HLEN', key) end return sum";
    eval(cluster, SCRIPT)
}

/// Sends a request that waits, and returns its connection.
async fn wait_for(cluster: &Cluster, client: &Client, number: usize, run: usize) -> TcpStream {
    let pod = &cluster.pods[0];
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    let (path, body, authorization) = (path(number), info(number, run), client.authorization());
    let head = format!(
        "POST {path}&wait=55s HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_queue_entries_stay_within_the_documented_memory() {
    const COUNT: usize = 400;
    let (cluster, client) = cluster_with(COUNT as u32, COUNT as u32).await;
    let lock = async |number: usize| client.post_body(&path(number), "application/json", &info(number, 0)).await;
    assert_eq!(lock(0).await.status, 200);
    let before = used_memory(&cluster);
    for numbers in (1..COUNT).collect::<Vec<_>>().chunks(8) {
        let locked = join_all(numbers.iter().map(|number| lock(*number))).await;
        assert!(locked.iter().all(|answer| answer.status == 200), "{}", locked[0].text);
    }
    lock(COUNT).await.assert_problem(429, "too-many-locks");
    let held = used_memory(&cluster);
    let each = (held - before) / (COUNT as u64 - 1);
    println!("a lock: {each} bytes");
    assert!(each <= LOCK_BYTES, "{each} bytes for a lock");

    // One entry per lock is the worst case, because each queue has its own keys.
    let mut waiting = Vec::new();
    for number in 0..COUNT {
        waiting.push(wait_for(&cluster, &client, number, 1).await);
    }
    eventually(async || entries(&cluster) == COUNT as u64).await;
    let too_many = client.get("/v1/acquire/anything?wait=1s&owner=one-more").await;
    assert!([200, 429].contains(&too_many.status), "{}", too_many.text);
    let each = (used_memory(&cluster) - held) / COUNT as u64;
    println!("a queue entry: {each} bytes");
    assert!(each <= WAITING_BYTES, "{each} bytes for a queue entry");
}

/// Regression: entries of disconnected clients stayed for over a minute, and each new batch could
/// be as large as the plan allows.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_disconnected_waiters_is_freed() {
    const WAITERS: usize = 30;
    let (cluster, client) = cluster_with(200, WAITERS as u32).await;
    let held = |number: usize| format!("/v1/acquire/{}?owner=holder&namespace=deploy&lease=5m", long(200, number));
    for number in 0..WAITERS * 4 {
        assert_eq!(client.get(&held(number)).await.json["response"], true);
    }
    for round in 0..3 {
        let mut waiting = Vec::new();
        for number in 0..WAITERS {
            waiting.push(wait_for(&cluster, &client, round * WAITERS + number, round).await);
        }
        // All queued clients disconnect at once, and become reservations.
        eventually(async || {
            let queued = "local sum = 0 for _, key in ipairs(redis.call('KEYS', '*:queue:*')) do \
                        sum = sum + redis.call('ZCARD', key) end return sum";
            eval(&cluster, queued) == WAITERS as u64
        })
        .await;
        drop(waiting);
        eventually(async || {
            let path = format!("/v1/acquire/{}?namespace=deploy&wait=1s", long(200, WAITERS * 4 - 1));
            // Another request can wait once the reservations no longer count.
            client.get(&path).await.status == 200
        })
        .await;
        let gone = eventually(async || entries(&cluster) == 0);
        assert!(
            timeout(Duration::from_secs(5), gone).await.is_ok(),
            "{} entries remain after round {round}",
            entries(&cluster)
        );
    }
}
