//! `/api/v1alpha/token`, to the letter of the seed.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Service, eventually};

const TOKEN: &str = "/api/v1alpha/token";

/// The path that revokes all of a user's own tokens.
const ALL: &str = "/api/v1alpha/token?all=true";

fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[rstest]
fn issuing_a_token_answers_as_in_the_seed(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let request = json!({"jwt_token_description": "Token specter", "jwt_token_life": "6 hours"});
    let answer = service.admin().post(TOKEN, &request).send();
    assert_eq!(answer.status, 201);
    let body = answer.json();
    assert_eq!(members(&body), ["message", "jwt_token_id", "jwt_token", "jwt_token_description", "jwt_token_life"]);
    assert_eq!(body["message"], "Token generated");
    assert_eq!(body["jwt_token_description"], "Token specter");
    assert_eq!(body["jwt_token_life"], 21600);
    let id = body["jwt_token_id"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4);
    assert_eq!(answer.header("location"), format!("{TOKEN}/{id}"));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(service.admin().get(answer.header("location")).send().status, 200);
}

#[test]
fn the_jwt_has_the_claims_of_the_seed_and_the_registered_ones() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_JWT_ISSUER", "https://tokens.example");
    });
    let (id, jwt) = service.admin().issue("Token specter", "6 hours");

    let set: JwkSet = serde_json::from_str(&std::fs::read_to_string(&service.keys_file).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&["https://tokens.example"]);
    let data = jsonwebtoken::decode::<Value>(&jwt, &DecodingKey::from_jwk(&set.keys[0]).unwrap(), &validation).unwrap();
    let header: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header, json!({"typ": "JWT", "alg": "HS256", "kid": set.keys[0].common.key_id}));

    let claims = data.claims;
    let (iat, exp) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    assert_eq!(exp - iat, 21600);
    assert_eq!(
        claims,
        json!({
            "username": "admin", "jwt_token_id": id, "jwt_token_description": "Token specter", "exp": exp, "iat": iat,
            "sub": "admin", "jti": id, "iss": "https://tokens.example",
        })
    );
}

