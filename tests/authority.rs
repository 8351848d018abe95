//! Authority is checked where a write runs: a delayed write cannot use a right that was lost meanwhile.

use std::{thread, time::Duration};

use mayfly::{
    domain::{
        attributes::SharedAttributes,
        life::Life,
        password::{HashCost, PasswordHash},
        token::{Token, TokenDigest, TokenId},
        user::{Role, User, UserName, UserUpdate},
    },
    store::{
        Authority, NewToken, RevokingWrites, Store, StoreError,
        leased::LEASE,
        redis::{RedisOptions, RedisStore},
    },
};
use rstest::rstest;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{Client, Proxy, RedisServer, Service, eventually, patient_options};

const TOKEN: &str = "/api/v1alpha/token";
const PASSWORD: &str = "/api/v1alpha/user/alice/password";

/// Two replicas; the first one's connections to Redis can be stalled.
struct Replicas {
    stalling: Service,
    other: Service,
    proxy: Proxy,
    redis: RedisServer,
}

impl Replicas {
    fn start() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::to(redis.port);
        let stalling = Service::launch(Some(&format!("redis://127.0.0.1:{}", proxy.port)), |_| {});
        stalling.wait_until_ready();
        let other = Service::launch(Some(&redis.url()), |command| {
            command.env("MAYFLY_JWT_KEYS_FILE", &stalling.keys_file);
        });
        other.wait_until_ready();
        other.admin().add_user("alice", "user");
        Self { stalling, other, proxy, redis }
    }

    fn alice(&self, password: &str) -> [Client; 2] {
        [&self.stalling, &self.other].map(|service| service.client().with_basic("alice", password))
    }

    /// Returns the response to a request to the first replica whose write is delayed until `meanwhile` has run.
    fn stall(&self, request: impl FnOnce() -> u16 + Send, meanwhile: impl FnOnce()) -> u16 {
        let commands = || self.redis.info("total_commands_processed").parse::<u64>().unwrap();
        thread::scope(|scope| {
            // The login is cached and the user leased: only the write needs Redis.
            self.proxy.blackhole(true);
            let stalled = scope.spawn(request);
            let status = stalled.join().unwrap();
            meanwhile();
            let before = commands();
            self.proxy.blackhole(false);
            eventually("what has waited comes through", || (commands() > before + 2).then_some(()));
            self.stalling.wait_until_ready();
            status
        })
    }
}

fn change_password(client: &Client, password: &str) -> u16 {
    client.put(PASSWORD, &json!({"password": password})).send().status
}

#[test]
fn a_delayed_password_change_does_not_undo_a_later_one() {
    let replicas = Replicas::start();
    let [thief, owner] = replicas.alice("secret");
    assert_eq!(thief.get(TOKEN).send().status, 200);
    let status =
        replicas.stall(|| change_password(&thief, "thief's"), || assert_eq!(change_password(&owner, "owner's"), 200));
    assert_eq!(status, 503);
    for (password, status) in [("owner's", 200), ("secret", 401), ("thief's", 401)] {
        for alice in replicas.alice(password) {
            assert_eq!(alice.get(TOKEN).send().status, status, "{password}");
        }
    }
}

#[test]
fn a_delayed_write_is_rejected_once_its_login_has_ended() {
    let replicas = Replicas::start();
    let [thief, owner] = replicas.alice("secret");
    let (kept, _) = owner.issue("kept", "1h");
    let (id, jwt) = owner.issue("to be rotated", "1h");
    let path = format!("{TOKEN}/{id}");
    for attempt in ["rotate", "revoke", "revoke all", "issue"] {
        let password = |owner: &str| json!({"password": owner});
        assert_eq!(thief.get(TOKEN).send().status, 200);
        let request = || match attempt {
            "rotate" => thief.post(&format!("{path}/rotate"), &json!({})).send().status,
            "revoke" => thief.delete(&path).send().status,
            "revoke all" => thief.delete(&format!("{TOKEN}?all=true")).send().status,
            _ => thief.post(TOKEN, &json!({"jwt_token_description": "x", "jwt_token_life": "1h"})).send().status,
        };
        let meanwhile = || assert_eq!(owner.put(PASSWORD, &password("owner's")).send().status, 200);
        assert_eq!(replicas.stall(request, meanwhile), 503, "{attempt}");
        let [_, alice] = replicas.alice("owner's");
        let tokens = alice.get(TOKEN).send().json()["jwt_tokens"].clone();
        let mut ids: Vec<_> = tokens.as_object().unwrap().keys().map(String::as_str).collect();
        ids.sort_unstable();
        let mut expected = [&*kept, &*id];
        expected.sort_unstable();
        assert_eq!(ids, expected, "{attempt}");
        assert_eq!(replicas.other.client().with_bearer(&jwt).get("/api/v1alpha/verify").send().status, 200);
        assert_eq!(alice.put(PASSWORD, &password("secret")).send().status, 200);
    }
}

