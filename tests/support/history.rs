//! What answers acknowledged, and the answers that contradict it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use fastrand::Rng;

/// Something that a request can ask about, with all that the request needs.
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

/// A question that is about to be asked.
pub struct Question {
    pub fact: Fact,
    /// What is settled, if anything is.
    pub expected: Option<bool>,
    changes: u64,
}

/// What is known of a fact. `value` is `None` from the moment at which somebody begins to change it until an answer settles it.
#[derive(Default)]
struct Standing {
    value: Option<bool>,
    changes: u64,
    settled_by: String,
}

/// The history of all facts.
///
/// The rule: an answer to a question that was asked when a fact was settled, and that came before anybody began to change it
/// again, says what was settled. What is lost for good, such as an old password, nobody ever changes again.
pub struct History {
    begun: Instant,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    standing: HashMap<Fact, Standing>,
    /// In the order in which they were settled.
    settled: Vec<Fact>,
    violations: Vec<String>,
    answers: u64,
}

impl History {
    pub fn new() -> Self {
        Self { begun: Instant::now(), facts: Mutex::default() }
    }

    /// Somebody is about to send a request that changes this.
    pub fn unsettle(&self, fact: &Fact) {
        let mut facts = self.facts();
        let standing = facts.standing.entry(fact.clone()).or_default();
        standing.value = None;
        standing.changes += 1;
    }

    /// An answer acknowledged this.
    pub fn settle(&self, fact: &Fact, value: bool, by: &str) {
        let settled_by = format!("{by} at {}", self.now());
        let mut facts = self.facts();
        let standing = facts.standing.entry(fact.clone()).or_default();
        let changes = standing.changes + 1;
        *standing = Standing { value: Some(value), changes, settled_by };
        facts.settled.push(fact.clone());
    }

    /// A question about something that is settled, lately more often than not.
    pub fn pick(&self, rng: &mut Rng) -> Option<Question> {
        const LATELY: usize = 60;
        let facts = self.facts();
        let count = facts.settled.len();
        let oldest = if rng.u32(..4) > 0 { count.saturating_sub(LATELY) } else { 0 };
        (count > 0).then(|| facts.question(&facts.settled[rng.usize(oldest..count)]))
    }

    /// A question about each thing that was ever settled.
    pub fn questions(&self) -> Vec<Question> {
        let facts = self.facts();
        facts.standing.keys().map(|fact| facts.question(fact)).collect()
    }

    /// What was answered to a question, and from where.
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

    /// How many answers were compared.
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
