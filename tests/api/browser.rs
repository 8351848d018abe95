//! Protection against other sites that use the API from a user's browser.

use rstest::rstest;
use serde_json::json;

use crate::support::{Answer, Backend, Service};

const TOKEN: &str = "/api/v1alpha/token";
const CONSOLE: &str = "https://console.example";

fn allowed_origin(answer: &Answer) -> &str {
    answer.header("access-control-allow-origin")
}

#[rstest]
#[case("cross-site", 403)]
#[case("same-site", 403)]
#[case("same-origin", 201)]
#[case("none", 201)]
fn other_sites_cannot_write(#[case] site: &str, #[case] expected: u16) {
    let service = Service::start(Backend::Memory);
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let write = service.admin().post(TOKEN, &body).header("sec-fetch-site", site).send();
    assert_eq!(write.status, expected, "{write:?}");
    assert_eq!(service.admin().get(TOKEN).header("sec-fetch-site", site).send().status, 200);
    if expected == 403 {
        write.problem(403);
    }
}

#[test]
fn other_sites_cannot_read_a_response() {
    let service = Service::start(Backend::Memory);
    let preflight = service.client().request("OPTIONS", TOKEN).header("origin", CONSOLE);
    let preflight = preflight.header("access-control-request-method", "POST").send();
    preflight.problem(405);
    assert_eq!(allowed_origin(&preflight), "");
    let read = service.admin().get(TOKEN).header("origin", CONSOLE).send();
    assert_eq!((read.status, allowed_origin(&read)), (200, ""));
}

#[test]
fn configured_origins_may_use_the_api() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_CORS_ORIGINS", format!("{CONSOLE}, http://127.0.0.1:3000"));
    });
    let preflight = |origin: &str| {
        let request = service.client().request("OPTIONS", TOKEN).header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .send()
    };
    let allowed = preflight(CONSOLE);
    assert_eq!((allowed.status, allowed_origin(&allowed)), (200, CONSOLE));
    assert!(allowed.header("access-control-allow-methods").contains("POST"));
    assert_eq!(allowed.header("access-control-allow-headers"), "authorization,content-type");
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    for stranger in ["https://console.example.evil", "http://console.example", "null"] {
        assert_eq!(allowed_origin(&preflight(stranger)), "", "{stranger}");
    }

    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let write = |origin: &str| {
        let request = service.admin().post(TOKEN, &body).header("sec-fetch-site", "cross-site");
        request.header("origin", origin).send()
    };
    assert_eq!((write(CONSOLE).status, write("https://evil.example").status), (201, 403));
    // A page of the origin can read an error, too.
    let refused = service.client().get(TOKEN).header("origin", CONSOLE).send();
    refused.problem(401);
    assert_eq!(allowed_origin(&refused), CONSOLE);
    service.client().request("OPTIONS", TOKEN).header("origin", CONSOLE).send().problem(405);
}

#[test]
fn no_response_can_be_run_or_framed() {
    let service = Service::start(Backend::Memory);
    for answer in [
        service.client().get("/livez").send(),
        service.client().get("/openapi.json").send(),
        service.client().get("/docs").send(),
        service.client().get("/nothing").send(),
        service.client().get(TOKEN).send(),
        service.admin().get(TOKEN).send(),
    ] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{answer:?}");
    }
}

#[test]
fn a_script_gets_no_challenge_that_opens_a_login_dialog() {
    let service = Service::start(Backend::Memory);
    let challenges = |answer: &Answer| -> Vec<String> {
        let challenges = answer.headers.get_all("www-authenticate").iter();
        challenges.map(|challenge| challenge.to_str().unwrap().split(' ').next().unwrap().to_owned()).collect()
    };
    for client in [service.client(), service.client().with_basic("admin", "wrong"), service.client().with_bearer("x")] {
        for path in [TOKEN, "/api/v1alpha/user", "/api/v1alpha/token/self"] {
            let refused = client.get(path).header("x-requested-with", "XMLHttpRequest").send();
            refused.problem(401);
            assert_eq!(challenges(&refused), ["Bearer"], "{path}");
            // Without that header, a client gets both challenges.
            let refused = client.get(path).header("sec-fetch-mode", "cors").header("origin", CONSOLE).send();
            assert_eq!(challenges(&refused), ["Basic", "Bearer"], "{path}");
        }
    }
    assert_eq!(service.admin().get(TOKEN).header("x-requested-with", "XMLHttpRequest").send().status, 200);
}

#[test]
fn the_documentation_can_be_switched_off() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_DOCS", "off");
    });
    for path in ["/docs", "/openapi.json", "/openapi.yaml"] {
        service.client().get(path).send().problem(404);
    }
    service.admin().issue("x", "1h");
    assert!(!service.greeting.contains("/docs"), "{}", service.greeting);
}
