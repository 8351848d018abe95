//! Users without a password: created with their first token, and never given a password.

use futures_util::future::join_all;

use super::*;

fn issuer(text: &str) -> Origin {
    Origin::Issuer(text.parse().unwrap())
}

/// A user whom the issuer `https://idp.example` logs in.
fn external(name: &str) -> User {
    User { credential: issuer("https://idp.example").into(), ..user(name) }
}

/// The request for the first token of this user.
fn first<'a>(owner: &'a User, token: &'a Token) -> NewToken<'a> {
    new_token(&owner.name, owner.login_epoch, token)
}

#[rstest]
#[tokio::test]
async fn the_first_token_creates_its_owner(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let store = &fixture.store;
    for (alice, token) in
        [(external("alice"), token(3600)), (User { credential: Origin::Proxy.into(), ..admin("bob") }, token(60))]
    {
        let created = store.create_first_token(&alice, first(&alice, &token)).await.unwrap();
        assert_eq!(created, Some(Creation::Created));
        let found = store.find_user(&alice.name).await.unwrap().unwrap();
        assert_eq!((&found.name, found.role, found.created_at), (&alice.name, alice.role, alice.created_at));
        assert_eq!((found.disabled, found.login_epoch), (false, alice.login_epoch));
        assert_eq!(found.origin(), alice.origin());
        assert!(found.password_hash().is_none());
        assert_eq!(store.find_token(&alice.name, token.id).await.unwrap().unwrap().token, token);
        assert_eq!(fixture.ids(&alice.name, PageRequest::ALL).await, Some(vec![token.id]));
    }
    let listed = store.list_users(None, 10).await.unwrap().items;
    let origins: Vec<_> = listed.iter().map(|user| format!("{} {}", user.name, user.credential)).collect();
    assert_eq!(origins, ["alice issuer:https://idp.example", "bob proxy"]);

    // The user is one like any other: the last administrator stays, and disabling revokes the tokens.
    let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<UserName>().unwrap());
    assert!(matches!(store.update_user(&operator(), &bob, DEMOTE).await.unwrap(), UserChange::LastAdmin));
    assert!(matches!(
        store.update_user(&operator(), &alice, DISABLE).await.unwrap(),
        UserChange::Done(UpdatedUser { tokens_revoked: 1, .. })
    ));
    let next = store.create_token(new_token(&alice, epoch(), &token(60))).await;
    assert!(matches!(next, Err(StoreError::LoginEnded)), "{next:?}");
    assert_eq!(store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(0));
    assert_eq!(
        store.create_first_token(&external("alice"), first(&external("alice"), &token(60))).await.unwrap(),
        Some(Creation::Created)
    );
}

#[rstest]
#[tokio::test]
async fn a_first_token_changes_nothing_if_there_is_such_a_user(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let store = &fixture.store;
    let existing = [
        user("alice"),
        User { disabled: true, ..external("alice") },
        external("alice"),
        User { credential: issuer("https://idp.example/").into(), ..user("alice") },
        User { credential: Origin::Proxy.into(), ..user("alice") },
    ];
    for existing in existing {
        store.create_user(&operator(), &admin("admin")).await.unwrap();
        assert!(store.create_user(&operator(), &existing).await.unwrap());
        let before = format!("{:?}", store.find_user(&existing.name).await.unwrap());
        let usurper = User { role: Role::Admin, login_epoch: LoginEpoch::begin(), ..external("alice") };
        let token = token(3600);
        assert_eq!(store.create_first_token(&usurper, first(&usurper, &token)).await.unwrap(), None);
        assert_eq!(format!("{:?}", store.find_user(&existing.name).await.unwrap()), before);
        assert_eq!(store.find_token(&existing.name, token.id).await.unwrap(), None);
        assert_eq!(fixture.ids(&existing.name, PageRequest::ALL).await, Some(vec![]));
        // Nor does the name count as that of an administrator.
        let admin = "admin".parse().unwrap();
        assert_eq!(store.remove_user(&operator(), &admin).await.unwrap(), UserChange::LastAdmin);
        store.remove_user(&operator(), &existing.name).await.unwrap();
    }
}

