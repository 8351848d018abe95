//! Users: creation, lists, passwords, changes, removal.

use super::*;

#[rstest]
#[tokio::test]
async fn a_user_is_found_as_created_and_created_once(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let alice = "alice".parse().unwrap();
    assert!(!fixture.store.has_users().await.unwrap());
    assert!(fixture.store.find_user(&alice).await.unwrap().is_none());
    assert!(fixture.store.create_user(&operator(), &admin("alice")).await.unwrap());
    assert!(fixture.store.has_users().await.unwrap());
    assert!(!fixture.store.create_user(&operator(), &user("alice")).await.unwrap());
    let found = fixture.store.find_user(&alice).await.unwrap().unwrap();
    assert_eq!((found.name, found.role, found.created_at, found.disabled), (alice, Role::Admin, 1_662_720_135, false));
    assert_eq!(found.login_epoch, epoch());
    let Credential::Password(hash) = found.credential else { panic!("{:?}", found.credential) };
    assert_eq!(hash.expose_secret(), PasswordHash::dummy(HashCost::default()).expose_secret());
}

#[rstest]
#[tokio::test]
async fn users_are_listed_by_name_in_pages(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let list = async |after: Option<&str>, limit| {
        let after = after.map(|name| name.parse().unwrap());
        let page = fixture.store.list_users(after.as_ref(), limit).await.unwrap();
        let names: Vec<_> = page.items.iter().map(|user| user.name.to_string()).collect();
        (names.join(" "), page.more)
    };
    assert_eq!(list(None, 10).await, (String::new(), false));
    for name in ["carol", "alice", "bob", "Bob", "@", "a+b", "zoe"] {
        fixture.store.create_user(&operator(), &user(name)).await.unwrap();
    }
    fixture.store.remove_user(&operator(), &"bob".parse().unwrap()).await.unwrap();
    assert_eq!(list(None, 10).await, ("@ Bob a+b alice carol zoe".into(), false));
    assert_eq!(list(None, 6).await, ("@ Bob a+b alice carol zoe".into(), false));
    assert_eq!(list(None, 2).await, ("@ Bob".into(), true));
    assert_eq!(list(Some("Bob"), 2).await, ("a+b alice".into(), true));
    assert_eq!(list(Some("alice"), 2).await, ("carol zoe".into(), false));
    // The name to begin after need not exist.
    assert_eq!(list(Some("bob"), 1).await, ("carol".into(), true));
    assert_eq!(list(Some("zoe"), 1).await, (String::new(), false));
}

#[rstest]
#[tokio::test]
async fn a_password_is_changed(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let password: Password = "new".parse().unwrap();
    let hash = PasswordHash::of(&password, HashCost::default());
    for _ in 0..2 {
        fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap();
    }
    for revoke_tokens in [false, true] {
        let nobody = "nobody".parse().unwrap();
        assert_eq!(
            fixture.store.set_password(&operator(), &nobody, &hash, revoke_tokens).await.unwrap(),
            UserChange::NoSuchUser
        );
        assert!(fixture.store.find_user(&nobody).await.unwrap().is_none());
    }
    assert_eq!(fixture.store.set_password(&operator(), &alice, &hash, false).await.unwrap(), UserChange::Done(0));
    assert!(fixture.store.find_user(&alice).await.unwrap().unwrap().password_hash().unwrap().verify(&password));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap().len(), 2);
    let login_before = fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await;
    assert!(matches!(login_before, Err(StoreError::LoginEnded)), "{login_before:?}");

    let other = PasswordHash::dummy(HashCost::default());
    assert_eq!(fixture.store.set_password(&operator(), &alice, &other, true).await.unwrap(), UserChange::Done(2));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![]));
    assert_eq!(fixture.store.set_password(&operator(), &alice, &hash, true).await.unwrap(), UserChange::Done(0));
}

