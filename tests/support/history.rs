//! Records acknowledged changes, and finds responses that contradict them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use fastrand::Rng;

/// A fact that a request can check, with all that the request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The user logs in with this password.
    LogsIn { user: String, password: String },
    /// The user may do what administrators may.
    Administers { user: String, password: String },
    /// The token is accepted.
    IsLive { jwt: String },
    /// The user has a token with this description.
    HasToken { user: String, description: String },
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogsIn { user, password } => write!(f, "{user} logs in with {password}"),
            Self::Administers { user, .. } => write!(f, "{user} administers"),
            Self::IsLive { jwt } => write!(f, "the token …{} is live", &jwt[jwt.len() - 8..]),
            Self::HasToken { user, description } => write!(f, "{user} has a token {description:?}"),
        }
    }
}

/// A request that checks a fact.
pub struct Question {
    pub fact: Fact,
    /// The settled value, unless a change is in progress.
    pub expected: Option<bool>,
    changes: u64,
}

/// What is known of a fact. `value` is `None` from the start of a change until its acknowledgement settles the fact.
#[derive(Default)]
struct Standing {
    value: Option<bool>,
    changes: u64,
    settled_by: String,
}

/// The history of all facts.
///
/// The rule: if a fact was settled when a question was sent, and no change began before the answer, then the answer has
/// the settled value. A fact that ended for good, such as an old password, never changes again.
pub struct History {
    begun: Instant,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    standing: HashMap<Fact, Standing>,
    /// The facts in the order in which they were settled.
    settled: Vec<Fact>,
    violations: Vec<String>,
    answers: u64,
}

impl History {
    pub fn new() -> Self {
        Self { begun: Instant::now(), facts: Mutex::default() }
    }

    /// Records that a request that changes this fact is about to be sent.
    pub fn unsettle(&self, fact: &Fact) {
        let mut facts = self.facts();
        let standing = facts.standing.entry(fact.clone()).or_default();
        standing.value = None;
        standing.changes += 1;
    }

    /// Records that a change was acknowledged.
    pub fn settle(&self, fact: &Fact, value: bool, by: &str) {
        let settled_by = format!("{by} at {}", self.now());
        let mut facts = self.facts();
        let standing = facts.standing.entry(fact.clone()).or_default();
        let changes = standing.changes + 1;
        *standing = Standing { value: Some(value), changes, settled_by };
        facts.settled.push(fact.clone());
    }

    /// Returns a question about a settled fact, preferably a recent one.
    pub fn pick(&self, rng: &mut Rng) -> Option<Question> {
        const LATELY: usize = 60;
        let facts = self.facts();
        let count = facts.settled.len();
        let oldest = if rng.u32(..4) > 0 { count.saturating_sub(LATELY) } else { 0 };
        (count > 0).then(|| facts.question(&facts.settled[rng.usize(oldest..count)]))
    }

    /// Returns a question about every settled fact.
    pub fn questions(&self) -> Vec<Question> {
        let facts = self.facts();
        facts.standing.keys().map(|fact| facts.question(fact)).collect()
    }

    /// Compares the answer of a replica to a question.
    pub fn answer(&self, question: &Question, value: bool, from: &str) {
        let now = self.now();
        let mut facts = self.facts();
        facts.answers += 1;
        let standing = facts.standing.get_mut(&question.fact).expect("it was asked about");
        let contradicts = standing.value.is_some_and(|settled| settled != value);
        if contradicts && standing.changes == question.changes {
            // Once is enough.
            standing.value = None;
            let is = if value { "holds" } else { "does not hold" };
            let violation =
                format!("{now}: {:?} {is} at {from}, in spite of {}", question.fact.to_string(), standing.settled_by);
            facts.violations.push(violation);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.facts().violations.clone()
    }

    /// Returns the number of compared answers.
    pub fn answers(&self) -> u64 {
        self.facts().answers
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    fn now(&self) -> String {
        format!("{:.2} s", self.begun.elapsed().as_secs_f64())
    }
}

impl Facts {
    fn question(&self, fact: &Fact) -> Question {
        let Standing { value, changes, .. } = self.standing[fact];
        Question { fact: fact.clone(), expected: value, changes }
    }
}
