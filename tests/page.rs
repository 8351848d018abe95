//! The page for people, in a real Chromium, as a person uses it.

use std::{fs, time::Duration};

use fantoccini::{Locator, key::Key};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{ADMIN_PASSWORD, Backend, Browser, Service};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The files that a browser loads for the page.
const FILES: [&str; 13] = [
    "/",
    "/page/api.js",
    "/page/dialogs.js",
    "/page/dom.js",
    "/page/icon.svg",
    "/page/life.js",
    "/page/main.js",
    "/page/new-token.js",
    "/page/page.css",
    "/page/sign-in.js",
    "/page/timeline.js",
    "/page/tokens.js",
    "/page/users.js",
];

/// Opens the page and signs in as the administrator, with the keyboard alone.
async fn sign_in(browser: &Browser, service: &Service) {
    browser.client.goto(&service.url).await.unwrap();
    // The first field has the focus.
    browser.find("input[name=username]:focus").await.send_keys(&format!("admin{}", Key::Tab)).await.unwrap();
    let password = format!("{ADMIN_PASSWORD}{}", Key::Enter);
    browser.find("input[name=password]:focus").await.send_keys(&password).await.unwrap();
    browser.find("tbody").await;
    browser.wait_until("the view is there", "return document.querySelector('h1')?.textContent === 'Your tokens'").await;
}

/// Presses the button of these words.
async fn press(browser: &Browser, within: &str, words: &str) {
    let path = format!("{within}//button[normalize-space()='{words}']");
    browser.client.find(Locator::XPath(&path)).await.unwrap_or_else(|_| panic!("no {path}")).click().await.unwrap();
}

/// A script that returns whether the list names this token.
fn is_listed(description: &str) -> String {
    format!("return [...document.querySelectorAll('.name')].some(name => name.textContent === {})", json!(description))
}

fn is_not_listed(description: &str) -> String {
    is_listed(description).replacen("return ", "return !", 1)
}

/// Checks what is shown with axe-core, and that nothing needs scrolling sideways.
async fn inspect(browser: &Browser, view: &str) {
    let axe = fs::read_to_string(format!("{ROOT}/tests/.tools/node_modules/axe-core/axe.min.js")).unwrap();
    browser.evaluate(&format!("if (!window.axe) {{ {axe} }}")).await;
    let check = "const done = arguments[0]; axe.run().then(result => done(result.violations.map(violation => \
                 [violation.id, violation.nodes.map(node => node.html)])), error => done(String(error)))";
    let violations = browser.client.execute_async(check, Vec::new()).await.unwrap();
    assert_eq!(violations, json!([]), "{view}");
    let too_wide = "const width = document.documentElement.clientWidth; \
                    const isCutOff = element => element.getBoundingClientRect().right > width; \
                    return document.documentElement.scrollWidth <= width ? [] : \
                    [...document.querySelectorAll('*')].filter(isCutOff).map(element => element.outerHTML)";
    assert_eq!(browser.evaluate(too_wide).await, json!([]), "{view}");
}

