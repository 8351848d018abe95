//! When tokens were last used.

use super::*;

const AT: u64 = 1_795_600_000;

/// When each of these tokens was last used, by a list and by a look at each of them, which must agree.
async fn last_uses<const N: usize>(store: &dyn Store, owner: &UserName, ids: [TokenId; N]) -> [Option<u64>; N] {
    let listing = store.list_tokens(owner, PageRequest::ALL).await.unwrap().unwrap();
    let mut uses = [None; N];
    for (found, id) in uses.iter_mut().zip(ids) {
        let inspected = store.inspect_token(owner, id).await.unwrap();
        let listed = listing.items.iter().find(|listed| listed.token.id == id);
        *found = inspected.as_ref().and_then(|inspected| inspected.last_used);
        assert_eq!(
            listed.map(|listed| (&listed.token, listed.last_used)),
            inspected.as_ref().map(|i| (&i.token, *found))
        );
    }
    uses
}

async fn create<const N: usize>(store: &dyn Store, owner: &UserName) -> [TokenId; N] {
    let tokens = [(); N].map(|()| token(3600));
    for token in &tokens {
        let new = NewToken { quota: N.max(QUOTA), ..new_token(owner, epoch(), token) };
        assert_eq!(store.create_token(new).await.unwrap(), Creation::Created);
    }
    tokens.map(|token| token.id)
}

fn used(id: TokenId, at: u64) -> TokenUse {
    TokenUse { id, at }
}

#[rstest]
#[tokio::test]
async fn the_last_use_of_a_token_is_recorded(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let store = &*fixture.store;
    let ids @ [first, second, _] = create(store, &alice).await;
    assert_eq!(last_uses(store, &alice, ids).await, [None, None, None]);
    store.record_uses(&alice, &[used(first, AT), used(second, AT + 1)]).await.unwrap();
    assert_eq!(last_uses(store, &alice, ids).await, [Some(AT), Some(AT + 1), None]);
    // Replicas send their uses in any order, and may send them twice.
    store.record_uses(&alice, &[used(first, AT + 2), used(second, AT)]).await.unwrap();
    assert_eq!(last_uses(store, &alice, ids).await, [Some(AT + 2), Some(AT + 1), None]);
    // Another user has no such token.
    store.create_user(&operator(), &user("bob")).await.unwrap();
    let bob = "bob".parse().unwrap();
    let [bobs] = create(store, &bob).await;
    store.record_uses(&bob, &[used(first, AT + 9), used(bobs, AT + 9)]).await.unwrap();
    assert_eq!(last_uses(store, &alice, ids).await, [Some(AT + 2), Some(AT + 1), None]);
    assert_eq!(last_uses(store, &bob, [bobs]).await, [Some(AT + 9)]);
}

#[rstest]
#[tokio::test]
async fn no_use_of_a_token_that_is_gone_is_recorded(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let store = &*fixture.store;
    let [revoked, left] = create(store, &alice).await;
    store.revoke_token(&operator(), &alice, revoked).await.unwrap();
    store.record_uses(&alice, &[used(revoked, AT), used(TokenId::random(), AT), used(left, AT)]).await.unwrap();
    assert_eq!(last_uses(store, &alice, [revoked, left]).await, [None, Some(AT)]);
    // A new user has the name of one who was removed.
    store.remove_user(&operator(), &alice).await.unwrap();
    store.record_uses(&alice, &[used(left, AT)]).await.unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    store.record_uses(&alice, &[used(left, AT)]).await.unwrap();
    let [new] = create(store, &alice).await;
    assert_eq!(last_uses(store, &alice, [left, new]).await, [None, None]);
}

/// A store in a Redis with one user.
async fn store_with_alice() -> (RedisServer, RedisStore, UserName) {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    (redis, store, "alice".parse().unwrap())
}

const USES: &str = "mayfly:unwatched:{alice}:used";

/// How many tokens have a use in Redis: each takes 9 bytes of a part.
fn recorded(redis: &RedisServer) -> String {
    let script = "local bytes = 0 \
        for _, part in ipairs(redis.call('HVALS', KEYS[1])) do bytes = bytes + #part end \
        return tostring(bytes / 9)";
    redis.cli(&["EVAL", script, "1", USES])
}

