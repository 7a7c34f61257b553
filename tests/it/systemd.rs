//! Integration with systemd: socket activation, readiness and watchdog notifications.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{Client, eventually, pod::lockable, process::Process};

/// A fault of the server affects only the server, and writes none of its memory to disk.
#[test]
fn unit_file_confines_the_server() {
    let unit = include_str!("../../deploy/systemd/lockable.service");
    for line in ["MemoryMax=1G", "LimitCORE=0", "PrivateUsers=yes", "UMask=0077", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_adopts_socket_of_systemd_and_notifies_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let notify_socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    notify_socket.set_nonblocking(true).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());

    let program = lockable(&[]).into_std().get_program().to_owned();
    // The variables contain the process id of the server, which replaces the shell.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 WATCHDOG_PID=$$ WATCHDOG_USEC=200000 exec \"$0\" serve 3<&0";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(program)
        .current_dir(folder.path())
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        // An invalid address: the passed socket has precedence.
        .env("LOCKABLE_LISTEN", "192.0.2.1:1")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap());
    let mut server = Process::start(command);

    let mut notifications = Vec::new();
    let mut count_notifications = async |word: &str| {
        let mut buffer = [0; 256];
        while let Ok(length) = notify_socket.recv(&mut buffer) {
            notifications.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        notifications.iter().filter(|line| *line == word).count()
    };
    // Connections before readiness wait in the socket.
    let answer = Client::new(&origin, None).try_get("/v1/acquire/x").await;
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(answer.map(|answer| answer.status), Some(401), "{}", log());
    eventually(async || count_notifications("READY=1").await == 1).await;
    eventually(async || count_notifications("WATCHDOG=1").await >= 2).await;
    assert_eq!(count_notifications("STOPPING=1").await, 0);
    server.signal(libc::SIGTERM);
    eventually(async || count_notifications("STOPPING=1").await == 1).await;
    tokio::time::timeout(Duration::from_secs(20), eventually(async || server.has_ended())).await.unwrap();
}
