//! The servers: each with its own process, its way to the store and to the database.

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

/// What became of a request, as its client sees it.
pub enum Called<T> {
    Answered(T),
    /// It may be carried out yet: the client has hung up, or the server was killed.
    HungUp,
    Lost,
    /// Nobody has read it.
    Unheard,
}

impl Cluster {
    /// How long clients wait for an answer.
    const PATIENCE: Duration = Duration::from_secs(30);

    pub fn new(world: Arc<World>, servers: usize, short_ms: u64) -> Arc<Self> {
        let database = Database::new(world.clone());
        let servers = Mutex::new((0..servers).map(|_| None).collect());
        Arc::new(Self { world, database, short: Lease::from_ms(short_ms), servers })
    }

    /// Starts a server as `server/start.rs` does.
    pub fn start(&self, number: usize) {
        let process = Arc::new(Process::default());
        let way = world::Way { world: self.world.clone(), server: number };
        let store = Simulated::new(way, process.clone(), self.world.draw(u64::MAX));
        let journal = Arc::new(journal::Way { database: self.database.clone(), server: number });
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
        self.world.cut(Some(number));
    }

    pub fn pause(&self, number: usize) {
        if let Some(server) = &self.servers.lock().unwrap()[number] {
            server.process.pause();
        }
    }

    pub fn go_on(&self, number: usize) {
        if let Some(server) = &self.servers.lock().unwrap()[number] {
            server.process.go_on();
        }
    }

    pub fn is_there(&self, number: usize) -> bool {
        self.servers.lock().unwrap()[number].is_some()
    }

    pub fn is_any_there(&self) -> bool {
        self.servers.lock().unwrap().iter().any(Option::is_some)
    }

    fn server(&self, number: usize) -> Option<Server> {
        self.servers.lock().unwrap()[number].clone().filter(|server| server.is_ready.load(Ordering::Relaxed))
    }

    /// Sends a request, whose handler runs in the server until its client hangs up.
    pub async fn call<T, F>(
        &self,
        number: usize,
        hang_up: Option<Duration>,
        handler: impl FnOnce(Locks) -> F + Send,
    ) -> Called<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let gone_at = Instant::now() + hang_up.unwrap_or(Self::PATIENCE);
        sleep(Duration::from_millis(self.world.draw(4))).await;
        let Some(server) = self.server(number) else { return Called::Unheard };
        self.world.step();
        let (sender, mut receiver) = oneshot::channel();
        let hung_up = CancellationToken::new();
        let (handling, heard) = (handler(server.locks.clone()), hung_up.clone());
        tokio::spawn(server.process.run(async move {
            tokio::select! {
                biased;
                // A request is read before it is seen that its client is gone; then the
                // handler is dropped, as axum drops it.
                answer = handling => {
                    let _ = sender.send(answer);
                }
                () = heard.cancelled() => {}
            }
        }));
        tokio::select! {
            biased;
            answer = &mut receiver => match answer {
                Ok(answer) => {
                    sleep(Duration::from_millis(self.world.draw(4))).await;
                    Called::Answered(answer)
                }
                Err(_) => Called::Lost,
            },
            () = server.killed.cancelled() => Called::Lost,
            () = tokio::time::sleep_until(gone_at) => {
                // A client whose machine is gone says nothing, and the server goes on.
                if self.world.draw(2) == 0 {
                    return Called::Lost;
                }
                hung_up.cancel();
                Called::HungUp
            }
        }
    }
}
