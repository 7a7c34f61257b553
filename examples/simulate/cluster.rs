//! The servers: each with its own process and its own clients of the store and the database.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lockable::{
    lock::Lease,
    locks::Locks,
    store::{Process, Simulated, Store},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    journal::{self, Database},
    world::{self, World},
};

pub struct Cluster {
    pub world: Arc<World>,
    pub database: Arc<Database>,
    short: Lease,
    servers: Mutex<Vec<Option<Server>>>,
}

#[derive(Clone)]
struct Server {
    process: Arc<Process>,
    locks: Locks,
    is_ready: Arc<AtomicBool>,
    killed: CancellationToken,
}

/// The outcome of a request, as its client sees it.
pub enum CallOutcome<T> {
    Answered(T),
    /// The client has closed its connection: the request may still be executed.
    HungUp,
    /// The connection was lost, for example with the server: the request may still be executed.
    NoAnswer,
    /// The server was not running or not ready: the request has no effect.
    NotRead,
}

impl Cluster {
    /// The maximum time that clients wait for an answer.
    const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

    pub fn new(world: Arc<World>, servers: usize, short_ms: u64) -> Arc<Self> {
        let database = Database::new(world.clone());
        let servers = Mutex::new((0..servers).map(|_| None).collect());
        Arc::new(Self { world, database, short: Lease::from_ms(short_ms), servers })
    }

    /// Starts a server in the same order as the real one.
    pub fn start(&self, number: usize) {
        let process = Arc::new(Process::default());
        let client = world::StoreClient { world: self.world.clone(), server: number };
        let store = Simulated::new(client, process.clone(), self.world.draw(u64::MAX));
        let journal = Arc::new(journal::SqlClient { database: self.database.clone(), server: number });
        let locks = Locks::new(Store::Simulated(store.clone()), journal, self.short, 100);
        let server = Server {
            process: process.clone(),
            locks: locks.clone(),
            is_ready: Arc::default(),
            killed: CancellationToken::new(),
        };
        tokio::spawn(process.run(store.stay_connected()));
        let is_ready = server.is_ready.clone();
        tokio::spawn(process.run(async move {
            let _ = locks.recover().await;
            is_ready.store(true, Ordering::Relaxed);
            locks.run(CancellationToken::new()).await;
        }));
        self.servers.lock().unwrap()[number] = Some(server);
    }

    pub fn kill(&self, number: usize) {
        if let Some(server) = self.servers.lock().unwrap()[number].take() {
            server.process.kill();
            server.killed.cancel();
        }
        self.world.disconnect(Some(number));
    }

    pub fn pause(&self, number: usize) {
        if let Some(server) = &self.servers.lock().unwrap()[number] {
            server.process.pause();
        }
    }

    pub fn resume(&self, number: usize) {
        if let Some(server) = &self.servers.lock().unwrap()[number] {
            server.process.resume();
        }
    }

    pub fn is_running(&self, number: usize) -> bool {
        self.servers.lock().unwrap()[number].is_some()
    }

    pub fn is_any_running(&self) -> bool {
        self.servers.lock().unwrap().iter().any(Option::is_some)
    }

    fn server(&self, number: usize) -> Option<Server> {
        self.servers.lock().unwrap()[number].clone().filter(|server| server.is_ready.load(Ordering::Relaxed))
    }

    /// Sends a request. Its handler runs in the server until the client hangs up.
    pub async fn call<T, F>(
        &self,
        number: usize,
        hang_up: Option<Duration>,
        handler: impl FnOnce(Locks) -> F + Send,
    ) -> CallOutcome<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let gives_up_at = Instant::now() + hang_up.unwrap_or(Self::CLIENT_TIMEOUT);
        sleep(Duration::from_millis(self.world.draw(4))).await;
        let Some(server) = self.server(number) else { return CallOutcome::NotRead };
        self.world.step();
        let (sender, mut receiver) = oneshot::channel();
        let hung_up = CancellationToken::new();
        let (handling, client_gone) = (handler(server.locks.clone()), hung_up.clone());
        tokio::spawn(server.process.run(async move {
            tokio::select! {
                biased;
                // The server reads a request before it detects that the client is gone. Then it
                // drops the handler, as axum does.
                answer = handling => {
                    let _ = sender.send(answer);
                }
                () = client_gone.cancelled() => {}
            }
        }));
        tokio::select! {
            biased;
            answer = &mut receiver => match answer {
                Ok(answer) => {
                    sleep(Duration::from_millis(self.world.draw(4))).await;
                    CallOutcome::Answered(answer)
                }
                Err(_) => CallOutcome::NoAnswer,
            },
            () = server.killed.cancelled() => CallOutcome::NoAnswer,
            () = tokio::time::sleep_until(gives_up_at) => {
                // A client whose machine has failed closes no connection, so the server continues.
                if self.world.draw(2) == 0 {
                    return CallOutcome::NoAnswer;
                }
                hung_up.cancel();
                CallOutcome::HungUp
            }
        }
    }
}
