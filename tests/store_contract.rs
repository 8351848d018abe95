//! What every store promises, held against the embedded one and against a real Redis.

use std::{any::Any, collections::HashSet, sync::Arc, time::Duration};

use mayfly::{
    domain::{
        life::Life,
        listing::Page,
        password::{HashCost, Password, PasswordHash},
        token::{Token, TokenDigest, TokenId},
        user::{LoginEpoch, Role, User, UserName, UserUpdate},
    },
    store::{
        Authority, Changes, Creation, NewToken, Rotation, Store, StoreError, StrictWrites, UpdatedUser, UserChange,
        memory::MemoryStore,
        redis::{RedisOptions, RedisStore},
    },
};
use rstest::rstest;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Cluster, Direction, Proxy, RedisServer, Sentinel, Version, eventually, free_port};

mod authority;
mod throttle;

const QUOTA: usize = 10;

/// Later than any write of a test.
fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn operator() -> Authority {
    Authority::Until(soon())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Redis,
    /// Writes wait for a replica.
    Sentinel,
    /// Three primaries.
    Cluster,
}

/// A store, and what it needs to live.
struct Fixture {
    store: Arc<dyn StrictWrites>,
    _servers: Box<dyn Any>,
}

impl Fixture {
    fn new(kind: Kind) -> Self {
        let with = |store: Arc<dyn StrictWrites>, servers: Box<dyn Any>| Self { store, _servers: servers };
        let in_redis = |url: &str, wait_replicas: u32, servers: Box<dyn Any>| {
            // Longer than any operation takes on the slowest machine.
            let options = RedisOptions {
                timeout: Duration::from_secs(5),
                wait_timeout: Duration::from_secs(4),
                wait_replicas,
                ..RedisOptions::at(url)
            };
            with(Arc::new(RedisStore::new(&options).unwrap()), servers)
        };
        match kind {
            Kind::Memory => with(Arc::new(MemoryStore::default()), Box::new(())),
            Kind::Redis => {
                let redis = RedisServer::start();
                in_redis(&redis.url(), 0, Box::new(redis))
            }
            Kind::Sentinel => {
                let sentinel = Sentinel::start(1, 1);
                in_redis(&sentinel.url(), 1, Box::new(sentinel))
            }
            Kind::Cluster => {
                let cluster = Cluster::start(false);
                in_redis(&cluster.url(), 0, Box::new(cluster))
            }
        }
    }

    /// A store with one user.
    async fn with_user(kind: Kind, name: &str) -> (Self, UserName) {
        let fixture = Self::new(kind);
        assert!(fixture.store.create_user(&operator(), &user(name)).await.unwrap());
        (fixture, name.parse().unwrap())
    }

    async fn ids(&self, owner: &UserName, page: Page) -> Option<Vec<TokenId>> {
        let listing = self.store.list_tokens(owner, page).await.unwrap()?;
        Some(listing.items.iter().map(|live| live.token.id).collect())
    }
}

fn user(name: &str) -> User {
    User {
        name: name.parse().unwrap(),
        password_hash: PasswordHash::dummy(HashCost::default()),
        role: Role::User,
        created_at: 1_662_720_135,
        disabled: false,
        login_epoch: epoch(),
    }
}

fn admin(name: &str) -> User {
    User { role: Role::Admin, ..user(name) }
}

/// The epoch of whoever was just created.
fn epoch() -> LoginEpoch {
    "b56929f354f14dc299849bba615e26e6".parse().unwrap()
}

const ADMIN: UserUpdate = UserUpdate { role: Some(Role::Admin), disabled: None };
const USER: UserUpdate = UserUpdate { role: Some(Role::User), disabled: None };
const DISABLED: UserUpdate = UserUpdate { role: None, disabled: Some(true) };
const ENABLED: UserUpdate = UserUpdate { role: None, disabled: Some(false) };

fn token(life_seconds: u64) -> Token {
    let id = TokenId::random();
    Token {
        id,
        description: "Tökèn \"specter\" 🜁 {}".parse().unwrap(),
        life: Life::from_seconds(life_seconds).unwrap(),
        digest: TokenDigest::of(&id.to_string()),
        successor: None,
    }
}

