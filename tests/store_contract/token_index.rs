//! The indexes of a user's tokens in Redis: their cost, TTLs that were changed by hand, and earlier versions.

use super::*;

/// A store in a Redis with one user.
async fn store_with_alice() -> (RedisServer, RedisStore, UserName) {
    let redis = RedisServer::start();
    let store = RedisStore::new(&patient_options(&redis.url())).unwrap();
    store.create_user(&operator(), &user("alice")).await.unwrap();
    (redis, store, "alice".parse().unwrap())
}

async fn create(store: &RedisStore, owner: &UserName, quota: usize) -> Option<TokenId> {
    let token = token(3600);
    let creation = store.create_token(NewToken { quota, ..new_token(owner, epoch(), &token) }).await.unwrap();
    (creation == Creation::Created).then_some(token.id)
}

/// Creates tokens up to the quota, and returns their number.
async fn fill(store: &RedisStore, owner: &UserName) -> usize {
    let mut created = 0;
    while create(store, owner, QUOTA).await.is_some() {
        created += 1;
    }
    created
}

async fn listed(store: &RedisStore, owner: &UserName) -> Vec<TokenId> {
    let listing = store.list_tokens(owner, PageRequest::ALL).await.unwrap().unwrap();
    listing.items.iter().map(|live| live.token.id).collect()
}

/// Version 0.1: it knew no index of expiries.
struct EarlierVersion<'a>(&'a RedisServer);

impl EarlierVersion<'_> {
    fn create(&self, life_ms: u32) -> TokenId {
        let id = TokenId::random();
        let record = format!(r#"{{"d":"x","l":60,"h":"{}"}}"#, TokenDigest::of("x").to_base64());
        self.0.cli(&["SET", &key(id), &record, "PX", &life_ms.to_string()]);
        let time = self.0.cli(&["TIME"]);
        let (seconds, microseconds) = time.split_once('\n').unwrap();
        assert_eq!(self.0.cli(&["ZADD", INDEX, &format!("{seconds}{microseconds:0>6}"), &id.to_string()]), "1");
        id
    }

    fn revoke(&self, id: TokenId) {
        assert_eq!(self.0.cli(&["ZREM", INDEX, &id.to_string()]), "1");
        assert_eq!(self.0.cli(&["DEL", &key(id)]), "1");
    }
}

const INDEX: &str = "mayfly:{alice}:tokens";
const EXPIRIES: &str = "mayfly:{alice}:expiries";

fn key(id: TokenId) -> String {
    format!("mayfly:{{alice}}:token:{id}")
}

fn wait_until_gone(redis: &RedisServer, id: TokenId) {
    eventually("it has expired", || (redis.cli(&["EXISTS", &key(id)]) == "0").then_some(()));
}

#[tokio::test]
async fn tokens_of_an_earlier_version_count_while_they_live() {
    let (redis, store, alice) = store_with_alice().await;
    let earlier = EarlierVersion(&redis);
    let short: Vec<_> = (0..QUOTA - 2).map(|_| earlier.create(200)).collect();
    let long = [earlier.create(60_000), earlier.create(60_000)];
    wait_until_gone(&redis, short[short.len() - 1]);
    assert_eq!(fill(&store, &alice).await, QUOTA - 2);
    let listed = listed(&store, &alice).await;
    assert_eq!((listed.len(), &listed[QUOTA - 2..]), (QUOTA, &[long[1], long[0]][..]));
    assert_eq!(store.revoke_tokens(&operator(), &alice).await.unwrap(), QUOTA as u64);
}

#[tokio::test]
async fn an_earlier_version_may_still_run_beside_this_one() {
    let (redis, store, alice) = store_with_alice().await;
    let earlier = EarlierVersion(&redis);
    assert_eq!(fill(&store, &alice).await, QUOTA);
    // It revokes three tokens and creates two, of which one expires: this version creates two more.
    for id in &listed(&store, &alice).await[..3] {
        earlier.revoke(*id);
    }
    let (short, long) = (earlier.create(200), earlier.create(60_000));
    wait_until_gone(&redis, short);
    assert_eq!(fill(&store, &alice).await, 2);
    assert!(store.revoke_token(&operator(), &alice, long).await.unwrap());
    assert_eq!(fill(&store, &alice).await, 1);
    assert_eq!(listed(&store, &alice).await.len(), QUOTA);
}