#[tokio::test]
async fn a_use_is_removed_with_its_token() {
    let (redis, store, alice) = store_with_alice().await;
    let count = || recorded(&redis);
    let [revoked, listed, presented, rotated, replaced, left] = create(&store, &alice).await;
    let all = [revoked, listed, presented, rotated, replaced, left].map(|id| used(id, AT));
    store.record_uses(&alice, &all).await.unwrap();
    assert_eq!(count(), "6");
    store.revoke_listed(&operator(), &alice, &[listed].into()).await.unwrap();
    assert_eq!(count(), "5");
    store.revoke_token(&operator(), &alice, revoked).await.unwrap();
    assert_eq!(count(), "4");
    let live = store.find_token(&alice, presented).await.unwrap().unwrap();
    store.revoke_presented(&alice, presented, live.token.digest, true).await.unwrap();
    assert_eq!(count(), "3");
    // With an overlap, the old token lives on, and its use with it.
    for (old, overlap, left) in [(rotated, 60, "3"), (replaced, 0, "2")] {
        let old = store.find_token(&alice, old).await.unwrap().unwrap().token;
        let successor = token(3600);
        let rotation =
            store.rotate_token(&old, Duration::from_secs(overlap), new_token(&alice, epoch(), &successor)).await;
        assert_eq!((rotation.unwrap(), &*count()), (Rotation::Rotated, left));
    }
    for all_end in 0..4 {
        store.record_uses(&alice, &[used(left, AT)]).await.unwrap();
        assert_ne!(redis.cli(&["EXISTS", USES]), "0");
        match all_end {
            0 => assert_ne!(store.revoke_tokens(&operator(), &alice).await.unwrap(), 0),
            1 => assert!(matches!(store.update_user(&operator(), &alice, DISABLE).await.unwrap(), UserChange::Done(_))),
            2 => {
                let hash = PasswordHash::dummy(HashCost::default());
                let changed = store.set_password(&operator(), &alice, &hash, true).await.unwrap();
                assert!(matches!(changed, UserChange::Done(_)));
            }
            _ => assert_eq!(store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(1)),
        }
        assert_eq!(redis.cli(&["EXISTS", USES]), "0", "{all_end}");
        if all_end == 3 {
            break;
        }
        // The next round needs a user with a live token.
        store.remove_user(&operator(), &alice).await.unwrap();
        store.create_user(&operator(), &user("alice")).await.unwrap();
        let new = Token { id: left, ..token(3600) };
        store.create_token(new_token(&alice, epoch(), &new)).await.unwrap();
    }
}

#[tokio::test]
async fn a_use_expires_with_its_token() {
    let (redis, store, alice) = store_with_alice().await;
    let brief: [Token; 3] = [1, 1, 1].map(token);
    for token in &brief {
        store.create_token(new_token(&alice, epoch(), token)).await.unwrap();
    }
    let uses: Vec<_> = brief.iter().map(|token| used(token.id, AT)).collect();
    store.record_uses(&alice, &uses).await.unwrap();
    let ttl = redis.cli(&["PTTL", USES]).parse::<i64>().unwrap();
    assert!((1..=1000).contains(&ttl), "{ttl}");
    // A longer life lengthens that of the record, and only then.
    let [long] = create(&store, &alice).await;
    store.record_uses(&alice, &[used(long, AT)]).await.unwrap();
    store.record_uses(&alice, &[used(long, AT + 1), uses[0]]).await.unwrap();
    let ttl = redis.cli(&["PTTL", USES]).parse::<i64>().unwrap();
    assert!((3_590_000..=3_600_000).contains(&ttl), "{ttl}");
    eventually("the tokens are gone", || (redis.cli(&["EXISTS", &key(brief[2].id)]) == "0").then_some(()));
    // Expired tokens leave the record when they leave the index.
    assert_eq!(last_uses(&store, &alice, [long]).await, [Some(AT + 1)]);
    assert_eq!(recorded(&redis), "1");
    redis.cli(&["PEXPIRE", &key(long), "1"]);
    store.record_uses(&alice, &[used(long, AT + 2)]).await.unwrap();
}

fn key(id: TokenId) -> String {
    format!("mayfly:{{alice}}:token:{id}")
}

