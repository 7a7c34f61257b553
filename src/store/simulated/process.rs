use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// A simulated server's process, which can be paused, and killed.
#[derive(Default)]
pub struct Process {
    state: AtomicU8,
    /// Tasks that were to run while it was paused.
    stopped: Mutex<Vec<Waker>>,
}

/// A task of a process: it stands still while that is paused, and for ever once it was
/// killed.
pub struct OnProcess<F> {
    process: Option<Arc<Process>>,
    task: Option<Pin<Box<F>>>,
}

impl Process {
    const RUNS: u8 = 0;
    const PAUSED: u8 = 1;
    const KILLED: u8 = 2;

    pub fn pause(&self) {
        let _ = self.state.compare_exchange(Self::RUNS, Self::PAUSED, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn go_on(&self) {
        let _ = self.state.compare_exchange(Self::PAUSED, Self::RUNS, Ordering::Relaxed, Ordering::Relaxed);
        self.wake();
    }

    pub fn kill(&self) {
        self.state.store(Self::KILLED, Ordering::Relaxed);
        self.wake();
    }

    pub fn is_paused(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Self::PAUSED
    }

    pub fn is_killed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Self::KILLED
    }

    /// Has a task run on this process.
    pub fn run<F: Future>(self: &Arc<Self>, task: F) -> OnProcess<F> {
        OnProcess::new(Some(self.clone()), task)
    }

    fn wake(&self) {
        let stopped = std::mem::take(&mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner));
        stopped.into_iter().for_each(Waker::wake);
    }
}

impl<F: Future> OnProcess<F> {
    pub(in crate::store) fn new(process: Option<Arc<Process>>, task: F) -> Self {
        Self { process, task: Some(Box::pin(task)) }
    }
}

impl<F: Future> Future for OnProcess<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(process) = &self.process {
            match process.state.load(Ordering::Relaxed) {
                Process::RUNS => {}
                Process::PAUSED => {
                    process.stopped.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
                    return Poll::Pending;
                }
                _ => {
                    self.task = None;
                    return Poll::Pending;
                }
            }
        }
        match &mut self.task {
            Some(task) => task.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}