#[rstest]
fn listing_tokens_answers_as_in_the_seed(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let nothing = admin.get(TOKEN).send();
    assert_eq!((nothing.status, &*nothing.text), (200, r#"{"message":"No tokens exist","jwt_tokens":{}}"#));

    let (alpha, _) = admin.issue("Token alpha", "6 minutes");
    let (beta, _) = admin.issue("Token beta", "90m");
    let list = admin.get(TOKEN).send();
    assert_eq!(list.status, 200);
    let body = list.json();
    assert_eq!(members(&body), ["message", "jwt_tokens"]);
    assert_eq!(body["message"], "Tokens exists");
    assert_eq!(members(&body["jwt_tokens"]), [&*beta, &*alpha], "newest first");
    let token = &body["jwt_tokens"][&alpha];
    assert_eq!(members(token), ["jwt_token_description", "jwt_token_life", "jwt_token_remaining_life"]);
    assert_eq!(token["jwt_token_description"], "Token alpha");
    assert_eq!(token["jwt_token_life"], 360);
    assert!(token["jwt_token_remaining_life"].is_f64());
    let remaining = token["jwt_token_remaining_life"].as_f64().unwrap();
    assert!((300.0..=360.0).contains(&remaining), "{remaining}");
}

#[rstest]
fn inspecting_and_deleting_a_token_answer_as_in_the_seed(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, _) = admin.issue("Token alpha", "6m");
    let path = format!("{TOKEN}/{id}");

    let answer = admin.get(&path).send();
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(
        members(&body),
        ["message", "jwt_token_description", "jwt_token_life", "jwt_token_life_remaining", "expiry_status"]
    );
    assert_eq!(body["message"], "Tokens exists");
    assert_eq!(body["jwt_token_description"], "Token alpha");
    assert_eq!(body["jwt_token_life"], 360);
    assert_eq!(body["expiry_status"], "Valid");
    assert!((300.0..=360.0).contains(&body["jwt_token_life_remaining"].as_f64().unwrap()));

    let deleted = admin.delete(&path).send();
    assert_eq!((deleted.status, &*deleted.text), (200, r#"{"message":"Token deleted"}"#));
    admin.delete(&path).send().problem(404);
    admin.get(&path).send().problem(404);
    assert_eq!(admin.get(TOKEN).send().json()["message"], "No tokens exist");
}

#[rstest]
fn the_remaining_life_decreases(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, _) = admin.issue("x", "1h");
    let remaining = || admin.get(&format!("{TOKEN}/{id}")).send().json()["jwt_token_life_remaining"].as_f64().unwrap();
    let first = remaining();
    eventually("the remaining life has decreased", || (remaining() < first).then_some(()));
}

#[rstest]
fn a_token_expires(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, jwt) = admin.issue("short", "1s");
    let bearer = service.client().with_bearer(&jwt);
    eventually("the token is gone", || (admin.get(&format!("{TOKEN}/{id}")).send().status == 404).then_some(()));
    bearer.get("/api/v1alpha/token/self").send().problem(401);
    assert_eq!(admin.get(TOKEN).send().json()["jwt_tokens"], json!({}));
    if let Some(redis) = &service.redis {
        assert_eq!(redis.cli(&["KEYS", "mayfly:*:token:*"]), "");
    }
}

#[rstest]
#[case::trailing_slash("/api/v1alpha/token/")]
#[case::none("/api/v1alpha/token")]
fn a_trailing_slash_makes_no_difference(#[case] path: &str) {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    let request = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    let id = admin.post(path, &request).send().json()["jwt_token_id"].as_str().unwrap().to_owned();
    assert_eq!(admin.get(path).send().json()["jwt_tokens"].as_object().unwrap().len(), 1);
    let slash = if path.ends_with('/') { "/" } else { "" };
    assert_eq!(admin.get(&format!("{TOKEN}/{id}{slash}")).send().status, 200);
    assert_eq!(admin.delete(&format!("{TOKEN}/{id}{slash}")).send().status, 200);
}

#[rstest]
fn deleted_unknown_and_malformed_ids_have_the_same_404(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (deleted, _) = admin.issue("x", "1h");
    admin.delete(&format!("{TOKEN}/{deleted}")).send();
    let (live, _) = admin.issue("x", "1h");
    let anonymous = |mut answer: Answer| {
        answer.problem(404);
        for volatile in ["x-request-id", "date"] {
            answer.headers.remove(volatile);
        }
        let mut body = answer.json();
        let id = body["request_id"].take();
        let headers: BTreeMap<_, _> =
            answer.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        (answer.text.replace(id.as_str().unwrap(), ""), headers)
    };
    let expected = anonymous(admin.get(&format!("{TOKEN}/{deleted}")).send());
    for id in [
        "b56929f3-54f1-4dc2-9984-9bba615e26e6",
        &live.replace('-', ""),
        &format!("%7B{live}%7D"),
        "%20",
        "%2F",
        "1",
        "*",
        "%2A",
        "..%2F",
        "%00",
        "%ff",
        &"x".repeat(1000),
    ] {
        for method in ["GET", "DELETE"] {
            let answer = admin.request(method, &format!("{TOKEN}/{id}")).send();
            assert_eq!(anonymous(answer), expected, "{method} {id}");
        }
    }
    // An id may be written in upper case (RFC 9562, section 4).
    for id in [&live, &live.to_uppercase()] {
        assert_eq!(admin.get(&format!("{TOKEN}/{id}")).send().status, 200);
    }
    assert_eq!(admin.delete(&format!("{TOKEN}/{}", live.to_uppercase())).send().status, 200);
}

#[rstest]
fn the_list_has_pages(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let mut issued: Vec<_> = (0..5).map(|number| admin.issue(&format!("{number}"), "1h").0).collect();
    issued.reverse();

    let (mut listed, mut next) = (Vec::new(), Some(format!("{TOKEN}?limit=2")));
    let mut pages = 0;
    while let Some(path) = next {
        let page = admin.get(&path).send();
        assert_eq!(page.status, 200, "{page:?}");
        listed.extend(members(&page.json()["jwt_tokens"]).into_iter().map(str::to_owned));
        let link = page.header("link");
        next = link.strip_prefix('<').map(|link| link.strip_suffix(">; rel=\"next\"").unwrap().to_owned());
        pages += 1;
    }
    assert_eq!((pages, listed), (3, issued.clone()));
    assert_eq!(admin.get(&format!("{TOKEN}?limit=5")).send().header("link"), "");
    let rest = admin.get(&format!("{TOKEN}?after={}", issued[2])).send();
    assert_eq!(members(&rest.json()["jwt_tokens"]), [&*issued[3], &*issued[4]]);

    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit="] {
        let detail = admin.get(&format!("{TOKEN}?{query}")).send().problem(400);
        assert_eq!(detail, "limit: must be a number from 1 to 1000.", "{query}");
    }
    for id in ["x", "b56929f3-54f1-4dc2-9984-9bba615e26e6"] {
        assert!(admin.get(&format!("{TOKEN}?after={id}")).send().problem(404).contains("first page"));
    }
}

