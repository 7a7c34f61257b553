//! The baseline: axum with a constant response.

use std::{
    env,
    process::{Child, Command, Stdio},
};

use axum::{Router, http::header, routing::any};

use super::address_in;

/// Set in the environment when this program runs as the bare server. The value is the number of
/// threads; empty means one per processor.
const BARE: &str = "LOCKABLE_BENCH_BARE";
/// As long as Lockable's response to an acquire.
const ANSWER: &str = r#"{"response":true,"name":"bench-0-0-100000","namespace":"public","owner":null,"fencing_token":1795000000000000,"lease_ms":60000,"expires_at":"2026-11-24T12:05:00.000Z"}"#;

/// A process of this program that runs as the bare server.
pub struct BareAxum {
    pub process: Child,
    pub address: String,
}

impl BareAxum {
    /// Starts the server with one thread per processor, which is axum's default.
    pub fn start() -> Self {
        Self::start_on("")
    }

    pub fn start_on_one_thread() -> Self {
        Self::start_on("1")
    }

    fn start_on(threads: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut process = command.env(BARE, threads).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let address = address_in(process.stderr.take().unwrap());
        Self { process, address }
    }
}

impl Drop for BareAxum {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the bare server if this process was started for it, and never returns then.
pub fn serve_if_bare() {
    let Ok(threads) = env::var(BARE) else { return };
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut runtime = match &*threads {
        "" => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let router = Router::new().fallback(any(async || ([(header::CONTENT_TYPE, "application/json")], ANSWER)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        eprintln!("listening on {}", listener.local_addr().unwrap());
        axum::serve(listener, router).await.unwrap();
    });
}
