//! Issuers that are away, slow or broken.

use std::time::{Duration, Instant};

use super::{Trusting, issuer, with};
use crate::support::{
    Backend, Client, eventually,
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

#[test]
fn keys_are_fetched_before_they_are_needed_and_a_slow_issuer_delays_no_other() {
    let (good, key) = issuer();
    let slow: Vec<_> = (0..8).map(|_| issuer().0).collect();
    for issuer in &slow {
        issuer.answer(DISCOVERY, Reply::bytes("").after(Duration::from_mins(1)));
    }
    let entries: Vec<_> = slow.iter().chain([&good]).map(|issuer| issuer.entry("user = \"ci\"")).collect();
    let trusting = Trusting::start(Backend::Memory, &entries.concat());
    // Nobody has logged in yet.
    eventually("all keys are asked for", || {
        let all_asked = slow.iter().all(|issuer| !issuer.requests(DISCOVERY).is_empty());
        (all_asked && !good.requests(JWKS).is_empty()).then_some(())
    });
    let asked: Vec<_> = slow.iter().chain([&good]).map(|issuer| issuer.requests(DISCOVERY)[0]).collect();
    // A fetch gives up after 5 s: had one waited for another, it would have begun later.
    let between = *asked.iter().max().unwrap() - *asked.iter().min().unwrap();
    assert!(between < Duration::from_secs(5), "{between:?}");
    assert_eq!(trusting.list(&key.sign(&good.claims())).status, 200);
    assert_eq!(good.requests(JWKS).len(), 1);
}

#[test]
fn an_error_is_logged_when_it_changes() {
    let (issuer, key) = issuer();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    let write = |text: &str| {
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    let keys = serde_json::json!({"keys": [key.jwk()]}).to_string();
    write(&keys);
    let entry = issuer.entry(&format!("user = \"ci\"\njwks_file = \"{}\"", file.display()));
    let trusting = Trusting::start(Backend::Memory, &entry);
    let failures = |number: u32| {
        let series = format!("mayfly_issuer_key_fetches_total{{issuer=\"{}\",result=\"failed\"}} {number}", issuer.url);
        let page = || Client::new(&trusting.service.metrics_url).get("").send().text;
        eventually("the file is read", || page().contains(&series).then_some(()));
    };
    for (number, text) in [(1, "garbage"), (2, "more garbage")] {
        write(text);
        failures(number);
    }
    write(&keys);
    trusting.log.wait_for("INFO", "an issuer answers again");
    assert_eq!(trusting.log.count("cannot get the keys of an issuer"), 1);
}
