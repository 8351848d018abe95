//! Tokens: creation, lookup, lists, rotation, revocation, the quota.

use super::*;

#[rstest]
#[tokio::test]
async fn a_token_is_found_as_it_was_created(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let token = token(3600);
    assert_eq!(fixture.store.find_token(&alice, token.id).await.unwrap(), None);
    assert_eq!(fixture.store.create_token(new_token(&alice, epoch(), &token)).await.unwrap(), Creation::Created);
    let live = fixture.store.find_token(&alice, token.id).await.unwrap().unwrap();
    assert_eq!(live.token, token);
    assert!(live.remaining <= Duration::from_hours(1) && live.remaining > Duration::from_secs(3500));
    let listing = fixture.store.list_tokens(&alice, PageRequest::ALL).await.unwrap().unwrap();
    assert_eq!(listing.items[0].token, token);
    assert_eq!((listing.items.len(), listing.more), (1, false));
}

#[rstest]
#[tokio::test]
async fn attributes_are_kept_for_as_long_as_the_token_lives(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let scopes: Vec<String> = (100..132).map(|number| format!("{number:!>31}")).collect();
    let audiences: Vec<String> = (1..=8).map(|number| format!("{number:\\<256}")).collect();
    let networks: Vec<String> = (1..=16).map(|number| format!("2001:db8:{number}::/48")).collect();
    let longest = attributes(
        &scopes.iter().map(String::as_str).collect::<Vec<_>>(),
        &audiences.iter().map(String::as_str).collect::<Vec<_>>(),
        &networks.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for attributes in [
        attributes(&["read"], &[], &[]),
        attributes(&[], &["\"x\""], &[]),
        attributes(&[], &[], &["10.0.0.0/8", "192.0.2.7", "::1"]),
        longest,
    ] {
        let [first, second] = [(); 2].map(|()| Token { attributes: attributes.clone(), ..token(3600) });
        fixture.store.create_token(new_token(&alice, epoch(), &first)).await.unwrap();
        assert_eq!(fixture.store.find_token(&alice, first.id).await.unwrap().unwrap().token, first);
        let overlap = Duration::from_mins(1);
        let rotated = fixture.store.rotate_token(&first, overlap, new_token(&alice, epoch(), &second)).await.unwrap();
        assert_eq!(rotated, Rotation::Rotated);
        let rotated = Token { successor: Some(second.id), ..first };
        let listing = fixture.store.list_tokens(&alice, PageRequest { after: None, limit: Some(2) }).await.unwrap();
        let listed: Vec<_> = listing.unwrap().items.into_iter().map(|live| live.token).collect();
        assert_eq!(listed, [second, rotated]);
    }
}

#[rstest]
#[tokio::test]
async fn a_token_belongs_to_its_owner(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    fixture.store.create_user(&operator(), &user("bob")).await.unwrap();
    let bob = "bob".parse().unwrap();
    let token = token(3600);
    fixture.store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
    assert_eq!(fixture.store.find_token(&bob, token.id).await.unwrap(), None);
    assert!(!fixture.store.revoke_token(&operator(), &bob, token.id).await.unwrap());
    assert_eq!(fixture.ids(&bob, PageRequest::ALL).await, Some(vec![]));
    assert_eq!(fixture.ids(&bob, PageRequest { after: Some(token.id), limit: None }).await, None);
    assert!(fixture.store.find_token(&alice, token.id).await.unwrap().is_some());
}

#[rstest]
#[tokio::test]
async fn a_revoked_token_is_gone(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (first, second) = (token(3600), token(3600));
    fixture.store.create_token(new_token(&alice, epoch(), &first)).await.unwrap();
    fixture.store.create_token(new_token(&alice, epoch(), &second)).await.unwrap();
    assert!(fixture.store.revoke_token(&operator(), &alice, first.id).await.unwrap());
    assert!(!fixture.store.revoke_token(&operator(), &alice, first.id).await.unwrap());
    assert_eq!(fixture.store.find_token(&alice, first.id).await.unwrap(), None);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![second.id]));
}

#[rstest]
#[tokio::test]
async fn a_presented_token_is_revoked_by_its_digest_only(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (first, second) = (token(3600), token(3600));
    for token in [&first, &second] {
        fixture.store.create_token(new_token(&alice, epoch(), token)).await.unwrap();
    }
    assert!(!fixture.store.revoke_presented(&alice, first.id, second.digest, true).await.unwrap());
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap().len(), 2);
    assert!(fixture.store.revoke_presented(&alice, first.id, first.digest, true).await.unwrap());
    assert!(!fixture.store.revoke_presented(&alice, first.id, first.digest, true).await.unwrap());
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![second.id]));
}

