//! Acknowledged changes stay, whatever happens to connections and to Redis.
//!
//! Three replicas of the service have a link each to Redis, which stalls in either direction, is cut and is slow; Redis
//! fails over. Two tenants change passwords, disable, remove and create users, and revoke tokens; a request that gets
//! 503 is repeated at another replica. Each change races thieves, which use the right that is being lost through a
//! stalled link. Other clients check all acknowledged changes all the time, and [`History`] compares the answers.

use std::{
    fmt, mem,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use fastrand::Rng;
use mayfly::store::leased::LEASE;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    ADMIN_PASSWORD, Answer, Client, Direction, Draft, Fact, History, Proxy, Question, RedisServer, Service, Version,
    eventually,
};

const REPLICAS: usize = 3;
const TENANTS: usize = 6;
const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";
const ROOT: &str = "admin";

/// The description of tokens that thieves create.
const STOLEN: &str = "stolen";

/// Longer than any change fails: only keeps a run from hanging.
const PATIENCE: Duration = Duration::from_mins(1);

/// Counts of requests, and the contradictions to acknowledgements.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub changes: u64,
    /// Requests without a response or with 503, which were repeated at another replica.
    pub repeated: u64,
    /// Requests of thieves.
    pub attacks: u64,
    pub faults: u64,
    pub failovers: u64,
    /// Answers that were compared with acknowledged changes.
    pub compared: u64,
    pub violations: Vec<String>,
}

impl Report {
    pub const HEAD: &str = "changes | repeated | attacks | faults | failovers | answers compared | violations";
}

/// A row of a table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, repeated, attacks, faults, failovers, compared, violations, .. } = self;
        let violations = violations.len();
        write!(f, "{changes} | {repeated} | {attacks} | {faults} | {failovers} | {compared} | {violations}")
    }
}

struct World {
    /// The link from each service to the primary.
    links: Vec<Proxy>,
    is_faulty: Vec<AtomicBool>,
    services: Vec<Service>,
    history: History,
    end: Instant,
    changes: AtomicU64,
    repeated: AtomicU64,
    attacks: AtomicU64,
    faults: AtomicU64,
}

/// A Redis primary and its replica.
struct Pair {
    servers: [Option<RedisServer>; 2],
    /// The link to each server, used by the other.
    links: [Proxy; 2],
    primary: usize,
}

impl Pair {
    fn start(version: Version) -> Self {
        let start = || RedisServer::start_version(version, &["--repl-diskless-sync-delay", "0"]);
        let servers = [start(), start()];
        let links = [Proxy::to(servers[0].port), Proxy::to(servers[1].port)];
        let pair = Self { servers: servers.map(Some), links, primary: 0 };
        pair.follow();
        pair
    }

    fn server(&self, index: usize) -> &RedisServer {
        self.servers[index].as_ref().expect("it runs")
    }

    /// Makes the replica follow the primary, and waits until it is in sync.
    fn follow(&self) {
        let replica = self.server(1 - self.primary);
        replica.cli(&["REPLICAOF", "127.0.0.1", &self.links[self.primary].port.to_string()]);
        eventually("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
    }

    /// Stalls the replication for a moment, kills the primary, and promotes the replica.
    fn fail_over(&mut self, unreplicated_for: Duration, clients: &[Proxy]) {
        let killed = self.primary;
        self.links[killed].blackhole(true);
        sleep(unreplicated_for);
        let stopped = self.servers[killed].take().expect("it runs").stop();
        self.primary = 1 - killed;
        self.server(self.primary).cli(&["REPLICAOF", "NO", "ONE"]);
        for link in clients {
            link.redirect(self.server(self.primary).port);
        }
        self.links[killed].cut();
        self.links[killed].blackhole(false);
        self.servers[killed] = Some(stopped.start_again());
        self.follow();
    }
}

/// A fault of a service's link, until dropped.
struct Fault<'a> {
    link: &'a Proxy,
    is_faulty: &'a AtomicBool,
    is_cut: bool,
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        if self.is_cut {
            self.link.cut();
        }
        self.link.delay(Duration::ZERO);
        self.link.blackhole(false);
        self.is_faulty.store(false, SeqCst);
    }
}

