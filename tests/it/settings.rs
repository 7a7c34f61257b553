//! Settings by flag and by variable, and errors for invalid ones.

use crate::support::{Pod, pod::lockable};

async fn run(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let ran = lockable(args).envs(variables.iter().copied()).output().await.unwrap();
    let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (ran.status.code(), stdout, stderr)
}

/// Flags, variables, and a text that the error contains.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

#[tokio::test]
async fn invalid_setting_stops_the_start_with_one_line() {
    let cases: &[Case] = &[
        (&[], &[("LOCKABLE_LISTEN", "everywhere")], "LOCKABLE_LISTEN"),
        (&["--listen", "1"], &[], "LOCKABLE_LISTEN"),
        (&[], &[("LOCKABLE_REDIS_TIMEOUT", "soon")], "LOCKABLE_REDIS_TIMEOUT"),
        (&[], &[("LOCKABLE_REDIS_POOL_SIZE", "0")], "LOCKABLE_REDIS_POOL_SIZE"),
        (&[], &[("LOCKABLE_REDIS_PREFIX", "{x}")], "LOCKABLE_REDIS_PREFIX"),
        (&[], &[("LOCKABLE_REDIS_URL", "http://x")], "redis://"),
        (&[], &[("LOCKABLE_REDIS_URL", "nonsense")], "LOCKABLE_REDIS_URL"),
        (&[], &[("LOCKABLE_REDIS_URL", "redis://:s3cret#@host")], "LOCKABLE_REDIS_URL"),
        (&[], &[("LOCKABLE_DATABASE_URL", "postgres://ana:s3cret/x@host/y")], "LOCKABLE_DATABASE_URL"),
        (&[], &[("LOCKABLE_REDIS_URL", "file:/nowhere/secret")], "/nowhere/secret"),
        (&[], &[("LOCKABLE_DATABASE_URL", "mysql://x/y"), ("LOCKABLE_REDIS_URL", "redis://127.0.0.1:1")], "postgres:"),
        (&[], &[("LOCKABLE_DATABASE_URL", "postgres://127.0.0.1:1/x")], "LOCKABLE_REDIS_URL"),
        (&[], &[("LOCKABLE_DATABASE_CONNECTIONS", "0")], "LOCKABLE_DATABASE_CONNECTIONS"),
        (&[], &[("LOCKABLE_TRUSTED_PROXIES", "10.0.0.0/8,home")], "LOCKABLE_TRUSTED_PROXIES"),
        (&[], &[("LOCKABLE_LOG_FORMAT", "xml")], "LOCKABLE_LOG_FORMAT"),
        (&[], &[("LOCKABLE_LOG", "lockable=loud")], "filter"),
        (&[], &[("LOCKABLE_TLS_CERT", "/nowhere.pem")], "--tls-key"),
        (&[], &[("LOCKABLE_TLS_CERT", "/nowhere.pem"), ("LOCKABLE_TLS_KEY", "/nowhere.pem")], "/nowhere.pem"),
        (&[], &[("LOCKABLE_OTLP_ENDPOINT", "collector:4318")], "LOCKABLE_OTLP_ENDPOINT"),
        (&[], &[("LOCKABLE_OTLP_ENDPOINT", "https://ana:s3cret@collector")], "OTEL_EXPORTER_OTLP_HEADERS"),
        (&[], &[("LOCKABLE_TRACE_RATIO", "1.1")], "LOCKABLE_TRACE_RATIO"),
        (&[], &[("LOCKABLE_TRACE_RATIO", "NaN")], "LOCKABLE_TRACE_RATIO"),
        (&[], &[("LOCKABLE_AUTH_FAILURES_PER_MINUTE", "0")], "LOCKABLE_AUTH_FAILURES_PER_MINUTE"),
        (&[], &[("LOCKABLE_OTLP_ENDPOINT", "https://s3cret#x@collector")], "OTEL_EXPORTER_OTLP_HEADERS"),
        (&[], &[("LOCKABLE_REDIS_URL", "s3cret")], "LOCKABLE_REDIS_URL"),
        (&[], &[("LOCKABLE_REDIS_URL", "redis+sentinel://a/main?sentinel_password=x&s3cret=y")], "%26"),
        (&[], &[("LOCKABLE_DATABASE_URL", "postgres://host/db?password=x&s3cret=y")], "%26"),
        (&["--nonsense"], &[], "--nonsense"),
    ];
    for (flags, variables, words) in cases {
        let (code, stdout, stderr) = run(&[&["serve"], *flags].concat(), variables).await;
        assert!(matches!(code, Some(1 | 2)), "{flags:?} {variables:?}: {code:?} {stderr}");
        assert_eq!((&*stdout, stderr.lines().count()), ("", 1), "{flags:?} {variables:?}: {stderr}");
        assert!(stderr.contains(words) && !stderr.contains("s3cret"), "{flags:?} {variables:?}: {stderr}");
    }
}