#[rstest]
#[tokio::test]
async fn a_login_made_before_a_change_creates_no_tokens(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let create = async |login| fixture.store.create_token(new_token(&alice, login, &token(3600))).await;
    let log_in = async || fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    let first = log_in().await;
    assert_eq!(create(first).await.unwrap(), Creation::Created);
    fixture.store.set_password(&operator(), &alice, &PasswordHash::dummy(HashCost::default()), true).await.unwrap();
    assert!(matches!(create(first).await, Err(StoreError::LoginEnded)));
    let second = log_in().await;
    assert_eq!(create(second).await.unwrap(), Creation::Created);
    // A user who was disabled and enabled has to log in again.
    fixture.store.update_user(&operator(), &alice, DISABLE).await.unwrap();
    fixture.store.update_user(&operator(), &alice, ENABLE).await.unwrap();
    assert!(matches!(create(second).await, Err(StoreError::LoginEnded)));
    assert_eq!(create(log_in().await).await.unwrap(), Creation::Created);
    // The same for a new user of the same name.
    let third = log_in().await;
    fixture.store.remove_user(&operator(), &alice).await.unwrap();
    fixture.store.create_user(&operator(), &user("alice")).await.unwrap();
    assert!(matches!(create(third).await, Err(StoreError::LoginEnded)));
}

#[rstest]
#[tokio::test]
async fn a_user_is_changed(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    fixture.store.create_user(&operator(), &admin("admin")).await.unwrap();
    let change = async |update| match fixture.store.update_user(&operator(), &alice, update).await.unwrap() {
        UserChange::Done(UpdatedUser { user, tokens_revoked }) => {
            let found = fixture.store.find_user(&alice).await.unwrap().unwrap();
            assert_eq!((found.role, found.disabled), (user.role, user.disabled));
            assert_eq!((&user.name, user.created_at), (&alice, 1_662_720_135));
            (user.role, user.disabled, tokens_revoked)
        }
        other => panic!("{other:?}"),
    };
    let tokens = [token(3600), token(3600)];
    for token in &tokens {
        fixture.store.create_token(new_token(&alice, epoch(), token)).await.unwrap();
    }
    assert_eq!(change(UserUpdate::default()).await, (Role::User, false, 0));
    assert_eq!(change(PROMOTE).await, (Role::Admin, false, 0));
    assert_eq!(change(DEMOTE).await, (Role::User, false, 0));
    assert_eq!(change(ENABLE).await, (Role::User, false, 0));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap().len(), 2);

    let both = UserUpdate { role: Some(Role::Introspector), disabled: Some(true) };
    assert_eq!(change(both).await, (Role::Introspector, true, 2));
    assert_eq!(change(DISABLE).await, (Role::Introspector, true, 0));
    for token in &tokens {
        assert_eq!(fixture.store.find_token(&alice, token.id).await.unwrap(), None);
    }
    let login = fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    assert!(matches!(
        fixture.store.create_token(new_token(&alice, login, &token(60))).await,
        Err(StoreError::LoginEnded)
    ));
    assert_eq!(change(ENABLE).await, (Role::Introspector, false, 0));
    assert_eq!(fixture.store.create_token(new_token(&alice, login, &token(60))).await.unwrap(), Creation::Created);

    let nobody = "nobody".parse().unwrap();
    for update in [UserUpdate::default(), PROMOTE, DEMOTE, DISABLE, ENABLE] {
        assert!(matches!(
            fixture.store.update_user(&operator(), &nobody, update).await.unwrap(),
            UserChange::NoSuchUser
        ));
    }
    assert!(fixture.store.find_user(&nobody).await.unwrap().is_none());
}

