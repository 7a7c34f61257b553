//! The operator commands, on SQLite and on PostgreSQL.

use serde_json::{Value, json};

use crate::support::{Pod, pod::lockable, postgres::Postgres};

/// Runs the program on a database. Returns exit code, standard output and standard error.
async fn run(database: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let ran = lockable(args).env("LOCKABLE_DATABASE_URL", database).output().await.unwrap();
    let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (ran.status.code(), stdout, stderr)
}

async fn json(database: &str, args: &[&str]) -> Value {
    let (code, stdout, stderr) = run(database, &[args, &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Asserts that a command fails with this exit code and one line that contains `words`. A usage
/// error also prints the usage.
async fn fails(database: &str, args: &[&str], code: i32, words: &str) {
    let (actual, stdout, stderr) = run(database, args).await;
    assert_eq!((actual, &*stdout), (Some(code), ""), "{args:?}: {stderr}");
    assert!(stderr.lines().count() == 1 || code == 2 && stderr.contains("\nUsage: "), "{args:?}: {stderr}");
    assert!(stderr.contains(words), "{args:?}: {stderr}");
}

/// Returns an empty SQLite database and an empty PostgreSQL database.
async fn databases() -> (tempfile::TempDir, Postgres, [String; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::database().await;
    let urls = [format!("sqlite:{}", folder.path().join("test.db").display()), postgres.url.clone()];
    (folder, postgres, urls)
}

#[tokio::test]
async fn accounts_are_created_shown_and_changed() {
    let (_folder, _postgres, urls) = databases().await;
    for url in &urls {
        json(url, &["migrate"]).await;
        let made = json(url, &["account", "create", "--email", "Ana@example.com", "--plan", "business"]).await;
        assert!(uuid::Uuid::try_parse(made["token"].as_str().unwrap()).is_ok());
        let id = made["account"]["id"].as_str().unwrap();

        fails(url, &["account", "create", "--email", "ana@EXAMPLE.com"], 1, "already an account").await;
        fails(url, &["account", "create", "--email", "nobody"], 1, "is not a valid e-mail address").await;
        let long = format!("{}@example.com", "x".repeat(250));
        fails(url, &["account", "create", "--email", &long], 1, "is not a valid e-mail address").await;
        fails(url, &["account", "create", "--email", "b@example.com", "--plan", "gold"], 3, "no plan").await;

        json(url, &["account", "set-lease", "ana@example.com", "5m"]).await;
        fails(url, &["account", "set-lease", id, "25h"], 1, "from 1s to 24h").await;
        json(url, &["account", "suspend", id]).await;
        let shown = json(url, &["account", "show", "ANA@example.com"]).await;
        assert_eq!((&shown["lease_ms"], &shown["plan"]), (&json!(300_000), &json!("business")));
        assert!(shown["suspended_at"].is_i64());
        json(url, &["account", "resume", id]).await;
        json(url, &["account", "set-lease", id, "default"]).await;
        json(url, &["account", "set-plan", id, "hobbyist"]).await;
        let listed = json(url, &["account", "list"]).await;
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!((&listed[0]["lease_ms"], &listed[0]["suspended_at"]), (&Value::Null, &Value::Null));
        fails(url, &["account", "show", "bob@example.com"], 3, "no account").await;

        let (_, table, _) = run(url, &["account", "list"]).await;
        assert!(table.starts_with(" EMAIL") || table.starts_with("EMAIL"), "{table}");
        assert!(table.contains("Ana@example.com"), "{table}");
    }
}

#[tokio::test]
async fn tokens_and_namespaces_belong_to_an_account() {
    let (_folder, _postgres, urls) = databases().await;
    for url in &urls {
        json(url, &["migrate"]).await;
        let email = "ana@example.com";
        json(url, &["account", "create", "--email", email, "--plan", "business"]).await;
        fails(url, &["token", "create", "--account", email, "--namespace", "team"], 3, "no namespace").await;
        json(url, &["namespace", "create", "--account", email, "team"]).await;
        fails(url, &["namespace", "create", "--account", email, "team"], 1, "already a namespace").await;
        fails(url, &["namespace", "create", "--account", email, "public"], 1, "lower-case").await;
        let flags = ["--label", "ci", "--scope", "lock", "--scope", "manage", "--namespace", "team"];
        let made = json(url, &[&["token", "create", "--account", email][..], &flags].concat()).await;
        let listed = json(url, &["token", "list", "--account", email]).await;
        assert_eq!(listed.as_array().unwrap().len(), 2);
        let second = &listed[1];
        assert_eq!(
            (&second["id"], &second["label"], &second["namespace"]),
            (&made["id"], &json!("ci"), &json!("team"))
        );
        assert_eq!(second["scopes"], json!({"lock": true, "manage": true}));
        assert!(!listed.to_string().contains(made["token"].as_str().unwrap()), "the token is shown once");

        let id = made["id"].as_str().unwrap();
        json(url, &["token", "revoke", id]).await;
        fails(url, &["token", "revoke", id], 3, "no active token").await;
        assert!(json(url, &["token", "list", "--account", email]).await[1]["revoked_at"].is_i64());

        json(url, &["account", "set-plan", email, "hobbyist"]).await;
        fails(url, &["namespace", "create", "--account", email, "more"], 1, "no private namespaces").await;
        let listed = json(url, &["namespace", "list", "--account", email]).await;
        assert_eq!(listed[0]["name"], "team");
    }
}

#[tokio::test]
async fn token_create_enforces_the_limit_of_the_plan() {
    let (_folder, _postgres, urls) = databases().await;
    for url in &urls {
        json(url, &["migrate"]).await;
        let plans = json(url, &["plan", "list"]).await;
        assert_eq!((&plans[0]["tokens_max"], &plans[1]["tokens_max"]), (&json!(1000), &json!(10)));
        let email = "ana@example.com";
        json(url, &["account", "create", "--email", email]).await;
        json(url, &["plan", "set", "hobbyist", "--tokens", "3"]).await;

        // Concurrent commands cannot exceed the limit together.
        let create = ["token", "create", "--account", email];
        let made = futures_util::future::join_all((0..5).map(|_| run(url, &create))).await;
        let refused: Vec<_> = made.iter().filter(|(code, ..)| *code != Some(0)).collect();
        assert_eq!(refused.len(), 3, "{made:?}");
        for (code, _, complaint) in refused {
            assert_eq!(*code, Some(1));
            assert!(
                complaint.contains("plan \"hobbyist\" allows 3 active tokens; revoke an unused one"),
                "{complaint}"
            );
        }
        let listed = json(url, &["token", "list", "--account", email]).await;
        assert_eq!(listed.as_array().unwrap().len(), 3);
        json(url, &["token", "revoke", listed[0]["id"].as_str().unwrap()]).await;
        json(url, &create).await;
        fails(url, &create, 1, "allows 3 active tokens").await;
        json(url, &["plan", "set", "hobbyist", "--tokens", "4"]).await;
        json(url, &create).await;
    }
}

#[tokio::test]
async fn plan_values_are_validated() {
    let (_folder, _postgres, urls) = databases().await;
    for url in &urls {
        json(url, &["migrate"]).await;
        let figures = ["--rate", "2000", "--burst", "4000", "--lease-default", "2m", "--locks", "7", "--waiters", "9"];
        let set = json(url, &[&["plan", "set", "business"][..], &figures].concat()).await;
        assert_eq!(set["rate"], json!({"per_second": 2000, "burst": 4000}));
        let plans = json(url, &["plan", "list"]).await;
        assert_eq!(plans[0], set);
        assert_eq!(plans[1]["lease_max"], 60_000);
        for (figures, words) in [
            (["--rate", "0"], "rate"),
            (["--rate", "1000001"], "rate"),
            (["--burst", "10000001"], "burst"),
            (["--lease-min", "3m"], "lease"),
            (["--lease-max", "721h"], "lease"),
            (["--lease-min", "99ms"], "lease"),
            (["--locks", "10000001"], "locks"),
            (["--tokens", "0"], "tokens"),
            (["--tokens", "10001"], "tokens"),
        ] {
            fails(url, &[&["plan", "set", "business"][..], &figures].concat(), 1, words).await;
        }
        fails(url, &["plan", "set", "gold", "--rate", "1"], 3, "no plan").await;
        fails(url, &["plan", "set", "business"], 2, "required").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_migrations_succeed_and_old_databases_are_rejected() {
    let (_folder, _postgres, urls) = databases().await;
    fails("sqlite:/nowhere/lockable.db", &["migrate"], 1, "cannot open the database sqlite:/nowhere/lockable.db").await;
    fails(&urls[1], &["account", "list"], 1, "lockable migrate").await;
    let redis = crate::support::redis::RedisServer::start();
    let refused = Pod::builder().redis(&redis).database(&urls[1]).env("LOCKABLE_DATABASE_MIGRATE", "false");
    let (code, stderr) = refused.expect_refusal().await;
    assert_eq!(code, Some(1));
    assert!(stderr.lines().last().unwrap().contains("lockable migrate"), "{stderr}");
    for url in &urls {
        let migrations = (0..8).map(|_| run(url, &["migrate"]));
        for (code, _, stderr) in futures_util::future::join_all(migrations).await {
            assert_eq!(code, Some(0), "{url}: {stderr}");
        }
        assert_eq!(json(url, &["plan", "list"]).await.as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn audit_log_contains_every_change_and_is_append_only() {
    let (_folder, postgres, urls) = databases().await;
    let url = &urls[1];
    json(url, &["migrate"]).await;
    json(url, &["account", "create", "--email", "ana@example.com", "--plan", "business"]).await;
    json(url, &["account", "suspend", "ana@example.com"]).await;
    json(url, &["plan", "set", "business", "--rate", "5"]).await;
    let actions = postgres.query("SELECT action FROM audit ORDER BY at, id").unwrap();
    let actions: Vec<_> = actions.lines().collect();
    assert_eq!(actions, ["account.create", "token.create", "account.suspend", "plan.set"]);
    for statement in ["DELETE FROM audit", "UPDATE audit SET actor = 'me'", "TRUNCATE audit"] {
        assert!(postgres.query(statement).unwrap_err().contains("append-only"), "{statement}");
    }
    let stored = postgres.query("SELECT hash FROM tokens").unwrap();
    assert_eq!(stored.trim().len(), 64, "only a hash is stored: {stored}");
}

#[tokio::test]
async fn tokens_and_namespaces_per_account_are_limited() {
    let (_folder, postgres, urls) = databases().await;
    let url = &urls[1];
    json(url, &["migrate"]).await;
    let email = "ana@example.com";
    json(url, &["account", "create", "--email", email, "--plan", "business"]).await;
    let fill = "INSERT INTO tokens (id, account, hash, label, may_lock, may_manage, default_namespace, created_at) \
                SELECT 'id' || n, a.id, 'hash' || n, 'l', 1, 0, '-', 0 FROM accounts a, generate_series(1, 998) n; \
                INSERT INTO namespaces (id, account, name, created_at) \
                SELECT 'id' || n, a.id, 'n' || n, 0 FROM accounts a, generate_series(1, 99) n";
    postgres.query(fill).unwrap();
    json(url, &["token", "create", "--account", email]).await;
    fails(url, &["token", "create", "--account", email], 1, "allows 1000 active tokens").await;
    json(url, &["namespace", "create", "--account", email, "last"]).await;
    fails(url, &["namespace", "create", "--account", email, "over"], 1, "at most 100").await;
}

#[tokio::test]
async fn token_use_is_recorded_to_the_hour() {
    let mut pod = Pod::start().await;
    let account = pod.account("business").await;
    pod.client(&account.token).get("/v1/heartbeat/x").await;
    assert_eq!(pod.stop().await, Some(0));
    let listed = pod.operator(&["token", "list", "--account", &account.email]).await;
    let used = listed[0]["last_used_at"].as_i64().unwrap();
    assert_eq!(used % 3_600_000, 0);
    assert!(jiff::Timestamp::now().as_millisecond() - used < 2 * 3_600_000);
}
