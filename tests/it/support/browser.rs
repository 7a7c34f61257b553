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

/// A headless Chromium.
pub struct Browser {
    pub client: Client,
    driver: String,
    /// The origin of the pages, without a trailing slash.
    origin: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Browser {
    pub async fn start(origin: &str) -> Self {
        Self::start_with(origin, true).await
    }

    /// Starts a browser that does not run the JavaScript of pages.
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
            // No sandbox, because tests may run as root. A debugging pipe, because Chromium then
            // exits with the driver, even after a crash.
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

    /// Returns the text of the first matching element.
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

    /// Waits until a matching element exists and contains this text.
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

    /// Presses a key on the focused element.
    pub async fn press(&self, key: Key) {
        self.type_keys(&char::from(key).to_string()).await;
    }

    /// Types into the focused element.
    pub async fn type_keys(&self, text: &str) {
        let keys = text.chars().fold(KeyActions::new("keyboard".into()), |keys, value| {
            keys.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        self.client.perform_actions(keys).await.unwrap();
    }

    /// Presses Tab until the focused element matches the selector. Panics after 80 presses.
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

    /// Sets the preferred color scheme, `dark` or `light`.
    pub async fn set_color_scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Runs a command of the Chrome `DevTools` protocol.
    async fn command(&self, name: &str, params: Value) {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!("{}/session/{session}/goog/cdp/execute", self.driver);
        let body = json!({ "cmd": name, "params": params });
        let client = http_client().build().unwrap();
        let answer = client.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{name}: {}", answer.text().await.unwrap());
    }

    /// Returns the violations that axe-core finds on the page, one line each.
    pub async fn accessibility_violations(&self) -> Vec<String> {
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

    /// Returns whether the page is wider than the window.
    pub async fn overflows(&self) -> bool {
        let wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        self.client.execute(wider, vec![]).await.unwrap() == true
    }

    /// Saves a screenshot of the whole page into the folder `TEST_PICTURES`, if that is set.
    pub async fn save_screenshot(&self, name: &str) {
        if let Some(folder) = std::env::var_os("TEST_PICTURES") {
            let height = self.client.execute("return document.documentElement.scrollHeight", vec![]).await.unwrap();
            let width = self.client.execute("return window.innerWidth", vec![]).await.unwrap();
            self.resize(width.as_u64().unwrap() as u32, height.as_u64().unwrap().max(400) as u32).await;
            let png = self.client.screenshot().await.unwrap();
            std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), png).unwrap();
        }
    }
}

/// Returns the source of axe-core, the accessibility rules, which tests/run downloads.
fn axe() -> &'static str {
    const FILE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/npm/node_modules/axe-core/axe.min.js");
    static AXE_TEXT: OnceLock<String> = OnceLock::new();
    AXE_TEXT.get_or_init(|| std::fs::read_to_string(FILE).expect("tests/run downloads axe-core"))
}
