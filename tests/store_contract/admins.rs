//! The last enabled administrator cannot be demoted, disabled or removed.

use super::*;

#[rstest]
#[tokio::test]
async fn the_last_enabled_administrator_cannot_be_demoted_disabled_or_removed(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, bob) = Fixture::with_user(kind, "bob").await;
    let alice: UserName = "alice".parse().unwrap();
    fixture.store.create_user(&operator(), &admin("alice")).await.unwrap();
    fixture.store.create_user(&operator(), &User { disabled: true, ..admin("eve") }).await.unwrap();
    let update = async |name: &UserName, update| fixture.store.update_user(&operator(), name, update).await.unwrap();
    let stays = async |name: &UserName| {
        for end in [DEMOTE, DISABLE, UserUpdate { role: Some(Role::Admin), disabled: Some(true) }] {
            assert!(matches!(update(name, end).await, UserChange::LastAdmin), "{end:?}");
        }
        assert_eq!(fixture.store.remove_user(&operator(), name).await.unwrap(), UserChange::LastAdmin);
        assert!(fixture.store.find_user(name).await.unwrap().unwrap().is_enabled_admin());
    };
    let token = token(3600);
    fixture.store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
    stays(&alice).await;
    assert!(fixture.store.find_token(&alice, token.id).await.unwrap().is_some(), "nothing changed");
    // Updates that change nothing are allowed, and updates of others.
    assert!(matches!(update(&alice, PROMOTE).await, UserChange::Done(_)));
    assert!(matches!(update(&alice, ENABLE).await, UserChange::Done(_)));
    for harmless in [DEMOTE, DISABLE, ENABLE] {
        assert!(matches!(update(&bob, harmless).await, UserChange::Done(_)));
    }

    for (give, take) in [(PROMOTE, DEMOTE), (PROMOTE, DISABLE)] {
        assert!(matches!(update(&bob, ENABLE).await, UserChange::Done(_)));
        assert!(matches!(update(&bob, give).await, UserChange::Done(_)));
        assert!(matches!(update(&alice, take).await, UserChange::Done(_)));
        stays(&bob).await;
        assert!(matches!(update(&alice, ENABLE).await, UserChange::Done(_)));
        assert!(matches!(update(&alice, PROMOTE).await, UserChange::Done(_)));
        assert!(matches!(update(&bob, take).await, UserChange::Done(_)));
        stays(&alice).await;
    }
    assert_eq!(fixture.store.remove_user(&operator(), &bob).await.unwrap(), UserChange::Done(0));
    assert!(matches!(update(&"eve".parse().unwrap(), ENABLE).await, UserChange::Done(_)));
    assert_eq!(fixture.store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(0));
    stays(&"eve".parse().unwrap()).await;
}

/// An enabled administrator is always left, and no user who is not one is registered.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_changes_of_administrators_leave_an_enabled_one(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    const ROUNDS: usize = 300;
    let fixture = Fixture::new(kind);
    let names = ["alice", "bob"];
    let administer = async || {
        let mut administer = Vec::new();
        for name in names {
            let user = fixture.store.find_user(&name.parse().unwrap()).await.unwrap();
            administer.extend(user.filter(User::is_enabled_admin).map(|user| user.name));
        }
        administer
    };
    let change = |seed| {
        let store = Arc::clone(&fixture.store);
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let name: UserName = names[rng.usize(..names.len())].parse().unwrap();
            match rng.usize(..7) {
                0 => drop(store.create_user(&operator(), &admin(name.as_str())).await.unwrap()),
                1 | 2 => drop(store.update_user(&operator(), &name, PROMOTE).await.unwrap()),
                3 => drop(store.update_user(&operator(), &name, ENABLE).await.unwrap()),
                4 => drop(store.update_user(&operator(), &name, DISABLE).await.unwrap()),
                5 => drop(store.update_user(&operator(), &name, DEMOTE).await.unwrap()),
                _ => drop(store.remove_user(&operator(), &name).await.unwrap()),
            }
        })
    };
    let seed = fastrand::u64(..);
    for name in names {
        fixture.store.create_user(&operator(), &admin(name)).await.unwrap();
    }
    for round in 0..ROUNDS {
        let changes: Vec<_> = (0..4).map(|number| change(seed ^ (round * 4 + number) as u64)).collect();
        for change in changes {
            change.await.unwrap();
        }
        let left = administer().await;
        assert!(!left.is_empty(), "seed {seed}, round {round}");
        // A registered user who is not an administrator would count as another one, and the last one could be removed.
        if let [only] = &left[..] {
            assert!(
                matches!(fixture.store.update_user(&operator(), only, DEMOTE).await.unwrap(), UserChange::LastAdmin),
                "seed {seed}"
            );
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_administrators_who_remove_each_other_do_not_both_succeed(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    for _ in 0..10 {
        let removals = ["alice", "bob"].map(|name| {
            let store = Arc::clone(&fixture.store);
            async move {
                store.create_user(&operator(), &admin(name)).await.unwrap();
                move || {
                    tokio::spawn(async move { store.remove_user(&operator(), &name.parse().unwrap()).await.unwrap() })
                }
            }
        });
        let [alice, bob] = removals;
        let (alice, bob) = (alice.await, bob.await);
        let (alice, bob) = (alice(), bob());
        let outcomes = [alice.await.unwrap(), bob.await.unwrap()];
        assert!(outcomes.contains(&UserChange::Done(0)) && outcomes.contains(&UserChange::LastAdmin), "{outcomes:?}");
    }
}

#[tokio::test]
async fn an_unregistered_administrator_stays_and_is_registered_by_the_next_change() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<UserName>().unwrap());
    store.create_user(&operator(), &admin("alice")).await.unwrap();
    store.create_user(&operator(), &admin("bob")).await.unwrap();
    // As after a promotion that broke off.
    redis.cli(&["HDEL", "mayfly:admins", "bob"]);
    assert!(matches!(store.update_user(&operator(), &alice, DEMOTE).await.unwrap(), UserChange::LastAdmin));
    assert!(matches!(store.update_user(&operator(), &bob, PROMOTE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, DEMOTE).await.unwrap(), UserChange::Done(_)));

    // No administrator is registered: each may be the last one.
    redis.cli(&["DEL", "mayfly:admins"]);
    assert!(matches!(store.update_user(&operator(), &bob, DISABLE).await.unwrap(), UserChange::LastAdmin));
    assert!(matches!(store.update_user(&operator(), &alice, DISABLE).await.unwrap(), UserChange::Done(_)));
    // A failover that loses numbers does not block later changes.
    assert!(matches!(store.update_user(&operator(), &alice, ENABLE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, PROMOTE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &bob, DISABLE).await.unwrap(), UserChange::Done(_)));

    // Repeating a creation that broke off completes it.
    redis.cli(&["HDEL", "mayfly:admins", "alice"]);
    store.create_user(&operator(), &admin("carol")).await.unwrap();
    redis.cli(&["ZREM", "mayfly:usernames", "alice"]);
    assert!(!store.create_user(&operator(), &admin("alice")).await.unwrap());
    assert_eq!(store.list_users(None, 1).await.unwrap().items[0].name, alice);
    assert!(matches!(store.remove_user(&operator(), &"carol".parse().unwrap()).await.unwrap(), UserChange::Done(0)));
    assert_eq!(store.remove_user(&operator(), &alice).await.unwrap(), UserChange::LastAdmin);
}
