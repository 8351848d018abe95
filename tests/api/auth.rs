//! Authentication by password and by token.

use base64::{Engine, prelude::BASE64_STANDARD};
use rstest::rstest;

use crate::support::{ADMIN_PASSWORD, Answer, Backend, Client, Service, eventually};

const TOKEN: &str = "/api/v1alpha/token";
const SELF: &str = "/api/v1alpha/token/self";

fn challenges(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect()
}

#[rstest]
fn a_failed_login_does_not_say_why(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let details: Vec<_> = [("admin", "wrong"), ("nobody", ADMIN_PASSWORD), ("", ""), ("ad{min", "x"), ("admin", "")]
        .into_iter()
        .map(|(name, password)| {
            let answer = service.client().with_basic(name, password).get(TOKEN).send();
            assert_eq!(
                challenges(&answer),
                [r#"Basic realm="mayfly", charset="UTF-8""#, r#"Bearer realm="mayfly""#],
                "{name}:{password}"
            );
            answer.problem(401)
        })
        .collect();
    assert!(details.iter().all(|detail| *detail == details[0]), "{details:?}");
}

#[test]
fn the_authorization_header_follows_its_rfcs() {
    let service = Service::start(Backend::Memory);
    let status = |value: &str| service.client().get(TOKEN).header("authorization", value).send().status;
    let good = BASE64_STANDARD.encode(format!("admin:{ADMIN_PASSWORD}"));
    assert_eq!(status(&format!("Basic {good}")), 200);
    assert_eq!(status(&format!("bAsIc {good}")), 200);
    for bad in [
        "Basic",
        "Basic ",
        "Bearer",
        "Basic ???",
        &format!("Basic {}", BASE64_STANDARD.encode("admin")),
        &format!("Basic {}", BASE64_STANDARD.encode(b"admin:\xff")),
        &format!("Digest {good}"),
        &format!("Basic {good} x"),
        &good,
    ] {
        assert_eq!(status(bad), 401, "{bad:?}");
    }
}

#[test]
fn a_password_may_contain_colons_and_umlauts() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_ADMIN_PASSWORD", "pä:ss:wörd");
    });
    assert_eq!(service.client().with_basic("admin", "pä:ss:wörd").get(TOKEN).send().status, 200);
}

#[test]
fn a_password_beside_a_token_is_a_bad_request() {
    let service = Service::start(Backend::Memory);
    let (_, jwt) = service.admin().issue("x", "1h");
    for path in [TOKEN, SELF] {
        let answer = service.admin().get(path).header("authorization", &format!("Bearer {jwt}")).send();
        assert!(answer.problem(400).contains("Authorization"), "{path}");
    }
}

#[rstest]
fn an_invalid_token_is_a_401_with_that_error(#[values(Backend::Memory, Backend::Redis)] backend: Backend) {
    let service = Service::start(backend);
    let (_, jwt) = service.admin().issue("x", "1h");
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{message}.{other}{}", &signature[1..]);
    for bad in ["x", "a.b.c", &format!("{message}."), &forged, &"x".repeat(5000)] {
        for path in [TOKEN, SELF] {
            let answer = service.client().with_bearer(bad).get(path).send();
            answer.problem(401);
            assert!(challenges(&answer)[1].contains(r#"error="invalid_token""#), "{bad:?}: {answer:?}");
        }
    }
    assert_eq!(service.client().with_bearer(&jwt).get(SELF).send().status, 200);
}

/// Asserts that each operation that reads a token rejects this one, and says `why`.
#[track_caller]
fn rejected_everywhere(service: &Service, jwt: &str, why: &str) {
    let (client, form): (Client, _) = (service.client().with_bearer(jwt), [("token", jwt)]);
    for request in [
        client.get("/api/v1alpha/verify"),
        service.client().with_basic("any", jwt).get("/api/v1alpha/verify"),
        client.get(SELF),
        client.delete(SELF),
        client.get(TOKEN),
        client.get("/api/v1alpha/user"),
        client.post_form("/oauth2/introspect", &form),
    ] {
        let answer = request.send();
        assert_eq!(answer.problem(401), format!("{why}."));
        let challenge = format!(r#"Bearer realm="mayfly", error="invalid_token", error_description="{why}""#);
        assert_eq!(challenges(&answer).last(), Some(&&*challenge), "{answer:?}");
    }
    let introspected = service.admin().post_form("/oauth2/introspect", &form).send();
    assert_eq!(introspected.text, r#"{"active":false}"#);
}

#[rstest]
fn a_rejection_says_that_a_token_has_expired_only_if_its_signature_is_valid(
    #[values(Backend::Memory, Backend::Redis)] backend: Backend,
    #[values("0", "250ms")] lease: &str,
) {
    const EXPIRED: &str = "The token has expired";
    const INVALID: &str = "The token is not valid";
    let service = Service::start_with(backend, |command| {
        command.env("MAYFLY_LEASE", lease);
    });
    let admin = service.admin();
    let (id, expired) = admin.issue("short", "1s");
    // Asked at once when the key is gone: in the second `exp`, too, the answer is "expired".
    eventually("the token is gone", || (admin.get(&format!("{TOKEN}/{id}")).send().status == 404).then_some(()));
    rejected_everywhere(&service, &expired, EXPIRED);

    let (id, revoked) = admin.issue("x", "1h");
    assert_eq!(service.client().with_bearer(&revoked).get(SELF).send().status, 200);
    assert_eq!(admin.delete(&format!("{TOKEN}/{id}")).send().status, 200);
    rejected_everywhere(&service, &revoked, INVALID);

    let (message, signature) = expired.rsplit_once('.').unwrap();
    for bad in [
        "x.y.z",
        &format!("{message}."),
        &format!("{message}.{}", "A".repeat(signature.len())),
        &format!("{message}.{}", revoked.rsplit_once('.').unwrap().1),
    ] {
        rejected_everywhere(&service, bad, INVALID);
    }
    // Other keys do not know the token, so they do not say that it has expired.
    let stranger = Service::start(Backend::Memory);
    rejected_everywhere(&stranger, &expired, INVALID);
}

#[test]
fn users_see_only_their_own_tokens() {
    let service = Service::start(Backend::Redis);
    service.add_user("bob", "user");
    let bob = service.client().with_basic("bob", "secret");
    let (id, _) = service.admin().issue("the admin's", "1h");
    let path = format!("{TOKEN}/{id}");
    bob.get(&path).send().problem(404);
    bob.delete(&path).send().problem(404);
    assert_eq!(bob.get(TOKEN).send().json()["message"], "No tokens exist");
    bob.get(&format!("{TOKEN}?after={id}")).send().problem(404);
    assert_eq!(service.admin().get(&path).send().status, 200);
}
