//! The requests of Terraform 1.0.3 to its `http` backend, byte for byte except for the token, and
//! those of newer versions and OpenTofu.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Client, Pod, eventually};

const ADDRESS: &str = "/v1/terraform/prod/network";
const APPLY: &str = r#"{"ID":"104cb9b4-cf79-7e0c-bc97-4e83004c93b2","Operation":"OperationTypeApply","Info":"","Who":"root@vm","Version":"1.0.3","Created":"2026-11-23T15:58:44.069636305Z","Path":""}"#;
const PLAN: &str = r#"{"ID":"87713c44-b89e-f3fc-d702-73d2271f92a8","Operation":"OperationTypePlan","Info":"","Who":"root@vm","Version":"1.0.3","Created":"2026-11-23T15:58:44.199398858Z","Path":""}"#;

/// Sends a request as Terraform does; returns status and body.
async fn terraform(pod: &Pod, client: &Client, method: &str, address: &str, body: &str) -> (u16, Value) {
    // Terraform sends an empty body chunked, without a length.
    let (length, content_md5, body) = match body {
        "" => ("Transfer-Encoding: chunked".to_owned(), "1B2M2Y8AsgTpgAmY7PhCfg==", "0\r\n\r\n"),
        PLAN => ("Content-Length: 174".to_owned(), "r9jqqk/ncxQu2Xueg78RnA==", PLAN),
        APPLY => ("Content-Length: 175".to_owned(), "TJGpk2WnqjPEMvtg9Gmzkg==", APPLY),
        body => (format!("Content-Length: {}", body.len()), "AAAAAAAAAAAAAAAAAAAAAA==", body),
    };
    let authorization = client.authorization();
    let request = format!(
        "{method} {address} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\n{length}\r\n\
         Authorization: {authorization}\r\nContent-Md5: {content_md5}\r\nContent-Type: application/json\r\n\
         Accept-Encoding: gzip\r\n\r\n{body}",
        host = pod.authority("127.0.0.1")
    );
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = read_answer(&mut stream).await;
    assert!(head.to_lowercase().contains("application/"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(&body).unwrap())
}

/// Reads one response of a keep-alive connection.
async fn read_answer(stream: &mut TcpStream) -> (String, String) {
    let mut answer = String::new();
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the connection ended after {answer:?}");
        answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return (head.to_owned(), body.to_owned());
        }
    }
}

