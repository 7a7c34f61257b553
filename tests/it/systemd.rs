//! Run by systemd: with a socket that it hands over, and a word when it serves.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{Client, eventually, pod::lockable, process::Process};

/// A fault of the server must cost no more than the server, and leave none of its memory on disk.
#[test]
fn the_unit_has_what_keeps_a_server_to_itself() {
    let unit = include_str!("../../deploy/systemd/lockable.service");
    for line in ["MemoryMax=1G", "LimitCORE=0", "PrivateUsers=yes", "UMask=0077", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_the_socket_of_systemd_and_says_how_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_nonblocking(true).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());

    let program = lockable(&[]).into_std().get_program().to_owned();
    // The variables name the process that they are for, which the shell becomes.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 WATCHDOG_PID=$$ WATCHDOG_USEC=200000 exec \"$0\" serve 3<&0";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(program)
        .current_dir(folder.path())
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        // It would be refused: the socket comes first.
        .env("LOCKABLE_LISTEN", "192.0.2.1:1")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap());
    let mut server = Process::start(command);

    let mut said = Vec::new();
    let mut hears = async |word: &str| {
        let mut buffer = [0; 256];
        while let Ok(length) = told.recv(&mut buffer) {
            said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        said.iter().filter(|line| *line == word).count()
    };
    // Connections that come before it is ready wait in the socket.
    let answer = Client::new(&origin, None).try_get("/v1/acquire/x").await;
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(answer.map(|answer| answer.status), Some(401), "{}", log());
    eventually(async || hears("READY=1").await == 1).await;
    eventually(async || hears("WATCHDOG=1").await >= 2).await;
    assert_eq!(hears("STOPPING=1").await, 0);
    server.signal(libc::SIGTERM);
    eventually(async || hears("STOPPING=1").await == 1).await;
    tokio::time::timeout(Duration::from_secs(20), eventually(async || server.has_ended())).await.unwrap();
}
