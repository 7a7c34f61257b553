use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// The process of a simulated server, which can be paused and killed.
#[derive(Default)]
pub struct Process {
    state: AtomicU8,
    /// The wakers of tasks that were polled during a pause.
    paused: Mutex<Vec<Waker>>,
}

/// A task of a simulated process. It makes no progress while the process is paused, and none
/// after the process was killed.
pub struct ProcessTask<F> {
    process: Option<Arc<Process>>,
    task: Option<Pin<Box<F>>>,
}

impl Process {
    const RUNNING: u8 = 0;
    const PAUSED: u8 = 1;
    const KILLED: u8 = 2;

    pub fn pause(&self) {
        let _ = self.state.compare_exchange(Self::RUNNING, Self::PAUSED, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn resume(&self) {
        let _ = self.state.compare_exchange(Self::PAUSED, Self::RUNNING, Ordering::Relaxed, Ordering::Relaxed);
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

    /// Binds a task to this process.
    pub fn run<F: Future>(self: &Arc<Self>, task: F) -> ProcessTask<F> {
        ProcessTask::new(Some(self.clone()), task)
    }

    fn wake(&self) {
        let paused = std::mem::take(&mut *self.paused.lock().unwrap_or_else(PoisonError::into_inner));
        paused.into_iter().for_each(Waker::wake);
    }
}

impl<F: Future> ProcessTask<F> {
    pub(in crate::store) fn new(process: Option<Arc<Process>>, task: F) -> Self {
        Self { process, task: Some(Box::pin(task)) }
    }
}

impl<F: Future> Future for ProcessTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(process) = &self.process {
            match process.state.load(Ordering::Relaxed) {
                Process::RUNNING => {}
                Process::PAUSED => {
                    process.paused.lock().unwrap_or_else(PoisonError::into_inner).push(context.waker().clone());
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