#[rstest]
#[tokio::test]
async fn all_tokens_of_one_user_are_revoked(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    fixture.store.create_user(&operator(), &user("bob")).await.unwrap();
    let bob = "bob".parse().unwrap();
    for owner in [&alice, &alice, &bob] {
        fixture.store.create_token(new_token(owner, epoch(), &token(3600))).await.unwrap();
    }
    assert_eq!(fixture.store.revoke_tokens(&operator(), &alice).await.unwrap(), 2);
    assert_eq!(fixture.store.revoke_tokens(&operator(), &alice).await.unwrap(), 0);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![]));
    assert_eq!(fixture.ids(&bob, PageRequest::ALL).await.unwrap().len(), 1);
}

#[rstest]
#[tokio::test]
async fn listed_tokens_of_one_user_are_revoked(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    fixture.store.create_user(&operator(), &user("bob")).await.unwrap();
    let bob = "bob".parse().unwrap();
    let (first, second, kept, of_bob) = (token(3600), token(3600), token(3600), token(3600));
    for (owner, token) in [(&alice, &first), (&alice, &second), (&alice, &kept), (&bob, &of_bob)] {
        fixture.store.create_token(new_token(owner, epoch(), token)).await.unwrap();
    }
    // More than one script takes: the rest are unknown.
    let unknown = (0..1_200).map(|_| TokenId::random());
    let ids: HashSet<_> = [first.id, second.id, of_bob.id].into_iter().chain(unknown).collect();
    let by = Authority::Login(epoch());
    let revoked = fixture.store.revoke_listed(&by, &alice, &ids).await.unwrap();
    assert_eq!(revoked, HashSet::from([first.id, second.id]));
    assert_eq!(fixture.store.revoke_listed(&by, &alice, &ids).await.unwrap(), HashSet::new());
    assert_eq!(fixture.store.revoke_listed(&by, &alice, &HashSet::new()).await.unwrap(), HashSet::new());
    assert_eq!(fixture.store.find_token(&alice, first.id).await.unwrap(), None);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [kept.id]);
    assert_eq!(fixture.ids(&bob, PageRequest::ALL).await.unwrap(), [of_bob.id]);
    let ended = Authority::Login(LoginEpoch::begin());
    let refused = fixture.store.revoke_listed(&ended, &alice, &HashSet::from([kept.id])).await;
    assert!(matches!(refused, Err(StoreError::LoginEnded)), "{refused:?}");
}

#[rstest]
#[tokio::test]
async fn a_rotated_token_lives_on_for_the_overlap(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let rotate = async |old: &Token, new: &Token, overlap: u64| {
        let overlap = Duration::from_secs(overlap);
        fixture.store.rotate_token(old, overlap, new_token(&alice, epoch(), new)).await.unwrap()
    };
    let find = async |id| fixture.store.find_token(&alice, id).await.unwrap();
    let (first, second, third, fourth) = (token(3600), token(3600), token(3600), token(3600));
    assert_eq!(rotate(&first, &second, 60).await, Rotation::NoSuchToken);
    fixture.store.create_token(new_token(&alice, epoch(), &first)).await.unwrap();

    assert_eq!(rotate(&first, &second, 60).await, Rotation::Rotated);
    let old = find(first.id).await.unwrap();
    assert_eq!(old.token, Token { successor: Some(second.id), ..first.clone() });
    assert!(old.remaining <= Duration::from_mins(1) && old.remaining > Duration::from_secs(30));
    assert!(find(second.id).await.unwrap().remaining > Duration::from_secs(3500));
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [second.id, first.id]);
    assert_eq!(rotate(&first, &third, 60).await, Rotation::AlreadyRotated);
    assert_eq!(find(third.id).await, None);

    // An overlap does not lengthen a life; without one, the old token is revoked.
    assert_eq!(rotate(&second, &third, 1_000_000).await, Rotation::Rotated);
    assert!(find(second.id).await.unwrap().remaining <= Duration::from_hours(1));
    assert_eq!(rotate(&third, &fourth, 0).await, Rotation::Rotated);
    assert_eq!(find(third.id).await, None);
    assert_eq!(rotate(&third, &token(60), 0).await, Rotation::NoSuchToken);
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [fourth.id, second.id, first.id]);
}

#[rstest]
#[tokio::test]
async fn a_rotation_keeps_to_the_quota(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (first, second) = (token(3600), token(3600));
    fixture.store.create_token(NewToken { quota: 1, ..new_token(&alice, epoch(), &first) }).await.unwrap();
    let overlap = Duration::from_mins(1);
    assert_eq!(
        fixture
            .store
            .rotate_token(&first, overlap, NewToken { quota: 1, ..new_token(&alice, epoch(), &second) })
            .await
            .unwrap(),
        Rotation::QuotaReached
    );
    assert_eq!(fixture.store.find_token(&alice, first.id).await.unwrap().unwrap().token, first);
    let at_once = Duration::ZERO;
    assert_eq!(
        fixture
            .store
            .rotate_token(&first, at_once, NewToken { quota: 1, ..new_token(&alice, epoch(), &second) })
            .await
            .unwrap(),
        Rotation::Rotated
    );
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), [second.id]);
}

