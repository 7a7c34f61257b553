use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use super::process::{Process, free_port};

/// The `HAProxy` configuration of the project.
const CONFIG: &str = include_str!("../../../deploy/compose/haproxy.cfg");

/// An `HAProxy` process with the project's configuration and the addresses of the test servers.
pub struct Balancer {
    port: u16,
    folder: tempfile::TempDir,
    _process: Process,
}

/// The ports of one server. A replacement of the server reuses them.
#[derive(Clone, Copy)]
pub struct Backend {
    pub api: u16,
    pub admin: u16,
}

impl Balancer {
    /// Starts the process. Each pair of `changes` replaces one part of the configuration, and
    /// panics if that part is missing.
    pub fn start(backends: &[Backend], changes: &[(&str, &str)]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let (before, after) =
            (CONFIG.split("resolvers docker\n").next().unwrap(), CONFIG.split("\nfrontend").nth(1).unwrap());
        let after = after.lines().filter(|line| !line.contains("server-template")).collect::<Vec<_>>().join("\n");
        let mut config =
            format!("{before}\nfrontend{after}\n").replace("bind :8080", &format!("bind 127.0.0.1:{port}"));
        for (part, other) in changes {
            assert!(config.contains(part), "{part} is not in {config}");
            config = config.replace(part, other);
        }
        for (number, Backend { api, admin }) in backends.iter().enumerate() {
            let line = format!("    server s{number} 127.0.0.1:{api} check port {admin} inter 1s fall 1 rise 1\n");
            config.push_str(&line);
        }
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).stderr(Stdio::null());
        command.stdout(File::create(folder.path().join("log")).unwrap());
        Self { port, folder, _process: Process::start(command) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}
