//! The description of the API, and the page on which people read it.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Pod, python};

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_every_route_and_says_who_may_call() {
    let pod = Pod::start().await;
    let description = pod.client_without_token().get("/openapi.json").await;
    assert_eq!(description.status, 200);
    assert_eq!(description.json["openapi"], "3.1.0");
    let paths = description.json["paths"].as_object().unwrap();
    let mut operations: Vec<_> = paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    operations.sort();
    let expected = [
        "delete /v1/locks/{name}",
        "delete /v1/terraform/{name}",
        "get /v1/account",
        "get /v1/acquire/{name}",
        "get /v1/heartbeat/{name}",
        "get /v1/locks",
        "get /v1/locks/{name}",
        "get /v1/release/{name}",
        "post /v1/acquire/{name}",
        "post /v1/heartbeat/{name}",
        "post /v1/release/{name}",
        "post /v1/terraform/{name}",
    ];
    assert_eq!(operations, expected);
    assert_eq!(description.json["components"]["securitySchemes"]["token"]["scheme"], "basic");
    let acquire = &paths["/v1/acquire/{name}"];
    let named = |operation: &Value| -> Vec<_> {
        let params = operation["parameters"].as_array().unwrap();
        params.iter().map(|param| param["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&acquire["post"]), ["name", "namespace", "owner", "lease", "wait", "note", "strict"]);
    assert_eq!(named(&acquire["post"]), named(&acquire["get"]));
    assert!(acquire["get"].get("requestBody").is_none());
}

/// A stranger's program calls everything that the description allows, and some
/// of what it does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_does_what_the_description_says() {
    let pod = Pod::builder().env("LOCKABLE_WAIT_MAX", "500ms").start().await;
    let account = pod.account("business").await;
    pod.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let url = format!("{}/openapi.json", pod.origin());
    let credentials = format!("{}:", account.token);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let mut schemathesis = python::command().await;
    schemathesis.args(["-m", "schemathesis.cli", "run", &url, "--auth", &credentials, "--checks", checks]);
    schemathesis.args(["--max-examples", "15", "--seed", "1", "--generation-database", "none", "--no-color"]);
    let ran = schemathesis.current_dir(env!("CARGO_TARGET_TMPDIR")).output().await.unwrap();
    assert!(ran.status.success(), "{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
}

/// The page builds itself in a browser, from this server alone and under its
/// policy, of which the browser would complain on its console.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_read_without_the_internet() {
    let pod = Pod::start().await;
    let client = pod.client_without_token();
    let page = client.get("/docs/api").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let profile = tempfile::tempdir().unwrap();
    let ran = tokio::process::Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // No host but this machine has an address.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .args(["--dump-dom", &format!("{}/docs/api", pod.origin())])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let [dom, log] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    for text in ["Acquire a lock, or wait for it", "/v1/terraform/{name}", "Break a lock"] {
        assert!(dom.contains(text), "{text} is not on the page: {dom}\n{log}");
    }
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
}
