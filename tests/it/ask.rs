//! The commands for scripts: what they print, and their exit codes.

use serde_json::Value;

use crate::support::{Pod, eventually, pod::lockable};

async fn ask(pod: &Pod, token: &str, line: &str) -> (Option<i32>, String, String) {
    let args: Vec<_> = line.split(' ').collect();
    let mut command = lockable(&args);
    let ran = command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", token).output().await.unwrap();
    let [said, complained] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (ran.status.code(), said, complained)
}

#[tokio::test]
async fn commands_say_yes_no_and_neither() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let fence = async || pod.client(&token).get("/v1/locks/a").await.json["holder"]["fencing_token"].to_string();
    for (line, code, words) in [
        ("status a", 1, "a is free"),
        ("acquire a --owner one --note hello", 0, "acquired a until 2"),
        ("acquire a --owner one --note hello", 0, "acquired a until 2"),
        ("acquire a --owner two", 1, "a is held by one (hello) since 2"),
        ("acquire a --owner two --wait 100ms", 1, "a is held by one (hello) since 2"),
        ("status a", 0, "a is held by one (hello) since 2"),
        ("list", 0, "a\tone (hello) since 2"),
        ("list a --namespace public", 0, "a\tone (hello) since 2"),
        ("list b", 0, ""),
        ("heartbeat a --owner one --lease 2m", 0, "renewed a until 2"),
        ("heartbeat a --owner two", 1, "a is held by another owner"),
        ("heartbeat a --owner one --fencing-token 1", 1, "a is held by another owner"),
        ("release a --owner two", 1, "a is held by another owner"),
        ("release a --owner one --fencing-token 1", 1, "a is held by another owner"),
        ("release a --owner one", 0, "released a"),
        ("release a --owner one", 1, "a is not held"),
        ("break a", 1, "a is not held"),
        ("acquire a", 0, "acquired a until 2"),
        ("break a", 0, "broken a"),
        ("acquire a --namespace nowhere", 2, ""),
        ("acquire a//b", 2, ""),
        ("acquire a --owner a\tb", 2, ""),
        ("acquire a --lease soon", 2, ""),
    ] {
        let (found, said, complained) = ask(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {said}{complained}");
        assert!(said.starts_with(words) && said.is_empty() == words.is_empty(), "{line}: {said}");
        assert_eq!(said.lines().count(), usize::from(!words.is_empty()), "{line}: {said}");
        assert_eq!(complained.is_empty(), code < 2 && !line.contains("--wait"), "{line}: {complained}");
    }
    assert_eq!(ask(&pod, &token, "acquire a --owner one").await.0, Some(0));
    let line = format!("release a --owner one --fencing-token {}", fence().await);
    assert_eq!(ask(&pod, &token, &line).await.0, Some(0), "{line}");
}

#[tokio::test]
async fn commands_print_json() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    for (line, code, pointer, value) in [
        ("status a --json", 1, "/held", Value::from(false)),
        ("acquire a --owner one --json", 0, "/response", true.into()),
        ("acquire a --owner two --json", 1, "/holder/owner", "one".into()),
        ("acquire a --owner two --wait 100ms --json", 1, "/reason", "timed_out".into()),
        ("heartbeat a --owner one --json", 0, "/lease_ms", 60_000.into()),
        ("heartbeat a --owner two --json", 1, "/reason", "held_by_another".into()),
        ("status a --json", 0, "/holder/token_label", "first".into()),
        ("list --json", 0, "/0/name", "a".into()),
        ("release b --json", 1, "/reason", "not_held".into()),
        ("release a --owner one --json", 0, "/response", true.into()),
        ("break a --json", 1, "/response", false.into()),
    ] {
        let (found, said, complained) = ask(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {said}{complained}");
        let json: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(json.pointer(pointer), Some(&value), "{line}: {json}");
    }
}

#[tokio::test]
async fn a_list_has_all_pages() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for number in 0..150 {
        assert_eq!(client.get(&format!("/v1/acquire/many-{number}")).await.json["response"], true);
    }
    let (code, said, _) = ask(&pod, &token, "list many-").await;
    assert_eq!((code, said.lines().count()), (Some(0), 150));
}

#[tokio::test]
async fn who_waits_and_releases_leaves_the_line() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    let waiting = ask(&pod, &token, "acquire busy --owner two --wait 20s");
    let leaving = async {
        eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
        assert_eq!(client.get("/v1/release/busy?owner=one").await.json["response"], true);
    };
    let ((code, said, _), ()) = tokio::join!(waiting, leaving);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ask(&pod, &token, "release busy --owner two").await.0, Some(0));
}

