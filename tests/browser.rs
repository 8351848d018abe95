//! The documentation page, Swagger UI, in a real Chromium.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use fantoccini::{ClientBuilder, Locator, elements::Element};
use serde_json::{Value, json};

use crate::support::{ADMIN_PASSWORD, Backend, Process, Service, eventually, free_port};

const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with its own profile, driven through WebDriver.
struct Browser {
    client: fantoccini::Client,
    _driver: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// Starts a browser with the screen of a telephone.
    async fn start_narrow() -> Self {
        let screen = json!({"width": 400, "height": 800, "pixelRatio": 1.0});
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

    async fn find(&self, css: &str) -> Element {
        self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await.unwrap_or_else(|_| panic!("no {css}"))
    }

    async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Executes an operation of the documentation, and returns the status that the page then shows.
    async fn execute(&self, operation: &str) -> String {
        for control in [".opblock-summary-control", ".try-out__btn", "button.execute"] {
            self.click(&format!("#operations-{operation} {control}")).await;
        }
        let status = format!("#operations-{operation} .live-responses-table tbody td.response-col_status");
        self.find(&status).await.text().await.unwrap()
    }
}

#[tokio::test]
async fn the_documentation_page_issues_a_token_after_authorization() {
    let service = Service::start(Backend::Memory);
    let browser = Browser::start().await;
    browser.client.goto(&format!("{}/docs", service.url)).await.unwrap();

    browser.find(".opblock-tag").await;
    let groups = "return [...document.querySelectorAll('.opblock-tag')].map(group => group.dataset.tag)";
    let groups = browser.client.execute(groups, Vec::new()).await.unwrap();
    assert_eq!(groups, json!(["Tokens", "Services", "Users", "Operations"]));
    browser.click("button.authorize").await;
    browser.find("input[name=username]").await.send_keys("admin").await.unwrap();
    browser.find("input[name=password]").await.send_keys(ADMIN_PASSWORD).await.unwrap();
    browser.click(".auth-container:has(input[name=username]) button[type=submit]").await;
    // Both schemes are offered.
    browser.find("input[aria-label=auth-bearer-value]").await;
    browser.click("button.btn-done").await;

    let status = browser.execute("Tokens-issueToken").await;
    assert!(status.starts_with("201"), "{status}");
    let body = browser.find("#operations-Tokens-issueToken .live-responses-table .highlight-code").await;
    assert!(body.text().await.unwrap().contains("Token generated"));

    // The page violates none of its own content security policy.
    let policy = service.client().get("/docs").send().header("content-security-policy").to_owned();
    assert!(policy.contains("script-src 'sha256-") && !policy.contains("script-src 'unsafe"), "{policy}");
    let forbidden = "const script = document.createElement('script'); script.textContent = 'window.ran = true'; \
                     document.body.append(script); return window.ran === undefined";
    assert_eq!(browser.client.execute(forbidden, Vec::new()).await.unwrap(), json!(true));

    let loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)";
    let loaded = browser.client.execute(loaded, Vec::new()).await.unwrap();
    let foreign = |url: &&serde_json::Value| !url.as_str().unwrap().starts_with(&service.url);
    let foreign: Vec<_> = loaded.as_array().unwrap().iter().filter(foreign).collect();
    assert!(foreign.iter().all(|url| url.as_str().unwrap().starts_with("data:")), "{foreign:?}");
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn the_documentation_page_shows_401_without_authorization() {
    let service = Service::start(Backend::Memory);
    let browser = Browser::start_narrow().await;
    browser.client.goto(&format!("{}/docs", service.url)).await.unwrap();
    // The browser opens no login dialog, which would keep the response from the page.
    let status = browser.execute("Tokens-listTokens").await;
    assert!(status.starts_with("401"), "{status}");
    // On a telephone, nothing is cut off or needs scrolling sideways.
    let open = "document.querySelectorAll('.opblock-summary-control[aria-expanded=false]').forEach(it => it.click())";
    browser.client.execute(open, Vec::new()).await.unwrap();
    browser.find("#operations-Tokens-issueToken textarea, #operations-Tokens-issueToken .highlight-code").await;
    let width = "return [document.documentElement.scrollWidth, window.innerWidth]";
    assert_eq!(browser.client.execute(width, Vec::new()).await.unwrap(), json!([400, 400]));
    browser.client.clone().close().await.unwrap();
}
