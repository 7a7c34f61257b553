//! The layout of Redis's data, which all servers share. Two versions that run side by side
//! must use the same layout: a change of `layout.txt` needs another layout number, or a
//! test that servers of both versions work with it.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::Value;

use crate::support::{Cluster, eventually, redis::RedisServer};

/// Values that differ from run to run, and their placeholders.
static VARIABLE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{40}\b", "IDENTITY"),
        (r"\b[0-9a-f]{32}\b", "STORE"),
        (r"\\t[0-9a-f]{6}\b", "\\t TOKEN"),
        (r#"(?:"\d+":"\d+ \d+ \d+ \d+",?)+"#, "MINUTES"),
        (r"\b1[0-9]{15}\b", "MICROSECONDS"),
        (r"\b1[0-9]{12}\b", "MILLISECONDS"),
        (r"(?P<before>[^\w-])[\w-]{22}(?P<after>[^\w-])", "${before}ACCOUNT${after}"),
        (r"(?P<before>[^\w-])[\w-]{11}(?P<after>[^\w-])", "${before}RANDOM${after}"),
    ]
    .map(|(pattern, placeholder)| (Regex::new(pattern).unwrap(), placeholder))
    .into()
});

#[tokio::test]
async fn redis_keys_and_values_match_recorded_layout() {
    let cluster = Cluster::start(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let acquire = "/v1/acquire/line?lease=1h&owner=ana&note=for%20the%20record";
    assert_eq!(client.get(acquire).await.json["response"], true);
    let info = r#"{"ID":"8d0e1e1c-0000-4000-8000-1","Operation":"plan","Who":"bob@there"}"#;
    assert_eq!(client.post_body("/v1/terraform/state?lease=1h", "application/json", info).await.status, 200);
    // A queued request, and a reservation of an owner between two requests.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/acquire/line?wait=50s").await }
    });
    eventually(async || client.get("/v1/locks/line").await.json["waiting"] == 1).await;
    assert_eq!(client.get("/v1/acquire/line?owner=eve&wait=50ms").await.json["reason"], "timed_out");

    // The history is written asynchronously.
    let recorded = ["history", "recorded", "activity"].map(|kind| format!("*:{{0}}:{kind}:*"));
    eventually(async || recorded.iter().all(|pattern| cluster.redis.cli(&["keys", pattern]).contains("lockable")))
        .await;
    let layout = dump(&cluster.redis);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/layout.txt");
    if std::env::var_os("RECORD_LAYOUT").is_some() {
        std::fs::write(path, &layout).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap();
    assert!(layout == recorded, "recorded layout:\n{recorded}\nfound layout:\n{layout}");
    waiting.abort();
}

fn dump(redis: &RedisServer) -> String {
    // Rate buckets expire. Cached accounts have a layout number of their own.
    let keys = redis.cli(&["keys", "*:{0}:*"]);
    let mut lines = Vec::new();
    for key in keys.lines().filter(|key| !key.contains(":bucket:")) {
        let kind = redis.cli(&["type", key]);
        let value = match kind.trim() {
            "string" => redis.cli(&["--json", "get", key]),
            // Redis returns the fields in no defined order.
            "hash" => serde_json::from_str::<Value>(&redis.cli(&["--json", "hgetall", key])).unwrap().to_string(),
            "zset" => redis.cli(&["--json", "zrange", key, "0", "-1", "withscores"]),
            other => panic!("{key} is a {other}"),
        };
        lines.push(format!("{key} {} {} ", kind.trim(), value.trim().replace("\\n", " / ")));
    }
    let mut lines: Vec<_> = lines.iter().map(|line| normalize(line)).collect();
    lines.sort();
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn normalize(line: &str) -> String {
    VARIABLE
        .iter()
        .fold(line.to_owned(), |line, (pattern, placeholder)| pattern.replace_all(&line, *placeholder).into_owned())
}
