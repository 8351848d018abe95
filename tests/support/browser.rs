//! A real Chromium, driven through WebDriver.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use fantoccini::{ClientBuilder, Locator, elements::Element, wd::WebDriverCompatibleCommand};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use ureq::http::Method;
use url::{ParseError, Url};

use super::{Process, eventually, free_port};

/// Longer than anything takes: only keeps a test from hanging.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with its own profile, driven through WebDriver.
pub struct Browser {
    pub client: fantoccini::Client,
    _driver: Process,
    _profile: tempfile::TempDir,
}

/// A command of the protocol of Chromium's developer tools, beyond WebDriver.
#[derive(Debug)]
struct DeveloperTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DeveloperTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({"cmd": self.command, "params": self.parameters}).to_string()))
    }
}

impl Browser {
    pub async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// Starts a browser of a person who prefers dark pages.
    pub async fn start_dark() -> Self {
        let browser = Self::start().await;
        let preference = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
        browser.developer_tools("Emulation.setEmulatedMedia", preference).await;
        browser
    }

    /// Starts a browser with the screen of a telephone, of this width in pixels.
    pub async fn start_narrow(width: u32) -> Self {
        let screen = json!({"width": width, "height": 800, "pixelRatio": 1.0});
        Self::start_with(json!({"mobileEmulation": {"deviceMetrics": screen}})).await
    }

    async fn start_with(mut options: Value) -> Self {
        let port = free_port();
        let driver = Process::spawn(
            Command::new("chromedriver").arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()),
        );
        eventually("chromedriver listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        let profile = tempfile::tempdir().unwrap();
        let profile_flag = format!("--user-data-dir={}", profile.path().display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,2000",
            // Sites of several names, without a server of names.
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            &profile_flag,
        ];
        options["args"] = json!(flags);
        let capabilities = json!({"goog:chromeOptions": options});
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, _driver: driver, _profile: profile }
    }

    pub async fn find(&self, css: &str) -> Element {
        self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await.unwrap_or_else(|_| panic!("no {css}"))
    }

    pub async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Fills the only field that matches.
    pub async fn type_into(&self, css: &str, text: &str) {
        self.find(css).await.send_keys(text).await.unwrap();
    }

    /// The value of a script's `return`.
    pub async fn evaluate(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Starts to count the time that the page's own thread is on a CPU, which a busy machine does not change.
    pub async fn count_cpu(&self) {
        self.developer_tools("Performance.enable", json!({"timeDomain": "threadTicks"})).await;
    }

    /// The CPU time of the page's own thread since [`Self::count_cpu`].
    pub async fn cpu(&self) -> Duration {
        let metrics = self.developer_tools("Performance.getMetrics", json!({})).await;
        let mut metrics = metrics["metrics"].as_array().unwrap().iter();
        let tasks = metrics.find(|metric| metric["name"] == "TaskDuration").unwrap();
        Duration::from_secs_f64(tasks["value"].as_f64().unwrap())
    }

    /// Empties the cache.
    pub async fn forget_files(&self) {
        self.developer_tools("Network.clearBrowserCache", json!({})).await;
    }

    async fn developer_tools(&self, command: &'static str, parameters: Value) -> Value {
        self.client.issue_cmd(DeveloperTools { command, parameters }).await.unwrap()
    }

    /// Waits until a script returns `true`.
    pub async fn wait_until(&self, what: &str, script: &str) {
        let holds = async {
            while self.evaluate(script).await != json!(true) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}