/// Whichever step of a creation or a removal fails first, the list names exactly the users who exist.
#[tokio::test]
async fn a_change_that_breaks_off_hides_no_user() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let names = async || {
        let listing = store.list_users(None, 10).await.unwrap();
        listing.items.into_iter().map(|user| user.name.to_string()).collect::<Vec<_>>()
    };
    let alice = "alice".parse().unwrap();
    for step in ["zadd", "evalsha"] {
        redis.cli(&["ACL", "SETUSER", "default", &format!("-{step}")]);
        store.create_user(&operator(), &admin("alice")).await.unwrap_err();
        redis.cli(&["ACL", "SETUSER", "default", &format!("+{step}")]);
        assert!(store.find_user(&alice).await.unwrap().is_none(), "{step}");
        assert!(!store.has_users().await.unwrap(), "{step}");
        assert!(names().await.is_empty(), "{step}");
    }
    assert!(store.create_user(&operator(), &admin("alice")).await.unwrap());
    assert!(store.create_user(&operator(), &admin("bob")).await.unwrap());
    for step in ["evalsha", "zrem"] {
        redis.cli(&["ACL", "SETUSER", "default", &format!("-{step}")]);
        store.remove_user(&operator(), &alice).await.unwrap_err();
        redis.cli(&["ACL", "SETUSER", "default", &format!("+{step}")]);
        let is_there = store.find_user(&alice).await.unwrap().is_some();
        assert_eq!(names().await, if is_there { vec!["alice", "bob"] } else { vec!["bob"] }, "{step}");
    }
    // Names without a user take no place on a page, and no page of their own.
    for ghost in ["aaron", "bill", "zoe"] {
        redis.cli(&["ZADD", "mayfly:usernames", "0", ghost]);
    }
    let page = store.list_users(None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].name.as_str(), page.more), (1, "bob", false));
    store.create_user(&operator(), &user("carol")).await.unwrap();
    let page = store.list_users(None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.more), (1, true));
    // A record that cannot be read belongs to a user.
    redis.cli(&["DEL", "mayfly:{carol}:user"]);
    redis.cli(&["HDEL", "mayfly:{bob}:user", "role"]);
    assert!(store.has_users().await.unwrap());
}

/// Old records have no epoch.
#[tokio::test]
async fn a_user_record_without_a_login_epoch_still_works() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    redis.cli(&["HDEL", "mayfly:{alice}:user", "epoch"]);
    let login = store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    assert!(matches!(store.create_token(new_token(&alice, epoch(), &token(60))).await, Err(StoreError::LoginEnded)));
    assert_eq!(store.create_token(new_token(&alice, login, &token(60))).await.unwrap(), Creation::Created);
    assert!(matches!(store.update_user(&operator(), &alice, DISABLE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, ENABLE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.create_token(new_token(&alice, login, &token(60))).await, Err(StoreError::LoginEnded)));
}

#[rstest]
#[tokio::test]
async fn a_hash_is_replaced_only_while_it_is_the_same(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let hash = |cost: &str| PasswordHash::dummy(cost.parse().unwrap());
    let (old, new, other) = (PasswordHash::dummy(HashCost::default()), hash("m=8,t=1,p=1"), hash("m=16,t=1,p=1"));
    assert!(!fixture.store.replace_hash(&alice, &other, &new).await.unwrap());
    let cost = async || fixture.store.find_user(&alice).await.unwrap().unwrap().password_hash().unwrap().cost();
    assert_eq!(cost().await, old.cost());
    assert!(fixture.store.replace_hash(&alice, &old, &new).await.unwrap());
    assert_eq!(cost().await, new.cost());
    assert!(!fixture.store.replace_hash(&alice, &old, &other).await.unwrap());
    assert!(!fixture.store.replace_hash(&"nobody".parse().unwrap(), &old, &new).await.unwrap());
    assert_eq!(cost().await, new.cost());
}

#[rstest]
#[tokio::test]
async fn a_removed_user_leaves_no_tokens(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let tokens = [token(3600), token(3600)];
    for token in &tokens {
        fixture.store.create_token(new_token(&alice, epoch(), token)).await.unwrap();
    }
    assert_eq!(fixture.store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(2));
    assert_eq!(fixture.store.remove_user(&operator(), &alice).await.unwrap(), UserChange::NoSuchUser);
    assert!(!fixture.store.has_users().await.unwrap());
    assert!(matches!(
        fixture.store.create_token(new_token(&alice, epoch(), &token(60))).await,
        Err(StoreError::LoginEnded)
    ));
    fixture.store.create_user(&operator(), &user("alice")).await.unwrap();
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![]));
    for token in &tokens {
        assert_eq!(fixture.store.find_token(&alice, token.id).await.unwrap(), None);
    }
}