#[rstest]
#[tokio::test]
async fn of_many_first_tokens_at_once_one_creates_the_user(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let tokens: Vec<_> = (0..QUOTA).map(|_| token(3600)).collect();
    let logins: Vec<_> =
        tokens.iter().map(|_| User { login_epoch: LoginEpoch::begin(), ..external("alice") }).collect();
    let requests = logins.iter().zip(&tokens);
    let created =
        join_all(requests.map(|(login, token)| fixture.store.create_first_token(login, first(login, token)))).await;
    let created: Vec<_> = created.into_iter().map(Result::unwrap).collect();
    let winner = created.iter().position(Option::is_some).unwrap();
    assert_eq!(created.iter().flatten().count(), 1, "{created:?}");
    let alice = "alice".parse().unwrap();
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![tokens[winner].id]));
    assert_eq!(fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch, logins[winner].login_epoch);
}

#[rstest]
#[tokio::test]
async fn a_user_without_a_password_gets_none(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let (store, alice, token) = (&fixture.store, external("alice"), token(3600));
    store.create_first_token(&alice, first(&alice, &token)).await.unwrap();
    let before = format!("{:?}", store.find_user(&alice.name).await.unwrap());
    let hash = PasswordHash::dummy(HashCost::default());
    for by in [operator(), Authority::Login(alice.login_epoch)] {
        for revoke_tokens in [false, true] {
            let changed = store.set_password(&by, &alice.name, &hash, revoke_tokens).await.unwrap();
            assert_eq!(changed, UserChange::NoPassword);
        }
    }
    assert!(!store.replace_hash(&alice.name, &hash, &hash).await.unwrap());
    assert_eq!(format!("{:?}", store.find_user(&alice.name).await.unwrap()), before);
    assert_eq!(fixture.ids(&alice.name, PageRequest::ALL).await, Some(vec![token.id]));
    // The login stays as it was.
    store.create_token(new_token(&alice.name, alice.login_epoch, &self::token(60))).await.unwrap();
}

/// Whichever step of a first token fails, the list names exactly the users who exist.
#[tokio::test]
async fn a_first_token_that_breaks_off_hides_no_user() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let (alice, token) = (User { role: Role::Admin, ..external("alice") }, token(3600));
    let names = async || {
        let listing = store.list_users(None, 10).await.unwrap();
        listing.items.into_iter().map(|user| user.name.to_string()).collect::<Vec<_>>()
    };
    // The steps: the name, the user with the token, and the number of the change that registers an administrator.
    for (step, exists) in [("zadd", false), ("hset", false), ("hmget", true)] {
        redis.cli(&["ACL", "SETUSER", "default", &format!("-{step}")]);
        let failed = store.create_first_token(&alice, first(&alice, &token)).await.unwrap_err();
        redis.cli(&["ACL", "SETUSER", "default", &format!("+{step}")]);
        assert!(failed.is_unconfirmed(), "{step}: {failed:?}");
        assert_eq!(names().await, if exists { vec!["alice"] } else { vec![] }, "{step}");
        assert_eq!(store.find_user(&alice.name).await.unwrap().is_some(), exists, "{step}");
        assert_eq!(store.find_token(&alice.name, token.id).await.unwrap().is_some(), exists, "{step}");
    }
    // The administrator is not registered yet, and still the last one.
    assert_eq!(store.remove_user(&operator(), &alice.name).await.unwrap(), UserChange::LastAdmin);
    assert!(matches!(store.update_user(&operator(), &alice.name, PROMOTE).await.unwrap(), UserChange::Done(_)));
    assert_eq!(redis.cli(&["HEXISTS", "mayfly:admins", "alice"]).trim(), "1");
}

/// As an early version that knows no origins, or somebody by hand, could leave it.
#[tokio::test]
async fn an_origin_counts_more_than_a_password_in_the_same_record() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let (alice, token) = (external("alice"), token(3600));
    store.create_first_token(&alice, first(&alice, &token)).await.unwrap();
    let hash = PasswordHash::dummy(HashCost::default());
    redis.cli(&["HSET", "mayfly:{alice}:user", "password", hash.expose_secret()]);
    assert!(store.find_user(&alice.name).await.unwrap().unwrap().password_hash().is_none());
    redis.cli(&["HSET", "mayfly:{alice}:user", "origin", "nonsense"]);
    assert!(matches!(store.find_user(&alice.name).await, Err(StoreError::Corrupt(_))));
}
