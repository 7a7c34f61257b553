//! A server with default settings exposes nothing.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use crate::support::{
    Pod, eventually,
    page::{PASSWORD, PageClient},
    python, run_shell,
};

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Captured output is often readable by more people than the account's users.
#[tokio::test]
async fn first_start_writes_its_token_only_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let mut first = Pod::builder().database(&database).start().await;
    let file = first.first_account_file().unwrap();
    assert_eq!((&*file, mode(&file)), (&*folder.path().join("test.db.first-token"), 0o600));
    let (text, token) = (first.first_account(), first.first_token());
    for line in [&*token, &format!("curl -u {token}: {}/v1/acquire/my-lock-name", first.origin())] {
        assert!(text.lines().any(|other| other.trim() == line), "{line} is not in {text}");
    }
    let link = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{}/account/link/", first.origin())));
    let link = link.unwrap_or_else(|| panic!("{text}")).to_owned();
    assert_eq!(first.client(&token).get("/v1/acquire/a").await.json["response"], true);
    assert_eq!(first.stop().await, Some(0));
    assert_eq!(first.stdout(), "");
    assert!(!first.log().contains(&token) && !first.log().contains(&link), "{}", first.log());

    let second = Pod::builder().database(&database).start().await;
    assert_eq!((second.stdout(), second.first_account_file()), (String::new(), None));
    assert_eq!(second.client(&token).get("/v1/heartbeat/a").await.json["response"], true);
}

#[tokio::test]
async fn first_token_file_can_be_set_and_replaces_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, target) = (folder.path().join("token"), folder.path().join("target"));
    let start = async || Pod::builder().env("LOCKABLE_FIRST_TOKEN_FILE", file.to_str().unwrap()).start().await;
    let pod = start().await;
    assert_eq!((pod.first_account_file(), mode(&file)), (Some(file.clone()), 0o600));
    let earlier = pod.first_token();
    // The server replaces the file of an earlier database, but no other file and no link.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let pod = start().await;
    assert_ne!(pod.first_token(), earlier);
    assert_eq!(mode(&file), 0o600);
    fs::write(&file, "notes").unwrap();
    let pod = start().await;
    assert!(pod.log().contains("cannot write its token"), "{}", pod.log());
    assert_eq!(fs::read_to_string(&file).unwrap(), "notes");
    fs::remove_file(&file).unwrap();
    fs::write(&target, "Lockable created the first account.").unwrap();
    std::os::unix::fs::symlink(&target, &file).unwrap();
    let pod = start().await;
    assert!(pod.log().contains("cannot write its token"), "{}", pod.log());
    assert_eq!(fs::read_to_string(&target).unwrap(), "Lockable created the first account.");
}

/// Starts a server on a pseudo-terminal, checks what it prints up to the link, and stops it.
const TERMINAL: &str = r#"
import os, pty, select, signal, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(os.environ["PROGRAM"], ["lockable", "serve"])
shown = ""
while "/account/link/" not in shown or not shown.endswith("\n"):
    if not select.select([fd], [], [], 20)[0]:
        sys.exit(f"no link came: {shown!r}")
    shown += os.read(fd, 65536).decode()
os.kill(pid, signal.SIGTERM)
try:
    while os.read(fd, 65536):
        pass
except OSError:
    pass
os.waitpid(pid, 0)
assert "curl -u " in shown, shown
"#;

#[tokio::test]
async fn first_token_is_printed_on_a_terminal_and_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let variables = [
        ("PROGRAM", env!("CARGO_BIN_EXE_lockable")),
        ("LOCKABLE_LISTEN", "127.0.0.1:0"),
        ("LOCKABLE_DATABASE_URL", &database),
    ];
    python::run(TERMINAL, &variables).await;
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|file| !file.to_string_lossy().contains("token")), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_is_open_only_on_loopback_unless_set() {
    let cases: [(&[(&str, &str)], bool); 8] = [
        (&[], true),
        (&[("LOCKABLE_PUBLIC_URL", "http://localhost:1234")], true),
        (&[("LOCKABLE_LISTEN", "0.0.0.0:0")], false),
        (&[("LOCKABLE_LISTEN", "[::]:0")], false),
        (&[("LOCKABLE_TRUSTED_PROXIES", "127.0.0.1/32")], false),
        (&[("LOCKABLE_PUBLIC_URL", "https://locks.example.com")], false),
        (&[("LOCKABLE_LISTEN", "0.0.0.0:0"), ("LOCKABLE_SIGN_UP", "true")], true),
        (&[("LOCKABLE_SIGN_UP", "false")], false),
    ];
    for (settings, is_open) in cases {
        let pod = settings.iter().fold(Pod::builder(), |pod, (name, value)| pod.env(name, value)).start().await;
        let mut eve = PageClient::new(&pod.origin());
        assert_eq!(eve.get("/account/sign-up").await.text.contains("by invitation"), !is_open, "{settings:?}");
        let csrf = eve.get("/account/sign-in").await.csrf();
        let fields = [("csrf", &*csrf), ("email", "eve@example.com"), ("password", PASSWORD)];
        let status = eve.post("/account/sign-up", &fields).await.status;
        assert_eq!(status, if is_open { 303 } else { 403 }, "{settings:?}");
    }
}

#[tokio::test]
async fn sqlite_files_are_private_to_their_user() {
    let folder = tempfile::tempdir().unwrap();
    // The SQLite driver decodes percent signs in the URL.
    let path = folder.path().join("my locks.db");
    let database = format!("sqlite:{}", path.display().to_string().replace(' ', "%20"));
    let program = env!("CARGO_BIN_EXE_lockable");
    // With umask 000, and before a server created the file.
    run_shell(&format!("umask 000; LOCKABLE_DATABASE_URL='{database}' '{program}' migrate")).await;
    assert_eq!(mode(&path), 0o600);
    let mut pod = Pod::builder().database(&database).start().await;
    let files = || ["", "-wal", "-shm"].map(|suffix| format!("{}{suffix}", path.display()));
    assert_eq!(files().map(mode), [0o600; 3]);
    assert!(!pod.log().contains("chmod"), "{}", pod.log());
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others: Vec<_> = names.filter(|name| !name.starts_with("my locks.db")).collect();
    assert_eq!(others, Vec::<String>::new());

    pod.kill();
    for file in files() {
        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let pod = Pod::builder().database(&database).start().await;
    eventually(async || pod.log().matches("run chmod 600").count() == 3).await;
    assert!(pod.log().contains("\"mode\":\"0640\""), "{}", pod.log());
    assert_eq!(mode(&path), 0o640, "the group permission may be intended");
}

#[tokio::test]
async fn session_cookies_end_with_the_browser() {
    let pod = Pod::start().await;
    let mut ana = PageClient::new(&pod.origin());
    ana.sign_up("ana@example.com", PASSWORD).await;
    let answer = ana.sign_in("ana@example.com", PASSWORD).await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    assert_eq!((answer.status, cookies.len()), (303, 2), "{cookies:?}");
    let lasting = cookies.iter().filter(|cookie| cookie.contains("Max-Age") || cookie.contains("Expires"));
    assert_eq!(lasting.collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(ana.get("/account/locks").await.status, 200);
}