impl World {
    fn start(redis: &Pair, duration: Duration) -> Self {
        let links: Vec<_> = (0..REPLICAS).map(|_| Proxy::to(redis.server(redis.primary).port)).collect();
        let mut services: Vec<Service> = Vec::new();
        for link in &links {
            let keys = services.first().map(|first| first.keys_file.clone());
            services.push(Service::launch(Some(&format!("redis://127.0.0.1:{}", link.port)), |command| {
                command
                    .env("MAYFLY_PASSWORD_COST", "m=8,t=1,p=1")
                    .env("MAYFLY_REDIS_TIMEOUT", "600ms")
                    .env("MAYFLY_REDIS_WAIT_REPLICAS", "1")
                    .env("MAYFLY_REDIS_WAIT_TIMEOUT", "300ms")
                    // Each client has its own address, so that none is throttled for failures of others.
                    .env("MAYFLY_TRUSTED_PROXIES", "127.0.0.1");
                if let Some(keys) = keys {
                    command.env("MAYFLY_JWT_KEYS_FILE", keys);
                }
            }));
        }
        services.iter().for_each(Service::wait_until_ready);
        Self {
            is_faulty: links.iter().map(|_| AtomicBool::default()).collect(),
            links,
            services,
            history: History::new(),
            end: Instant::now() + duration,
            changes: AtomicU64::default(),
            repeated: AtomicU64::default(),
            attacks: AtomicU64::default(),
            faults: AtomicU64::default(),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Causes a fault of this link unless it has one already; optionally at a write that changes `user`.
    fn fault(&self, link: usize, user: &str, rng: &mut Rng) -> Option<Fault<'_>> {
        if self.is_faulty[link].swap(true, SeqCst) {
            return None;
        }
        self.faults.fetch_add(1, SeqCst);
        let fault = Fault { link: &self.links[link], is_faulty: &self.is_faulty[link], is_cut: rng.u32(..3) == 0 };
        match rng.u32(..9) {
            // The write is complete, and runs late.
            0..3 => fault.link.stall_from(&["EVALSHA", &format!("{{{user}}}")]),
            3..5 => fault.link.stall(Direction::ToServer, true),
            5 => fault.link.stall(Direction::ToClient, true),
            6 => fault.link.blackhole(true),
            7 => fault.link.delay(Duration::from_millis(rng.u64(20..200))),
            _ => fault.link.cut(),
        }
        Some(fault)
    }

    /// Causes faults of links and failovers until the end.
    fn disturb(&self, redis: &mut Pair, mut rng: Rng) -> u64 {
        let mut failovers = 0;
        let mut next_failover = Instant::now() + Duration::from_secs(4);
        while !self.is_over() {
            sleep(Duration::from_millis(rng.u64(..1000)));
            let fault = self.fault(rng.usize(..REPLICAS), ROOT, &mut rng);
            sleep(Duration::from_millis(rng.u64(..500)));
            drop(fault);
            if Instant::now() >= next_failover {
                let unreplicated_for = Duration::from_millis(rng.u64(..2000));
                redis.fail_over(unreplicated_for, &self.links);
                failovers += 1;
                next_failover = Instant::now() + Duration::from_secs(rng.u64(3..10));
            }
        }
        failovers
    }

    /// Checks acknowledged changes until the end.
    fn observe(&self, mut rng: Rng) {
        while !self.is_over() {
            if let Some(question) = self.history.pick(&mut rng) {
                self.ask(&question, rng.usize(..REPLICAS), &mut rng);
            }
            sleep(Duration::from_millis(rng.u64(..5)));
        }
    }

    /// Asks one replica one question, and returns whether the replica gave an answer.
    fn ask(&self, question: &Question, replica: usize, rng: &mut Rng) -> bool {
        let mut value = self.answer(&question.fact, replica, rng);
        if value == Some(false) && question.expected == Some(true) {
            // A read that began earlier is shared, so a granted right may show one read late. A removed right may not.
            sleep(LEASE);
            value = self.answer(&question.fact, replica, rng);
        }
        let Some(value) = value else { return false };
        self.history.answer(question, value, &format!("replica {replica}"));
        true
    }

    /// Returns the answer of this replica, or `None` without one.
    fn answer(&self, fact: &Fact, replica: usize, rng: &mut Rng) -> Option<bool> {
        let client = self.services[replica].client();
        let (draft, refused): (_, &[u16]) = match fact {
            Fact::LogsIn { user, password } => (client.with_basic(user, password).get(TOKEN), &[401]),
            Fact::Administers { user, password } => (client.with_basic(user, password).get(USER), &[401, 403]),
            Fact::IsLive { jwt } => (client.with_bearer(jwt).get("/api/v1alpha/verify"), &[401]),
            Fact::HasToken { user, .. } => {
                (client.with_basic(ROOT, ADMIN_PASSWORD).get(&format!("{USER}/{user}/token")), &[404])
            }
        };
        let answer = draft.header("x-forwarded-for", &random_address(rng)).try_send().ok()?;
        match fact {
            _ if refused.contains(&answer.status) => Some(false),
            _ if answer.status != 200 => None,
            Fact::HasToken { description, .. } => Some(answer.text.contains(&format!("{description:?}"))),
            _ => Some(true),
        }
    }

    /// Asks each replica about every settled fact.
    fn ask_everything(&self, rng: &mut Rng) {
        for replica in 0..REPLICAS {
            self.services[replica].wait_until_ready();
            for question in self.history.questions() {
                eventually(&format!("it is answered whether {}", question.fact), || {
                    self.ask(&question, replica, rng).then_some(())
                });
            }
        }
    }

    /// Sends a request to one replica after the other until the response is not 503.
    fn send_until_answered(&self, rng: &mut Rng, draft: impl Fn(Client) -> Draft) -> Answer {
        let begun = Instant::now();
        loop {
            let replica = rng.usize(..REPLICAS);
            match send(draft(self.services[replica].client())) {
                Some(answer) => return answer,
                None => self.repeated.fetch_add(1, SeqCst),
            };
            assert!(begun.elapsed() < PATIENCE, "no replica answers");
        }
    }

    /// Sends a request as the permanent administrator until one of these statuses acknowledges it.
    fn send_as_root_until_acknowledged(&self, rng: &mut Rng, statuses: &[u16], draft: impl Fn(Client) -> Draft) -> u16 {
        let answer = self.send_until_answered(rng, |client| draft(client.with_basic(ROOT, ADMIN_PASSWORD)));
        assert!(statuses.contains(&answer.status), "{answer:?}");
        self.changes.fetch_add(1, SeqCst);
        answer.status
    }
}

/// Sends a request from the address of the honest clients. `None`: no response or 503.
fn send(draft: Draft) -> Option<Answer> {
    let answer = draft.header("x-forwarded-for", "192.0.2.1").try_send().ok()?;
    (![429, 503].contains(&answer.status)).then_some(answer)
}

fn random_address(rng: &mut Rng) -> String {
    Ipv4Addr::from_bits(0x0a00_0000 | rng.u32(..1 << 24)).to_string()
}

/// Returns the id of a created token, and the fact that the token is live.
fn created_token(answer: &Answer) -> Option<(String, Fact)> {
    let body = (answer.status == 201).then(|| answer.json())?;
    let field = |name: &str| Some(body[name].as_str()?.to_owned());
    Some((field("jwt_token_id")?, Fact::IsLive { jwt: field("jwt_token")? }))
}

fn token(description: &str) -> Value {
    json!({"jwt_token_description": description, "jwt_token_life": "1h"})
}

/// Method, path and body of a request.
type Attack = (&'static str, String, Value);

/// Users that no other tenant touches, and their history.
struct Tenant<'a> {
    world: &'a World,
    rng: Rng,
    user: String,
    password: String,
    /// A user that only the deputy promotes.
    friend: String,
    friend_password: String,
    /// An administrator that is demoted and promoted.
    deputy: String,
    deputy_password: String,
    /// Only a thief ever creates this user.
    stranger: String,
    passwords: u32,
    /// Tokens of the user: ids and facts.
    live: Vec<(String, Fact)>,
}

impl<'a> Tenant<'a> {
    fn new(world: &'a World, number: usize, rng: Rng) -> Self {
        let name = |role: &str| format!("{role}{number}");
        let mut tenant = Self {
            world,
            rng,
            user: name("user"),
            password: String::new(),
            friend: name("friend"),
            friend_password: String::new(),
            deputy: name("deputy"),
            deputy_password: String::new(),
            stranger: name("stranger"),
            passwords: 0,
            live: Vec::new(),
        };
        tenant.password = tenant.create(&tenant.user.clone(), "user");
        tenant.deputy_password = tenant.create(&tenant.deputy.clone(), "admin");
        tenant.friend_password = tenant.create(&tenant.friend.clone(), "user");
        tenant
    }