fn info(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_locks_rejects_others_and_unlocks() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    let lease = format!("{ADDRESS}?lease=10m");
    for (lock, unlock) in [("LOCK", "UNLOCK"), ("POST", "DELETE")] {
        let (status, granted) = terraform(&pod, &client, lock, &lease, APPLY).await;
        assert_eq!((status, &granted["lease_ms"]), (200, &600_000.into()), "{granted}");
        // The same ID again, as after a lost response.
        let (status, again) = terraform(&pod, &client, lock, &lease, APPLY).await;
        assert_eq!((status, &again["fencing_token"]), (200, &granted["fencing_token"]));
        assert_eq!(terraform(&pod, &client, lock, &lease, PLAN).await, (423, info(APPLY)));
        assert_eq!(terraform(&pod, &client, unlock, ADDRESS, PLAN).await, (423, info(APPLY)));

        let shown = client.get("/v1/locks/prod/network").await.json;
        assert_eq!(shown["holder"]["note"], "terraform apply, by root@vm");
        assert_eq!(shown["holder"]["owner"], info(APPLY)["ID"]);

        assert_eq!(terraform(&pod, &client, unlock, ADDRESS, APPLY).await.0, 200);
        assert_eq!(client.get("/v1/locks/prod/network").await.json["held"], false);
        // The same unlock again, as after a lost response.
        assert_eq!(terraform(&pod, &client, unlock, ADDRESS, APPLY).await.0, 200);
    }
    assert_eq!(terraform(&pod, &client, "LOCK", ADDRESS, PLAN).await.0, 200);
    let only_id = json!({ "ID": info(PLAN)["ID"] }).to_string();
    assert_eq!(terraform(&pod, &client, "UNLOCK", ADDRESS, &only_id).await.0, 200);
    assert_eq!(client.get("/v1/locks/prod/network").await.json["held"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_with_a_wait_parameter_is_queued() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(terraform(&pod, &client, "LOCK", ADDRESS, APPLY).await.0, 200);
    let waiting = format!("{ADDRESS}?lease=10m&wait=30s");
    let (status, refused) = terraform(&pod, &client, "LOCK", &format!("{ADDRESS}?wait=100ms"), PLAN).await;
    assert_eq!((status, refused), (423, info(APPLY)));
    let waiter = {
        let client = client.clone();
        let body = info(PLAN);
        tokio::spawn(async move { client.post_json(&waiting, body).await })
    };
    eventually(async || client.get("/v1/account").await.json["requests_waiting"] == 1).await;
    assert_eq!(terraform(&pod, &client, "UNLOCK", ADDRESS, APPLY).await.0, 200);
    assert_eq!(waiter.await.unwrap().json["response"], true);
    assert_eq!(terraform(&pod, &client, "LOCK", ADDRESS, APPLY).await, (423, info(PLAN)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_locks_and_unlocks_with_the_longest_lease() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    let (status, granted) = terraform(&pod, &client, "LOCK", ADDRESS, APPLY).await;
    assert_eq!((status, &granted["lease_ms"]), (200, &86_400_000.into()), "{granted}");
    assert_eq!(terraform(&pod, &client, "UNLOCK", ADDRESS, APPLY).await.0, 200);
    let address = format!("{ADDRESS}?lease=30m&wait=5s");
    assert_eq!(terraform(&pod, &client, "LOCK", &address, APPLY).await.1["lease_ms"], 1_800_000);
    assert_eq!(terraform(&pod, &client, "UNLOCK", &address, PLAN).await, (423, info(APPLY)));
    assert_eq!(terraform(&pod, &client, "UNLOCK", &address, APPLY).await.0, 200);
    assert_eq!(terraform(&pod, &client, "LOCK", &address, PLAN).await.0, 200);
    assert_eq!(terraform(&pod, &client, "UNLOCK", &address, "").await.0, 200, "terraform force-unlock");
    assert_eq!(client.get("/v1/locks/prod/network").await.json["held"], false);

    let hobbyist = pod.client(&pod.account("hobbyist").await.token);
    let (status, problem) = terraform(&pod, &hobbyist, "LOCK", ADDRESS, APPLY).await;
    assert_eq!((status, &problem["type"]), (403, &"/problems/lease-out-of-range".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("10m"), "{problem}");
    assert_eq!(hobbyist.get("/v1/locks/prod/network").await.json["held"], false);
}

/// The server returns the lock info of a run unchanged, whatever numbers it contains.
#[tokio::test(flavor = "multi_thread")]
async fn lock_info_keeps_all_digits() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    let body = "{\"ID\": \"one\",\n \"Build\": 179587168470367300001, \"Z\": 1, \"A\": 1.10}";
    let lock = async || client.post_body("/v1/terraform/prod/network", "application/json", body).await;
    assert_eq!(lock().await.status, 200);
    let other = client.post_body("/v1/terraform/prod/network", "application/json", r#"{"ID": "two"}"#).await;
    assert_eq!((other.status, other.text), (423, body.replace('\n', " ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn force_unlock_needs_the_scope_manage() {
    let pod = Pod::start().await;
    let account = pod.account("business").await;
    let made = pod.operator(&["token", "create", "--account", &account.email, "--scope", "lock"]).await;
    let worker = pod.client(made["token"].as_str().unwrap());
    let boss = pod.client(&account.token);
    assert_eq!(terraform(&pod, &worker, "LOCK", ADDRESS, APPLY).await.0, 200);
    let (status, problem) = terraform(&pod, &worker, "UNLOCK", ADDRESS, "").await;
    assert_eq!((status, &problem["type"]), (403, &"/problems/scope-missing".into()));
    assert_eq!(terraform(&pod, &boss, "UNLOCK", ADDRESS, "").await.0, 200);
    assert_eq!(terraform(&pod, &boss, "UNLOCK", ADDRESS, "").await.0, 200);
    assert_eq!(worker.get("/v1/locks/prod/network").await.json["held"], false);
    assert_eq!(terraform(&pod, &worker, "LOCK", ADDRESS, PLAN).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_from_another_route_is_shown_within_its_account() {
    let pod = Pod::start().await;
    let [ours, theirs] = [pod.account("business").await, pod.account("business").await].map(|a| pod.client(&a.token));
    let held = ours.get("/v1/acquire/prod/network?note=by%20hand").await.json;
    let (status, shown) = terraform(&pod, &ours, "LOCK", ADDRESS, PLAN).await;
    assert_eq!(status, 423);
    assert_eq!(shown["ID"], held["fencing_token"].to_string());
    assert_eq!((&shown["Info"], &shown["Who"]), (&"by hand".into(), &"first".into()));

    // Terraform retries only if the response contains an ID.
    let (status, shown) = terraform(&pod, &theirs, "LOCK", ADDRESS, PLAN).await;
    assert_eq!((status, &shown["ID"]), (423, &"held-by-another-account".into()));
    // `Created` must be a valid time, or absent.
    assert_eq!(shown.get("Created"), None);
    assert!(!shown.to_string().contains("hand") && !shown.to_string().contains("first"), "{shown}");
    assert_eq!(terraform(&pod, &theirs, "UNLOCK", ADDRESS, "").await.0, 423);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lock_info_is_rejected() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    let long = json!({ "ID": "x", "Info": "x".repeat(5000) }).to_string();
    for body in ["", "{", "[]", "{}", r#"{"ID":""}"#, r#"{"ID":"with space"}"#, r#"{"ID":7}"#, &long] {
        let (status, problem) = terraform(&pod, &client, "LOCK", ADDRESS, body).await;
        assert_eq!((status, &problem["type"]), (400, &"/problems/malformed-body".into()), "{body}");
    }
    let too_large = json!({ "ID": "x".repeat(17 * 1024) }).to_string();
    assert_eq!(client.post_body(ADDRESS, "application/json", &too_large).await.status, 413);
    for (method, address) in [("LOCK", "?lese=5m"), ("UNLOCK", "?lese=5m"), ("UNLOCK", "?lease=x")] {
        let (status, problem) = terraform(&pod, &client, method, &format!("{ADDRESS}{address}"), APPLY).await;
        assert_eq!((status, &problem["type"]), (400, &"/problems/malformed-parameter".into()), "{problem}");
    }
    assert_eq!(terraform(&pod, &client, "LOCK", &format!("{ADDRESS}?lease=48h"), APPLY).await.0, 403);
    for method in ["GET", "HEAD", "PUT", "PATCH"] {
        let refused = client.request(method, ADDRESS, &[]).await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("LOCK, UNLOCK, POST, DELETE")), "{method}");
    }
    assert_eq!(client.get("/v1/locks/prod/network").await.json["held"], false);
}