fn new_token<'a>(owner: &'a UserName, login: LoginEpoch, token: &'a Token) -> NewToken<'a> {
    NewToken { owner, login, token, quota: QUOTA }
}

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
    let listing = fixture.store.list_tokens(&alice, Page::ALL).await.unwrap().unwrap();
    assert_eq!(listing.items[0].token, token);
    assert_eq!((listing.items.len(), listing.more), (1, false));
}

#[rstest]
#[tokio::test]
async fn a_watch_tells_what_changed(#[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind) {
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
    let watch = fixture.store.watch().await.unwrap();
    let Some(mut watch) = watch else {
        // Where it costs nothing to ask, and where nobody could tell of all.
        assert!(matches!(kind, Kind::Memory | Kind::Cluster));
        return;
    };
    assert_eq!(watch.changes().await.unwrap(), Changes::default());

    for token in tokens {
        fixture.store.find_token(&alice, token.id).await.unwrap();
    }
    fixture.store.find_user(&alice).await.unwrap();
    assert_eq!(watch.changes().await.unwrap(), Changes::default(), "nothing changed that was only read");

    let successor = token(3600);
    fixture.store.revoke_token(&operator(), &alice, revoked.id).await.unwrap();
    fixture.store.rotate_token(&rotated, Duration::from_mins(1), new_token(&alice, epoch(), &successor)).await.unwrap();
    fixture.store.update_user(&operator(), &bob, DISABLED).await.unwrap();
    fixture.store.remove_user(&operator(), &carol).await.unwrap();
    let mut told = watch.changes().await.unwrap();
    assert!(told.tokens.remove(&successor.id), "it was not there before");
    let tokens = HashSet::from([revoked.id, rotated.id]);
    assert_eq!(told, Changes { everything: false, tokens, users: HashSet::from([bob, carol]) });

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

/// What changed before the question is in its answer, even where nobody was told of the change itself by then: otherwise a
/// replica would renew a lease on what was revoked.
#[rstest]
#[case::redis(RedisServer::start())]
#[case::valkey_with_threads(RedisServer::start_version(Version::Valkey9_1, &["--io-threads", "4"]))]
#[tokio::test]
async fn a_watch_tells_of_each_change_before_the_question(#[case] server: RedisServer) {
    let connect = || Arc::new(RedisStore::new(&RedisOptions::at(&server.url())).unwrap());
    let (asking, other, alice) = (connect(), connect(), "alice".parse().unwrap());
    asking.create_user(&operator(), &user("alice")).await.unwrap();
    let mut watch = asking.watch().await.unwrap().unwrap();
    for _ in 0..50 {
        let token = token(3600);
        other.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
        assert!(watch.changes().await.unwrap().tokens.contains(&token.id));
        // So that it works off what both send now at once.
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
async fn a_watch_ends_where_redis_refuses_and_begins_again() {
    let server = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&server.url())).unwrap();
    let mut watch = store.watch().await.unwrap().unwrap();
    assert_eq!(watch.changes().await.unwrap(), Changes::default());
    // As where a primary is cut off.
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert!(watch.changes().await.is_err());
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let mut watch = store.watch().await.unwrap().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    assert_eq!(watch.changes().await.unwrap().users, HashSet::from(["alice".parse().unwrap()]));
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
    assert_eq!(fixture.ids(&bob, Page::ALL).await, Some(vec![]));
    assert_eq!(fixture.ids(&bob, Page { after: Some(token.id), limit: None }).await, None);
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![second.id]));
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap().len(), 2);
    assert!(fixture.store.revoke_presented(&alice, first.id, first.digest, true).await.unwrap());
    assert!(!fixture.store.revoke_presented(&alice, first.id, first.digest, true).await.unwrap());
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![second.id]));
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![]));
    assert_eq!(fixture.ids(&bob, Page::ALL).await.unwrap().len(), 1);
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap(), [second.id, first.id]);
    assert_eq!(rotate(&first, &third, 60).await, Rotation::AlreadyRotated);
    assert_eq!(find(third.id).await, None);

    // No overlap lengthens a life; and none at all ends it.
    assert_eq!(rotate(&second, &third, 1_000_000).await, Rotation::Rotated);
    assert!(find(second.id).await.unwrap().remaining <= Duration::from_hours(1));
    assert_eq!(rotate(&third, &fourth, 0).await, Rotation::Rotated);
    assert_eq!(find(third.id).await, None);
    assert_eq!(rotate(&third, &token(60), 0).await, Rotation::NoSuchToken);
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap(), [fourth.id, second.id, first.id]);
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap(), [second.id]);
}