#[tokio::test]
async fn a_person_creates_copies_and_revokes_a_token() {
    let service = Service::start(Backend::Redis);
    let browser = Browser::start().await;
    sign_in(&browser, &service).await;

    press(&browser, "", "New token").await;
    browser.type_into("dialog input:focus", "Token specter").await;
    press(&browser, "//dialog", "8 hours").await;
    browser
        .wait_until("the expiry is shown", "return document.querySelector('output').textContent.startsWith('Expires ')")
        .await;
    let life = browser.find("dialog .field:nth-of-type(2) input").await;
    life.clear().await.unwrap();
    life.send_keys("soon").await.unwrap();
    browser
        .wait_until("it is no life", "return document.querySelector('output').textContent.startsWith('Not a duration')")
        .await;
    press(&browser, "//dialog", "Create token").await;
    browser
        .wait_until(
            "the service explains",
            "return document.querySelector('dialog .error').textContent.includes('jwt_token_life')",
        )
        .await;
    life.clear().await.unwrap();
    life.send_keys(&format!("1h 30m{}", Key::Enter)).await.unwrap();

    let jwt = browser.find("dialog textarea.jwt").await.prop("value").await.unwrap().unwrap();
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
    press(&browser, "//dialog", "Copy token").await;
    browser
        .wait_until("it is copied", "return document.querySelector('dialog [role=status]').textContent !== ''")
        .await;
    press(&browser, "//dialog", "Done").await;
    browser.wait_until("it is listed", &is_listed("Token specter")).await;

    // Its life runs down.
    let left = "return document.querySelector('td[data-label=\"Time left\"] span').textContent";
    let before = browser.evaluate(left).await;
    assert!(before.as_str().unwrap().starts_with("1 h 29 min"), "{before}");
    let (_, short) = service.admin().issue("short", "1h");
    browser.wait_until("one from elsewhere is listed", &is_listed("short")).await;
    let shown = "return document.querySelector('tr[data-id] .life').style.transform";
    let first = browser.evaluate(shown).await;
    browser.wait_until("the bar moves", &format!("{shown} !== {first}")).await;

    // Rotated, it is another JWT, shown once.
    browser.click("button[aria-label='Rotate Token specter']").await;
    press(&browser, "//dialog", "Rotate token").await;
    browser
        .wait_until(
            "the successor is shown",
            "return document.querySelector('dialog textarea.jwt')?.value.length > 100",
        )
        .await;
    let successor = browser.find("dialog textarea.jwt").await.prop("value").await.unwrap().unwrap();
    assert_ne!(successor, jwt);
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 401);
    press(&browser, "//dialog", "Copy token").await;
    press(&browser, "//dialog", "Done").await;

    // Revoked in words that name it.
    browser.click("button[aria-label='Revoke Token specter']").await;
    let question = browser.find("dialog h2").await.text().await.unwrap();
    assert_eq!(question, "Revoke “Token specter”?");
    press(&browser, "//dialog", "Revoke token").await;
    browser.wait_until("it is gone", &is_not_listed("Token specter")).await;
    assert_eq!(service.client().with_bearer(&successor).get("/api/v1alpha/verify").send().status, 401);

    // What another session revokes goes from this page, too.
    assert_eq!(service.client().with_bearer(&short).delete("/api/v1alpha/token/self").send().status, 200);
    browser.wait_until("it is gone here, too", &is_not_listed("short")).await;
    // And what expires goes before one's eyes.
    service.admin().issue("a moment", "6s");
    browser.wait_until("it is listed", &is_listed("a moment")).await;
    let said = "return document.querySelector('#notices').textContent.includes('“a moment” has expired.')";
    browser.wait_until("it has expired", said).await;
    browser.wait_until("it is gone", &is_not_listed("a moment")).await;
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_not_copied_is_not_lost_by_accident() {
    let service = Service::start(Backend::Memory);
    let browser = Browser::start().await;
    sign_in(&browser, &service).await;
    press(&browser, "", "New token").await;
    browser.type_into("dialog input:focus", &format!("x{}", Key::Enter)).await;
    browser.find("dialog textarea.jwt").await;
    press(&browser, "//dialog", "Done").await;
    assert!(browser.client.get_alert_text().await.unwrap().contains("cannot be shown again"));
    browser.client.dismiss_alert().await.unwrap();
    browser.find("dialog textarea.jwt").await;
    press(&browser, "//dialog", "Done").await;
    browser.client.accept_alert().await.unwrap();
    browser.wait_until("the dialog is closed", "return document.querySelector('dialog') === null").await;
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn names_in_any_language_are_shown_as_they_are_and_run_nothing() {
    let service = Service::start(Backend::Memory);
    let names = [
        "Nächtliche Sicherung",
        "夜間バックアップ",
        "النسخ الاحتياطي",
        "גיבוי לילי",
        "Ночная копия",
        "야간 백업",
        "夜间备份",
        "रात का बैकअप",
        "Ολονύκτιο αντίγραφο",
        "สำรองข้อมูล",
        "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">",
    ];
    for name in names {
        service.admin().issue(name, "1h");
    }
    let browser = Browser::start().await;
    browser.client.goto(&service.url).await.unwrap();
    browser
        .evaluate(
            "window.violations = []; document.addEventListener('securitypolicyviolation', \
                      event => violations.push(event.violatedDirective))",
        )
        .await;
    sign_in(&browser, &service).await;
    for name in names {
        browser.wait_until(name, &is_listed(name)).await;
    }
    assert_eq!(browser.evaluate("return document.title").await, json!("Tokens · Mayfly"));
    // No text becomes HTML.
    let forbidden =
        "try { document.body.innerHTML = '<p>x</p>'; return 'allowed' } catch (error) { return error.name }";
    assert_eq!(browser.evaluate(forbidden).await, json!("TypeError"));

    // The filter finds by a part, in any case.
    browser.type_into("input[type=search]", "НОЧНАЯ").await;
    let shown = "return [...document.querySelectorAll('tbody tr:not([hidden]) .name')].map(name => name.textContent)";
    assert_eq!(browser.evaluate(shown).await, json!(["Ночная копия"]));
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn what_goes_wrong_is_said_plainly() {
    let service = Service::start(Backend::Redis);
    let browser = Browser::start().await;
    browser.client.goto(&service.url).await.unwrap();
    browser.type_into("input[name=username]", "admin").await;
    browser.type_into("input[name=password]", &format!("wrong{}", Key::Enter)).await;
    let error = |text: &str| format!("return document.querySelector('.error').textContent.includes({})", json!(text));
    browser.wait_until("the login is refused", &error("password is wrong")).await;

    // Further failures: the button waits, and counts down.
    while browser.evaluate("return document.querySelector('.sign-in .primary').disabled").await != json!(true) {
        let status = service.client().with_basic("admin", "wrong").get("/api/v1alpha/token").send().status;
        if status == 429 {
            browser.type_into("input[name=password]", &format!("wrong{}", Key::Enter)).await;
            browser.wait_until("it waits", &error("You can try again")).await;
            break;
        }
    }
    browser.wait_until("the wait is over", "return !document.querySelector('.sign-in .primary').disabled").await;

    // The store is away.
    service.redis.as_ref().unwrap().cli(&["CLIENT", "PAUSE", "2000"]);
    let pid = service.redis.as_ref().unwrap().info("process_id").parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    browser.type_into("input[name=password]", &format!("other{}", Key::Enter)).await;
    browser.wait_until("the store is away", &error("does not answer")).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn an_administrator_manages_users_and_their_tokens() {
    let service = Service::start(Backend::Redis);
    let browser = Browser::start().await;
    for number in 0..60 {
        service.admin().add_user(&format!("user-{number:02}"), "user");
    }
    service.admin().add_user("alice", "user");
    let alice = service.client().with_basic("alice", "secret");
    let (_, jwt) = alice.issue("Of alice", "1h");
    sign_in(&browser, &service).await;
    browser.click("nav a[href='#users']").await;
    browser.find("tr[data-user=alice]").await;
    // The last administrator stays, and the page says why.
    browser
        .wait_until(
            "the buttons are off",
            "const row = document.querySelector('tr[data-user=admin]'); \
        return row.querySelectorAll('button:disabled').length === 2 && row.textContent.includes('last administrator')",
        )
        .await;

    // By page, and by the beginning of the name.
    let count = "return document.querySelectorAll('tr[data-user]').length";
    assert_eq!(browser.evaluate(count).await, json!(50));
    press(&browser, "", "More users").await;
    browser.wait_until("the rest is shown", &format!("{count} === 62")).await;
    browser.type_into("input[type=search]", "user-5").await;
    browser.wait_until("ten are found", &format!("{count} === 10")).await;
    browser.find("input[type=search]").await.clear().await.unwrap();
    browser.type_into("input[type=search]", "alice").await;
    browser.wait_until("one is found", &format!("{count} === 1")).await;

    // A second administrator, then a disabled user, whose tokens are revoked.
    press(&browser, "", "Add user").await;
    browser.type_into("dialog input:not([type])", "carol").await;
    browser.type_into("dialog input[type=password]", "first").await;
    browser.type_into("dialog select", "admin").await;
    press(&browser, "//dialog", "Add user").await;
    browser.wait_until("it is done", "return document.querySelector('dialog') === null").await;
    assert_eq!(service.client().with_basic("carol", "first").get("/api/v1alpha/user").send().status, 200);
    browser.click("button[aria-label='Disable alice']").await;
    press(&browser, "//dialog", "Disable user").await;
    browser.find("button[aria-label='Enable alice']").await;
    assert_eq!(service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 401);
    browser.click("button[aria-label='Enable alice']").await;
    browser.find("button[aria-label='Disable alice']").await;

    // A user's tokens.
    alice.issue("Another", "1h");
    browser.click("tr[data-user=alice] a").await;
    browser.wait_until("the token is listed", &is_listed("Another")).await;
    browser.click("button[aria-label='Revoke Another']").await;
    press(&browser, "//dialog", "Revoke token").await;
    browser.wait_until("it is gone", &is_not_listed("Another")).await;

    // Removed by carol, the administrator of this page is signed out.
    let carol = service.client().with_basic("carol", "first");
    assert_eq!(carol.delete("/api/v1alpha/user/admin").send().status, 200);
    browser.find(".sign-in").await;
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn every_view_is_accessible_at_every_size_in_both_schemes() {
    let service = Service::start(Backend::Memory);
    for number in 0..12 {
        service.admin().issue(&format!("Token {number} with-a-rather-long-name-{}", "x".repeat(60)), "20 days");
    }
    service.admin().add_user("alice", "user");
    let dark = json!({"args": ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]});
    for (size, browser) in [
        ("wide", Browser::start().await),
        ("narrow", Browser::start_narrow(360).await),
        ("dark", Browser::start_with(dark).await),
    ] {
        browser.client.goto(&service.url).await.unwrap();
        browser.find(".sign-in").await;
        inspect(&browser, &format!("{size}: sign in")).await;
        sign_in(&browser, &service).await;
        browser.find("tr[data-id]").await;
        inspect(&browser, &format!("{size}: tokens")).await;
        press(&browser, "", "New token").await;
        inspect(&browser, &format!("{size}: new token")).await;
        browser.type_into("dialog input:focus", &format!("x{}", Key::Enter)).await;
        browser.find("dialog textarea.jwt").await;
        inspect(&browser, &format!("{size}: the JWT")).await;
        press(&browser, "//dialog", "Copy token").await;
        press(&browser, "//dialog", "Done").await;
        press(&browser, "//tr[1]", "Revoke").await;
        inspect(&browser, &format!("{size}: revoke")).await;
        press(&browser, "//dialog", "Cancel").await;
        browser.click("nav a[href='#users']").await;
        browser.find("tr[data-user=alice]").await;
        inspect(&browser, &format!("{size}: users")).await;
        press(&browser, "", "Add user").await;
        inspect(&browser, &format!("{size}: add user")).await;
        browser.client.clone().close().await.unwrap();
    }
}

#[tokio::test]
async fn a_thousand_tokens_are_sorted_and_filtered_at_once() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    for number in 0..1000 {
        admin.issue(&format!("number-{number:04}"), "20 days");
    }
    let browser = Browser::start().await;
    sign_in(&browser, &service).await;
    browser.wait_until("all are listed", "return document.querySelectorAll('tr[data-id]').length === 1000").await;
    // The longest that the page was busy while it sorted, filtered and counted: a generous bound.
    let busy = "const done = arguments[0]; let longest = 0; let last = performance.now(); \
        const watch = () => { const now = performance.now(); longest = Math.max(longest, now - last); last = now; }; \
        const watching = setInterval(watch, 5); document.querySelector('.sort').click(); \
        const search = document.querySelector('input[type=search]'); search.value = 'number-099'; \
        search.dispatchEvent(new Event('input')); \
        setTimeout(() => { clearInterval(watching); done(longest); }, 2500)";
    let longest = browser.client.execute_async(busy, Vec::new()).await.unwrap();
    assert!(longest.as_f64().unwrap() < 2000.0, "busy for {longest} ms");
    let shown = "return document.querySelectorAll('tbody tr:not([hidden])').length";
    assert_eq!(browser.evaluate(shown).await, json!(10));
    browser.client.clone().close().await.unwrap();
}

#[test]
fn the_page_is_small_and_confined() {
    let service = Service::start(Backend::Memory);
    let mut size = 0;
    for file in FILES {
        let answer = service.client().get(file).header("accept-encoding", "identity").send();
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-cache"), "{file}");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("require-trusted-types-for 'script'") && !policy.contains("unsafe"), "{policy}");
        size += service
            .raw(
                format!("GET {file} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .len();
    }
    // With all headers.
    assert!(size < 60_000, "{size} bytes");
    service.client().post("/", &json!({})).send().problem(405);
    service.client().get("/page/unknown.js").send().problem(404);
    let without = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_UI", "off");
    });
    without.client().get("/page/main.js").send().problem(404);
}

/// `make page`: the picture for the README, and how quickly the page shows.
#[tokio::test]
#[ignore = "`make page` takes the picture"]
async fn picture() {
    let service = Service::start(Backend::Memory);
    for (description, life) in [
        ("Deploy of the shop", "30 days"),
        ("Nightly backup", "5 days"),
        ("Grafana, read only", "90 days"),
        ("Release of 2.4", "6 hours"),
        ("Load test", "2 days"),
    ] {
        let (_, jwt) = service.admin().issue(description, life);
        if description != "Load test" {
            service.client().with_bearer(&jwt).get("/api/v1alpha/verify").send();
        }
    }
    let browser = Browser::start().await;
    browser.client.set_window_size(1100, 880).await.unwrap();
    sign_in(&browser, &service).await;
    browser.find("tr[data-id]").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::write(format!("{ROOT}/deploy/page.png"), browser.client.screenshot().await.unwrap()).unwrap();
    for visit in ["first", "second", "third"] {
        browser.client.goto(&service.url).await.unwrap();
        browser.find(".sign-in").await;
        let shown = "const [paint] = performance.getEntriesByName('first-contentful-paint'); \
            const files = performance.getEntriesByType('resource'); \
            return [paint?.startTime, files.length + 1, files.reduce((sum, file) => sum + file.encodedBodySize, 0)]";
        println!("{visit} visit: first view (ms), files, bytes: {}", browser.evaluate(shown).await);
    }
    browser.client.clone().close().await.unwrap();
}
