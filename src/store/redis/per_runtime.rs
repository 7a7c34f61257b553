//! The pipelines to one server: one for each runtime that runs scripts, so that
//! whoever asks and who sends are on one thread.

use std::cell::OnceCell;

use futures_util::future::try_join_all;
use tokio::{
    runtime::{Handle, Id},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    address::Address,
    command_error::Fault,
    pipeline::{Answer, Pipeline},
    server_info::{INFO, StartError, judge},
};
use crate::store::StoreError;

pub(super) struct Lanes {
    first: Lane,
    others: Box<[Lane]>,
}

struct Lane {
    runtime: Id,
    pipeline: Pipeline,
}

impl Lanes {
    /// Opens one on each runtime, to the server with this `run_id` and no other:
    /// what is found at the address now may not have been checked. `gone` is told
    /// when one of them ends.
    pub(super) async fn open(
        address: &Address,
        run_id: &str,
        runtimes: &[Handle],
        gone: &CancellationToken,
    ) -> Result<Self, StartError> {
        let opening = runtimes.iter().map(async |runtime| {
            // The stream belongs to the runtime on which it was opened.
            let opened = runtime.spawn(open(address.clone(), run_id.to_owned(), gone.clone()));
            let pipeline = opened.await.map_err(|_| StartError::Away("a runtime has ended".into()))??;
            Ok::<_, StartError>(Lane { runtime: runtime.id(), pipeline })
        });
        let mut lanes = try_join_all(opening).await?.into_iter();
        let first = lanes.next().ok_or_else(|| StartError::Away("there is no runtime for scripts".into()))?;
        Ok(Self { first, others: lanes.collect() })
    }

    /// The one of the runtime that this is called in; the first, where it has none.
    pub(super) fn here(&self) -> &Pipeline {
        let is_here = |lane: &&Lane| RUNTIME.with(|id| *id.get_or_init(own_id)) == Some(lane.runtime);
        &self.others.iter().find(is_here).unwrap_or(&self.first).pipeline
    }

    /// Looks whether each is answered until `deadline`, the silent ones, too.
    pub(super) async fn ping(&self, deadline: Instant) -> Result<(), StartError> {
        let all = std::iter::once(&self.first).chain(&self.others);
        let pinging = all.map(async |lane| match lane.pipeline.ask(["PING"].into_iter(), deadline).await {
            Ok(_) | Err(Fault::Full) => Ok(()),
            Err(fault) => Err(StartError::Away(StoreError::from(fault).to_string())),
        });
        try_join_all(pinging).await.map(drop)
    }
}

thread_local! {
    /// Asked once: threads of a runtime belong to no other.
    static RUNTIME: OnceCell<Option<Id>> = const { OnceCell::new() };
}

fn own_id() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

async fn open(address: Address, run_id: String, gone: CancellationToken) -> Result<Pipeline, StartError> {
    let pipeline = address.open_pipeline(gone).await?;
    let asked = pipeline.ask(INFO.into_iter(), Instant::now() + address.timeout()).await;
    match asked.map_err(|fault| StartError::Away(StoreError::from(fault).to_string()))? {
        Answer::Text(info) if judge(&info)?.run_id == run_id => Ok(pipeline),
        Answer::Text(_) => Err(StartError::Away("another server is at this address".into())),
        Answer::Refusal(error) => Err(StartError::refusal(error)),
        Answer::Words(_) | Answer::Other => Err(StartError::Away("the server does not say who it is".into())),
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

    /// Says to each who asks that it is this server.
    async fn server(run_id: &str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let info = format!("redis_version:7.0.0\r\nmaxmemory_policy:noeviction\r\nrun_id:{run_id}\r\n");
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = stream.read(&mut [0; 256]).await.unwrap();
                assert!(asked > 0);
                stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes()).await.unwrap();
                kept.push(stream);
            }
        });
        Address::parse(&url, &url, Duration::from_secs(1)).unwrap()
    }

    #[tokio::test]
    async fn lanes_lead_to_the_process_that_was_checked() {
        let address = server("this").await;
        let (runtimes, gone) = ([Handle::current(), Handle::current()], CancellationToken::new());
        let lanes = Lanes::open(&address, "this", &runtimes, &gone).await;
        assert!(lanes.is_ok() && !gone.is_cancelled());
        let error = Lanes::open(&address, "another", &runtimes, &gone).await.err().unwrap();
        assert!(matches!(&error, StartError::Away(reason) if reason.contains("another server")), "{error}");
    }

    #[test]
    fn each_runtime_has_its_lane_and_others_take_the_first() {
        let runtimes = [(); 4].map(|()| runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let (stranger, runtimes) = runtimes.split_first().unwrap();
        let mut lanes = runtimes.iter().map(|runtime| {
            let _inside = runtime.enter();
            let pipeline = Pipeline::start(duplex(8).0, CancellationToken::new());
            Lane { runtime: runtime.handle().id(), pipeline }
        });
        let lanes = Lanes { first: lanes.next().unwrap(), others: lanes.collect() };
        let here = |runtime: Option<&runtime::Runtime>| {
            let _inside = runtime.map(runtime::Runtime::enter);
            std::ptr::from_ref(lanes.here())
        };
        std::thread::scope(|scope| {
            let here_in = |runtime| scope.spawn(move || here(runtime) as usize).join().unwrap();
            assert_eq!(here_in(Some(&runtimes[0])), std::ptr::from_ref(&lanes.first.pipeline) as usize);
            assert_eq!(here_in(Some(&runtimes[1])), std::ptr::from_ref(&lanes.others[0].pipeline) as usize);
            assert_eq!(here_in(Some(&runtimes[2])), std::ptr::from_ref(&lanes.others[1].pipeline) as usize);
            assert_eq!(here_in(Some(stranger)), std::ptr::from_ref(&lanes.first.pipeline) as usize);
            assert_eq!(here_in(None), std::ptr::from_ref(&lanes.first.pipeline) as usize);
        });
    }
}
