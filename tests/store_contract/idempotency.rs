//! Idempotency-Keys: the first request with a key creates a token, each repetition finds it.

use mayfly::{
    domain::idempotency::{IdempotencyKey, Issuance, MAX_KEYS, RequestFingerprint},
    store::Repetition,
};

use super::*;

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

fn issuance(token: &Token) -> Issuance {
    Issuance {
        token_id: token.id,
        issued_at: 1_662_720_135,
        kid: "a \"kid\" 🜁".to_owned(),
        request: RequestFingerprint::of(&("issue", token.description.as_str())),
    }
}

/// The result for a key whose first request created this token, which is still live or not.
fn repetition(token: &Token, is_live: bool) -> Repetition {
    Repetition { issuance: issuance(token), token: is_live.then(|| token.clone()) }
}

impl Fixture {
    async fn create(&self, owner: &UserName, key: &IdempotencyKey, token: &Token) -> Creation {
        let new = NewToken { idempotency: Some((key, &issuance(token))), ..new_token(owner, epoch(), token) };
        self.store.create_token(new).await.unwrap()
    }

    async fn rotate(&self, owner: &UserName, key: &IdempotencyKey, old: &Token, new: &Token) -> Rotation {
        let new = NewToken { idempotency: Some((key, &issuance(new))), ..new_token(owner, epoch(), new) };
        self.store.rotate_token(old, Duration::ZERO, new).await.unwrap()
    }

    async fn find(&self, owner: &UserName, key: &IdempotencyKey) -> Option<Repetition> {
        self.store.find_repetition(owner, epoch(), key).await.unwrap()
    }
}

#[rstest]
#[tokio::test]
async fn a_repetition_creates_no_second_token(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    fixture.store.create_user(&operator(), &user("bob")).await.unwrap();
    let bob = "bob".parse().unwrap();
    let (first, other, unwanted) = (token(3600), token(3600), token(3600));
    let (key, unused) = (key("key"), key("KEY"));

    assert_eq!(fixture.find(&alice, &key).await, None);
    assert_eq!(fixture.create(&alice, &key, &first).await, Creation::Created);
    let repeated = repetition(&first, true);
    assert_eq!(fixture.create(&alice, &key, &unwanted).await, Creation::Repeated(repeated.clone()));
    assert_eq!(fixture.rotate(&alice, &key, &first, &unwanted).await, Rotation::Repeated(repeated.clone()));
    assert_eq!(fixture.find(&alice, &key).await, Some(repeated.clone()));
    assert_eq!(fixture.find(&alice, &unused).await, None);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [first.id]);

    assert_eq!(fixture.find(&bob, &key).await, None, "keys are a user's own");
    assert_eq!(fixture.create(&bob, &key, &other).await, Creation::Created);
    assert_eq!(fixture.find(&alice, &key).await, Some(repeated));

    assert!(fixture.store.revoke_token(&operator(), &alice, first.id).await.unwrap());
    let gone = repetition(&first, false);
    assert_eq!(fixture.create(&alice, &key, &unwanted).await, Creation::Repeated(gone.clone()));
    assert_eq!(fixture.find(&alice, &key).await, Some(gone));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), []);
}

#[rstest]
#[tokio::test]
async fn a_repetition_at_the_quota_finds_its_token(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let first = token(3600);
    assert_eq!(fixture.create(&alice, &key("0"), &first).await, Creation::Created);
    for number in 1..QUOTA {
        assert_eq!(fixture.create(&alice, &key(&number.to_string()), &token(3600)).await, Creation::Created);
    }
    assert_eq!(fixture.create(&alice, &key("x"), &token(3600)).await, Creation::QuotaReached);
    assert_eq!(fixture.find(&alice, &key("x")).await, None, "a key without a token is unused");
    assert_eq!(fixture.create(&alice, &key("0"), &token(3600)).await, Creation::Repeated(repetition(&first, true)));
}

#[rstest]
#[tokio::test]
async fn a_repeated_rotation_finds_the_successor(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (first, second, third, unwanted) = (token(3600), token(3600), token(3600), token(3600));
    fixture.store.create_token(new_token(&alice, epoch(), &first)).await.unwrap();
    assert_eq!(fixture.rotate(&alice, &key("a"), &first, &second).await, Rotation::Rotated);
    let repeated = repetition(&second, true);
    assert_eq!(fixture.rotate(&alice, &key("a"), &first, &unwanted).await, Rotation::Repeated(repeated.clone()));
    assert_eq!(fixture.find(&alice, &key("a")).await, Some(repeated));
    assert_eq!(fixture.rotate(&alice, &key("b"), &first, &unwanted).await, Rotation::NoSuchToken);
    assert_eq!(fixture.find(&alice, &key("b")).await, None, "a key without a token is unused");

    assert_eq!(fixture.rotate(&alice, &key("c"), &second, &third).await, Rotation::Rotated);
    assert_eq!(fixture.find(&alice, &key("a")).await, Some(repetition(&second, false)));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [third.id]);
}

#[rstest]
#[tokio::test]
async fn twenty_requests_with_one_key_create_one_token(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let requests = (0..20).map(|_| {
        let (store, alice) = (Arc::clone(&fixture.store), alice.clone());
        tokio::spawn(async move {
            let (key, token) = (key("key"), token(3600));
            let idempotency = Some((&key, &issuance(&token)));
            let created = store.create_token(NewToken { idempotency, ..new_token(&alice, epoch(), &token) }).await;
            match created.unwrap() {
                Creation::Created => token.id,
                Creation::Repeated(Repetition { token: Some(token), .. }) => token.id,
                other => panic!("{other:?}"),
            }
        })
    });
    let mut found = HashSet::new();
    for request in requests.collect::<Vec<_>>() {
        found.insert(request.await.unwrap());
    }
    let ids = fixture.ids(&alice, PageRequest::ALL).await.unwrap();
    assert_eq!((ids.len(), HashSet::from_iter(ids)), (1, found));
}

