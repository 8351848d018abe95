//! Faults, limits and sizes that only Redis has.

use futures_util::{StreamExt, stream};

use super::*;

#[tokio::test]
async fn a_former_primary_does_not_answer_about_users() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    store.create_user(&operator(), &admin("alice")).await.unwrap();
    redis.cli(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
    redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    store.find_user(&"alice".parse().unwrap()).await.unwrap_err();
    store.list_users(None, 10).await.unwrap_err();
    store.has_users().await.unwrap_err();
}

#[tokio::test]
async fn a_full_redis_still_demotes_disables_and_removes_users() {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    for name in ["alice", "bob", "carol", "dave"] {
        store.create_user(&operator(), &admin(name)).await.unwrap();
    }
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| name.parse::<UserName>().unwrap());
    let token = token(3600);
    store.create_token(new_token(&alice, epoch(), &token)).await.unwrap();
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(
        store.set_password(&operator(), &alice, &PasswordHash::dummy(HashCost::default()), true).await.unwrap(),
        UserChange::Done(1)
    );
    assert_eq!(store.find_token(&alice, token.id).await.unwrap(), None);
    assert!(matches!(store.update_user(&operator(), &alice, DISABLE).await.unwrap(), UserChange::Done(_)));
    assert!(matches!(store.update_user(&operator(), &bob, DEMOTE).await.unwrap(), UserChange::Done(_)));
    assert_eq!(store.remove_user(&operator(), &carol).await.unwrap(), UserChange::Done(0));
    store.update_user(&operator(), &alice, ENABLE).await.unwrap_err();
}

#[tokio::test]
async fn an_unconfirmed_write_is_not_sent_again() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port);
    let store = RedisStore::new(&patient_options(&format!("redis://127.0.0.1:{}", proxy.port))).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    // So that the server has the scripts.
    let (known, lost) = (token(3600), token(3600));
    store.create_token(new_token(&alice, epoch(), &known)).await.unwrap();
    store.revoke_token(&operator(), &alice, known.id).await.unwrap();

    proxy.drop_next_response();
    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap_err();
    assert!(store.find_token(&alice, lost.id).await.unwrap().is_some(), "it was created nevertheless");
    // A second run would bring the revoked token back.
    store.revoke_token(&operator(), &alice, lost.id).await.unwrap();
    assert_eq!(store.find_token(&alice, lost.id).await.unwrap(), None);

    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap();
    proxy.drop_next_response();
    store.revoke_token(&operator(), &alice, lost.id).await.expect_err("the first run may have deleted it");
    assert!(!store.revoke_token(&operator(), &alice, lost.id).await.unwrap());

    // A deletion succeeds although its idle connection broke.
    store.create_token(new_token(&alice, epoch(), &lost)).await.unwrap();
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(store.revoke_token(&operator(), &alice, lost.id).await.unwrap());
}

#[tokio::test]
async fn a_write_that_redis_rs_resends_in_a_cluster_runs_once() {
    let (port, bus) = (free_port(), free_port().to_string());
    let proxy = Proxy::to(port);
    let announced = proxy.port.to_string();
    let redis = RedisServer::start_with(
        port,
        &["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-announce-port", &announced],
    );
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("it serves all slots", || redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
    let store = RedisStore::new(&patient_options(&format!("redis+cluster://127.0.0.1:{announced}"))).unwrap();
    let other = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let alice = "alice".parse().unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    // So that the server has the scripts.
    let (known, lost) = (token(3600), token(3600));
    store.create_token(new_token(&alice, epoch(), &known)).await.unwrap();
    store.revoke_token(&operator(), &alice, known.id).await.unwrap();

    // The token is created, the answer is held back, and the other store revokes the token. Then the connection breaks,
    // and redis-rs resends the script.
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
    assert!(proxy.connections() > connections, "it was resent");
    assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
    assert_eq!(other.find_token(&alice, lost.id).await.unwrap(), None);
}

/// 399 bytes, as of 1,000,000 tokens, which fill the hash tables of Redis as far as these do; the tables take up to 16
/// more. What else the server allocates adds up to 4 bytes a token here.
#[tokio::test]
async fn a_token_without_attributes_takes_400_bytes() {
    const OWNERS: usize = 16;
    const TOKENS: usize = 16_000;
    let redis = RedisServer::start();
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    let owners: Vec<UserName> = (0..OWNERS).map(|number| format!("user{number:04}").parse().unwrap()).collect();
    for owner in &owners {
        store.create_user(&operator(), &user(owner.as_str())).await.unwrap();
    }
    // All that the server has allocated, without the buffers of clients and the cache of scripts.
    let used_bytes = || {
        let stats = redis.cli(&["MEMORY", "STATS"]);
        let mut lines = stats.lines();
        let mut sum = 0;
        while let Some(name) = lines.next() {
            if ["dataset.bytes", "overhead.hashtable.main", "overhead.hashtable.expires"].contains(&name) {
                sum += lines.next().unwrap().parse::<usize>().unwrap();
            }
        }
        sum
    };
    let empty = used_bytes();
    stream::iter(0..TOKENS)
        .for_each_concurrent(32, async |number| {
            let token = Token { description: "a token of 20 letter".parse().unwrap(), ..token(86_400) };
            let new = NewToken { quota: TOKENS, ..new_token(&owners[number % OWNERS], epoch(), &token) };
            assert_eq!(store.create_token(new).await.unwrap(), Creation::Created);
        })
        .await;
    let bytes = (used_bytes() - empty) / TOKENS;
    println!("{TOKENS} tokens: {bytes} bytes of Redis each");
    assert!(bytes <= 404, "{bytes}");
}