#[tokio::test]
async fn a_token_whose_ttl_was_lengthened_by_hand_still_counts() {
    let (redis, store, alice) = store_with_alice().await;
    let lengthened = token(3600);
    store.create_token(new_token(&alice, epoch(), &lengthened)).await.unwrap();
    assert_eq!(fill(&store, &alice).await, QUOTA - 1);
    let now_ms = || {
        let time = redis.cli(&["TIME"]);
        let (seconds, micros) = time.split_once('\n').unwrap();
        seconds.parse::<u64>().unwrap() * 1000 + micros.parse::<u64>().unwrap() / 1000
    };
    // As the index is when the life that it knew is over.
    redis.cli(&["ZADD", EXPIRIES, "XX", &(now_ms() - 1).to_string(), &lengthened.id.to_string()]);
    assert_eq!(create(&store, &alice, QUOTA).await, None);
    assert_eq!(listed(&store, &alice).await.len(), QUOTA);
    assert!(redis.cli(&["ZSCORE", EXPIRIES, &lengthened.id.to_string()]).parse::<u64>().unwrap() > now_ms() + 500_000);
    assert_eq!(store.revoke_tokens(&operator(), &alice).await.unwrap(), QUOTA as u64);
}

/// Redis keeps a key during the whole millisecond in which its TTL ends.
#[tokio::test]
async fn a_token_counts_until_it_is_gone() {
    let (redis, store, alice) = store_with_alice().await;
    for _ in 0..50 {
        fill(&store, &alice).await;
        // The life of one of them is cut in both places, as the overlap of a rotation does.
        let id = listed(&store, &alice).await[0];
        let script = "local time = redis.call('TIME') \
            redis.call('PEXPIRE', KEYS[1], 20) \
            return redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + 20, ARGV[1])";
        redis.cli(&["EVAL", script, "2", &key(id), EXPIRIES, &id.to_string()]);
        while create(&store, &alice, QUOTA).await.is_none() {}
        assert!(listed(&store, &alice).await.len() <= QUOTA);
    }
}

#[tokio::test]
async fn a_refused_create_costs_the_same_however_many_tokens_there_are() {
    let (redis, store, alice) = store_with_alice().await;
    let mut costs = Vec::new();
    for quota in [10, 1_000] {
        while create(&store, &alice, quota).await.is_some() {}
        redis.cli(&["CONFIG", "RESETSTAT"]);
        assert_eq!(create(&store, &alice, quota).await, None);
        let stats = redis.cli(&["INFO", "commandstats"]);
        let calls =
            stats.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next()?.parse::<u32>().ok());
        costs.push(calls.sum::<u32>());
    }
    assert!(costs[0] == costs[1] && costs[0] < 15, "{costs:?}");
}

#[tokio::test]
async fn expired_tokens_leave_both_indexes() {
    let (redis, store, alice) = store_with_alice().await;
    let mut created = Vec::new();
    while let Some(id) = create(&store, &alice, 2_100).await {
        created.insert(0, id);
    }
    // As if every third had expired: also the last one that the first script reads, after which the next one goes on.
    let (expired, live): (Vec<_>, Vec<_>) = created.iter().enumerate().partition(|(position, _)| position % 3 == 0);
    for keys in expired.chunks(100) {
        let keys: Vec<_> = keys.iter().map(|(_, id)| key(**id)).collect();
        redis.cli(&[&["DEL"], &*keys.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    }
    assert_eq!(listed(&store, &alice).await, live.iter().map(|(_, id)| **id).collect::<Vec<_>>());
    assert_eq!([INDEX, EXPIRIES].map(|index| redis.cli(&["ZCARD", index])), ["1400", "1400"]);
}
