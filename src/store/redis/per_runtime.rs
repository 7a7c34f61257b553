//! The connections for scripts to one server: one for each runtime that runs scripts, so that a
//! request and its connection's driver are on the same thread.

use std::cell::OnceCell;

use futures_util::future::try_join_all;
use lockable_resp::{Error, Pipeline, Value};
use tokio::{
    runtime::{Handle, Id},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    address::Address,
    server_info::{INFO_COMMAND, StartError, parse_info},
};

pub(super) struct RuntimeConnections {
    first: RuntimeConnection,
    others: Box<[RuntimeConnection]>,
}

struct RuntimeConnection {
    runtime: Id,
    pipeline: Pipeline,
}

impl RuntimeConnections {
    /// Opens one connection on each runtime to the server with this `run_id`. Another server at the
    /// same address is an error, since it is unchecked. Cancels `closed` when a connection ends.
    pub(super) async fn open(
        address: &Address,
        run_id: &str,
        runtimes: &[Handle],
        closed: &CancellationToken,
    ) -> Result<Self, StartError> {
        let opening = runtimes.iter().map(async |runtime| {
            // A stream belongs to the runtime that opened it.
            let opened = runtime.spawn(open(address.clone(), run_id.to_owned(), closed.clone()));
            let pipeline = opened.await.map_err(|_| StartError::Unreachable("a runtime has ended".into()))??;
            Ok::<_, StartError>(RuntimeConnection { runtime: runtime.id(), pipeline })
        });
        let mut connections = try_join_all(opening).await?.into_iter();
        let first =
            connections.next().ok_or_else(|| StartError::Unreachable("there is no runtime for scripts".into()))?;
        Ok(Self { first, others: connections.collect() })
    }

    /// The current runtime's connection, or else the first.
    pub(super) fn current(&self) -> &Pipeline {
        let is_current = |connection: &&RuntimeConnection| {
            RUNTIME.with(|id| *id.get_or_init(current_runtime)) == Some(connection.runtime)
        };
        &self.others.iter().find(is_current).unwrap_or(&self.first).pipeline
    }

    /// Pings all connections, including idle ones. Fails if one does not reply until `deadline`.
    pub(super) async fn ping(&self, deadline: Instant) -> Result<(), StartError> {
        let all = std::iter::once(&self.first).chain(&self.others);
        let pinging =
            all.map(async |connection| match connection.pipeline.send(["PING"].into_iter(), deadline).await {
                Ok(_) | Err(Error::QueueFull) => Ok(()),
                Err(error) => Err(StartError::Unreachable(error.to_string())),
            });
        try_join_all(pinging).await.map(drop)
    }
}

thread_local! {
    /// Cached: a thread belongs to one runtime.
    static RUNTIME: OnceCell<Option<Id>> = const { OnceCell::new() };
}

fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

async fn open(address: Address, run_id: String, closed: CancellationToken) -> Result<Pipeline, StartError> {
    let pipeline = address.open_pipeline(closed).await?;
    let sent = pipeline.send(INFO_COMMAND.into_iter(), Instant::now() + address.timeout()).await;
    match sent.map_err(|error| StartError::Unreachable(error.to_string()))? {
        Value::Text(info) if parse_info(&info)?.run_id == run_id => Ok(pipeline),
        Value::Text(_) => Err(StartError::Unreachable("a different Redis process is at this address".into())),
        Value::Error(error) => Err(StartError::from_reply(error)),
        Value::Array(_) | Value::Other => Err(StartError::Unreachable("the server returned no INFO".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::TcpListener,
        runtime,
    };

    use super::*;

    /// A server that reports this `run_id` on each connection.
    async fn server(run_id: &str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let info = format!("redis_version:7.0.0\r\nmaxmemory_policy:noeviction\r\nrun_id:{run_id}\r\n");
        tokio::spawn(async move {
            let mut open_streams = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let sent = stream.read(&mut [0; 256]).await.unwrap();
                assert!(sent > 0);
                stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes()).await.unwrap();
                open_streams.push(stream);
            }
        });
        Address::parse(&url, &url, Duration::from_secs(1)).unwrap()
    }

    #[tokio::test]
    async fn connection_to_another_server_is_rejected() {
        let address = server("this").await;
        let (runtimes, closed) = ([Handle::current(), Handle::current()], CancellationToken::new());
        let connections = RuntimeConnections::open(&address, "this", &runtimes, &closed).await;
        assert!(connections.is_ok() && !closed.is_cancelled());
        let error = RuntimeConnections::open(&address, "another", &runtimes, &closed).await.err().unwrap();
        assert!(
            matches!(&error, StartError::Unreachable(reason) if reason.contains("different Redis process")),
            "{error}"
        );
    }

    #[test]
    fn each_runtime_uses_its_own_connection_and_others_the_first() {
        let runtimes = [(); 4].map(|()| runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let (other, runtimes) = runtimes.split_first().unwrap();
        let mut opened = runtimes.iter().map(|runtime| {
            let _inside = runtime.enter();
            let pipeline = Pipeline::start(duplex(8).0, CancellationToken::new());
            RuntimeConnection { runtime: runtime.handle().id(), pipeline }
        });
        let connections = RuntimeConnections { first: opened.next().unwrap(), others: opened.collect() };
        let here = |runtime: Option<&runtime::Runtime>| {
            let _inside = runtime.map(runtime::Runtime::enter);
            std::ptr::from_ref(connections.current())
        };
        std::thread::scope(|scope| {
            let here_in = |runtime| scope.spawn(move || here(runtime) as usize).join().unwrap();
            assert_eq!(here_in(Some(&runtimes[0])), std::ptr::from_ref(&connections.first.pipeline) as usize);
            assert_eq!(here_in(Some(&runtimes[1])), std::ptr::from_ref(&connections.others[0].pipeline) as usize);
            assert_eq!(here_in(Some(&runtimes[2])), std::ptr::from_ref(&connections.others[1].pipeline) as usize);
            assert_eq!(here_in(Some(other)), std::ptr::from_ref(&connections.first.pipeline) as usize);
            assert_eq!(here_in(None), std::ptr::from_ref(&connections.first.pipeline) as usize);
        });
    }
}
