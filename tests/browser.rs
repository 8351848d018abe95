//! The documentation, as a person sees it: Swagger UI in a real Chromium.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use fantoccini::{ClientBuilder, Locator, elements::Element};
use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Process, Service, eventually, free_port};

const PATIENCE: Duration = Duration::from_mins(1);

/// A browser in a profile of its own, driven through WebDriver.
struct Browser {
    client: fantoccini::Client,
    _driver: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
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
        let capabilities = json!({"goog:chromeOptions": {"args": flags}});
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
}

#[tokio::test]
async fn a_newcomer_authorizes_and_issues_a_token() {
    let service = Service::start(Backend::Memory);
    let browser = Browser::start().await;
    browser.client.goto(&format!("{}/docs", service.url)).await.unwrap();

    browser.click("button.authorize").await;
    browser.find("input[name=username]").await.send_keys("admin").await.unwrap();
    browser.find("input[name=password]").await.send_keys(ADMIN_PASSWORD).await.unwrap();
    browser.click(".auth-container:has(input[name=username]) button[type=submit]").await;
    // Both schemes are offered.
    browser.find("input[aria-label=auth-bearer-value]").await;
    browser.click("button.btn-done").await;

    browser.click("#operations-Tokens-issueToken .opblock-summary-control").await;
    browser.click("#operations-Tokens-issueToken .try-out__btn").await;
    browser.click("#operations-Tokens-issueToken button.execute").await;
    let status = browser.find("#operations-Tokens-issueToken .live-responses-table tbody td.response-col_status").await;
    assert!(status.text().await.unwrap().starts_with("201"), "{}", status.text().await.unwrap());
    let body = browser.find("#operations-Tokens-issueToken .live-responses-table .highlight-code").await;
    assert!(body.text().await.unwrap().contains("Token generated"));

    // The policy of the page holds, and nothing in the page offends against it.
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