#[rstest]
#[tokio::test]
async fn a_token_dies_at_the_end_of_its_life(
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
    timeout(Duration::from_secs(30), gone).await.expect("the token dies");
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![long.id]));
    assert_eq!(fixture.ids(&alice, Page { after: Some(short.id), limit: None }).await, None);
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap(), created);
    for limit in 1..=6 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = fixture.store.list_tokens(&alice, Page { after, limit: Some(limit) }).await.unwrap().unwrap();
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
async fn a_quota_is_exact_and_counts_the_living(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, alice) = Fixture::with_user(kind, "alice").await;
    let short = token(3);
    fixture.store.create_token(new_token(&alice, epoch(), &short)).await.unwrap();
    let attempts = (1..=QUOTA).map(|_| {
        let (store, alice) = (Arc::clone(&fixture.store), alice.clone());
        tokio::spawn(async move { store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap() })
    });
    let mut created = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        created += usize::from(attempt.await.unwrap() == Creation::Created);
    }
    assert_eq!(created, QUOTA - 1);
    let refilled = async {
        while fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap() != Creation::Created {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), refilled).await.expect("a dead token leaves its place");
    assert_eq!(
        fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await.unwrap(),
        Creation::QuotaReached
    );
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap().len(), QUOTA);
}

#[rstest]
#[tokio::test]
async fn only_users_who_may_log_in_get_tokens(
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
    assert_eq!(fixture.ids(&eve, Page::ALL).await, Some(vec![]));
}

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
    assert_eq!(found.password_hash.expose_secret(), PasswordHash::dummy(HashCost::default()).expose_secret());
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
    // Nobody of this name any more.
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
        assert_eq!(fixture.store.set_password(&operator(), &nobody, &hash, revoke_tokens).await.unwrap(), None);
        assert!(fixture.store.find_user(&nobody).await.unwrap().is_none());
    }
    assert_eq!(fixture.store.set_password(&operator(), &alice, &hash, false).await.unwrap(), Some(0));
    assert!(fixture.store.find_user(&alice).await.unwrap().unwrap().password_hash.verify(&password));
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap().len(), 2);
    let login_before = fixture.store.create_token(new_token(&alice, epoch(), &token(3600))).await;
    assert!(matches!(login_before, Err(StoreError::LoginEnded)), "{login_before:?}");

    let other = PasswordHash::dummy(HashCost::default());
    assert_eq!(fixture.store.set_password(&operator(), &alice, &other, true).await.unwrap(), Some(2));
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![]));
    assert_eq!(fixture.store.set_password(&operator(), &alice, &hash, true).await.unwrap(), Some(0));
}

#[rstest]
#[tokio::test]
async fn a_login_from_before_all_tokens_were_revoked_leads_to_none(
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
    // Enabled again, a user logs in again.
    fixture.store.update_user(&operator(), &alice, DISABLED).await.unwrap();
    fixture.store.update_user(&operator(), &alice, ENABLED).await.unwrap();
    assert!(matches!(create(second).await, Err(StoreError::LoginEnded)));
    assert_eq!(create(log_in().await).await.unwrap(), Creation::Created);
    // Another user of the same name is another user.
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
    assert_eq!(change(ADMIN).await, (Role::Admin, false, 0));
    assert_eq!(change(USER).await, (Role::User, false, 0));
    assert_eq!(change(ENABLED).await, (Role::User, false, 0));
    assert_eq!(fixture.ids(&alice, Page::ALL).await.unwrap().len(), 2);

    let both = UserUpdate { role: Some(Role::Introspector), disabled: Some(true) };
    assert_eq!(change(both).await, (Role::Introspector, true, 2));
    assert_eq!(change(DISABLED).await, (Role::Introspector, true, 0));
    for token in &tokens {
        assert_eq!(fixture.store.find_token(&alice, token.id).await.unwrap(), None);
    }
    let login = fixture.store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    assert!(matches!(
        fixture.store.create_token(new_token(&alice, login, &token(60))).await,
        Err(StoreError::LoginEnded)
    ));
    assert_eq!(change(ENABLED).await, (Role::Introspector, false, 0));
    assert_eq!(fixture.store.create_token(new_token(&alice, login, &token(60))).await.unwrap(), Creation::Created);

    let nobody = "nobody".parse().unwrap();
    for update in [UserUpdate::default(), ADMIN, USER, DISABLED, ENABLED] {
        assert!(matches!(
            fixture.store.update_user(&operator(), &nobody, update).await.unwrap(),
            UserChange::NoSuchUser
        ));
    }
    assert!(fixture.store.find_user(&nobody).await.unwrap().is_none());
}

