//! Secrets that must not appear in any output: tokens, cookies, e-mail addresses, passwords.

use std::{fs::File, process::Command};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::support::{
    Collector, Pod, eventually,
    page::{self, PageClient},
    postgres::Postgres,
    process::Process,
    redis::RedisServer,
};

const PASSWORD: &str = "pass-of-redis";
const COOKIE: &str = "session=cookie-of-a-member";
const UNKNOWN_TOKEN: &str = "11111111-2222-4333-8444-555555555555";
const MALFORMED_TOKEN: &str = "what-is-no-token";
const MEMBER: &str = "member-of-the-page@example.com";
const INVITED: &str = "invited-to-the-page@example.com";
const WRONG_PASSWORD: &str = "what-was-typed-wrongly";
const NEW_PASSWORD: &str = "eleven-herons-near-Chur";

#[tokio::test]
async fn no_secret_leaves_the_process() {
    let redis = RedisServer::builder().args(&["--requirepass", PASSWORD, "--slowlog-log-slower-than", "0"]).start();
    let watched = tempfile::NamedTempFile::new().unwrap();
    let _monitor = monitor(&redis, watched.reopen().unwrap());
    eventually(async || std::fs::read_to_string(watched.path()).unwrap().contains("OK")).await;
    let (postgres, collector) = (Postgres::database().await, Collector::start().await);
    let mut pod = Pod::builder()
        .env("LOCKABLE_REDIS_URL", &format!("redis://:{PASSWORD}@127.0.0.1:{}", redis.port()))
        .database(&postgres.url)
        .env("LOCKABLE_SIGN_UP", "true")
        .env("LOCKABLE_LOG", "trace")
        .env("LOCKABLE_OTLP_ENDPOINT", &collector.url)
        .env("LOCKABLE_TRACE_RATIO", "1")
        .start()
        .await;
    let account = pod.account("business").await;

    let client = pod.client(&account.token);
    let cookie = [("cookie", COOKIE)];
    for (method, path) in [
        ("GET", "/v1/acquire/a"),
        ("GET", "/v1/acquire/a?wait=10ms&owner=another"),
        ("GET", "/v1/heartbeat/a"),
        ("GET", "/v1/locks/a"),
        ("GET", "/v1/locks"),
        ("GET", "/v1/account"),
        ("DELETE", "/v1/locks/a"),
        ("GET", "/v1/release/a"),
        ("GET", "/v1/acquire/%ff"),
        ("GET", "/nowhere"),
    ] {
        let answer = client.request(method, path, &cookie).await;
        assert!(answer.status < 500, "{method} {path}: {}", answer.text);
    }
    let astray = format!("/v1/acquire/a?token={}", account.token);
    assert_eq!(client.request("GET", &astray, &cookie).await.status, 400, "the query string accepts no token");
    assert_eq!(client.post_form("/v1/acquire/a", &[("password", &*account.token)]).await.status, 400);
    for (token, status) in [(UNKNOWN_TOKEN, 401), (MALFORMED_TOKEN, 401)] {
        assert_eq!(pod.client(token).get("/v1/acquire/a").await.status, status);
    }
    let bearer = [("authorization", &*format!("Bearer {}", account.token))];
    pod.client_without_token().request("GET", "/v1/acquire/a", &bearer).await;
    let of_page = visit_page(&pod).await;
    // Error paths have messages of their own.
    let metrics = pod.admin().get("/metrics").await.text;
    redis.cli(&["-a", PASSWORD, "--no-auth-warning", "config", "set", "requirepass", "another"]);
    redis.cli(&["-a", "another", "--no-auth-warning", "client", "kill", "type", "normal"]);
    eventually(async || client.get("/v1/acquire/b").await.status == 503).await;
    let slow = redis.cli(&["-a", "another", "--no-auth-warning", "slowlog", "get", "-1"]);
    assert_eq!(pod.stop().await, Some(0));

    let emitted = [
        ("the log", pod.log()),
        ("standard output", pod.stdout()),
        ("the metrics", metrics),
        ("the traces", String::from_utf8_lossy(&collector.bytes()).into_owned()),
        ("the commands of Redis", std::fs::read_to_string(watched.path()).unwrap()),
        ("the slow log of Redis", slow),
    ];
    for (output, words) in [("the log", "/v1/acquire"), ("the commands of Redis", "EVALSHA"), ("the traces", "acquire")]
    {
        let text = &emitted.iter().find(|(name, _)| *name == output).unwrap().1;
        assert!(text.contains(words), "{output} contains no expected text: {text}");
    }
    let encoded = |token: &str| STANDARD.encode(format!("{token}:"));
    let secrets = [
        account.token.clone(),
        account.token.replace('-', ""),
        encoded(&account.token),
        account.email,
        COOKIE.to_owned(),
        PASSWORD.to_owned(),
        UNKNOWN_TOKEN.to_owned(),
        UNKNOWN_TOKEN.replace('-', ""),
        encoded(UNKNOWN_TOKEN),
        MALFORMED_TOKEN.to_owned(),
        encoded(MALFORMED_TOKEN),
    ];
    let secrets: Vec<_> = secrets.into_iter().chain(of_page).collect();
    for (output, text) in &emitted {
        let leaks = secrets.iter().filter_map(|secret| text.lines().find(|line| line.contains(secret.as_str())));
        assert_eq!(leaks.collect::<Vec<_>>(), Vec::<&str>::new(), "{output}");
    }
}

/// Signs up, signs in, and uses a link. Returns the secrets of these pages.
async fn visit_page(pod: &Pod) -> Vec<String> {
    let made = pod.operator(&["account", "invite", "--email", INVITED]).await;
    let link = made["link"].as_str().unwrap().to_owned();
    let mut member = PageClient::member(&pod.origin(), MEMBER).await;
    assert_eq!(member.sign_in(MEMBER, WRONG_PASSWORD).await.status, 403);
    let csrf = member.get(&link).await.csrf();
    assert_eq!(member.post(&link, &[("csrf", &csrf), ("password", NEW_PASSWORD)]).await.status, 303);
    let shown = member.token("shown", &["lock", "manage"]).await;
    for path in ["/", "/account/locks", "/account/plan", "/account/security", "/account/audit", "/account/audit.csv"] {
        assert_eq!(member.get(path).await.status, 200, "{path}");
    }
    let link = link.rsplit('/').next().unwrap();
    let of_session = member.get("/account/security").await.csrf();
    let known = [&*shown, link, &csrf, &of_session, page::PASSWORD, WRONG_PASSWORD, NEW_PASSWORD, MEMBER, INVITED];
    let encoded = [page::PASSWORD.replace(' ', "+"), MEMBER.replace('@', "%40"), "$argon2id$".into()];
    let cookies = member.cookies.iter().map(|(_, value)| value.clone());
    known.map(str::to_owned).into_iter().chain(encoded).chain(cookies).collect()
}

/// Writes every command that Redis receives to a file.
fn monitor(redis: &RedisServer, into: File) -> Process {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &redis.port().to_string(), "-a", PASSWORD, "--no-auth-warning", "monitor"]).stdout(into);
    Process::start(command)
}