    fn work(mut self) {
        while !self.world.is_over() {
            for _ in 0..self.rng.u32(..3) {
                self.issue();
            }
            match self.rng.u32(..10) {
                0..2 => self.change_password(),
                2 => self.disable(),
                3..5 => self.remove(),
                5..7 => self.demote_the_deputy(),
                _ => self.revoke(),
            }
        }
    }

    fn settle(&self, fact: &Fact, value: bool, by: &str) {
        self.world.history.settle(fact, value, by);
    }

    fn settle_all(&self, tokens: &[(String, Fact)], value: bool, by: &str) {
        for (_, fact) in tokens {
            self.settle(fact, value, by);
        }
    }

    fn unsettle(&self, fact: &Fact) {
        self.world.history.unsettle(fact);
    }

    fn logs_in(&self) -> Fact {
        Fact::LogsIn { user: self.user.clone(), password: self.password.clone() }
    }

    fn has_stolen(&self) -> Fact {
        Fact::HasToken { user: self.user.clone(), description: STOLEN.to_owned() }
    }

    fn next_password(&mut self, of: &str) -> String {
        self.passwords += 1;
        format!("{of}-{}", self.passwords)
    }

    /// Creates a user, who may exist by an earlier attempt, and returns the password.
    fn create(&mut self, user: &str, role: &str) -> String {
        let password = self.next_password(user);
        let body = json!({"username": user, "role": role, "password": password});
        // An existing user has this password, or gets it.
        if self.world.send_as_root_until_acknowledged(&mut self.rng, &[201, 409], |root| root.post(USER, &body)) == 409
        {
            self.set_password(user, &password, false);
        }
        self.settle(&Fact::LogsIn { user: user.to_owned(), password: password.clone() }, true, "creating");
        password
    }

