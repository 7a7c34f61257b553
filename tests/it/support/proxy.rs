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

/// What the proxy does with the bytes of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Delay(Duration),
    BlackHole,
    DropResponses,
    LateDelivery(Duration),
    HalfOpen,
    Refuse,
}

/// A TCP proxy in front of a server that injects network faults.
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    /// The number of response bytes that the proxy still forwards; unlimited if negative.
    response_budget: Arc<AtomicI64>,
}

/// A function that injects a fault.
pub type NetworkFault = fn(&Proxy);

impl Proxy {
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, response_budget) = (watch::Sender::new(Mode::Pass), Arc::new(AtomicI64::new(-1)));
        let (modes, left) = (mode.subscribe(), response_budget.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, upstream, modes.clone(), left.clone()));
            }
        });
        Self { port, mode, response_budget }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the fault. The proxy closes connections that lost bytes.
    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Delays responses.
    pub fn delay(&self, by: Duration) {
        self.mode.send_replace(Mode::Delay(by));
    }

    /// Delays responses by nearly the default Redis timeout.
    pub fn slow(&self) {
        self.delay(Duration::from_millis(400));
    }

    /// Drops all bytes and keeps connections open.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }

    /// Forwards requests and drops responses.
    pub fn drop_responses(&self) {
        self.mode.send_replace(Mode::DropResponses);
    }

    /// Closes a connection on its first request, and delivers that request to the server after the
    /// delay.
    pub fn deliver_late(&self, by: Duration) {
        self.mode.send_replace(Mode::LateDelivery(by));
    }

    /// Simulates connections whose server side is gone without the client's knowledge.
    pub fn half_open(&self) {
        self.mode.send_replace(Mode::HalfOpen);
    }

    /// Closes all connections and every new one.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
    }

    /// Closes, once, the connection that receives this many response bytes.
    pub fn cut_after(&self, bytes: i64) {
        self.response_budget.store(bytes, Ordering::SeqCst);
    }
}

async fn connect(client: TcpStream, upstream: u16, mut modes: watch::Receiver<Mode>, response_budget: Arc<AtomicI64>) {
    let mode = *modes.borrow_and_update();
    if mode == Mode::Refuse {
        return;
    }
    if matches!(mode, Mode::BlackHole | Mode::HalfOpen) {
        // Nothing arrives until the mode changes.
        let _ = modes.changed().await;
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = forward(from_client, to_server, modes.clone(), None);
    let answers = forward(from_server, to_client, modes, Some(response_budget));
    // The end of one direction ends the other.
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// Forwards bytes in one direction until either side closes or the mode requires it. Only responses
/// have a budget.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    mut modes: watch::Receiver<Mode>,
    response_budget: Option<Arc<AtomicI64>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut has_lost_bytes = false;
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Refuse || (mode == Mode::Pass && has_lost_bytes) {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        // The mode may have changed during the read.
        let mode = *modes.borrow();
        let mut bytes = match read {
            // In these modes the other side must not see that this side closed.
            Ok(0) | Err(_) if matches!(mode, Mode::BlackHole | Mode::HalfOpen) => {
                let _ = modes.changed().await;
                return;
            }
            Ok(0) | Err(_) => return,
            Ok(read) => &buffer[..read],
        };
        match (mode, &response_budget) {
            (Mode::BlackHole | Mode::HalfOpen, _) | (Mode::DropResponses, Some(_)) => {
                has_lost_bytes = true;
                continue;
            }
            (Mode::LateDelivery(by), None) => {
                let bytes = bytes.to_vec();
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    let _ = to.write_all(&bytes).await;
                    // Keep the connection until the server has answered and closed it.
                    tokio::time::sleep(by).await;
                });
                return;
            }
            (Mode::Delay(by), Some(_)) => tokio::time::sleep(by).await,
            _ => {}
        }
        if let Some(left) =
            response_budget.as_ref().filter(|response_budget| response_budget.load(Ordering::SeqCst) >= 0)
        {
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