#[tokio::test]
async fn a_use_is_no_change_to_a_watch() {
    let (redis, store, alice) = store_with_alice().await;
    let ids: [TokenId; 3] = create(&store, &alice).await;
    let mut watch = store.watch().await.unwrap().unwrap();
    watch.changes().await.unwrap();
    let other = RedisStore::new(&patient_options(&redis.url())).unwrap();
    for store in [&store, &other] {
        store.record_uses(&alice, &ids.map(|id| used(id, AT))).await.unwrap();
        assert_eq!(watch.changes().await.unwrap(), Changes::default());
    }
    assert_eq!(redis.cli(&["--scan", "--pattern", "mayfly:{alice}:*use*"]), "mayfly:{alice}:user");
}

#[tokio::test]
async fn a_broken_record_hides_no_token() {
    let (redis, store, alice) = store_with_alice().await;
    // The first two are in one part.
    let ids = ["7a0000000000", "7a0000000001", "7b0000000000"].map(|end| format!("b56929f3-54f1-4dc2-9984-{end}"));
    let ids = ids.map(|id| id.parse().unwrap());
    for id in ids {
        let token = Token { id, ..token(3600) };
        assert_eq!(store.create_token(new_token(&alice, epoch(), &token)).await.unwrap(), Creation::Created);
    }
    store.record_uses(&alice, &ids.map(|id| used(id, AT))).await.unwrap();
    redis.cli(&["HSET", USES, "7a", "yesterday at noon"]);
    assert_eq!(last_uses(&store, &alice, ids).await, [None, None, Some(AT)]);
    store.record_uses(&alice, &[used(ids[1], AT + 1)]).await.unwrap();
    assert_eq!(last_uses(&store, &alice, ids).await, [None, Some(AT + 1), Some(AT)]);
}

/// As of a token whose entry lies across two others.
#[tokio::test]
async fn an_entry_begins_where_another_ends() {
    let (_redis, store, alice) = store_with_alice().await;
    let ids = ["7a1111111111", "7a2222222222", "7a1111222222"].map(|end| format!("b56929f3-54f1-4dc2-9984-{end}"));
    let ids: [TokenId; 3] = ids.map(|id| id.parse().unwrap());
    for id in ids {
        let token = Token { id, ..token(3600) };
        assert_eq!(store.create_token(new_token(&alice, epoch(), &token)).await.unwrap(), Creation::Created);
    }
    // The last two bytes of this time and the first three of the second id are the third id's.
    store.record_uses(&alice, &[used(ids[0], 0x6b06_1111), used(ids[1], AT)]).await.unwrap();
    assert_eq!(last_uses(&store, &alice, ids).await, [Some(0x6b06_1111), Some(AT), None]);
    store.revoke_listed(&operator(), &alice, &[ids[2]].into()).await.unwrap();
    store.record_uses(&alice, &[used(ids[2], AT)]).await.unwrap();
    assert_eq!(last_uses(&store, &alice, ids).await, [Some(0x6b06_1111), Some(AT), None]);
}

#[tokio::test]
async fn a_use_takes_little_memory() {
    let (redis, store, alice) = store_with_alice().await;
    for count in [10, 100, 500, 700, 1000] {
        let tokens: Vec<_> = (0..count).map(|_| token(3600)).collect();
        for token in &tokens {
            let new = NewToken { quota: 1000, ..new_token(&alice, epoch(), token) };
            assert_eq!(store.create_token(new).await.unwrap(), Creation::Created);
        }
        let begun = Instant::now();
        for uses in tokens.chunks(256) {
            let uses: Vec<_> = uses.iter().map(|token| used(token.id, AT)).collect();
            store.record_uses(&alice, &uses).await.unwrap();
        }
        let taken = begun.elapsed();
        let bytes: usize = redis.cli(&["MEMORY", "USAGE", USES, "SAMPLES", "0"]).parse().unwrap();
        println!("{count} used tokens of a user: {} bytes each, recorded in {taken:?}", bytes / count);
        assert!(bytes / count <= 40, "{bytes} bytes for {count} tokens");
        assert_eq!(store.revoke_tokens(&operator(), &alice).await.unwrap(), count as u64);
    }
}