#[rstest]
#[tokio::test]
async fn the_last_enabled_administrator_stays(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    let (fixture, bob) = Fixture::with_user(kind, "bob").await;
    let alice: UserName = "alice".parse().unwrap();
    fixture.store.create_user(&operator(), &admin("alice")).await.unwrap();
    fixture.store.create_user(&operator(), &User { disabled: true, ..admin("eve") }).await.unwrap();
    let update = async |name: &UserName, update| fixture.store.update_user(&operator(), name, update).await.unwrap();
    let stays = async |name: &UserName| {
        for end in [USER, DISABLED, UserUpdate { role: Some(Role::Admin), disabled: Some(true) }] {
            assert!(matches!(update(name, end).await, UserChange::LastAdmin), "{end:?}");
        }
        assert_eq!(fixture.store.remove_user(&operator(), name).await.unwrap(), UserChange::LastAdmin);
        assert!(fixture.store.find_user(name).await.unwrap().unwrap().administers());
    };
    let token = token(3600);
    fixture.store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
    stays(&alice).await;
    assert!(fixture.store.find_token(&alice, token.id).await.unwrap().is_some(), "nothing changed");
    // What makes no difference is no matter, nor are others.
    assert!(matches!(update(&alice, ADMIN).await, UserChange::Done(_)));
    assert!(matches!(update(&alice, ENABLED).await, UserChange::Done(_)));
    for harmless in [USER, DISABLED, ENABLED] {
        assert!(matches!(update(&bob, harmless).await, UserChange::Done(_)));
    }

    for (give, take) in [(ADMIN, USER), (ADMIN, DISABLED)] {
        assert!(matches!(update(&bob, ENABLED).await, UserChange::Done(_)));
        assert!(matches!(update(&bob, give).await, UserChange::Done(_)));
        assert!(matches!(update(&alice, take).await, UserChange::Done(_)));
        stays(&bob).await;
        assert!(matches!(update(&alice, ENABLED).await, UserChange::Done(_)));
        assert!(matches!(update(&alice, ADMIN).await, UserChange::Done(_)));
        assert!(matches!(update(&bob, take).await, UserChange::Done(_)));
        stays(&alice).await;
    }
    assert_eq!(fixture.store.remove_user(&operator(), &bob).await.unwrap(), UserChange::Done(0));
    assert!(matches!(update(&"eve".parse().unwrap(), ENABLED).await, UserChange::Done(_)));
    assert_eq!(fixture.store.remove_user(&operator(), &alice).await.unwrap(), UserChange::Done(0));
    stays(&"eve".parse().unwrap()).await;
}