/// Adds a user with this role.
fn user(name: &str, role: Role) -> User {
    User::new(name.parse().unwrap(), role, PasswordHash::dummy(HashCost::default()), 0)
}

/// A change by an administrator to another user, and the assertion about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Promote,
    Disable,
    Remove,
    SetPassword,
    Create,
    Revoke,
    RevokeAll,
}

impl Deed {
    async fn try_by(
        self,
        store: &RedisStore,
        by: &Authority,
        alice: &UserName,
        token: TokenId,
    ) -> Result<(), StoreError> {
        let update = |role, disabled| UserUpdate { role, disabled };
        match self {
            Self::Promote => store.update_user(by, alice, update(Some(Role::Admin), None)).await.map(drop),
            Self::Disable => store.update_user(by, alice, update(None, Some(true))).await.map(drop),
            Self::Remove => store.remove_user(by, alice).await.map(drop),
            Self::SetPassword => {
                let hash = PasswordHash::dummy(HashCost::default());
                store.set_password(by, alice, &hash, true).await.map(drop)
            }
            Self::Create => store.create_user(by, &user("mallory", Role::Admin)).await.map(drop),
            Self::Revoke => store.revoke_token(by, alice, token).await.map(drop),
            Self::RevokeAll => store.revoke_tokens(by, alice).await.map(drop),
        }
    }
}

#[rstest]
#[tokio::test]
async fn a_delayed_write_of_an_administrator_does_not_run_after_the_lease(
    #[values(
        Deed::Promote,
        Deed::Disable,
        Deed::Remove,
        Deed::SetPassword,
        Deed::Create,
        Deed::Revoke,
        Deed::RevokeAll
    )]
    deed: Deed,
) {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port);
    let direct = RedisStore::new(&patient_options(&redis.url())).unwrap();
    // Its writes time out while the proxy loses everything; everything else is done within this time on a busy machine,
    // too.
    let timeout = Duration::from_secs(5);
    let options = RedisOptions { timeout, ..patient_options(&format!("redis://127.0.0.1:{}", proxy.port)) };
    let stalling = RedisStore::new(&options).unwrap();
    let soon = Authority::Until(Instant::now() + Duration::from_mins(1));
    let alice = user("alice", Role::User);
    direct.create_user(&soon, &user("admin", Role::Admin)).await.unwrap();
    direct.create_user(&soon, &alice).await.unwrap();
    let token = Token {
        id: TokenId::random(),
        description: "x".parse().unwrap(),
        life: Life::parse("1h").unwrap(),
        digest: TokenDigest::of("x"),
        attributes: SharedAttributes::default(),
        successor: None,
    };
    direct
        .create_token(NewToken {
            owner: &alice.name,
            login: alice.login_epoch,
            token: &token,
            quota: 1,
            idempotency: None,
        })
        .await
        .unwrap();
    // Loads the scripts into Redis.
    if deed != Deed::Create {
        let bob = user("bob", Role::User);
        direct.create_user(&soon, &bob).await.unwrap();
        deed.try_by(&direct, &soon, &bob.name, token.id).await.unwrap();
    }
    // The replica now knows the clock of Redis.
    stalling.health().await.unwrap();
    let state = async || {
        let keys = redis.cli(&["--scan", "--pattern", "*"]);
        let mut keys: Vec<_> =
            keys.lines().filter(|key| !key.contains("usernames") && !key.contains("admins")).collect();
        keys.sort_unstable();
        (keys.join(" "), redis.cli(&["HGETALL", "mayfly:{alice}:user"]))
    };
    let before = state().await;

    proxy.blackhole(true);
    let until = Instant::now() + LEASE;
    let refused = deed.try_by(&stalling, &Authority::Until(until), &alice.name, token.id).await;
    assert!(matches!(refused, Err(StoreError::Timeout)), "{refused:?}");
    sleep(until.saturating_duration_since(Instant::now())).await;
    // Some changes begin with a read.
    let ran = || {
        let statistics = redis.cli(&["INFO", "commandstats"]);
        let commands = statistics.lines().filter(|line| line.contains("_evalsha:") || line.contains("_getex:"));
        commands.map(str::to_owned).collect::<Vec<_>>()
    };
    let before_it = ran();
    proxy.blackhole(false);
    eventually("the write comes through", || (ran() != before_it).then_some(()));
    assert_eq!(state().await, before, "{deed:?}");
    // It can be repeated.
    deed.try_by(&stalling, &soon, &alice.name, token.id).await.unwrap();
    assert_ne!(state().await, before, "{deed:?}");
}