#[rstest]
fn the_quota_counts_live_tokens_only(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start_with(backend, |command| {
        command.env("MAYFLY_TOKEN_QUOTA", "2");
    });
    let admin = service.admin();
    let request = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});
    admin.issue("short", "1s");
    let (long, _) = admin.issue("long", "1h");
    eventually("the short token has expired", || {
        (admin.get(TOKEN).send().json()["jwt_tokens"].as_object()?.len() == 1).then_some(())
    });
    admin.issue("another", "1h");
    assert!(admin.post(TOKEN, &request).send().problem(409).contains('2'));
    admin.delete(&format!("{TOKEN}/{long}")).send();
    assert_eq!(admin.post(TOKEN, &request).send().status, 201);
}

#[test]
fn invalid_lives_and_descriptions_are_rejected() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_TOKEN_MAX_LIFE", "30 days");
    });
    let admin = service.admin();
    let post = |description: &str, life: &str| {
        admin.post(TOKEN, &json!({"jwt_token_description": description, "jwt_token_life": life})).send()
    };
    for (life, seconds) in
        [("6 hours", 21600), ("6 Hours", 21600), ("1h 30m", 5400), ("30 days", 2_592_000), ("1week 2days", 777_600)]
    {
        assert_eq!(post("x", life).json()["jwt_token_life"], seconds, "{life}");
    }
    for life in [
        "1 6 hours",
        "18446744073709551615s 1000000000ns",
        "0s",
        "1ns",
        "-1h",
        "6",
        "",
        "1M",
        "31 days",
        &"1h".repeat(33),
    ] {
        assert!(post("x", life).problem(400).starts_with("jwt_token_life: "), "{life:?}");
    }
    assert_eq!(post("  Token specter ", "1h").json()["jwt_token_description"], "Token specter");
    for description in ["", "  ", "a\nb", &"x".repeat(257)] {
        assert!(post(description, "1h").problem(400).starts_with("jwt_token_description: "), "{description:?}");
    }
    assert_eq!(post(&"ü".repeat(256), "1h").status, 201);
}