/// Whoever changes whom at the same time, somebody is left to manage users, and the last ones are counted right.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn administrators_who_change_each_other_leave_one(
    #[values(Kind::Memory, Kind::Redis, Kind::Sentinel, Kind::Cluster)] kind: Kind,
) {
    const ROUNDS: usize = 300;
    let fixture = Fixture::new(kind);
    let names = ["alice", "bob"];
    let administer = async || {
        let mut administer = Vec::new();
        for name in names {
            let user = fixture.store.find_user(&name.parse().unwrap()).await.unwrap();
            administer.extend(user.filter(User::administers).map(|user| user.name));
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
                1 | 2 => drop(store.update_user(&operator(), &name, ADMIN).await.unwrap()),
                3 => drop(store.update_user(&operator(), &name, ENABLED).await.unwrap()),
                4 => drop(store.update_user(&operator(), &name, DISABLED).await.unwrap()),
                5 => drop(store.update_user(&operator(), &name, USER).await.unwrap()),
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
        // Who is counted and is none would let the only one go.
        if let [only] = &left[..] {
            assert!(
                matches!(fixture.store.update_user(&operator(), only, USER).await.unwrap(), UserChange::LastAdmin),
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
async fn an_administrator_who_is_not_counted_stays_and_is_counted_again() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&redis.url())).unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<UserName>().unwrap());
    store.create_user(&operator(), &admin("alice")).await.unwrap();
    store.create_user(&operator(), &admin("bob")).await.unwrap();
    // As after a change that broke off in between.
    redis.cli(&["HDEL", "mayfly:admins", "bob"]);
    assert!(matches!(store.update_user(&operator(), &alice, USER).await.unwrap(), UserChange::LastAdmin));
    assert!(matches!(store.update_user(&operator(), &bob, ADMIN).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, USER).await.unwrap(), UserChange::Done(_)));

    // Nobody is counted: who is not to be one any more cannot be told from the last one.
    redis.cli(&["DEL", "mayfly:admins"]);
    assert!(matches!(store.update_user(&operator(), &bob, DISABLED).await.unwrap(), UserChange::LastAdmin));
    assert!(matches!(store.update_user(&operator(), &alice, DISABLED).await.unwrap(), UserChange::Done(_)));
    // Nor does a failover that loses numbers keep anybody out.
    assert!(matches!(store.update_user(&operator(), &alice, ENABLED).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, ADMIN).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &bob, DISABLED).await.unwrap(), UserChange::Done(_)));

    // A creation that broke off is whole when it is repeated.
    redis.cli(&["HDEL", "mayfly:admins", "alice"]);
    store.create_user(&operator(), &admin("carol")).await.unwrap();
    redis.cli(&["ZREM", "mayfly:usernames", "alice"]);
    assert!(!store.create_user(&operator(), &admin("alice")).await.unwrap());
    assert_eq!(store.list_users(None, 1).await.unwrap().items[0].name, alice);
    assert!(matches!(store.remove_user(&operator(), &"carol".parse().unwrap()).await.unwrap(), UserChange::Done(0)));
    assert_eq!(store.remove_user(&operator(), &alice).await.unwrap(), UserChange::LastAdmin);
}

/// Whichever step of an addition or a removal is the first that fails, nobody exists whom no list names, and nobody is
/// taken for somebody.
#[tokio::test]
async fn what_broke_off_leaves_nobody_unseen() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&redis.url())).unwrap();
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
    // Those who are not there take no place on a page, and nothing follows where only they do.
    for ghost in ["aaron", "bill", "zoe"] {
        redis.cli(&["ZADD", "mayfly:usernames", "0", ghost]);
    }
    let page = store.list_users(None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].name.as_str(), page.more), (1, "bob", false));
    store.create_user(&operator(), &user("carol")).await.unwrap();
    let page = store.list_users(None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.more), (1, true));
    // A record that nobody can read is somebody's.
    redis.cli(&["DEL", "mayfly:{carol}:user"]);
    redis.cli(&["HDEL", "mayfly:{bob}:user", "role"]);
    assert!(store.has_users().await.unwrap());
}

#[tokio::test]
async fn a_node_that_is_no_primary_any_more_says_nothing_of_users() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&redis.url())).unwrap();
    store.create_user(&operator(), &admin("alice")).await.unwrap();
    redis.cli(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
    redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    store.find_user(&"alice".parse().unwrap()).await.unwrap_err();
    store.list_users(None, 10).await.unwrap_err();
    store.has_users().await.unwrap_err();
}

/// Before there were epochs, users were written without.
#[tokio::test]
async fn a_user_without_an_epoch_of_logins_logs_in() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&redis.url())).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    redis.cli(&["HDEL", "mayfly:{alice}:user", "epoch"]);
    let login = store.find_user(&alice).await.unwrap().unwrap().login_epoch;
    assert!(matches!(store.create_token(new_token(&alice, epoch(), &token(60))).await, Err(StoreError::LoginEnded)));
    assert_eq!(store.create_token(new_token(&alice, login, &token(60))).await.unwrap(), Creation::Created);
    assert!(matches!(store.update_user(&operator(), &alice, DISABLED).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &alice, ENABLED).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.create_token(new_token(&alice, login, &token(60))).await, Err(StoreError::LoginEnded)));
}