    /// Returns whether the user exists.
    fn set_password(&mut self, user: &str, password: &str, revoke_tokens: bool) -> bool {
        let body = json!({"password": password, "revoke_tokens": revoke_tokens});
        let path = format!("{USER}/{user}/password");
        self.world.send_as_root_until_acknowledged(&mut self.rng, &[200, 404], |root| root.put(&path, &body)) == 200
    }

    fn patch(&mut self, user: &str, body: &Value) -> bool {
        let path = format!("{USER}/{user}");
        self.world.send_as_root_until_acknowledged(&mut self.rng, &[200, 404], |root| root.patch(&path, body)) == 200
    }

    fn delete(&mut self, user: &str) {
        let path = format!("{USER}/{user}");
        self.world.send_as_root_until_acknowledged(&mut self.rng, &[200, 404], |root| root.delete(&path));
    }

    fn issue(&mut self) {
        let service = &self.world.services[self.rng.usize(..REPLICAS)];
        let client = service.client().with_basic(&self.user, &self.password);
        if let Some((id, fact)) = send(client.post(TOKEN, &token("mine"))).and_then(|answer| created_token(&answer)) {
            self.settle(&fact, true, "creating the token");
            self.live.push((id, fact));
        }
    }

    fn revoke(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let (id, fact) = self.live.swap_remove(self.rng.usize(..self.live.len()));
        let Fact::IsLive { jwt } = &fact else { unreachable!() };
        self.unsettle(&fact);
        let (name, password) = (self.user.clone(), self.password.clone());
        let way = self.rng.u32(..2);
        let answer = self.world.send_until_answered(&mut self.rng, |client| match way {
            0 => client.with_basic(&name, &password).delete(&format!("{TOKEN}/{id}")),
            _ => client.post_form("/oauth2/revoke", &[("token", jwt)]),
        });
        if [200, 404].contains(&answer.status) {
            self.settle(&fact, false, "revoking the token");
        }
    }