#[rstest]
fn a_token_may_only_inspect_and_revoke_itself(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (id, jwt) = admin.issue("Token specter", "1h");
    let (other, _) = admin.issue("other", "1h");
    let bearer = service.client().with_bearer(&jwt);
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"});

    let own = bearer.get("/api/v1alpha/token/self").send();
    assert_eq!((own.status, own.json()["jwt_token_description"].as_str()), (200, Some("Token specter")));
    for refused in [
        bearer.post(TOKEN, &body),
        bearer.get(TOKEN),
        bearer.get(&format!("{TOKEN}/{id}")),
        bearer.delete(&format!("{TOKEN}/{other}")),
    ] {
        let answer = refused.send();
        answer.problem(403);
        assert!(answer.header("www-authenticate").contains("error=\"insufficient_scope\""), "{answer:?}");
    }
    admin.get("/api/v1alpha/token/self").send().problem(403);

    assert_eq!(bearer.delete("/api/v1alpha/token/self").send().text, r#"{"message":"Token deleted"}"#);
    bearer.get("/api/v1alpha/token/self").send().problem(401);
    bearer.delete("/api/v1alpha/token/self").send().problem(401);
    admin.get(&format!("{TOKEN}/{id}")).send().problem(404);
    assert_eq!(admin.get(&format!("{TOKEN}/{other}")).send().status, 200);
}

#[rstest]
fn a_user_may_delete_all_own_tokens(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let tokens: Vec<_> = (0..3).map(|_| admin.issue("x", "1h")).collect();
    let bearers: Vec<_> = tokens.iter().map(|(_, jwt)| service.client().with_bearer(jwt)).collect();
    for bearer in &bearers {
        assert_eq!(bearer.get("/api/v1alpha/verify").send().status, 200);
        bearer.delete(ALL).send().problem(403);
    }
    assert_eq!(admin.delete(ALL).send().text, r#"{"message":"Tokens deleted","jwt_tokens_deleted":3}"#);
    for bearer in &bearers {
        bearer.get("/api/v1alpha/verify").send().problem(401);
    }
    assert_eq!(admin.delete(ALL).send().json()["jwt_tokens_deleted"], 0);
    assert_eq!(admin.get(TOKEN).send().json()["message"], "No tokens exist");
}

/// Requests of a script in which the variable for a name is empty.
#[rstest]
fn an_empty_name_in_a_path_changes_nothing(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    // Names that are segments of other paths.
    for name in ["token", "password", "bob"] {
        admin.add_user(name, "user");
        service.client().with_basic(name, "secret").issue("x", "1h");
    }
    let (id, _) = admin.issue("x", "1h");
    let user = "/api/v1alpha/user";
    let own =
        ["", "/", "//", "?all", "?all=", "?all=false", "?all=1", "?all=TRUE", "/?all=false", "?all=false&all=true"];
    let own = own.map(|rest| format!("{TOKEN}{rest}"));
    let others = ["", "/", "//", "?all=", "?all=false"].map(|rest| format!("{user}/bob/token{rest}"));
    for path in own.into_iter().chain(others) {
        assert!(admin.delete(&path).send().problem(400).contains("?all=true"), "{path}");
    }
    for (method, path) in [
        ("DELETE", format!("{user}//token")),
        ("DELETE", format!("{user}//token?all=true")),
        ("DELETE", format!("{user}///token/")),
        ("DELETE", format!("{user}//token/{id}")),
        ("GET", format!("{user}//token")),
        ("PATCH", format!("{user}//token")),
        ("PUT", format!("{user}//password")),
        ("DELETE", format!("{user}/%20/token?all=true")),
        ("DELETE", format!("{user}/%2F/token?all=true")),
        ("DELETE", format!("{user}/bob%2Ftoken?all=true")),
        ("DELETE", format!("{TOKEN}/%20?all=true")),
        ("DELETE", format!("{TOKEN}/%2F?all=true")),
        ("DELETE", format!("{TOKEN}//self")),
        ("POST", format!("{TOKEN}//rotate")),
    ] {
        let answer = admin.request(method, &path).json(&json!({"disabled": true})).send();
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        answer.problem(404);
    }
    for path in [user.to_owned(), format!("{user}/"), format!("{user}//")] {
        admin.delete(&path).send().problem(405);
    }
    assert_eq!(admin.get(&format!("{TOKEN}/{id}")).send().status, 200);
    for name in ["token", "password", "bob"] {
        let list = service.client().with_basic(name, "secret").get(TOKEN).send();
        assert_eq!(list.json()["jwt_tokens"].as_object().unwrap().len(), 1, "{name}");
    }
    for path in [format!("{user}/bob/token?all=true"), format!("{user}/token/token/?all=true")] {
        assert_eq!(admin.delete(&path).send().json()["jwt_tokens_deleted"], 1, "{path}");
    }
    assert_eq!(admin.delete(&format!("{TOKEN}/?all=true")).send().json()["jwt_tokens_deleted"], 1);
}

#[test]
fn a_year_may_be_written_in_several_ways() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    let post = |life: &str| admin.post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": life})).send();
    for (life, seconds) in
        [("1 year", 31_557_600), ("1Y", 31_557_600), ("12 months", 31_557_600), ("365 days", 31_536_000)]
    {
        let answer = post(life);
        assert_eq!((answer.status, &answer.json()["jwt_token_life"]), (201, &json!(seconds)), "{life}");
    }
    for life in ["1 year 1s", "366 days", "13 months"] {
        assert_eq!(post(life).problem(400), "jwt_token_life: must be at most 1 year here.", "{life}");
    }
    assert!(post("1M").problem(400).contains("ambiguous"));
}

#[test]
fn a_byte_order_mark_and_a_content_encoding_are_named_in_the_error() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    let body = json!({"jwt_token_description": "x", "jwt_token_life": "1h"}).to_string();
    let post = |headers: &[(&str, &str)], body: &[u8]| {
        let draft = admin.request("POST", TOKEN).header("content-type", "application/json");
        headers.iter().fold(draft, |draft, (name, value)| draft.header(name, value)).body(body).send()
    };
    let utf16 = |order: fn(u16) -> [u8; 2]| {
        "\u{feff}".encode_utf16().chain(body.encode_utf16()).flat_map(order).collect::<Vec<u8>>()
    };
    for marked in [["\u{feff}".as_bytes(), body.as_bytes()].concat(), utf16(u16::to_be_bytes), utf16(u16::to_le_bytes)]
    {
        assert!(post(&[], &marked).problem(400).contains("byte order mark"));
    }
    let encoded = post(&[("content-encoding", "gzip")], body.as_bytes());
    assert!(encoded.problem(415).contains("Content-Encoding"));
    assert_eq!(encoded.header("accept-encoding"), "identity");
    assert_eq!(post(&[("content-encoding", "identity")], body.as_bytes()).status, 201);
    let form = admin.post_form("/oauth2/introspect", &[("token", "x")]).header("content-encoding", "br").send();
    assert!(form.problem(415).contains("Content-Encoding"));
}

