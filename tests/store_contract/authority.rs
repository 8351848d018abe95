//! A write runs only while its authority holds.

use super::*;

/// A user with a live token, and a login that has ended since.
async fn after_a_password_change(kind: Kind) -> (Fixture, UserName, Token, LoginEpoch) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let ended = fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    let hash = PasswordHash::dummy(HashCost::default());
    fixture.store.set_password(&Authority::Login(ended), &alice, &hash, false).await.unwrap();
    let login = fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    let token = token(3600);
    fixture.store.create_token(new_token(&alice, login, &token)).await.unwrap();
    (fixture, alice, token, ended)
}

#[rstest]
#[tokio::test]
async fn a_login_that_has_ended_cannot_write(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice, live, ended) = after_a_password_change(kind).await;
    let (store, by) = (&fixture.store, &Authority::Login(ended));
    let hash = PasswordHash::dummy(HashCost::default());
    let successor = token(3600);
    let refusals = [
        store.create_token(new_token(&alice, ended, &successor)).await.map(drop),
        store.rotate_token(&live, Duration::ZERO, new_token(&alice, ended, &successor)).await.map(drop),
        store.revoke_token(by, &alice, live.id).await.map(drop),
        store.revoke_tokens(by, &alice).await.map(drop),
        store.set_password(by, &alice, &hash, true).await.map(drop),
        store.set_password(by, &"nobody".parse().unwrap(), &hash, true).await.map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(StoreError::LoginEnded)), "{refusal:?}");
    }
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![live.id]));
}

#[rstest]
#[tokio::test]
async fn an_authority_that_has_lapsed_cannot_write(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice, live, _) = after_a_password_change(kind).await;
    let store = &fixture.store;
    let before = format!("{:?}", store.find_user(&alice).await.unwrap());
    let until = Instant::now() - Duration::from_millis(50);
    let by = &Authority::Until(until);
    let hash = PasswordHash::dummy(HashCost::default());
    let promotion = UserUpdate { role: Some(Role::Admin), disabled: None };
    let refusals = [
        store.revoke_token(by, &alice, live.id).await.map(drop),
        store.revoke_tokens(by, &alice).await.map(drop),
        store.set_password(by, &alice, &hash, true).await.map(drop),
        store.create_user(by, &admin("mallory")).await.map(drop),
        store.update_user(by, &alice, promotion).await.map(drop),
        store.update_user(by, &alice, DISABLE).await.map(drop),
        store.remove_user(by, &alice).await.map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(StoreError::TooLate)), "{refusal:?}");
    }
    assert_eq!(format!("{:?}", store.find_user(&alice).await.unwrap()), before);
    assert!(store.find_user(&"mallory".parse().unwrap()).await.unwrap().is_none());
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![live.id]));
}

#[rstest]
#[tokio::test]
async fn a_former_administrator_cannot_write(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice, live, _) = after_a_password_change(kind).await;
    let store = &fixture.store;
    let (root, former) = (admin("root"), admin("former"));
    for administrator in [&root, &former] {
        store.create_user(&operator(), administrator).await.unwrap();
    }
    let by = |user: &User| Authority::Administrator { name: user.name.clone(), login: user.login_epoch };
    let hash = PasswordHash::dummy(HashCost::default());
    let promotion = UserUpdate { role: Some(Role::Admin), disabled: None };
    let demotion = UserUpdate { role: Some(Role::User), disabled: None };
    let before = format!("{:?}", store.find_user(&alice).await.unwrap());
    let try_all = async |by: &Authority| {
        [
            store.revoke_token(by, &alice, live.id).await.map(drop),
            store.revoke_tokens(by, &alice).await.map(drop),
            store.set_password(by, &alice, &hash, true).await.map(drop),
            store.create_user(by, &admin("mallory")).await.map(drop),
            store.update_user(by, &alice, promotion).await.map(drop),
            store.update_user(by, &alice, DISABLE).await.map(drop),
            store.update_user(by, &root.name, demotion).await.map(drop),
            store.remove_user(by, &alice).await.map(drop),
        ]
    };
    store.update_user(&by(&root), &former.name, demotion).await.unwrap();
    for refusal in try_all(&by(&former)).await {
        assert!(matches!(refusal, Err(StoreError::Forbidden)), "{refusal:?}");
    }
    store.remove_user(&by(&root), &former.name).await.unwrap();
    let other_login = Authority::Administrator { name: root.name.clone(), login: LoginEpoch::begin() };
    for ended in [by(&former), other_login] {
        for refusal in try_all(&ended).await {
            assert!(matches!(refusal, Err(StoreError::LoginEnded)), "{refusal:?}");
        }
    }
    assert_eq!(format!("{:?}", store.find_user(&alice).await.unwrap()), before);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![live.id]));
    // No rejected write took a first step: the last administrator is still registered and may still act.
    store.update_user(&by(&root), &alice, promotion).await.unwrap();
}
