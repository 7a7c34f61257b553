use std::{
    io,
    net::TcpListener,
    ops::Range,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that starts all processes. `PR_SET_PDEATHSIG` kills a process when the thread that
/// started it ends, and test threads end early.
static STARTER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Request>();
    thread::spawn(move || {
        for (mut command, answer) in receiver {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// A process that is killed when this value is dropped, or when the test run ends for any reason.
pub struct Process(Child);

impl Process {
    #[expect(unsafe_code, reason = "std has no safe API for code between fork and exec")]
    pub fn start(mut command: Command) -> Self {
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let (sender, receiver) = mpsc::channel();
        let shown = format!("{command:?}");
        STARTER.lock().unwrap().send((command, sender)).unwrap();
        Self(receiver.recv().unwrap().unwrap_or_else(|error| panic!("{shown}: {error}")))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    #[expect(unsafe_code, reason = "std can send only SIGKILL")]
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a free port outside the system's ephemeral range, and never the same one twice, so that
/// a server finds it free when it restarts.
pub fn free_port() -> u16 {
    const PORTS: Range<u16> = 20_000..32_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    let mut ports = std::iter::repeat_with(|| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u16);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