#[tokio::test]
async fn a_full_redis_still_takes_rights_away() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&RedisOptions::at(&redis.url())).unwrap();
    for name in ["alice", "bob", "carol", "dave"] {
        store.create_user(&operator(), &admin(name)).await.unwrap();
    }
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| name.parse::<UserName>().unwrap());
    let token = token(3600);
    store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(
        store.set_password(&operator(), &alice, &PasswordHash::dummy(HashCost::default()), true).await.unwrap(),
        Some(1)
    );
    assert_eq!(store.find_token(&alice, token.id).await.unwrap(), None);
    assert!(matches!(store.update_user(&operator(), &alice, DISABLED).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &bob, USER).await.unwrap(), UserChange::Done(_)));
    assert_eq!(store.remove_user(&operator(), &carol).await.unwrap(), UserChange::Done(0));
    store.update_user(&operator(), &alice, ENABLED).await.unwrap_err();
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
    let cost = async || fixture.store.find_user(&alice).await.unwrap().unwrap().password_hash.cost();
    // No lease on the old one outlives it.
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
    assert_eq!(fixture.ids(&alice, Page::ALL).await, Some(vec![]));
    for token in &tokens {
        assert_eq!(fixture.store.find_token(&alice, token.id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_redis_did_without_our_knowing_is_not_done_again() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port);
    let store = RedisStore::new(&RedisOptions::at(&format!("redis://127.0.0.1:{}", proxy.port))).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    // So that the scripts are known.
    let (known, lost) = (token(3600), token(3600));
    store.create_token(new_token(&alice, epoch(), &known)).await.unwrap();
    store.revoke_token(&operator(), &alice, known.id).await.unwrap();

    proxy.lose_an_answer();
    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap_err();
    assert!(store.find_token(&alice, lost.id).await.unwrap().is_some(), "it was created nevertheless");
    // Whoever deleted it meanwhile must not see it again: it was asked for once.
    store.revoke_token(&operator(), &alice, lost.id).await.unwrap();
    assert_eq!(store.find_token(&alice, lost.id).await.unwrap(), None);

    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap();
    proxy.lose_an_answer();
    store.revoke_token(&operator(), &alice, lost.id).await.expect_err("nobody knows who deleted it");
    assert!(!store.revoke_token(&operator(), &alice, lost.id).await.unwrap());

    // A connection that broke while nobody used it costs no deletion its answer.
    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap();
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(store.revoke_token(&operator(), &alice, lost.id).await.unwrap());
}

#[tokio::test]
async fn what_a_cluster_did_without_our_knowing_is_not_done_again() {
    let (port, bus) = (free_port(), free_port().to_string());
    let proxy = Proxy::to(port);
    let announced = proxy.port.to_string();
    let redis = RedisServer::start_with(
        port,
        &["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-announce-port", &announced],
    );
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("it serves all slots", || redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
    let options = |url: String| RedisOptions { timeout: Duration::from_secs(10), ..RedisOptions::at(&url) };
    let store = RedisStore::new(&options(format!("redis+cluster://127.0.0.1:{announced}"))).unwrap();
    let other = RedisStore::new(&options(redis.url())).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    // So that the scripts are known.
    let (known, lost) = (token(3600), token(3600));
    store.create_token(new_token(&alice, epoch(), &known)).await.unwrap();
    store.revoke_token(&operator(), &alice, known.id).await.unwrap();

    // The token is created, its creator is not told, and somebody who sees it revokes it. Then the connection breaks, and
    // redis-rs sends the script again.
    proxy.stall(Direction::ToClient, true);
    let creating = store.create_token(new_token(&alice, epoch(), &lost));
    let revoking = async {
        while other.find_token(&alice, lost.id).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(other.revoke_token(&operator(), &alice, lost.id).await.unwrap());
        let connections = proxy.connections();
        proxy.cut();
        proxy.stall(Direction::ToClient, false);
        connections
    };
    let (created, connections) = tokio::join!(creating, revoking);
    assert!(proxy.connections() > connections, "it was sent again");
    assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
    assert_eq!(other.find_token(&alice, lost.id).await.unwrap(), None);
}
