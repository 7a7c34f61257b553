//! Attacks of one account, in a process of their own.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpSocket,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{ask, browser::Browser, common::Servers};

/// The number of concurrent requests.
const WORKERS: usize = 60;

/// An attack on the resources of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackKind {
    /// Queue entries with the longest texts, whose clients disconnect.
    QueueEntries,
    /// Locks with the longest lock info, each with a new name.
    Locks,
    /// Acquires and releases with the longest notes, which fill the history.
    History,
    /// Lists of a thousand locks.
    Lists,
    /// Connections that send nothing.
    IdleConnections,
    /// Requests with random, invalid tokens.
    UnknownTokens,
    /// Pages of an account with many locks, a history and an audit log.
    Pages,
    /// Tokens that are created and revoked.
    Tokens,
    /// Sign-ins of one account, which end older sessions.
    Sessions,
    /// Wrong passwords of the maximum length, from many addresses.
    Passwords,
}

impl AttackKind {
    pub const ALL: [Self; 10] = [
        Self::QueueEntries,
        Self::Locks,
        Self::History,
        Self::Lists,
        Self::IdleConnections,
        Self::UnknownTokens,
        Self::Pages,
        Self::Tokens,
        Self::Sessions,
        Self::Passwords,
    ];

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}") == name)
    }
}

/// The attacking process.
pub struct Attacker(Child);

impl Attacker {
    pub fn start(kind: AttackKind, servers: &Servers) -> Self {
        let link = servers.password_link("bench@example.com");
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().unwrap());
        command.args(["attack", &format!("{kind:?}"), &servers.addresses[0], &servers.token, &link]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends the process. Returns the number of requests sent.
    pub fn stop(mut self) -> u64 {
        drop(self.0.stdin.take());
        let mut sent = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut sent).unwrap();
        self.0.wait().unwrap();
        sent.trim().parse().unwrap_or(0)
    }
}

/// The arguments and the state of the attacking process.
#[derive(Clone)]
pub struct Attack {
    kind: AttackKind,
    address: String,
    token: String,
    /// The link that sets the password of the account.
    link: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Attack {
    pub fn from_arguments() -> Option<Self> {
        let arguments: Vec<String> = std::env::args().collect();
        let [_, attack, kind, address, token, link] = &arguments[..] else { return None };
        let kind = (attack == "attack").then(|| AttackKind::from_name(kind))??;
        let (stop, sent) = Default::default();
        Some(Self { kind, address: address.clone(), token: token.clone(), link: link.clone(), stop, sent })
    }

    /// Attacks until standard input is closed, then prints the number of requests sent.
    pub async fn run(self) {
        let mut browser = Browser::new(&self.address);
        browser.set_password(&self.link).await;
        browser.sign_in().await;
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (attack, browser) = (self.clone(), browser.clone());
            workers.spawn(async move { attack.work(worker, browser).await });
        }
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = ended.await;
        self.stop.store(true, Ordering::Relaxed);
        workers.shutdown().await;
        println!("{}", self.sent.load(Ordering::Relaxed));
    }

    async fn work(&self, worker: usize, mut browser: Browser) {
        let mut idle = Vec::new();
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            self.sent.fetch_add(1, Ordering::Relaxed);
            match self.kind {
                AttackKind::IdleConnections => {
                    // From ten addresses, because the server limits connections per address.
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.bind(([127, 0, 1, (worker % 10) as u8], 0).into()).unwrap();
                    idle.extend(socket.connect(self.address.parse().unwrap()).await);
                    if idle.len() > 150 {
                        idle.remove(0);
                    }
                    sleep(Duration::from_millis(2)).await;
                }
                AttackKind::Pages => {
                    let pages = ["locks", "locks/live", "locks/history?name=lock-1", "tokens", "security", "audit.csv"];
                    browser.get(&format!("/account/{}", pages[number % pages.len()])).await;
                }
                AttackKind::Tokens => browser.make_and_revoke_token(&format!("{worker}-{number}")).await,
                AttackKind::Sessions => browser.sign_in().await,
                AttackKind::Passwords => browser.fail_to_sign_in(worker * 1000 + number % 1000).await,
                _ => self.ask(worker, number).await,
            }
        }
    }

    /// Sends one request of the attack to the API.
    async fn ask(&self, worker: usize, number: usize) {
        let (address, token, long) = (&*self.address, &*self.token, "x".repeat(480));
        let run = format!("{worker}-{number}");
        let info = format!(r#"{{"ID":"{run}","Info":"{}"}}"#, "x".repeat(1900));
        match self.kind {
            AttackKind::QueueEntries => {
                let waiting = ask(address, token, "/v1/terraform/queue?wait=55s&lease=24h", &info);
                let _ = timeout(Duration::from_millis(200), waiting).await;
            }
            AttackKind::Locks => {
                ask(address, token, &format!("/v1/terraform/lock-{run}"), &info).await;
            }
            AttackKind::History => {
                let lock = format!("lock-{}?owner={run}", number % 1000);
                ask(address, token, &format!("/v1/acquire/{lock}&note={long}"), "").await;
                ask(address, token, &format!("/v1/release/{lock}"), "").await;
            }
            AttackKind::Lists if number <= 40 => {
                ask(address, token, &format!("/v1/acquire/lock-{run}?lease=1h"), "").await;
            }
            AttackKind::Lists => {
                ask(address, token, "/v1/locks?limit=1000", "").await;
            }
            _ => {
                let token = format!("8d0e1e1c-0000-4000-8000-{:012}", worker * 1_000_000 + number);
                ask(address, &token, "/v1/locks", "").await;
            }
        }
    }
}
