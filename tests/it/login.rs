//! `lockable login`, `logout`, `whoami` and `doctor`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use tokio::io::AsyncWriteExt;

use crate::support::{Pod, dev_cert, pod::lockable, process::free_port};

/// Runs a command for a user whose settings are in `home`.
async fn run(home: &Path, args: &[&str], input: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = lockable(args);
    command.env("XDG_CONFIG_HOME", home).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails at once does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let ran = child.wait_with_output().await.unwrap();
    let output = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (ran.status.code(), output)
}

#[tokio::test]
async fn login_is_saved_for_its_user_and_server_only() {
    let pod = Pod::start().await;
    let (token, home) = (pod.first_token(), tempfile::tempdir().unwrap());
    let login = ["login", "--url", &pod.origin()];
    let profile = home.path().join("lockable/profile.json");

    let (code, output) = run(home.path(), &login, "11111111-2222-4333-8444-555555555555\n", &[]).await;
    assert!(code == Some(69) && output.contains("rejected the token") && !profile.exists(), "{output}");
    assert_eq!(run(home.path(), &login, "", &[]).await.0, Some(2));
    let (code, output) = run(home.path(), &login, &format!(" {token}\n"), &[]).await;
    assert!(
        code == Some(2) && output.contains("the token in standard input begins or ends with white space"),
        "{output}"
    );
    assert_eq!(run(home.path(), &["status", "a"], "", &[]).await.0, Some(2));

    let (code, output) = run(home.path(), &login, &format!("{token}\n"), &[]).await;
    assert!(code == Some(0) && output.contains("profile.json") && !output.contains(&token), "{output}");
    assert_eq!(fs::metadata(&profile).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(home.path(), &["acquire", "a"], "", &[]).await.0, Some(0));
    assert_eq!(run(home.path(), &["run", "-n", "b", "--", "true"], "", &[]).await.0, Some(0));

    // The token is not sent to another server.
    let (code, output) = run(home.path(), &["status", "a"], "", &[("LOCKABLE_URL", "http://127.0.0.1:1")]).await;
    assert!(code == Some(2) && output.contains("no token"), "{output}");

    fs::set_permissions(&profile, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, output) = run(home.path(), &["status", "a"], "", &[]).await;
    assert!(code == Some(2) && output.contains("other users can read it") && !output.contains(&token), "{output}");
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&profile, "{").unwrap();
    assert!(run(home.path(), &["status", "a"], "", &[]).await.1.contains("cannot use "));
}

#[tokio::test]
async fn each_profile_has_its_server_and_token() {
    let (one, two) = (Pod::start().await, Pod::start().await);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let path = file.to_str().unwrap();
    for (pod, profile) in [(&one, &["--profile", "one"][..]), (&two, &[])] {
        fs::write(&file, format!("{}\nnot the token\n", pod.first_token())).unwrap();
        let url = pod.origin();
        let login = [&["login", "--url", &url, "--token-file", path], profile].concat();
        let (code, output) = run(home.path(), &login, "", &[]).await;
        assert_eq!(code, Some(0), "{output}");
    }
    assert_eq!(one.client(&one.first_token()).get("/v1/acquire/a").await.json["response"], true);
    // Fields of a later version are accepted and preserved.
    let profiles = home.path().join("lockable/profile.json");
    let text = fs::read_to_string(&profiles).unwrap();
    fs::write(&profiles, text.replacen('{', "{\"later\": [1],", 1)).unwrap();

    let others = [("LOCKABLE_URL", "http://127.0.0.1:1"), ("LOCKABLE_AUTH_TOKEN", "another")];
    for (args, variables, code, words) in [
        (&["status", "a"][..], &[][..], 1, "a is free"),
        (&["status", "a", "--profile", "one"], &[], 0, "a is held by"),
        (&["status", "a", "--profile", "one"], &others, 0, "a is held by"),
        (&["status", "a"], &[("LOCKABLE_PROFILE", "one")], 0, "a is held by"),
        (&["status", "a"], &[("LOCKABLE_PROFILE", "")], 1, "a is free"),
        (&["whoami", "--profile", "one"], &[], 0, "(from the profile one)"),
        (&["whoami"], &[("LOCKABLE_AUTH_TOKEN", &*two.first_token())], 0, "(from LOCKABLE_AUTH_TOKEN)"),
        (&["status", "a", "--profile", "three"], &[], 2, "there is no profile \"three\" (saved profiles: one)"),
        (&["status", "a", "--profile", "one", "--url", &two.origin()], &[], 2, "no token"),
        (&["logout", "--profile", "one"], &[], 0, "removed the saved token"),
        (&["logout", "--profile", "one"], &[], 2, "no profile"),
        (&["status", "a", "--profile", "one"], &[], 2, "none is saved"),
        (&["status", "a"], &[], 1, "a is free"),
        (&["logout"], &[], 0, "removed the saved token"),
        (&["status", "a"], &[], 2, "no server"),
    ] {
        let (found, output) = run(home.path(), args, "", variables).await;
        assert!(found == Some(code) && output.contains(words), "{args:?} {variables:?}: {output}");
    }
    assert!(fs::read_to_string(&profiles).unwrap().contains("later"));
    assert_eq!(run(home.path(), &["logout", "--all"], "", &[]).await.0, Some(0));
    assert!(!profiles.exists());
}

#[tokio::test]
async fn doctor_reports_failed_check_with_advice() {
    let certificate = dev_cert().await;
    let (plain, secure) = (Pod::start().await, Pod::builder().tls(&certificate).start().await);
    let (token, ca) = (secure.first_token(), certificate.cert.to_str().unwrap());
    let home = tempfile::tempdir().unwrap();
    let address = |origin: &str| origin.replace("127.0.0.1", "localhost");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (plain_url, secure_url) = (address(&plain.origin()), address(&secure.origin()));
    let limited = plain.operator(&["account", "create", "--email", "a@example.com", "--plan", "hobbyist"]).await;
    for (url, token, ca, code, words) in [
        ("", &*token, "", 1, "no server"),
        ("locks.example.com", &token, "", 2, "an address begins with https://"),
        ("http://locks.invalid", &token, "", 1, "the host locks.invalid is unknown"),
        (&nobody, &token, "", 1, "check that the server runs and listens on this port, and"),
        (&secure_url, &token, "", 1, "set LOCKABLE_CA_FILE to the file of its CA"),
        (&secure_url.replace("https", "http"), &token, "", 1, "write https:// in the address"),
        (&plain_url.replace("http", "https"), &token, "", 1, "write http:// in the address"),
        (&plain_url, "wrong", "", 1, "check that it is complete, from this server"),
        (&plain_url, " ", "", 1, "there is no token"),
        (&secure_url, &token, "/nowhere.pem", 1, "cannot read /nowhere.pem"),
        (&secure_url, &token, ca, 0, "ok     plan: business"),
        (&plain_url, limited["token"].as_str().unwrap(), "", 0, "ok     plan: hobbyist: 100 locks at once"),
    ] {
        let variables = [("LOCKABLE_URL", url), ("LOCKABLE_AUTH_TOKEN", token), ("LOCKABLE_CA_FILE", ca)];
        let set: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let (found, output) = run(home.path(), &["doctor"], "", &set).await;
        assert_eq!(found, Some(code), "{url}: {output}");
        assert!(output.contains(words) && (token == " " || !output.contains(token)), "{url}: {output}");
    }
}