#[rstest]
#[tokio::test]
async fn a_token_expires_at_the_end_of_its_life(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let (short, long) = (token(1), token(3600));
    fixture.store.create_token(new_token(&alice, epoch(), &short)).await.unwrap();
    fixture.store.create_token(new_token(&alice, epoch(), &long)).await.unwrap();
    let gone = async {
        while fixture.store.find_token(&alice, short.id).await.unwrap().is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.expect("the token expires");
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await, Some(vec![long.id]));
    assert_eq!(fixture.ids(&alice, PageRequest { after: Some(short.id), limit: None }).await, None);
    assert!(!fixture.store.revoke_token(&operator(), &alice, short.id).await.unwrap());
}

#[rstest]
#[tokio::test]
async fn tokens_are_listed_newest_first_in_pages(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let mut created = Vec::new();
    for life in [300, 100, 500, 200, 400] {
        let token = token(life);
        fixture.store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
        created.insert(0, token.id);
    }
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), created);
    for limit in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let request = PageRequest { after, limit: Some(limit) };
            let page = fixture.store.list_tokens(&alice, request).await.unwrap().unwrap();
            assert!(page.items.len() == limit || !page.more);
            listed.extend(page.items.iter().map(|live| live.token.id));
            after = listed.last().copied();
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, created, "limit {limit}");
    }
}

#[rstest]
#[tokio::test]
async fn a_list_of_thousands_is_whole_and_in_order(#[values(Kind::Memory, Kind::Redis, Kind::Cluster)] kind: Kind) {
    const TOKENS: usize = 2_100;
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let mut created = Vec::new();
    for _ in 0..TOKENS {
        let token = token(3600);
        let new = NewToken { quota: TOKENS, ..new_token(&alice, epoch(), &token) };
        assert_eq!(fixture.store.create_token(new).await.unwrap(), Creation::Created);
        created.insert(0, token.id);
    }
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap(), created);
    let page = PageRequest { after: Some(created[99]), limit: None };
    assert_eq!(fixture.ids(&alice, page).await.unwrap(), created[100..]);
    let page = PageRequest { limit: Some(1_500), ..page };
    let listing = fixture.store.list_tokens(&alice, page).await.unwrap().unwrap();
    assert_eq!((listing.items.len(), listing.more, listing.items[1_499].token.id), (1_500, true, created[1_599]));
    let page = PageRequest { after: Some(created[TOKENS - 1]), limit: None };
    assert_eq!(fixture.ids(&alice, page).await.unwrap(), []);
}

#[rstest]
#[tokio::test]
async fn a_quota_is_exact_and_counts_live_tokens_only(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let attempts = (0..=QUOTA).map(|_| {
        let (store, alice) = (Arc::clone(&fixture.store), alice.clone());
        tokio::spawn(async move { store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap() })
    });
    let mut created = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        created += usize::from(attempt.await.unwrap() == Creation::Created);
    }
    assert_eq!(created, QUOTA);
    let revoked = fixture.ids(&alice, PageRequest::ALL).await.unwrap()[0];
    assert!(fixture.store.revoke_token(&operator(), &alice, revoked).await.unwrap());
    let short = token(1);
    let creation = fixture.store.create_token(new_token(&alice, epoch(), &short)).await.unwrap();
    assert_eq!(creation, Creation::Created);
    let refilled = async {
        while fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap() != Creation::Created {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), refilled).await.expect("an expired token does not count");
    assert_eq!(
        fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap(),
        Creation::QuotaReached
    );
    assert_eq!(fixture.ids(&alice, PageRequest::ALL).await.unwrap().len(), QUOTA);
}

#[rstest]
#[tokio::test]
async fn a_disabled_or_unknown_user_gets_no_tokens(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let fixture = Fixture::new(kind);
    let nobody = "nobody".parse().unwrap();
    assert!(matches!(
        fixture.store.create_token(new_token(&nobody, epoch(), &token(60))).await,
        Err(StoreError::LoginEnded)
    ));
    fixture.store.create_user(&operator(), &User { disabled: true, ..user("eve") }).await.unwrap();
    let eve = "eve".parse().unwrap();
    assert!(matches!(
        fixture.store.create_token(new_token(&eve, epoch(), &token(60))).await,
        Err(StoreError::LoginEnded)
    ));
    assert_eq!(fixture.ids(&eve, PageRequest::ALL).await, Some(vec![]));
}
