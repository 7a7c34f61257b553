//! The command line: usage errors, variables, closed output and proxies.

use std::{fs::File, process::Stdio};

use crate::support::{Pod, pod::lockable};

/// A command of the pod's first account.
fn of(pod: &Pod, args: &[&str]) -> tokio::process::Command {
    let mut command = lockable(args);
    command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", pod.first_token());
    command
}

#[tokio::test]
async fn usage_error_shows_usage_of_command_and_suggestion() {
    let run = "Usage: lockable run [OPTIONS] <NAME> -- <COMMAND>...";
    for (line, usage, words) in [
        ("relase x", "Usage: lockable <COMMAND>", "similar subcommands exist: 'break', 'release'"),
        ("run x true", run, "put -- before it: lockable run x -- true"),
        ("run -w 5 x ./a\u{a0}b --lease 3", run, "lockable run -w 5 x -- './a\u{a0}b' --lease 3"),
        ("run x", run, "put the command after --"),
        ("run", run, "<NAME>"),
        ("run a b -- true", run, "lockable run a -- lockable run b -- true"),
        ("run x --leese 3s -- true", run, "a similar argument exists: '--lease'"),
        ("run x --onlost kill -- true", run, "a similar argument exists: '--on-lost'"),
        ("run -s x -- true", run, "shared locks are not available"),
        ("run --shared x -- true", run, "shared locks are not available"),
        ("run -x x -- true", run, "every lock is exclusive"),
        ("run --at-least 5m x -- true", run, "a minimum time is not available"),
        ("run -n -w 5 x -- true", run, "'--no-wait' cannot be used with '--wait"),
        ("run x -c true -- true", run, "'--command <LINE>' cannot be used with"),
        ("run a//b -- true", run, "empty segment"),
        ("run .. -- true", run, "segment \".\" or \"..\""),
        ("run x -w soon -- true", run, "a duration is a number of seconds (90, 0.5)"),
        ("acquire x --owner a\tb", "Usage: lockable acquire [OPTIONS] <NAME>", "an owner cannot contain white space"),
        (
            "status --url locks.example.com x",
            "Usage: lockable status [OPTIONS] <NAME>",
            "begins with https:// or http://",
        ),
        ("status --url localhost:8080 x", "Usage: lockable status", "begins with https:// or http://"),
        ("status", "Usage: lockable status [OPTIONS] <NAME>", "<NAME>"),
        ("hold x", "Usage: lockable hold [OPTIONS] --for <DURATION> <NAME>", "--for <DURATION>"),
        ("token creat", "Usage: lockable token <COMMAND>", "'create'"),
    ] {
        let args: Vec<_> = line.split(' ').collect();
        let ran = lockable(&args).env("LOCKABLE_AUTH_TOKEN", "x").output().await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(2), &b""[..]), "{line}: {said}");
        assert!(said.contains(usage) && said.contains(words), "{line}: {said}");
        assert!(!said.contains("watchdog"), "{line}: {said}");
    }
}

#[tokio::test]
async fn variables_set_options_and_options_override_variables() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    let show = "echo $LOCKABLE_HOLDER; echo wait=$LOCKABLE_WAIT";
    for (variables, line, code, words) in [
        (&[("LOCKABLE_WAIT", "0.2")][..], "run busy -- true", 75, "busy is held by one"),
        (&[("LOCKABLE_WAIT", "1h")], "run -n busy -- true", 75, "busy is held by one"),
        (&[("LOCKABLE_WAIT", "1h")], "run -w 0.2 busy -- true", 75, "busy is held by one"),
        (&[("LOCKABLE_WAIT", "0.2"), ("LOCKABLE_CONFLICT_EXIT_CODE", "9")], "run busy -- true", 9, ""),
        (&[("LOCKABLE_WAIT", "0.2"), ("LOCKABLE_QUIET", "1")], "run busy -- true", 75, ""),
        (&[("LOCKABLE_WAIT", "0.2")], "acquire busy --owner x", 1, "busy is held by one"),
        (&[("LOCKABLE_WAIT", "soon")], "run x -- true", 2, "the value is from the variable LOCKABLE_WAIT"),
        (&[("LOCKABLE_OWNER", "ci"), ("LOCKABLE_WAIT", "5")], "run x -- sh -c SHOW", 0, "ci:"),
        (&[("LOCKABLE_OWNER", "ci"), ("LOCKABLE_WAIT", "5")], "run x -- sh -c SHOW", 0, "wait=5"),
        (&[("LOCKABLE_OWNER", "one")], "release busy --fencing-token 1", 1, "held by another owner"),
        (&[("LOCKABLE_NAMESPACE", "nowhere")], "run x -- true", 2, "Not a namespace of this account"),
        (&[("LOCKABLE_NAMESPACE", "nowhere")], "run --namespace public x -- true", 0, ""),
        (&[("LOCKABLE_LEASE", "8000h")], "run x -- true", 2, "Lease outside the plan's range"),
        (&[("LOCKABLE_NOTE", "a\nb")], "run x -- OWN status x", 0, "(a b)"),
        (&[("LOCKABLE_ON_LOST", "sometimes")], "run x -- true", 2, "LOCKABLE_ON_LOST"),
        (&[("LOCKABLE_KILL_AFTER", "never")], "run x -- true", 2, "LOCKABLE_KILL_AFTER"),
    ] {
        let args = line.split(' ').map(|word| match word {
            "SHOW" => show,
            "OWN" => env!("CARGO_BIN_EXE_lockable"),
            word => word,
        });
        let ran = of(&pod, &args.collect::<Vec<_>>()).envs(variables.iter().copied()).output().await.unwrap();
        let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(ran.status.code() == Some(code) && said.contains(words), "{variables:?} {line}: {said}");
    }
}