    /// Records that all tokens of the user, stolen ones too, are about to be revoked.
    fn unsettle_tokens(&self) {
        for (_, fact) in &self.live {
            self.unsettle(fact);
        }
        self.unsettle(&self.has_stolen());
    }

    fn settle_ended_tokens(&mut self, by: &str) {
        let ended = mem::take(&mut self.live);
        self.settle_all(&ended, false, by);
        self.settle(&self.has_stolen(), false, by);
    }

    /// Has thieves send these requests with this login through a faulty link while `change` runs. Returns the tokens
    /// that the thieves got by the time the link has recovered.
    fn while_thieves_act(
        &mut self,
        (user, password): (&str, &str),
        attacks: &[Attack],
        change: impl FnOnce(&mut Self),
    ) -> Vec<(String, Fact)> {
        let world = self.world;
        let link = self.rng.usize(..REPLICAS);
        let thief = world.services[link].client().with_basic(user, password);
        let address = random_address(&mut self.rng);
        let send = |draft: Draft| draft.header("x-forwarded-for", &address).try_send().ok();
        // The replica has cached the login when the fault begins.
        send(thief.get(TOKEN));
        let (_, path, body) = &attacks[0];
        let named = path.strip_prefix(USER).and_then(|rest| rest.split('/').nth(1));
        let changed = named.or(body["username"].as_str()).unwrap_or(user);
        let fault = world.fault(link, changed, &mut self.rng);
        let lasts = Duration::from_millis(self.rng.u64(300..1500));
        let head_start = Duration::from_millis(self.rng.u64(..300));
        world.attacks.fetch_add(attacks.len() as u64, SeqCst);
        thread::scope(|scope| {
            scope.spawn(move || {
                if fault.is_some() {
                    sleep(lasts);
                }
                drop(fault);
            });
            let attack = |(method, path, body): &Attack| send(thief.request(method, path).json(body));
            let attacks: Vec<_> = attacks.iter().map(|request| scope.spawn(move || attack(request))).collect();
            sleep(head_start);
            change(self);
            let answers = attacks.into_iter().filter_map(|attack| attack.join().unwrap());
            answers.filter_map(|answer| created_token(&answer)).collect()
        })
    }

    /// Returns the requests that thieves send with the user's login.
    fn thefts(&mut self, thiefs_password: Option<&str>) -> Vec<Attack> {
        let set_password = |password| ("PUT", format!("{USER}/{}/password", self.user), json!({"password": password}));
        let mut attacks: Vec<Attack> =
            vec![("POST", TOKEN.to_owned(), token(STOLEN)), ("POST", TOKEN.to_owned(), token(STOLEN))];
        attacks.extend(thiefs_password.map(set_password));
        attacks.extend(self.live.last().map(|(id, _)| ("POST", format!("{TOKEN}/{id}/rotate"), json!({}))));
        self.rng.shuffle(&mut attacks);
        attacks.truncate(self.rng.usize(1..=attacks.len()));
        attacks
    }

