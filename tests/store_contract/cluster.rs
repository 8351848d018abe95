//! A watch on a Redis Cluster: its slots move, its primaries die, are replaced and are cut off.

use super::*;

/// A key in the slot of the user of these tests.
const ALICE: &str = "mayfly:{alice}:user";

/// A store with a user in a Cluster, and another store that changes tokens.
struct Stores {
    watching: RedisStore,
    other: RedisStore,
    alice: UserName,
}

impl Stores {
    async fn of(cluster: &Cluster) -> Self {
        let connect = || RedisStore::new(&patient_options(&cluster.url())).unwrap();
        let stores = Self { watching: connect(), other: connect(), alice: "alice".parse().unwrap() };
        assert!(stores.other.create_user(&operator(), &user("alice")).await.unwrap());
        stores
    }

    async fn create(&self) -> TokenId {
        let token = token(3600);
        self.other.create_token(new_token(&self.alice, epoch(), &token)).await.unwrap();
        token.id
    }

    /// Begins a watch as soon as the nodes agree.
    async fn watch(&self) -> Box<dyn Watch> {
        let patience = soon();
        loop {
            match self.watching.watch().await {
                Ok(watch) => return watch.expect("a Cluster has a watch"),
                Err(error) => assert!(Instant::now() < patience, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_found(&self, id: TokenId) -> bool {
        self.watching.find_token(&self.alice, id).await.unwrap().is_some()
    }

    async fn revoke(&self, id: TokenId) {
        assert!(self.other.revoke_token(&operator(), &self.alice, id).await.unwrap());
    }
}

/// The index of the replica that each primary has at first.
fn replica_of(primary: usize) -> usize {
    (primary + 3) % 6
}

#[tokio::test]
async fn a_watch_goes_on_while_slots_move_between_its_nodes() {
    let cluster = Cluster::start(false);
    let stores = Stores::of(&cluster).await;
    let mut watch = stores.watch().await;
    let id = stores.create().await;
    for _ in 0..3 {
        cluster.move_slot_of(ALICE);
        assert!(watch.changes().await.unwrap().tokens.contains(&id), "its key was moved");
        assert!(stores.is_found(id).await);
        assert!(watch.changes().await.unwrap().tokens.is_empty(), "the new node answered, which is watched");
    }
    stores.revoke(id).await;
    assert_eq!(watch.changes().await.unwrap().tokens, HashSet::from([id]));
}

#[tokio::test]
async fn a_watch_ends_when_a_slot_is_at_a_node_that_it_does_not_ask() {
    let mut cluster = Cluster::start(false);
    let new = cluster.add_primary();
    let stores = Stores::of(&cluster).await;
    let mut watch = stores.watch().await;
    let id = stores.create().await;
    watch.changes().await.unwrap();
    cluster.move_slot(ALICE, new);
    watch.changes().await.map(drop).unwrap_err();
    let mut watch = stores.watch().await;
    assert!(stores.is_found(id).await);
    stores.revoke(id).await;
    assert_eq!(watch.changes().await.unwrap().tokens, HashSet::from([id]));
}

/// The keys have moved, the slot has not: the node that has the keys is not asked for changes.
#[tokio::test]
async fn a_watch_reports_keys_that_move_to_another_node_before_their_slot() {
    let mut cluster = Cluster::start(false);
    let new = cluster.add_primary();
    let stores = Stores::of(&cluster).await;
    let mut watch = stores.watch().await;
    let id = stores.create().await;
    assert!(watch.changes().await.unwrap().tokens.contains(&id));
    assert!(stores.is_found(id).await);
    assert_eq!(watch.changes().await.unwrap(), Changes::default());
    cluster.move_keys_of_slot(ALICE, new);
    assert!(watch.changes().await.unwrap().tokens.contains(&id));
    // The other node has the key, and redis-rs does not ask it for a whole pipeline.
    let found = stores.watching.find_token(&stores.alice, id).await;
    assert!(found.is_err(), "{found:?}");
    assert_eq!(watch.changes().await.unwrap().tokens, HashSet::from([id]), "another node may have answered");
}

#[tokio::test]
async fn a_watch_ends_with_a_primary_and_begins_again_with_the_next() {
    let mut cluster = Cluster::start(true);
    let stores = Stores::of(&cluster).await;
    let id = stores.create().await;
    for is_planned in [true, false] {
        let mut watch = stores.watch().await;
        assert!(stores.is_found(id).await);
        watch.changes().await.unwrap();
        let old = cluster.primary_of(ALICE);
        if is_planned {
            cluster.promote(replica_of(old));
        } else {
            drop(cluster.servers[old].take());
        }
        watch.changes().await.map(drop).unwrap_err();
    }
    let mut watch = stores.watch().await;
    assert!(stores.is_found(id).await);
    stores.revoke(id).await;
    assert!(watch.changes().await.unwrap().tokens.contains(&id));
}

/// The primary still answers this service, but no other node reaches it. It rejects the question, as it rejects reads,
/// before a replica takes its place.
#[tokio::test]
async fn a_watch_ends_when_a_primary_is_cut_off() {
    // Only this version can drop all packets.
    let cluster = Cluster::start_version(Version::Valkey9_1, true, &["--enable-debug-command", "yes"]);
    let stores = Stores::of(&cluster).await;
    let mut watch = stores.watch().await;
    let id = stores.create().await;
    watch.changes().await.unwrap();
    let old = cluster.primary_of(ALICE);
    assert_eq!(cluster.server(old).cli(&["DEBUG", "DROP-CLUSTER-PACKET-FILTER", "-2"]), "OK");
    let noticed = || cluster.server(old).cli(&["CLUSTER", "INFO"]).contains("cluster_state:fail").then_some(());
    eventually("it notices", noticed);
    watch.changes().await.map(drop).unwrap_err();
    // Without a vote, as those who would vote still hear the old primary.
    let replica = replica_of(old);
    assert_eq!(cluster.server(replica).cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    eventually("the others agree", || {
        let agrees = |index: usize| {
            let slots = cluster.server(index).cli(&["CLUSTER", "SLOTS"]);
            !slots.contains(&cluster.server(old).cli(&["CLUSTER", "MYID"]))
        };
        (0..6).filter(|index| *index != old).all(agrees).then_some(())
    });
    let mut watch = stores.watch().await;
    assert!(stores.is_found(id).await);
    // redis-rs would repeat the write at the old primary until its timeout.
    let on_the_other_side =
        RedisStore::new(&patient_options(&format!("redis+cluster://127.0.0.1:{}", cluster.server(replica).port)))
            .unwrap();
    assert!(on_the_other_side.revoke_token(&operator(), &stores.alice, id).await.unwrap());
    assert!(watch.changes().await.unwrap().tokens.contains(&id));
}
