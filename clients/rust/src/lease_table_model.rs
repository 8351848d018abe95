//! The lease table against a model of the whole: replicas with leases and watches of their own, a load balancer, slow
//! and lost messages, revocations, restarts, clocks that run apart, and a verifier that is stopped.
//!
//! The model knows the truth. A verification that began after a revocation was answered, and accepted the token, is a
//! violation. Each safeguard is also left out in turn, and the model must then find a violation.

use std::collections::HashMap;

use fastrand::Rng;

use super::*;
use crate::token::tests::token;

/// All times of the model are in milliseconds.
const MS: u64 = 1_000_000;

/// When the service answers a revocation.
const WRITE_WAIT: u64 = 300;

/// The longest lease of a replica.
const REPLICA_LEASE: u64 = 250;

/// How far clocks run apart: by as much as chrony slews them.
const DRIFT: f64 = 0.083;

/// A safeguard that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Ages are taken for zero.
    Age,
    /// Reads from before the sequence are renewed.
    Sequence,
    /// A reset begins no new sequence.
    Reset,
    /// A token that is named while its read is under way is renewed.
    NamesDuringReads,
    /// A token that was named before its read was sent is renewed, though the replica answered from before the change.
    NamesBeforeReads,
    /// A renewal lasts longer than a lease.
    LeaseBound,
    /// Answers count from when they arrived.
    Sending,
}

/// A token as the store has it.
struct Stored {
    token: Token,
    revoked_at: Option<u64>,
}

impl Stored {
    fn is_live(&self, at: u64) -> bool {
        self.revoked_at.is_none_or(|revoked| revoked >= at)
    }

    /// Whether its revocation was answered by then.
    fn is_answered(&self, at: u64) -> bool {
        self.revoked_at.is_some_and(|revoked| revoked + WRITE_WAIT <= at)
    }
}

/// A replica of the service.
struct Replica {
    start: u64,
    /// As of when it knows all changes.
    asked_at: u64,
    is_stalled: bool,
    clock_rate: f64,
}

/// A read under way: when it was sent and arrives, and what it finds.
struct PendingRead {
    sent: u64,
    arrives: u64,
    index: usize,
    /// The age of the knowledge that the token is live.
    found: Option<u64>,
}

struct PendingQuestion {
    question: Question,
    arrives: u64,
    answer: Option<Changes>,
}