    /// Changes the password and revokes the tokens, while thieves use the old password.
    fn change_password(&mut self) {
        let user = self.user.clone();
        let (old, thiefs, new) =
            (self.password.clone(), self.next_password("thief"), self.next_password(&self.user.clone()));
        self.unsettle(&self.logs_in());
        self.unsettle_tokens();
        let attacks = self.thefts(Some(&thiefs));
        let stolen = self.while_thieves_act((&user, &old), &attacks, |tenant| {
            let by = "changing the password";
            let own = tenant.rng.bool() && {
                let body = json!({"password": new, "revoke_tokens": true});
                let path = format!("{USER}/{user}/password");
                let service = &tenant.world.services[tenant.rng.usize(..REPLICAS)];
                let answer = send(service.client().with_basic(&user, &old).put(&path, &body));
                answer.is_some_and(|answer| answer.status == 200)
            };
            // The first attempt got 503, or a thief was faster.
            if !own && !tenant.set_password(&user, &new, true) {
                return;
            }
            tenant.settle(&tenant.logs_in(), false, by);
            let thiefs = Fact::LogsIn { user: user.clone(), password: thiefs.clone() };
            tenant.settle(&thiefs, false, by);
            tenant.password.clone_from(&new);
            tenant.settle(&tenant.logs_in(), true, by);
            tenant.settle_ended_tokens(by);
        });
        self.settle_all(&stolen, false, "changing the password");
        if self.password == old {
            self.recreate();
        }
    }

    /// Disables and enables the user, who then has no token, not even one that a thief created.
    fn disable(&mut self) {
        let (user, password) = (self.user.clone(), self.password.clone());
        self.unsettle(&self.logs_in());
        self.unsettle_tokens();
        let attacks = self.thefts(None);
        let stolen = self.while_thieves_act((&user, &password), &attacks, |tenant| {
            if tenant.patch(&user, &json!({"disabled": true})) {
                tenant.settle(&tenant.logs_in(), false, "disabling");
                tenant.settle_ended_tokens("disabling");
            }
        });
        self.settle_all(&stolen, false, "disabling");
        self.unsettle(&self.logs_in());
        if self.patch(&user, &json!({"disabled": false})) {
            self.settle(&self.logs_in(), true, "enabling");
        } else {
            self.recreate();
        }
    }

    /// Removes the user and creates another of the same name. Requests for the first do not affect the second.
    fn remove(&mut self) {
        let user = self.user.clone();
        self.unsettle(&self.logs_in());
        self.unsettle_tokens();
        // The removal may get 503 and be repeated.
        let removal = [("DELETE", format!("{USER}/{user}"), json!({}))];
        self.while_thieves_act((ROOT, ADMIN_PASSWORD), &removal, |_| ());
        let thiefs = self.next_password("thief");
        let attacks = self.thefts(Some(&thiefs));
        let login = (user.clone(), self.password.clone());
        let stolen = self.while_thieves_act((&login.0, &login.1), &attacks, Self::recreate);
        self.settle_all(&stolen, false, "removing");
        self.settle(&Fact::LogsIn { user, password: thiefs }, false, "removing");
    }

    fn recreate(&mut self) {
        let user = self.user.clone();
        self.delete(&user);
        self.settle(&self.logs_in(), false, "removing");
        self.settle_ended_tokens("removing");
        self.password = self.create(&user, "user");
        self.issue();
    }

