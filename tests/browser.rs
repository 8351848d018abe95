//! The documentation page, Swagger UI, in a real Chromium.

use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Browser, Service};

/// Executes an operation of the documentation, and returns the status that the page then shows.
async fn execute(browser: &Browser, operation: &str) -> String {
    for control in [".opblock-summary-control", ".try-out__btn", "button.execute"] {
        browser.click(&format!("#operations-{operation} {control}")).await;
    }
    let status = format!("#operations-{operation} .live-responses-table tbody td.response-col_status");
    browser.find(&status).await.text().await.unwrap()
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

    let status = execute(&browser, "Tokens-issueToken").await;
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
    let browser = Browser::start_narrow(400).await;
    browser.client.goto(&format!("{}/docs", service.url)).await.unwrap();
    // The browser opens no login dialog, which would keep the response from the page.
    let status = execute(&browser, "Tokens-listTokens").await;
    assert!(status.starts_with("401"), "{status}");
    // On a telephone, nothing is cut off or needs scrolling sideways.
    let open = "document.querySelectorAll('.opblock-summary-control[aria-expanded=false]').forEach(it => it.click())";
    browser.client.execute(open, Vec::new()).await.unwrap();
    browser.find("#operations-Tokens-issueToken textarea, #operations-Tokens-issueToken .highlight-code").await;
    let width = "return [document.documentElement.scrollWidth, window.innerWidth]";
    assert_eq!(browser.client.execute(width, Vec::new()).await.unwrap(), json!([400, 400]));
    browser.client.clone().close().await.unwrap();
}
