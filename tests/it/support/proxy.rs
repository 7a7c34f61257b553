use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What becomes of the bytes of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Delay(Duration),
    BlackHole,
    DropAnswers,
    Late(Duration),
    HalfOpen,
    Refuse,
}

/// A network that can be broken: stands before a server, and does to what goes
/// through it what a test says.
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    /// How many more bytes of answers get through; without end if negative.
    budget: Arc<AtomicI64>,
}

/// A way to break it.
pub type Break = fn(&Proxy);

impl Proxy {
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, budget) = (watch::Sender::new(Mode::Pass), Arc::new(AtomicI64::new(-1)));
        let (modes, left) = (mode.subscribe(), budget.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, upstream, modes.clone(), left.clone()));
            }
        });
        Self { port, mode, budget }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Heals it. Connections that have lost bytes are closed.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Answers take so much longer.
    pub fn delay(&self, by: Duration) {
        self.mode.send_replace(Mode::Delay(by));
    }

    /// Answers take nearly as long as a server waits for them.
    pub fn slow(&self) {
        self.delay(Duration::from_millis(400));
    }

    /// Swallows everything; connections stay open.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }

    /// Requests get through, answers do not.
    pub fn drop_answers(&self) {
        self.mode.send_replace(Mode::DropAnswers);
    }

    /// Connections end as soon as something is sent; what was sent arrives so much later.
    pub fn late(&self, by: Duration) {
        self.mode.send_replace(Mode::Late(by));
    }

    /// The server's side of each connection is gone, and nobody has told the
    /// client.
    pub fn half_open(&self) {
        self.mode.send_replace(Mode::HalfOpen);
    }

    /// Closes connections, and all new ones at once.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
    }

    /// Closes the connection on which this many bytes of answers have come, once.
    pub fn cut_after(&self, bytes: i64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }
}

async fn connect(client: TcpStream, upstream: u16, mut modes: watch::Receiver<Mode>, budget: Arc<AtomicI64>) {
    let mode = *modes.borrow_and_update();
    if mode == Mode::Refuse {
        return;
    }
    if matches!(mode, Mode::BlackHole | Mode::HalfOpen) {
        // Nothing of it ever arrives anywhere.
        let _ = modes.changed().await;
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = carry(from_client, to_server, modes.clone(), None);
    let answers = carry(from_server, to_client, modes, Some(budget));
    // When one direction ends, so does the other.
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// Carries bytes in one direction until either side, or the network, has had
/// enough. Answers have a budget.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    mut modes: watch::Receiver<Mode>,
    budget: Option<Arc<AtomicI64>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut has_lost = false;
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Refuse || (mode == Mode::Pass && has_lost) {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // It may have changed while there was something to read.
        let mode = *modes.borrow();
        let mut bytes = match read {
            // A side that has gone is heard of only if the network says so.
            Ok(0) | Err(_) if matches!(mode, Mode::BlackHole | Mode::HalfOpen) => {
                let _ = modes.changed().await;
                return;
            }
            Ok(0) | Err(_) => return,
            Ok(read) => &buffer[..read],
        };
        match (mode, &budget) {
            (Mode::BlackHole | Mode::HalfOpen, _) | (Mode::DropAnswers, Some(_)) => {
                has_lost = true;
                continue;
            }
            (Mode::Late(by), None) => {
                let bytes = bytes.to_vec();
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    let _ = to.write_all(&bytes).await;
                    // The server closes it when it has answered.
                    tokio::time::sleep(by).await;
                });
                return;
            }
            (Mode::Delay(by), Some(_)) => tokio::time::sleep(by).await,
            _ => {}
        }
        if let Some(left) = budget.as_ref().filter(|budget| budget.load(Ordering::SeqCst) >= 0) {
            let left_now = left.fetch_sub(bytes.len() as i64, Ordering::SeqCst);
            if left_now < bytes.len() as i64 {
                left.store(-1, Ordering::SeqCst);
                bytes = &bytes[..left_now.max(0) as usize];
                let _ = to.write_all(bytes).await;
                return;
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
