//! Watches for changes.

use mayfly::domain::idempotency::{Issuance, RequestFingerprint};

use super::*;

#[rstest]
#[tokio::test]
async fn a_watch_reports_what_changed(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (bob, carol): (UserName, UserName) = ("bob".parse().unwrap(), "carol".parse().unwrap());
    for name in [&bob, &carol] {
        fixture.store.create_user(&operator(), &user(name.as_str())).await.unwrap();
    }
    let (left, revoked, rotated, brief) = (token(3600), token(3600), token(3600), token(1));
    let tokens = [&left, &revoked, &rotated, &brief];
    for token in tokens {
        fixture.store.create_token(new_token(&alice, epoch(), token)).await.unwrap();
    }
    let mut watch = fixture.store.watch().await.unwrap().unwrap();
    assert_eq!(watch.changes().await.unwrap(), Changes::default());

    for token in tokens {
        fixture.store.find_token(&alice, token.id).await.unwrap();
    }
    fixture.store.find_user(&alice).await.unwrap();
    assert_eq!(watch.changes().await.unwrap(), Changes::default(), "reads change nothing");

    let successor = token(3600);
    fixture.store.revoke_token(&operator(), &alice, revoked.id).await.unwrap();
    fixture.store.rotate_token(&rotated, Duration::from_mins(1), new_token(&alice, epoch(), &successor)).await.unwrap();
    fixture.store.update_user(&operator(), &bob, DISABLE).await.unwrap();
    fixture.store.remove_user(&operator(), &carol).await.unwrap();
    let (keyed, key) = (token(3600), "key".parse().unwrap());
    let request = RequestFingerprint::of(&"issue");
    let issuance = Issuance { token_id: keyed.id, issued_at: 0, kid: String::new(), request };
    let idempotency = Some((&key, &issuance));
    fixture.store.create_token(NewToken { idempotency, ..new_token(&alice, epoch(), &keyed) }).await.unwrap();
    let mut told = watch.changes().await.unwrap();
    for new in [&successor, &keyed] {
        assert!(told.tokens.remove(&new.id), "it is new");
    }
    let tokens = HashSet::from([revoked.id, rotated.id]);
    assert_eq!(told, Changes { everything: false, tokens, users: HashSet::from([bob, carol]) });

    if matches!(kind, Kind::Memory) {
        // In memory, tokens that expire are not reported.
        return;
    }
    let mut dead = HashSet::new();
    let dying = async {
        while !dead.contains(&brief.id) {
            dead.extend(watch.changes().await.unwrap().tokens);
        }
    };
    timeout(Duration::from_mins(1), dying).await.unwrap();
    assert_eq!(dead, HashSet::from([brief.id]));
    assert!(fixture.store.find_token(&alice, left.id).await.unwrap().is_some());
}

/// Otherwise a replica would renew a lease on a token that was taken away, and accept it for minutes.
#[rstest]
#[tokio::test]
async fn a_watch_names_each_token_whatever_takes_it_away(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (store, by) = (&fixture.store, operator());
    let hash = user("alice").password_hash().unwrap().clone();
    for way in 0..8 {
        if way == 6 {
            store.update_user(&by, &alice, UserUpdate { role: None, disabled: Some(false) }).await.unwrap();
        }
        let login = store.find_user(&alice).await.unwrap().unwrap().login_epoch;
        let taken = token(3600);
        store.create_token(new_token(&alice, login, &taken)).await.unwrap();
        let mut watch = store.watch().await.unwrap().unwrap();
        match way {
            0 => drop(store.revoke_token(&by, &alice, taken.id).await.unwrap()),
            1 => drop(store.revoke_presented(&alice, taken.id, taken.digest, true).await.unwrap()),
            2 => drop(store.revoke_listed(&by, &alice, &HashSet::from([taken.id])).await.unwrap()),
            3 => drop(store.revoke_tokens(&by, &alice).await.unwrap()),
            4 => {
                let successor = token(3600);
                store.rotate_token(&taken, Duration::ZERO, new_token(&alice, login, &successor)).await.unwrap();
            }
            5 => drop(store.update_user(&by, &alice, DISABLE).await.unwrap()),
            6 => drop(store.set_password(&by, &alice, &hash, true).await.unwrap()),
            _ => drop(store.remove_user(&by, &alice).await.unwrap()),
        }
        assert_eq!(store.find_token(&alice, taken.id).await.unwrap(), None, "way {way} takes nothing away");
        assert!(watch.changes().await.unwrap().tokens.contains(&taken.id), "way {way} is not told");
    }
}

/// A change before the call is in its answer, even if the change itself was not answered by then: otherwise a replica
/// would renew a lease on a revoked token.
#[rstest]
#[case::redis(RedisServer::start())]
#[case::valkey_with_threads(RedisServer::start_version(Version::Valkey9_1, &["--io-threads", "4"]))]
#[tokio::test]
async fn a_watch_reports_each_change_made_before_the_call(#[case] server: RedisServer) {
    let connect = || Arc::new(RedisStore::new(&patient_options(&server.url())).unwrap());
    let (asking, other, alice) = (connect(), connect(), "alice".parse().unwrap());
    asking.create_user(&operator(), &user("alice")).await.unwrap();
    let mut watch = asking.watch().await.unwrap().unwrap();
    for _ in 0..50 {
        let token = token(3600);
        other.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
        assert!(watch.changes().await.unwrap().tokens.contains(&token.id));
        // So that Redis runs what both stores send now at once.
        server.cli(&["CLIENT", "PAUSE", "20", "WRITE"]);
        let by = operator();
        let revoking = other.revoke_token(&by, &alice, token.id);
        let mut told = false;
        let finding = async {
            loop {
                // Sent in this order, on one connection.
                let (found, changes) = tokio::join!(asking.find_token(&alice, token.id), watch.changes());
                told |= changes.unwrap().tokens.contains(&token.id);
                if found.unwrap().is_none() {
                    break;
                }
            }
        };
        assert!(tokio::join!(revoking, finding).0.unwrap());
        assert!(told);
    }
}

#[tokio::test]
async fn a_watch_ends_when_redis_rejects_it_and_can_begin_again() {
    let server = RedisServer::start();
    let store = RedisStore::new(&patient_options(&server.url())).unwrap();
    let mut watch = store.watch().await.unwrap().unwrap();
    assert_eq!(watch.changes().await.unwrap(), Changes::default());
    // As if the primary were cut off.
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert!(watch.changes().await.is_err());
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let mut watch = store.watch().await.unwrap().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    assert_eq!(watch.changes().await.unwrap().users, HashSet::from(["alice".parse().unwrap()]));
}
