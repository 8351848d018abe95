//! Demands on a token at `/api/v1alpha/verify`: scopes and audiences by query and header, and networks.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Service};

const VERIFY: &str = "/api/v1alpha/verify";

/// Issues a token with these fields beside its description and life, and returns a client that presents it.
fn bearer(service: &Service, fields: &Value) -> Client {
    let mut body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = service.admin().post("/api/v1alpha/token", &body).send();
    assert_eq!(answer.status, 201, "{answer:?}");
    service.client().with_bearer(answer.json()["jwt_token"].as_str().unwrap())
}

/// Verifies with this query and these headers.
fn verify(client: &Client, query: &str, headers: &[(&str, &str)]) -> Answer {
    let request = client.get(&format!("{VERIFY}{query}"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

const SCOPE: &str = "x-auth-require-scope";
const AUDIENCE: &str = "x-auth-require-audience";

#[rstest]
fn all_demands_hold_together(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
    #[values("0", "250ms")] lease: &str,
) {
    let service = Service::start_with(backend, |command| {
        command.env("MAYFLY_LEASE", lease);
    });
    let token = bearer(
        &service,
        &json!({"jwt_token_scopes": ["a", "b", "c:d+e"], "jwt_token_audiences": ["x", "https://y/?z"]}),
    );
    for (query, headers) in [
        ("", &[][..]),
        ("?", &[]),
        ("?scope=a", &[]),
        ("?scope=b+a", &[]),
        ("?scope=a%20b", &[]),
        ("?scope=c%3Ad%2Be", &[]),
        ("?scope=a&scope=b&audience=x&audience=https%3A%2F%2Fy%2F%3Fz", &[]),
        ("", &[(SCOPE, "a b"), (SCOPE, "c:d+e"), (AUDIENCE, "x"), (AUDIENCE, "https://y/?z")]),
        ("?scope=a&audience=x", &[(SCOPE, "b"), (AUDIENCE, "x")]),
        ("/orders/7?scope=a&page=2", &[]),
        ("/?x=1", &[]),
    ] {
        let answer = verify(&token, query, headers);
        assert_eq!((answer.status, answer.header("x-auth-scope")), (200, "a b c:d+e"), "{query} {headers:?}");
    }
    for (query, headers, demanded, missing) in [
        ("?scope=z", &[][..], "z", "z"),
        ("?scope=A", &[], "A", "A"),
        ("?scope=a+z+y", &[], "a z y", "z y"),
        ("?scope=a&scope=z", &[], "a z", "z"),
        ("?scope=z&scope=a", &[], "z a", "z"),
        ("?scope=a,b", &[], "a,b", "a,b"),
        ("?scope=a;audience=x", &[], "a;audience=x", "a;audience=x"),
        ("", &[(SCOPE, "a z")], "a z", "z"),
        ("", &[(SCOPE, "z"), (SCOPE, "a")], "z a", "z"),
        ("?scope=a&audience=x", &[(SCOPE, "z")], "z a", "z"),
        ("?scope=z", &[(SCOPE, "a")], "a z", "z"),
        ("/orders/7?scope=z", &[], "z", "z"),
        ("/?scope=z", &[], "z", "z"),
    ] {
        let answer = verify(&token, query, headers);
        let detail = answer.problem(403);
        assert_eq!(detail, format!("The token lacks what is demanded here: scope {missing}."), "{query} {headers:?}");
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        let expected = format!(r#"Bearer realm="mayfly", error="insufficient_scope", scope="{demanded}""#);
        assert_eq!(challenges, [&*expected], "{query} {headers:?}");
        assert_eq!(answer.headers.get("x-auth-user"), None);
    }
    for (query, headers) in [
        ("?audience=z", &[][..]),
        ("?audience=X", &[]),
        ("?audience=x&audience=z", &[]),
        ("?audience=x&scope=z", &[(AUDIENCE, "z")]),
        ("", &[(AUDIENCE, "x"), (AUDIENCE, "z")]),
    ] {
        let answer = verify(&token, query, headers);
        answer.problem(401);
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "{query} {headers:?}");
    }
    let bare = bearer(&service, &json!({}));
    assert_eq!(verify(&bare, "", &[]).status, 200);
    verify(&bare, "?scope=a", &[]).problem(403);
    verify(&bare, "?audience=x", &[]).problem(401);
    // A stranger learns nothing of the demands.
    verify(&service.client(), "?scope=a", &[]).problem(401);
    verify(&service.client().with_bearer("x"), "?scope=a", &[]).problem(401);
}

#[test]
fn a_demand_that_is_misspelt_or_malformed_is_never_left_out() {
    let service = Service::start(Backend::Memory);
    let token = bearer(&service, &json!({"jwt_token_scopes": ["a", "b"], "jwt_token_audiences": ["x"]}));
    for query in [
        "?scope=",
        "?scope",
        "?scope=+",
        "?scope=a+",
        "?scope=+a",
        "?scope=a++b",
        "?scope=%22a%22",
        "?scope=%ff",
        "?scope=%00",
        "?scope=a&scope=",
        "?scope=%C3%BC",
        "?audience=",
        "?audience",
        "?audience=x+x",
        "?audience=%ff",
        "?scopes=a",
        "?Scope=a",
        "?SCOPE=a",
        "?scope%20=a",
        "?scope[]=a",
        "?scop=a",
        "?aud=x",
        "?audiences=x",
        "?=a",
        "?a",
        "?scope=a&amp;audience=x",
        "?scope=a&b",
        "?x=1",
        "?scope=a?audience=x",
    ] {
        let answer = verify(&token, query, &[]);
        // A `?` may be part of a scope.
        assert!([400, 403].contains(&answer.status), "{query}: {answer:?}");
        assert_eq!(answer.status == 403, query == "?scope=a?audience=x", "{query}: {answer:?}");
        assert_eq!(verify(&token, &query.replacen('?', "?scope=a&", 1), &[]).status, answer.status, "{query}");
    }
    for (name, value) in [
        (SCOPE, ""),
        (SCOPE, "a  b"),
        (SCOPE, "\"a\""),
        (SCOPE, "a\tb"),
        (AUDIENCE, ""),
        (AUDIENCE, "x x"),
        ("x-auth-require-scopes", "a"),
        ("x-auth-required-scope", "a"),
        ("X-Auth-Require-Aud", "x"),
        ("x-auth-require", "a"),
    ] {
        verify(&token, "", &[(name, value)]).problem(400);
        verify(&token, "/orders?scope=a", &[(SCOPE, "a"), (name, value)]).problem(400);
    }
    // Bytes that are no text.
    let jwt = "Authorization: Bearer x";
    let raw = format!("GET {VERIFY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{jwt}\r\n{SCOPE}: ");
    let answer = service.raw(&[raw.as_bytes(), b"\xff\r\n\r\n"].concat());
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(verify(&token, "?scope=+", &[]).problem(400).starts_with("scope: name scopes of RFC 6749"));
    assert!(verify(&token, "", &[(AUDIENCE, "x x")]).problem(400).starts_with("x-auth-require-audience: name one"));
}

#[rstest]
fn a_token_of_networks_is_accepted_from_them_alone(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    for (networks, status) in [
        (json!(["127.0.0.1"]), 200),
        (json!(["192.0.2.0/24", "127.0.0.0/8"]), 200),
        (json!(["192.0.2.0/24", "::1"]), 403),
        (json!(["::/1"]), 403),
    ] {
        let token = bearer(&service, &json!({"jwt_token_networks": networks}));
        // Nobody believes this peer.
        let answer = verify(&token, "", &[("x-forwarded-for", "192.0.2.7")]);
        assert_eq!(answer.status, status, "{networks}");
        if status == 403 {
            assert_eq!(answer.problem(403), "The token may not be used from 127.0.0.1.");
            assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="mayfly", error="insufficient_scope""#);
        }
        // It can be inspected from everywhere, and revoked where it was found.
        assert_eq!(token.get("/api/v1alpha/token/self").send().status, 200);
        assert_eq!(token.delete("/api/v1alpha/token/self").send().status, 200);
    }
}

#[test]
fn behind_proxies_the_reported_client_is_compared_and_an_unreported_one_is_in_no_network() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TRUSTED_PROXIES", "127.0.0.0/8");
    });
    let token = bearer(&service, &json!({"jwt_token_networks": ["192.0.2.0/24", "127.0.0.0/8", "2001:db8::/32"]}));
    for headers in [
        [("x-forwarded-for", "192.0.2.7")],
        [("x-forwarded-for", "198.51.100.1, 192.0.2.7, 127.0.0.2")],
        [("x-forwarded-for", "::ffff:192.0.2.7")],
        [("forwarded", "for=\"[2001:db8::1]:4711\"")],
        // A client beside its proxy.
        [("x-forwarded-for", "127.0.0.1")],
    ] {
        assert_eq!(verify(&token, "", &headers).status, 200, "{headers:?}");
    }
    let known = "The token may not be used from 198.51.100.1.";
    let unknown = "The token may be used from some networks only, and the client's address is not known.";
    for (headers, detail) in [
        (&[("x-forwarded-for", "198.51.100.1")][..], known),
        (&[("x-forwarded-for", "192.0.2.7, 198.51.100.1")], known),
        (&[], unknown),
        (&[("x-forwarded-for", "unknown")], unknown),
        (&[("x-forwarded-for", "192.0.2.7, ")], unknown),
        (&[("forwarded", "for=_hidden")], unknown),
        (&[("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.8")], unknown),
    ] {
        assert_eq!(verify(&token, "", headers).problem(403), detail, "{headers:?}");
    }
}