struct World {
    rng: Rng,
    without: Without,
    now: u64,
    stored: Vec<Stored>,
    /// The changes, with the time of each.
    changes: Vec<(u64, usize)>,
    replicas: Vec<Replica>,
    /// The places of each cursor, by the start of a replica.
    cursors: Vec<HashMap<u64, usize>>,
    table: LeaseTable,
    clock_rate: f64,
    stopped_until: u64,
    reads: Vec<PendingRead>,
    question: Option<PendingQuestion>,
    next_question: u64,
    hits: u64,
    violations: u64,
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut rate = || 1.0 + DRIFT * (2.0 * rng.f64() - 1.0);
        let clock_rate = rate();
        let rates = [rate(), rate(), rate()];
        let replicas =
            (0..).zip(rates).map(|(start, clock_rate)| Replica { start, asked_at: 0, is_stalled: false, clock_rate });
        let mut world = Self {
            replicas: replicas.collect(),
            rng,
            without,
            now: 1000,
            stored: Vec::new(),
            changes: Vec::new(),
            cursors: vec![HashMap::new()],
            table: LeaseTable::new(1000),
            clock_rate,
            stopped_until: 0,
            reads: Vec::new(),
            question: None,
            next_question: 0,
            hits: 0,
            violations: 0,
        };
        for _ in 0..4 {
            world.create();
        }
        world
    }

    fn run(mut self, milliseconds: u64) -> Self {
        for _ in 0..milliseconds {
            self.now += 1;
            self.change_store();
            self.run_replicas();
            if self.rng.u32(..1000) == 0 {
                self.stopped_until = self.now + self.rng.u64(..1000);
            }
            if self.now >= self.stopped_until {
                self.take_answers();
                self.ask_changes();
                (0..3).for_each(|_| self.verify());
            }
        }
        self
    }

    /// This time by the verifier's clock.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a model")]
    fn moment(&self, time: u64) -> Moment {
        Moment::from_nanos((time as f64 * self.clock_rate * MS as f64) as u64)
    }

    fn create(&mut self) {
        let id = format!("{:032x}", self.rng.u128(..));
        self.stored.push(Stored { token: token(TokenId::parse(&id).unwrap()), revoked_at: None });
        self.changes.push((self.now, self.stored.len() - 1));
    }

    /// One of the last tokens, live or revoked.
    fn choose(&mut self) -> usize {
        self.stored.len() - 1 - self.rng.usize(..6.min(self.stored.len()))
    }

    fn change_store(&mut self) {
        if self.rng.u32(..100) == 0 {
            let (index, now) = (self.choose(), self.now);
            self.stored[index].revoked_at.get_or_insert(now);
            self.changes.push((now, index));
            self.create();
        } else if self.rng.u32(..200) == 0 {
            // As a rotation with an overlap does.
            let index = self.choose();
            self.changes.push((self.now, index));
        }
    }

    fn run_replicas(&mut self) {
        for replica in &mut self.replicas {
            if self.rng.u32(..2000) == 0 {
                replica.start += 100;
                (replica.asked_at, replica.is_stalled) = (self.now, false);
            }
            if self.rng.u32(..300) == 0 {
                replica.is_stalled = !replica.is_stalled;
            }
            if !replica.is_stalled && self.rng.u32(..50) == 0 {
                replica.asked_at = self.now;
            }
        }
    }

    /// The time that a message takes.
    fn delay(&mut self) -> u64 {
        if self.rng.u32(..10) == 0 { self.rng.u64(..400) } else { self.rng.u64(..5) }
    }

    /// The age in milliseconds by the clock of a replica, rounded up.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a model")]
    fn age(replica: &Replica, milliseconds: u64) -> u64 {
        (milliseconds as f64 * replica.clock_rate).ceil() as u64
    }

    fn verify(&mut self) {
        let index = self.choose();
        if self.table.find(&digest(index), self.moment(self.now)).is_some() {
            self.hits += 1;
            self.violations += u64::from(self.stored[index].is_answered(self.now));
        } else if self.reads.iter().all(|read| read.index != index) {
            let reaches = self.now + self.delay();
            let replica = &self.replicas[self.rng.usize(..self.replicas.len())];
            // The replica knows the token as of a moment in its lease, unless its watch has told of a change since.
            let mut known_at = reaches - self.rng.u64(..REPLICA_LEASE);
            let is_told = |(time, of): &(u64, usize)| *of == index && (known_at..replica.asked_at).contains(time);
            if self.changes.iter().any(is_told) {
                known_at = reaches;
            }
            // What happens until the read reaches the replica is not known yet: so it is answered from what is known.
            known_at = known_at.min(self.now);
            let found = self.stored[index].is_live(known_at).then(|| Self::age(replica, reaches - known_at));
            let arrives = reaches + self.delay();
            self.reads.push(PendingRead { sent: self.now, arrives, index, found });
        }
    }

    fn take_answers(&mut self) {
        let (arrived, left) = std::mem::take(&mut self.reads).into_iter().partition(|read| read.arrives <= self.now);
        self.reads = left;
        for PendingRead { sent, index, found, .. } in Vec::<PendingRead>::from_iter::<Vec<_>>(arrived) {
            let Some(mut age) = found else { continue };
            // The caller who asked takes the answer itself.
            self.violations += u64::from(self.stored[index].is_answered(sent));
            let (mut sent, now) = (self.moment(sent), self.moment(self.now));
            let mark = self.table.mark(self.stored[index].token.id());
            let named_at = Moment::from_nanos(mark.load(Acquire));
            let known_at = sent.minus(Duration::from_millis(age));
            let is_forgotten = match self.without {
                Without::NamesDuringReads => named_at > sent,
                Without::NamesBeforeReads => (known_at..=sent).contains(&named_at),
                _ => false,
            };
            if is_forgotten {
                mark.store(0, Release);
            }
            match self.without {
                Without::Age => age = 0,
                Without::Sending => sent = now,
                _ => {}
            }
            let (life, age) = (Duration::from_secs(3600), Duration::from_millis(age));
            // Refused: a clock of a replica may run faster than the verifier's.
            let _ = self.table.insert(digest(index), self.stored[index].token.clone(), life, age, sent, now);
        }
        if self.question.as_ref().is_some_and(|question| question.arrives <= self.now) {
            let PendingQuestion { mut question, answer, .. } = self.question.take().unwrap();
            let Some(mut answer) = answer else { return };
            match self.without {
                Without::Age => answer.age = Duration::ZERO,
                Without::Sending => question.sent = self.moment(self.now),
                Without::Reset if question.cursor.is_some() => answer.reset = false,
                _ => {}
            }
            self.table.end_question(&question, answer, self.moment(self.now));
            match self.without {
                Without::Sequence => self.table.begun_at.store(0, Release),
                Without::LeaseBound => drop(self.table.renewed_until.fetch_add(250 * MS, Release)),
                _ => {}
            }
        }
    }

    fn ask_changes(&mut self) {
        if self.question.is_some() || self.now < self.next_question {
            return;
        }
        self.next_question = self.now + 100;
        let question = self.table.begin_question(self.moment(self.now));
        let arrives = self.now + self.delay() + self.delay();
        let replica = &self.replicas[self.rng.usize(..self.replicas.len())];
        let cursor: usize = question.cursor.as_ref().map_or(0, |cursor| cursor.parse().unwrap());
        let mut places = self.cursors[cursor].clone();
        // The answer is made now, and is under way for all of the delay.
        let end = self.changes.partition_point(|(time, _)| *time < replica.asked_at);
        let begin = places.insert(replica.start, end).filter(|begin| *begin <= end);
        let told = self.changes[begin.unwrap_or(end)..end].iter();
        let answer = Changes {
            cursor: self.cursors.len().to_string(),
            age: Duration::from_millis(Self::age(replica, self.now - replica.asked_at)),
            reset: begin.is_none(),
            tokens: told.map(|(_, index)| self.stored[*index].token.id()).collect(),
        };
        self.cursors.push(places);
        let is_lost = self.rng.u32(..50) == 0;
        self.question = Some(PendingQuestion { question, arrives, answer: (!is_lost).then_some(answer) });
    }
}

