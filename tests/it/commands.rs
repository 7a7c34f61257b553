//! The output and the exit codes of the commands for scripts.

use serde_json::Value;

use crate::support::{Pod, eventually, pod::lockable};

async fn run(pod: &Pod, token: &str, line: &str) -> (Option<i32>, String, String) {
    let args: Vec<_> = line.split(' ').collect();
    let mut command = lockable(&args);
    let ran = command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", token).output().await.unwrap();
    let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (ran.status.code(), stdout, stderr)
}

#[tokio::test]
async fn exit_codes_are_yes_no_and_error() {
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
        let (found, stdout, stderr) = run(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {stdout}{stderr}");
        assert!(stdout.starts_with(words) && stdout.is_empty() == words.is_empty(), "{line}: {stdout}");
        assert_eq!(stdout.lines().count(), usize::from(!words.is_empty()), "{line}: {stdout}");
        assert_eq!(stderr.is_empty(), code < 2 && !line.contains("--wait"), "{line}: {stderr}");
    }
    assert_eq!(run(&pod, &token, "acquire a --owner one").await.0, Some(0));
    let line = format!("release a --owner one --fencing-token {}", fence().await);
    assert_eq!(run(&pod, &token, &line).await.0, Some(0), "{line}");
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
        let (found, stdout, stderr) = run(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {stdout}{stderr}");
        let json: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(json.pointer(pointer), Some(&value), "{line}: {json}");
    }
}

#[tokio::test]
async fn list_fetches_all_pages() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for number in 0..150 {
        assert_eq!(client.get(&format!("/v1/acquire/many-{number}")).await.json["response"], true);
    }
    let (code, stdout, _) = run(&pod, &token, "list many-").await;
    assert_eq!((code, stdout.lines().count()), (Some(0), 150));
}

#[tokio::test]
async fn waiting_acquire_is_granted_after_release() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    let waiting = run(&pod, &token, "acquire busy --owner two --wait 20s");
    let leaving = async {
        eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
        assert_eq!(client.get("/v1/release/busy?owner=one").await.json["response"], true);
    };
    let ((code, stdout, _), ()) = tokio::join!(waiting, leaving);
    assert_eq!(code, Some(0), "{stdout}");
    assert_eq!(run(&pod, &token, "release busy --owner two").await.0, Some(0));
}

#[tokio::test]
async fn token_is_read_from_file_or_environment() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    for (variable, value, code, words) in [
        ("LOCKABLE_TOKEN_FILE", path, 1, ""),
        ("LOCKABLE_AUTH_TOKEN", &token, 1, ""),
        ("LOCKABLE_TOKEN_FILE", "/nowhere", 2, "cannot read /nowhere"),
        ("LOCKABLE_AUTH_TOKEN", "", 2, "no token: set LOCKABLE_AUTH_TOKEN"),
        ("LOCKABLE_AUTH_TOKEN", " ", 2, "there is no token in LOCKABLE_AUTH_TOKEN"),
        ("LOCKABLE_AUTH_TOKEN", "wrong ", 2, "the token in LOCKABLE_AUTH_TOKEN begins or ends with white space"),
        ("LOCKABLE_AUTH_TOKEN", "wrong", 69, "the server rejected the token from LOCKABLE_AUTH_TOKEN"),
    ] {
        let mut command = lockable(&["status", "a"]);
        let ran = command.env("LOCKABLE_URL", pod.origin()).env(variable, value).output().await.unwrap();
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(code), "{variable}={value}: {stderr}");
        assert!(stderr.contains(words) && !stderr.contains(&token), "{variable}={value}: {stderr}");
    }
}

#[tokio::test]
async fn completions_and_manual_pages_contain_every_command() {
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
        [("run", "Exit codes"), ("acquire", "the server is unreachable"), ("status", "the length of its queue")]
    {
        assert!(printed(&["man", command]).await.contains(words), "{command}");
        assert!(printed(&[command, "--help"]).await.contains(words), "{command}");
    }
    assert_eq!(lockable(&["man", "watchdog"]).output().await.unwrap().status.code(), Some(2));
    // The watchdog is not a command.
    for args in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"], &["help"]] {
        assert!(!printed(args).await.contains("watchdog"), "{args:?}");
    }
    let page = printed(&["man", "run"]).await;
    assert!(page.contains("lockable run [OPTIONS] <NAME> \\-\\- <COMMAND>..."), "{page}");
    assert!(page.contains("LOCKABLE_WAIT") && page.is_ascii() && printed(&["man", "serve"]).await.is_ascii(), "{page}");
    // What follows -- is completed as a command of its own.
    for (shell, function) in
        [("bash", "_comp_command_offset"), ("zsh", "_cmdambivalent"), ("fish", "__fish_lockable_complete_command")]
    {
        assert!(printed(&["completions", shell]).await.contains(function), "{shell}");
    }
    assert_eq!(printed(&["version"]).await, printed(&["--version"]).await);
}

/// During a recovery no command reports a lock as free, or as held by another holder.
#[tokio::test(flavor = "multi_thread")]
async fn commands_report_the_end_of_a_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    // The recovery lasts this long, longer than all commands below need on a busy machine.
    let start = async || Pod::builder().database(&database).env("LOCKABLE_JOURNAL_ABOVE", "15s").start().await;
    let mut pod = start().await;
    let token = pod.first_token();
    assert_eq!(run(&pod, &token, "acquire long --lease 1h --owner ana").await.0, Some(0));
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
        let (found, stdout, stderr) = run(&pod, &token, line).await;
        assert_eq!(found, Some(code), "{line}: {stdout}{stderr}");
        let output = format!("{stdout}{stderr}");
        assert!(output.contains("is recovering until ") && output.contains(" UTC: "), "{line}: {output}");
        assert!(!output.contains("held by") && !output.contains("is free"), "{line}: {output}");
    }
    let refused = client.get("/v1/acquire/free").await.json;
    assert_eq!(refused["reason"], "recovering", "{refused}");
    for shown in [refused, client.get("/v1/locks/long").await.json, client.get("/v1/account").await.json] {
        assert!(shown["recovering_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{shown}");
    }
    let (_, stdout, _) = run(&pod, &token, "status long").await;
    assert!(stdout.starts_with("long is held by ana"), "a restored grant is shown: {stdout}");
    eventually(async || client.get("/v1/acquire/free?lease=1s").await.json["response"] == true).await;
    for path in ["/v1/locks/long", "/v1/account"] {
        eventually(async || client.get(path).await.json.get("recovering_until").is_none()).await;
    }
    assert_eq!(run(&pod, &token, "status other").await.1, "other is free\n");
    assert_eq!(run(&pod, &token, "doctor").await.0, Some(0));
}