    /// Demotes an administrator who sends all kinds of requests, and promotes the administrator again after cleaning
    /// up.
    fn demote_the_deputy(&mut self) {
        let [user, friend, deputy, stranger] =
            [&self.user, &self.friend, &self.deputy, &self.stranger].map(Clone::clone);
        let password = self.next_password(&stranger);
        let deputys = self.next_password("deputys");
        let mut attacks = vec![
            ("PATCH", format!("{USER}/{friend}"), json!({"role": "admin"})),
            ("POST", USER.to_owned(), json!({"username": stranger, "role": "admin", "password": password})),
            ("DELETE", format!("{USER}/{user}"), json!({})),
            ("PUT", format!("{USER}/{user}/password"), json!({"password": deputys, "revoke_tokens": true})),
            ("PATCH", format!("{USER}/{user}"), json!({"disabled": true})),
        ];
        self.rng.shuffle(&mut attacks);
        attacks.truncate(self.rng.usize(1..=3));
        let administers = Fact::Administers { user: deputy.clone(), password: self.deputy_password.clone() };
        let friends = Fact::Administers { user: friend.clone(), password: self.friend_password.clone() };
        let strangers = Fact::LogsIn { user: stranger.clone(), password };
        self.unsettle(&administers);
        self.unsettle(&friends);
        self.unsettle(&self.logs_in());
        self.unsettle_tokens();
        let login = (deputy.clone(), self.deputy_password.clone());
        let by = "demoting the deputy";
        self.while_thieves_act((&login.0, &login.1), &attacks, |tenant| {
            tenant.patch(&deputy, &json!({"role": "user"}));
            tenant.settle(&administers, false, by);
            // Cleans up the effects; no later ones may appear.
            tenant.patch(&friend, &json!({"role": "user"}));
            tenant.settle(&friends, false, by);
            tenant.delete(&stranger);
            tenant.settle(&strangers, false, by);
            tenant.recreate();
        });
        self.unsettle(&administers);
        self.patch(&deputy, &json!({"role": "admin"}));
        self.settle(&administers, true, "promoting the deputy");
    }
}

/// Causes faults for this time, and compares all answers with the acknowledged changes.
pub fn run(version: Version, duration: Duration, seed: u64) -> Report {
    let mut redis = Pair::start(version);
    let world = World::start(&redis, duration);
    let rng = |number: u64| Rng::with_seed(seed.wrapping_add(number));
    let failovers = thread::scope(|scope| {
        let disturbing = scope.spawn(|| world.disturb(&mut redis, rng(0)));
        for number in 0..TENANTS {
            let (world, rng) = (&world, rng(1 + number as u64));
            scope.spawn(move || Tenant::new(world, number, rng).work());
        }
        for number in 0..6 {
            let (world, rng) = (&world, rng(100 + number));
            scope.spawn(move || world.observe(rng));
        }
        disturbing.join().unwrap()
    });
    world.ask_everything(&mut rng(200));
    Report {
        seed,
        changes: world.changes.into_inner(),
        repeated: world.repeated.into_inner(),
        attacks: world.attacks.into_inner(),
        faults: world.faults.into_inner(),
        failovers,
        compared: world.history.answers(),
        violations: world.history.violations(),
    }
}

#[test]
fn an_answer_can_only_contradict_a_settled_fact() {
    let (history, fact) = (History::new(), Fact::IsLive { jwt: "an example".into() });
    let ask = || history.questions().pop().unwrap();
    history.settle(&fact, true, "creating");
    history.answer(&ask(), true, "here");
    let early = ask();
    history.unsettle(&fact);
    let meanwhile = ask();
    history.answer(&ask(), false, "here");
    history.settle(&fact, false, "revoking");
    history.answer(&early, true, "here");
    history.answer(&meanwhile, true, "here");
    assert!(history.violations().is_empty());
    history.answer(&ask(), true, "there");
    assert_eq!(history.violations().len(), 1);
}

/// `make soak` does so for 10 minutes.
#[rstest]
fn no_acknowledged_change_is_undone(#[values(Version::Redis8_2, Version::Valkey8_0)] version: Version) {
    let report = run(version, Duration::from_secs(20), fastrand::u64(..));
    assert!(report.violations.is_empty(), "{report:#?}");
    assert!(report.failovers > 0 && report.repeated > 0 && report.compared > 100, "{report:?}");
}