/// CI systems and Compose files set variables without a value to "".
#[tokio::test]
async fn empty_variable_counts_as_unset() {
    let pod = Pod::start().await;
    let empty = [
        "LOCKABLE_CA_FILE",
        "LOCKABLE_TOKEN_FILE",
        "LOCKABLE_PROFILE",
        "LOCKABLE_NAMESPACE",
        "LOCKABLE_OWNER",
        "LOCKABLE_WAIT",
        "LOCKABLE_LEASE",
        "LOCKABLE_NOTE",
        "LOCKABLE_CONFLICT_EXIT_CODE",
        "LOCKABLE_QUIET",
        "LOCKABLE_ON_LOST",
        "LOCKABLE_KILL_AFTER",
        "LOCKABLE_LEAVE_BACKGROUND",
        "LOCKABLE_HELD",
        "HTTP_PROXY",
        "NO_PROXY",
    ];
    for args in [&["run", "x", "--", "true"][..], &["acquire", "x"], &["list"], &["doctor"]] {
        let ran = of(&pod, args).envs(empty.map(|name| (name, ""))).output().await.unwrap();
        assert_eq!(ran.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    for name in ["LOCKABLE_URL", "LOCKABLE_AUTH_TOKEN"] {
        let ran = of(&pod, &["status", "x"]).env(name, "").output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(2) && said.contains(&format!("set {name}")), "{said}");
    }
    let ran = lockable(&["config", "check"]).env("LOCKABLE_LISTEN", "").env("LOCKABLE_REDIS_TIMEOUT", "").output();
    let ran = ran.await.unwrap();
    let listed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && listed.contains("LOCKABLE_REDIS_TIMEOUT=500ms  # default"), "{listed}");
}

#[tokio::test]
async fn closed_output_ends_command_silently_and_full_disk_is_an_error() {
    use std::os::unix::process::ExitStatusExt;
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(client.get("/v1/acquire/listed?lease=1h").await.json["response"], true);
    for line in [
        "list --json",
        "status x",
        "doctor",
        "doctor --json",
        "whoami",
        "acquire x",
        "acquire x --json",
        "hold x --for 5m",
        "history x",
        "config check",
        "completions bash",
        "completions zsh",
        "man",
        "man run",
        "version",
        "--version",
        "--help",
        "run --help",
        "plan list",
        "plan list --json",
    ] {
        let args: Vec<_> = line.split(' ').collect();
        let database = pod.database_url();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = written_to(writer.into(), of(&pod, &args).env("LOCKABLE_DATABASE_URL", &database)).await;
        let said = String::from_utf8_lossy(&closed.stderr);
        assert_eq!(closed.status.signal(), Some(libc::SIGPIPE), "{line}: {said}");
        assert!(said.is_empty() || line.starts_with("history"), "{line}: {said}");
        let full = Stdio::from(File::options().write(true).open("/dev/full").unwrap());
        let full = written_to(full, of(&pod, &args).env("LOCKABLE_DATABASE_URL", &database)).await;
        let said = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(74), "{line}: {said}");
        assert!(said.contains("standard output cannot be written: No space left"), "{line}: {said}");
        // A grant that could not be printed is released.
        assert_eq!(client.get("/v1/locks/x").await.json["held"], false, "{line}");
    }
}

async fn written_to(output: Stdio, command: &mut tokio::process::Command) -> std::process::Output {
    let child = command.stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn too_few_file_descriptors_cause_an_error_without_panic() {
    let pod = Pod::start().await;
    let own = env!("CARGO_BIN_EXE_lockable");
    for files in 5..=11 {
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec {own} run x -- true")]);
        command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", pod.first_token());
        let ran = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(69) && !said.contains("panicked"), "{files}: {:?} {said}", ran.status);
    }
}

#[tokio::test]
async fn failing_proxy_is_named_and_no_proxy_is_respected() {
    let pod = Pod::start().await;
    let dead = "http://ana:s3cret@127.0.0.1:9";
    let through = "through the proxy http://127.0.0.1:9 from HTTP_PROXY";
    for (variables, args, code, words) in [
        (&[("HTTP_PROXY", dead)][..], &["status", "x"][..], 69, through),
        (&[("HTTP_PROXY", dead)], &["run", "-n", "x", "--", "true"], 69, through),
        (&[("HTTP_PROXY", dead)], &["doctor"], 1, through),
        (&[("HTTP_PROXY", dead)], &["doctor"], 1, "add the server to NO_PROXY"),
        (&[("HTTP_PROXY", dead), ("NO_PROXY", "127.0.0.1")], &["doctor"], 0, "ok     connection"),
        (&[("HTTP_PROXY", dead), ("no_proxy", "*")], &["status", "x"], 1, "x is free"),
        (&[("HTTP_PROXY", dead), ("NO_PROXY", "other.example, 127.0.0.0/8")], &["status", "x"], 1, "x is free"),
        (&[("HTTP_PROXY", ""), ("ALL_PROXY", "")], &["status", "x"], 1, "x is free"),
        (&[("HTTPS_PROXY", dead)], &["status", "x"], 1, "x is free"),
        (
            &[("http_proxy", "http://proxy.invalid:3128")],
            &["status", "x"],
            69,
            "proxy.invalid of the proxy in http_proxy",
        ),
        (&[("ALL_PROXY", "socks5://127.0.0.1:9")], &["status", "x"], 69, "socks5://127.0.0.1:9 from ALL_PROXY"),
        (&[("HTTP_PROXY", "ftp://127.0.0.1:9")], &["status", "x"], 2, "HTTP_PROXY is not the address of"),
    ] {
        let ran = of(&pod, args).envs(variables.iter().copied()).output().await.unwrap();
        let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(ran.status.code() == Some(code) && said.contains(words), "{variables:?} {args:?}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
