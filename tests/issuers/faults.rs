//! Issuers that are away, slow or broken.

use std::time::{Duration, Instant};

use super::{Trusting, issuer, with};
use crate::support::{
    Backend, eventually,
    issuer::{DISCOVERY, IssuerKey, JWKS, Reply},
};

/// Longer than a login takes here, and shorter than a wait for an issuer.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn an_issuer_that_is_away_is_a_503_for_its_own_logins_and_delays_no_other() {
    let ((away, away_key), (slow, slow_key), (good, good_key)) = (issuer(), issuer(), issuer());
    away.answer(DISCOVERY, Reply { status: "502 Bad Gateway", ..Reply::bytes("") });
    slow.answer(JWKS, Reply::keys(&[&slow_key]).after(Duration::from_secs(30)));
    let entries = [&away, &slow, &good].map(|issuer| issuer.entry("user = \"{sub}\""));
    let trusting = Trusting::start(Backend::Memory, &entries.concat());
    let (away_jwt, slow_jwt) = (away_key.sign(&away.claims()), slow_key.sign(&slow.claims()));
    let good_jwt = good_key.sign(&with(&good.claims(), "sub", "good"));
    trusting.wait_for_keys(&good_jwt);

    let answer = trusting.list(&away_jwt);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
    let exchanged = trusting.exchange(&away_jwt, &[]);
    assert_eq!((exchanged.status, &exchanged.json()["error"]), (503, &"temporarily_unavailable".into()));
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let waiting = scope.spawn(|| trusting.list(&slow_jwt));
        while !waiting.is_finished() {
            let asked = Instant::now();
            assert_eq!(trusting.list(&good_jwt).status, 200);
            assert_eq!(trusting.list(&away_jwt).status, 503);
            assert_eq!(trusting.service.admin().get("/api/v1alpha/token").send().status, 200);
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        }
        assert_eq!(waiting.join().unwrap().status, 503);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
    assert_eq!(trusting.service.client().get("/readyz").send().status, 200);
    let line = trusting.log.wait_for("ERROR", "cannot get the keys of an issuer");
    assert_eq!(line["kept"], false, "{line}");

    let keys = format!("{{\"issuer\":\"{0}\",\"jwks_uri\":\"{0}{JWKS}\"}}", away.url);
    away.answer(DISCOVERY, Reply::bytes(keys));
    eventually("it is back", || (trusting.list(&away_jwt).status == 200).then_some(()));
}

#[test]
fn a_new_key_logs_in_and_the_keys_are_kept_while_the_issuer_is_away() {
    let (issuer, old) = issuer();
    let trusting = Trusting::start(Backend::Memory, &issuer.entry("user = \"{sub}\""));
    trusting.wait_for_keys(&old.sign(&issuer.claims()));
    let new = IssuerKey::new("b", "EdDSA");
    issuer.answer(JWKS, Reply::keys(&[&new]));
    let new_jwt = new.sign(&issuer.claims());
    eventually("the new key is fetched", || (trusting.list(&new_jwt).status == 200).then_some(()));
    // Checked before, by a key that the issuer has withdrawn.
    assert_eq!(trusting.list(&old.sign(&issuer.claims())).status, 401);
    // All that an issuer can do wrong leaves its keys in force.
    let begun = issuer.requests(JWKS).len();
    issuer.answer(JWKS, Reply::bytes("garbage"));
    let unknown = IssuerKey::new("c", "ES256").sign(&issuer.claims());
    eventually("it was asked again", || {
        assert_eq!(trusting.list(&unknown).status, 401);
        (issuer.requests(JWKS).len() > begun).then_some(())
    });
    let line = trusting.log.wait_for("ERROR", "cannot get the keys of an issuer");
    assert_eq!(line["kept"], true, "{line}");
    assert_eq!(trusting.list(&new_jwt).status, 200);
    assert_eq!(trusting.list(&new.sign(&with(&issuer.claims(), "sub", "b"))).status, 200);
}