fn digest(index: usize) -> Digest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&index.to_be_bytes());
    digest
}

/// The number of violations, of hits and of worlds until the first violation.
fn try_worlds(without: Without, worlds: u64) -> (u64, u64, u64) {
    let seed = fastrand::u64(..);
    let mut hits = 0;
    for number in 0..worlds {
        let world = World::new(seed.wrapping_add(number), without).run(5_000);
        hits += world.hits;
        if world.violations > 0 {
            println!("{without:?}: a violation in world {}", seed.wrapping_add(number));
            return (world.violations, hits, number + 1);
        }
    }
    (0, hits, worlds)
}

#[test]
fn no_token_is_accepted_after_its_revocation_was_answered() {
    let worlds = std::env::var("MODEL_WORLDS").map_or(200, |worlds| worlds.parse().unwrap());
    let (violations, hits, worlds) = try_worlds(Without::Nothing, worlds);
    assert_eq!(violations, 0);
    assert!(hits > 3_000 * worlds, "{hits} verifications of {worlds} worlds were answered from memory");
}

#[test]
fn without_any_one_of_the_safeguards_a_revoked_token_is_accepted() {
    let safeguards = [
        Without::Age,
        Without::Sequence,
        Without::Reset,
        Without::NamesDuringReads,
        Without::NamesBeforeReads,
        Without::LeaseBound,
        Without::Sending,
    ];
    for without in safeguards {
        let (violations, _, worlds) = try_worlds(without, 2_000);
        assert!(violations > 0, "nothing was found without {without:?} in {worlds} worlds");
    }
}