#[rstest]
#[tokio::test]
async fn a_key_is_unused_again_after_the_life_of_its_token(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let first = token(1);
    assert_eq!(fixture.create(&alice, &key("key"), &first).await, Creation::Created);
    let expired = async {
        while fixture.find(&alice, &key("key")).await.is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), expired).await.expect("the key expires");
    assert_eq!(fixture.store.find_token(&alice, first.id).await.unwrap(), None, "the key never expires first");
    assert_eq!(fixture.create(&alice, &key("key"), &token(3600)).await, Creation::Created);
}

#[rstest]
#[tokio::test]
async fn a_key_outlives_a_change_of_password_and_no_removal(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (first, unwanted) = (token(3600), token(3600));
    assert_eq!(fixture.create(&alice, &key("key"), &first).await, Creation::Created);
    let hash = PasswordHash::dummy(HashCost::default());
    fixture.store.set_password(&operator(), &alice, &hash, false).await.unwrap();

    let new = NewToken { idempotency: Some((&key("key"), &issuance(&unwanted))), ..new_token(&alice, epoch(), &first) };
    assert!(matches!(fixture.store.create_token(new).await, Err(StoreError::LoginEnded)));
    let found = fixture.store.find_repetition(&alice, epoch(), &key("key")).await;
    assert!(matches!(found, Err(StoreError::LoginEnded)), "{found:?}");
    let login = fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    let found = fixture.store.find_repetition(&alice, login, &key("key")).await.unwrap();
    assert_eq!(found, Some(repetition(&first, true)));
    let new = NewToken { login, ..new };
    assert_eq!(fixture.store.create_token(new).await.unwrap(), Creation::Repeated(repetition(&first, true)));

    assert_eq!(fixture.store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(1));
    fixture.store.create_user(&operator(), &user("alice")).await.unwrap();
    assert_eq!(fixture.find(&alice, &key("key")).await, None, "another user, of the same name");
    assert_eq!(fixture.create(&alice, &key("key"), &unwanted).await, Creation::Created);
}

#[rstest]
#[tokio::test]
async fn a_user_has_a_limited_number_of_keys(#[values(Kind::Memory, Kind::Redis)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let create = async |number: usize, token: &Token| {
        let (key, issuance) = (key(&number.to_string()), issuance(token));
        let idempotency = Some((&key, &issuance));
        let new = NewToken { idempotency, quota: usize::MAX, ..new_token(&alice, epoch(), token) };
        fixture.store.create_token(new).await.unwrap()
    };
    let long = token(3600);
    assert_eq!(create(0, &long).await, Creation::Created);
    for number in 1..MAX_KEYS {
        let token = token(3600);
        assert_eq!(create(number, &token).await, Creation::Created);
    }
    assert_eq!(create(MAX_KEYS, &token(3600)).await, Creation::TooManyKeys);
    let rotation = fixture.rotate(&alice, &key("x"), &long, &token(3600)).await;
    assert_eq!(rotation, Rotation::TooManyKeys);
    assert_eq!(create(0, &token(3600)).await, Creation::Repeated(repetition(&long, true)));
    let keyless = token(3600);
    let without = NewToken { quota: usize::MAX, ..new_token(&alice, epoch(), &keyless) };
    assert_eq!(fixture.store.create_token(without).await.unwrap(), Creation::Created);
}

#[rstest]
#[tokio::test]
async fn an_expired_key_counts_no_longer(#[values(Kind::Memory, Kind::Redis)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    for number in 0..MAX_KEYS {
        let token = token(if number == 0 { 1 } else { 3600 });
        let (key, issuance) = (key(&number.to_string()), issuance(&token));
        let new = NewToken { idempotency: Some((&key, &issuance)), ..new_token(&alice, epoch(), &token) };
        let new = NewToken { quota: usize::MAX, ..new };
        assert_eq!(fixture.store.create_token(new).await.unwrap(), Creation::Created);
    }
    let (another, token) = (key("another"), token(3600));
    let issuance = issuance(&token);
    let new = NewToken { idempotency: Some((&another, &issuance)), ..new_token(&alice, epoch(), &token) };
    let expired = async {
        while fixture.store.create_token(NewToken { quota: usize::MAX, ..new }).await.unwrap() != Creation::Created {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), expired).await.expect("an expired key does not count");
}

#[tokio::test]
async fn redis_keeps_a_key_for_a_day_at_most_and_no_secret() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    for (text, life, retention) in [("short-key", 60, 60), ("long-key", 100_000, 86_400)] {
        let (key, token) = (key(text), token(life));
        let new = NewToken { idempotency: Some((&key, &issuance(&token))), ..new_token(&alice, epoch(), &token) };
        assert_eq!(store.create_token(new).await.unwrap(), Creation::Created);
        let ttl = |key: &str| redis.cli(&["TTL", key]).parse::<u64>().unwrap();
        let name = format!("mayfly:unwatched:{{alice}}:idempotency:{}", key.digest());
        assert!((retention - 30..=retention).contains(&ttl(&name)), "{}", ttl(&name));
        assert!((86_370..=86_400).contains(&ttl("mayfly:unwatched:{alice}:idempotencies")));
        let record = redis.cli(&["GET", &name]);
        assert!(!record.contains(text) && record.len() < 200, "{record}");
    }
    assert!(!redis.cli(&["KEYS", "*"]).contains("-key"), "only a digest of the key is stored");
    store.remove_user(&operator(), &alice).await.unwrap();
    assert!(!redis.cli(&["KEYS", "*"]).contains("idempotenc"));
}
