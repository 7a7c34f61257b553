use std::{path::PathBuf, process::Command, sync::OnceLock};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::{
    client::http_client,
    eventually,
    process::{Process, free_port},
};

/// Chromium, with nobody before it.
pub struct Browser {
    pub client: Client,
    driver: String,
    /// Where the pages are, without a slash at its end.
    origin: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

/// The rules by which pages are checked, from npm.
const AXE: &str = "axe-core@4.14.1";

impl Browser {
    pub async fn start(origin: &str) -> Self {
        Self::start_with(origin, true).await
    }

    /// One that runs no JavaScript of pages.
    pub async fn start_without_javascript(origin: &str) -> Self {
        Self::start_with(origin, false).await
    }

    async fn start_with(origin: &str, runs_scripts: bool) -> Self {
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdout(std::process::Stdio::null());
        let process = Process::start(command);
        let driver = format!("http://127.0.0.1:{port}");
        let folder = tempfile::tempdir().unwrap();
        let profile = format!("--user-data-dir={}", folder.path().display());
        let options = json!({
            // Without a sandbox, since tests may run as root; by a pipe, since it ends
            // together with the driver then, however that ends.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--remote-debugging-pipe", profile],
            "prefs": { "profile.managed_default_content_settings.javascript": if runs_scripts { 1 } else { 2 } },
        });
        let capabilities = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let capabilities = capabilities.as_object().unwrap().clone();
        let mut client = None;
        eventually(async || {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            client = builder.capabilities(capabilities.clone()).connect(&driver).await.ok();
            client.is_some()
        })
        .await;
        Self { client: client.unwrap(), driver, origin: origin.into(), _process: process, _folder: folder }
    }

    pub async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.origin)).await.unwrap();
    }

    pub async fn path(&self) -> String {
        self.client.current_url().await.unwrap().path().to_owned()
    }

    /// The text of the first element that a selector finds.
    pub async fn text(&self, css: &str) -> String {
        self.client.find(Locator::Css(css)).await.unwrap().text().await.unwrap()
    }

    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    pub async fn click(&self, css: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    /// Waits until an element is there and has this text in it.
    pub async fn await_text(&self, css: &str, part: &str) {
        eventually(async || {
            let Ok(found) = self.client.find(Locator::Css(css)).await else { return false };
            found.text().await.is_ok_and(|text| text.contains(part))
        })
        .await;
    }

    pub async fn await_path(&self, path: &str) {
        eventually(async || self.path().await == path).await;
    }

    /// Presses a key, with Shift or without, wherever the focus is.
    pub async fn press(&self, key: Key) {
        self.type_keys(&char::from(key).to_string()).await;
    }

    /// Types into whatever has the focus.
    pub async fn type_keys(&self, text: &str) {
        let keys = text.chars().fold(KeyActions::new("keyboard".into()), |keys, value| {
            keys.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        self.client.perform_actions(keys).await.unwrap();
    }

    /// Goes on with the Tab key until the focus is at what the selector finds.
    pub async fn tab_to(&self, css: &str) {
        for _ in 0..80 {
            self.press(Key::Tab).await;
            let is_there = format!("return document.activeElement.matches({})", json!(css));
            if self.client.execute(&is_there, vec![]).await.unwrap() == true {
                return;
            }
        }
        panic!("{css} cannot be reached by keyboard");
    }

    /// Shows pages as who wants them dark, or light.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// A command of Chromium's own.
    async fn command(&self, name: &str, params: Value) {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!("{}/session/{session}/goog/cdp/execute", self.driver);
        let body = json!({ "cmd": name, "params": params });
        let client = http_client().build().unwrap();
        let answer = client.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{name}: {}", answer.text().await.unwrap());
    }

    /// What axe-core finds wrong with the page, a line for each.
    pub async fn faults(&self) -> Vec<String> {
        let script = format!(
            "{}\nconst done = arguments[arguments.length - 1];
            axe.run(document, {{ resultTypes: ['violations'] }}).then((results) => done(results.violations.flatMap(
                (rule) => rule.nodes.map((node) => `${{rule.id}}: ${{node.html}}: ${{node.failureSummary}}`))),
                (error) => done([String(error)]));",
            axe()
        );
        let found = self.client.execute_async(&script, vec![]).await.unwrap();
        found.as_array().unwrap().iter().map(|fault| fault.as_str().unwrap().to_owned()).collect()
    }

    /// Whether the page is wider than the window.
    pub async fn overflows(&self) -> bool {
        let wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        self.client.execute(wider, vec![]).await.unwrap() == true
    }

    /// Takes a picture of the page, for people to look at, where they want one.
    pub async fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("TEST_PICTURES") {
            let height = self.client.execute("return document.documentElement.scrollHeight", vec![]).await.unwrap();
            let width = self.client.execute("return window.innerWidth", vec![]).await.unwrap();
            self.resize(width.as_u64().unwrap() as u32, height.as_u64().unwrap().max(400) as u32).await;
            let png = self.client.screenshot().await.unwrap();
            std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), png).unwrap();
        }
    }
}

/// axe-core, installed once, next to what cargo builds.
fn axe() -> &'static str {
    static AXE_TEXT: OnceLock<String> = OnceLock::new();
    AXE_TEXT.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(AXE.replace('@', "-"));
        let file = folder.join("node_modules/axe-core/axe.min.js");
        if !file.exists() {
            let args = ["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
            let ran = Command::new("npm").args(args).arg(&folder).arg(AXE).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        }
        std::fs::read_to_string(file).unwrap()
    })
}