/// Another parser may take a part of the password for the host and send it to name servers.
#[tokio::test]
async fn url_with_an_ambiguous_password_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let passwords = ["p@ss#w0rd", "p@ssw0rd", "p#ssw0rd", "p/ssw0rd", "p?ssw0rd", "p%ssw0rd", "p ssw0rd", "p[ssw0rd"];
    for (variable, scheme) in [
        ("LOCKABLE_DATABASE_URL", "postgres"),
        ("LOCKABLE_REDIS_URL", "redis"),
        ("LOCKABLE_REDIS_URL", "rediss"),
        ("LOCKABLE_REDIS_URL", "redis+sentinel"),
        ("LOCKABLE_REDIS_URL", "redis+cluster"),
    ] {
        for password in passwords {
            let url = format!("{scheme}://ana:{password}@127.0.0.1:1/0");
            std::fs::write(&file, &url).unwrap();
            let in_file = format!("file:{}", file.display());
            let commands: [&[&str]; 3] = [&["serve"], &["config", "check"], &["migrate"]];
            let commands = commands.into_iter().filter(|command| command[0] != "migrate" || scheme == "postgres");
            for (command, value) in commands.flat_map(|command| [(command, &url), (command, &in_file)]) {
                let (code, stdout, stderr) = run(command, &[(variable, value)]).await;
                assert_eq!((code, &*stdout, stderr.lines().count()), (Some(2), "", 1), "{command:?} {url}: {stderr}");
                assert!(stderr.contains(variable) && stderr.contains("percent-encode"), "{command:?} {url}: {stderr}");
                let is_named =
                    ["ss", "w0rd", "ana", "127.0.0.1"].iter().any(|part| stderr.replace("password", "").contains(part));
                assert!(!is_named, "{command:?} {url}: {stderr}");
            }
        }
    }
    let url = "postgres://ana:p%40ss%23w0rd@127.0.0.1:1/x";
    let (code, stdout, _) =
        run(&["config", "check"], &[("LOCKABLE_DATABASE_URL", url), ("LOCKABLE_REDIS_URL", "redis://127.0.0.1:1")])
            .await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("LOCKABLE_DATABASE_URL=postgres://ana:***@127.0.0.1:1/x"), "{stdout}");
}

#[tokio::test]
async fn config_check_prints_settings_without_secrets() {
    let variables = [
        ("LOCKABLE_REDIS_URL", "redis://ana:s3cret@127.0.0.1:1/2"),
        ("LOCKABLE_DATABASE_URL", "postgres://ana:s3cret@127.0.0.1:1/x?password=s3cret"),
        ("LOCKABLE_DRAIN_TIMEOUT", "3s"),
    ];
    let (code, stdout, stderr) = run(&["config", "check", "--listen", "127.0.0.1:1234"], &variables).await;
    assert_eq!(code, Some(0), "{stderr}");
    for line in [
        "LOCKABLE_LISTEN=127.0.0.1:1234  # flag",
        "LOCKABLE_DRAIN_TIMEOUT=3s  # environment",
        "LOCKABLE_REDIS_TIMEOUT=500ms  # default",
        "LOCKABLE_TLS_CERT=  # unset",
        "LOCKABLE_REDIS_URL=redis://ana:***@127.0.0.1:1/2  # environment",
        "LOCKABLE_DATABASE_URL=postgres://ana:***@127.0.0.1:1/x?***  # environment",
    ] {
        assert!(stdout.lines().any(|other| other == line), "{line} is not in {stdout}");
    }
    assert!(!stdout.contains("s3cret") && !stderr.contains("s3cret"));
    let (code, _, stderr) = run(&["config", "check"], &[("LOCKABLE_DATABASE_URL", "postgres://x/y")]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("LOCKABLE_REDIS_URL"), "{stderr}");
}

#[tokio::test]
async fn help_lists_every_setting_with_its_variable() {
    let (code, stdout, _) = run(&["serve", "--help"], &[]).await;
    assert_eq!(code, Some(0));
    let help = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, in_force, _) = run(&["config", "check"], &[]).await;
    assert!(in_force.lines().count() > 15, "{in_force}");
    for variable in in_force.lines().filter_map(|line| line.split('=').next()) {
        assert!(help.contains(&format!("env: {variable}")), "{variable} is not in the help");
    }
}

#[tokio::test]
async fn embedded_server_warns_and_locks_its_database() {
    let pod = Pod::start().await;
    assert!(pod.log().contains("supports one server only"), "{}", pod.log());
    let (code, _, stderr) = pod.run(&["serve"]).await;
    assert_eq!(code, Some(1));
    let complaint = stderr.lines().last().unwrap();
    assert!(complaint.contains("another server") && complaint.contains("LOCKABLE_REDIS_URL"), "{stderr}");
}

#[tokio::test]
async fn url_with_a_password_is_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("redis-url");
    std::fs::write(&file, "redis://:s3cret@redis.example/3\n").unwrap();
    let url = format!("file:{}", file.display());
    let (_, stdout, _) = run(&["config", "check"], &[("LOCKABLE_REDIS_URL", &url)]).await;
    let shown = stdout.lines().find(|line| line.starts_with("LOCKABLE_REDIS_URL=")).unwrap();
    assert!(!stdout.contains("s3cret"), "{stdout}");
    assert!(shown.contains("redis.example") || shown.contains(&url), "{shown}");
}