#[tokio::test]
async fn the_token_stands_in_a_file_or_in_the_environment() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    for (variable, value, code, words) in [
        ("LOCKABLE_TOKEN_FILE", path, 1, ""),
        ("LOCKABLE_AUTH_TOKEN", &token, 1, ""),
        ("LOCKABLE_TOKEN_FILE", "/nowhere", 2, "/nowhere cannot be read"),
        ("LOCKABLE_AUTH_TOKEN", "", 2, "no token: set LOCKABLE_AUTH_TOKEN"),
        ("LOCKABLE_AUTH_TOKEN", " ", 2, "there is no token in LOCKABLE_AUTH_TOKEN"),
        ("LOCKABLE_AUTH_TOKEN", "wrong ", 2, "the token in LOCKABLE_AUTH_TOKEN has white space around it"),
        ("LOCKABLE_AUTH_TOKEN", "wrong", 69, "the server does not accept the token from LOCKABLE_AUTH_TOKEN"),
    ] {
        let mut command = lockable(&["status", "a"]);
        let ran = command.env("LOCKABLE_URL", pod.origin()).env(variable, value).output().await.unwrap();
        let complained = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(code), "{variable}={value}: {complained}");
        assert!(complained.contains(words) && !complained.contains(&token), "{variable}={value}: {complained}");
    }
}

#[tokio::test]
async fn shells_and_manuals_know_every_command() {
    let printed = async |args: &[&str]| {
        let ran = lockable(args).output().await.unwrap();
        assert!(ran.status.success(), "{args:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]).await;
        assert!(script.contains("kill-after") && script.contains("fencing-token"), "{shell}");
    }
    assert!(printed(&["man"]).await.contains("lockable\\-run"));
    for (command, words) in
        [("run", "Exit codes"), ("acquire", "neither yes nor no"), ("status", "Show who holds a lock")]
    {
        assert!(printed(&["man", command]).await.contains(words), "{command}");
        assert!(printed(&[command, "--help"]).await.contains(words), "{command}");
    }
    assert_eq!(lockable(&["man", "watchdog"]).output().await.unwrap().status.code(), Some(2));
    // What lockable starts of itself is offered nowhere.
    for args in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"], &["help"]] {
        assert!(!printed(args).await.contains("watchdog"), "{args:?}");
    }
    let page = printed(&["man", "run"]).await;
    assert!(page.contains("lockable run [OPTIONS] <NAME> \\-\\- <COMMAND>..."), "{page}");
    assert!(page.contains("LOCKABLE_WAIT") && page.is_ascii() && printed(&["man", "serve"]).await.is_ascii(), "{page}");
    assert!(printed(&["completions", "zsh"]).await.contains("_cmdambivalent"));
    assert_eq!(printed(&["version"]).await, printed(&["--version"]).await);
}

/// After a loss of data nobody is told that a lock is free, or held by another.
#[tokio::test(flavor = "multi_thread")]
async fn during_a_recovery_people_are_told_until_when_it_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let start = async || Pod::builder().database(&database).env("LOCKABLE_JOURNAL_ABOVE", "8s").start().await;
    let mut pod = start().await;
    let token = pod.first_token();
    assert_eq!(ask(&pod, &token, "acquire long --lease 1h --owner ana").await.0, Some(0));
    pod.kill();
    pod = start().await;
    let client = pod.client(&token);
    for (line, code) in [
        ("status free", 1),
        ("acquire free", 1),
        ("acquire free --wait 200ms", 1),
        ("run -n free -- true", 75),
        ("run -w 200ms free -- true", 75),
        ("doctor", 1),
    ] {
        let (found, said, complained) = ask(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {said}{complained}");
        let told = format!("{said}{complained}");
        assert!(told.contains("is recovering until ") && told.contains(" UTC: "), "{line}: {told}");
        assert!(!told.contains("held by") && !told.contains("is free"), "{line}: {told}");
    }
    let refused = client.get("/v1/acquire/free").await.json;
    assert_eq!(refused["reason"], "recovering", "{refused}");
    for shown in [refused, client.get("/v1/locks/long").await.json, client.get("/v1/account").await.json] {
        assert!(shown["recovering_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{shown}");
    }
    let (_, said, _) = ask(&pod, &token, "status long").await;
    assert!(said.starts_with("long is held by ana"), "what is held is known: {said}");
    eventually(async || client.get("/v1/acquire/free?lease=1s").await.json["response"] == true).await;
    for path in ["/v1/locks/long", "/v1/account"] {
        eventually(async || client.get(path).await.json.get("recovering_until").is_none()).await;
    }
    assert_eq!(ask(&pod, &token, "status other").await.1, "other is free\n");
    assert_eq!(ask(&pod, &token, "doctor").await.0, Some(0));
}