#[rstest]
fn a_token_is_rotated_once(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let admin = service.admin();
    let verify = |jwt: &str| service.client().with_bearer(jwt).get("/api/v1alpha/verify").send();
    let (first, first_jwt) = admin.issue("Token specter", "6 hours");

    let answer = admin.post(&format!("{TOKEN}/{first}/rotate"), &json!({"overlap": "24 hours"})).send();
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["jwt_token_description"], &body["jwt_token_life"]), (&json!("Token specter"), &json!(21600)));
    let (second, second_jwt) = (body["jwt_token_id"].as_str().unwrap(), body["jwt_token"].as_str().unwrap());
    assert_eq!(answer.header("location"), format!("{TOKEN}/{second}"));
    assert_ne!(first, second);
    // The overlap does not extend the life of the rotated token.
    let left = admin.get(&format!("{TOKEN}/{first}")).send().json()["jwt_token_life_remaining"].as_f64().unwrap();
    assert!(left <= 21600.0, "{left}");
    assert_eq!((verify(&first_jwt).status, verify(second_jwt).status), (200, 200));
    let conflict = admin.post(&format!("{TOKEN}/{first}/rotate"), &json!({})).send().problem(409);
    assert!(conflict.contains(second), "{conflict}");

    let shortened = admin.post(&format!("{TOKEN}/{second}/rotate"), &json!({"overlap": "1 minute"})).send();
    assert_eq!(shortened.status, 201);
    let expires_in: u64 = verify(second_jwt).header("x-auth-expires-in").parse().unwrap();
    assert!(expires_in <= 60, "{expires_in}");
    let introspection = admin.post_form("/oauth2/introspect", &[("token", second_jwt)]).send().json();
    let (iat, exp) = (introspection["iat"].as_u64().unwrap(), introspection["exp"].as_u64().unwrap());
    assert!(exp - iat < 300, "{introspection}");
}

#[rstest]
fn without_an_overlap_the_rotated_token_is_revoked_at_once(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
) {
    let service = Service::start(backend);
    let admin = service.admin();
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    for (media_type, body) in [
        ("", ""),
        // `curl -d ''`, and clients that set the type of every request.
        (form, ""),
        (json, ""),
        (json, "{}"),
        (json, r#"{"overlap": null}"#),
        (json, r#"{"overlap": "0s"}"#),
    ] {
        let (id, jwt) = admin.issue("x", "1h");
        let bearer = service.client().with_bearer(&jwt);
        assert_eq!(bearer.get("/api/v1alpha/verify").send().status, 200);
        let rotate = admin.request("POST", &format!("{TOKEN}/{id}/rotate"));
        let rotate = if media_type.is_empty() { rotate } else { rotate.header("content-type", media_type) };
        let answer = rotate.body(body).send();
        assert_eq!(answer.status, 201, "{media_type} {body:?}: {answer:?}");
        bearer.get("/api/v1alpha/verify").send().problem(401);
        admin.post(&format!("{TOKEN}/{id}/rotate"), &json!({})).send().problem(404);
        let successor = answer.json()["jwt_token"].as_str().unwrap().to_owned();
        assert_eq!(service.client().with_bearer(&successor).get("/api/v1alpha/verify").send().status, 200);
    }
}

#[test]
fn invalid_rotations_are_rejected() {
    let service = Service::start(Backend::Memory);
    let admin = service.admin();
    let (id, jwt) = admin.issue("x", "1h");
    let path = format!("{TOKEN}/{id}/rotate");
    for overlap in ["-1h", "1M", "1 6 hours", "", "forever", "300ms", "1s 1ns"] {
        assert!(admin.post(&path, &json!({"overlap": overlap})).send().problem(400).contains("overlap"), "{overlap:?}");
    }
    admin.post(&path, &json!({"overlap": 5})).send().problem(400);
    admin.post(&path, &json!({"over": "5"})).send().problem(400);
    admin.request("POST", &path).body("{}").send().problem(415);
    admin.request("POST", &path).header("content-type", "text/plain").body("{}").send().problem(415);
    for missing in ["x", "b56929f3-54f1-4dc2-9984-9bba615e26e6"] {
        admin.post(&format!("{TOKEN}/{missing}/rotate"), &json!({})).send().problem(404);
    }
    service.client().with_bearer(&jwt).post(&path, &json!({})).send().problem(403);
    service.client().post(&path, &json!({})).send().problem(401);
}
