//! The latest changes that the watch reported, for verifiers: processes that lend leases from the replicas.
//!
//! A verifier asks ten times a second which tokens have changed since its last question, and renews its leases on all
//! others, as this replica renews its own with each answer of the watch. The replica keeps nothing per verifier: each
//! answer has a cursor, which the verifier sends with its next question.
//!
//! A cursor has a place for each replica that has answered the verifier, since a load balancer may send each question
//! to another one. Each replica answers from its own place and copies the others. A replica that finds no place of its
//! own, or one that it cannot continue, answers with a reset: the verifier then renews no lease that is older.

use std::{collections::VecDeque, fmt, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{domain::token::TokenId, store::Changes};

/// The number of changes that are kept, 64 KiB. A verifier that missed more gets a reset, which costs it a read per
/// token in use. It asks 10 times a second, so this allows 40,000 changes a second.
const CAPACITY: usize = 4096;

/// The most places in a cursor. With more replicas behind one load balancer, verifiers get resets.
const MAX_PLACES: usize = 16;

/// The latest changes of the watch.
pub(super) struct ChangeLog {
    /// A random number that names this start of the replica.
    start: u64,
    recent: Mutex<Recent>,
}

struct Recent {
    /// The number of the watch. The end of a watch, and a change of everything, begin another number.
    watch: u64,
    /// As of when the changes are complete: when the watch was last asked; `None`: there is no watch.
    complete_at: Option<Instant>,
    /// The number of changes of this watch so far.
    end: u64,
    /// The last of them.
    tokens: VecDeque<TokenId>,
}

/// The tokens that have changed since a cursor.
#[derive(Debug)]
pub struct ChangesSince {
    /// The cursor of the next question.
    pub cursor: String,
    /// The time since the changes were complete.
    pub age: Duration,
    /// The tokens; `None`: any token may have changed.
    pub tokens: Option<Vec<TokenId>>,
}

/// The place of one replica in a cursor: all changes before it are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    watch: u64,
    /// The generation of the keys that the replica verified signatures with.
    keys: u32,
    position: u64,
}

/// Records the changes of one watch. When it is dropped, the watch has ended.
pub(super) struct Recorder<'a>(&'a ChangeLog);

impl ChangeLog {
    pub(super) fn new() -> Self {
        let recent = Recent { watch: 0, complete_at: None, end: 0, tokens: VecDeque::new() };
        let start = getrandom::u64().expect("the operating system provides random bytes");
        Self { start, recent: Mutex::new(recent) }
    }

    /// Begins a watch.
    pub(super) fn begin(&self) -> Recorder<'_> {
        self.recent.lock().restart();
        Recorder(self)
    }

    /// The changes since this cursor, which may be any text, and the cursor of the next question. `keys`: the
    /// generation of the keys in force; other keys are a reset, as tokens may no longer be valid. `None`: no watch.
    pub(super) fn since(&self, cursor: Option<&str>, keys: u32) -> Option<ChangesSince> {
        let places = cursor.and_then(Place::parse_all).unwrap_or_default();
        let (own, others): (Vec<Place>, Vec<Place>) = places.into_iter().partition(|place| place.start == self.start);
        let recent = self.recent.lock();
        let age = recent.complete_at?.elapsed();
        let own = own.first().filter(|place| place.watch == recent.watch && place.keys == keys);
        let tokens = own.and_then(|place| recent.tokens_since(place.position));
        let next = Place { start: self.start, watch: recent.watch, keys, position: recent.end };
        drop(recent);
        // The replicas that answered last come first, so that those that are gone are dropped.
        let places = std::iter::once(next).chain(others).take(MAX_PLACES);
        let cursor = places.map(|place| place.to_string()).collect::<Vec<_>>().join(".");
        Some(ChangesSince { cursor, age, tokens })
    }
}

impl Recorder<'_> {
    /// Records these changes, which are all up to `asked_at`.
    pub(super) fn record(&mut self, asked_at: Instant, changes: &Changes) {
        let mut recent = self.0.recent.lock();
        if changes.everything {
            recent.restart();
        }
        for token in &changes.tokens {
            if recent.tokens.len() == CAPACITY {
                recent.tokens.pop_front();
            }
            recent.tokens.push_back(*token);
            recent.end += 1;
        }
        recent.complete_at = Some(asked_at);
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        self.0.recent.lock().restart();
    }
}

impl Recent {
    /// Makes all cursors foreign, and there is no watch until the next changes are recorded.
    fn restart(&mut self) {
        *self = Self { watch: self.watch + 1, complete_at: None, end: 0, tokens: VecDeque::new() };
    }

    /// The changes from this position on; `None`: they are not kept any more, or the position does not exist.
    fn tokens_since(&self, position: u64) -> Option<Vec<TokenId>> {
        let count = usize::try_from(self.end.checked_sub(position)?).ok()?;
        let skipped = self.tokens.len().checked_sub(count)?;
        Some(self.tokens.range(skipped..).copied().collect())
    }
}

impl Place {
    /// The places of a cursor; `None`: it is none.
    fn parse_all(cursor: &str) -> Option<Vec<Self>> {
        let places: Vec<_> = cursor.split('.').take(MAX_PLACES + 1).map(Self::parse).collect::<Option<_>>()?;
        (places.len() <= MAX_PLACES).then_some(places)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|number| u64::from_str_radix(number, 16).ok());
        let mut next = || numbers.next().flatten();
        let place = Self { start: next()?, watch: next()?, keys: next()?.try_into().ok()?, position: next()? };
        numbers.next().is_none().then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, watch, keys, position } = self;
        write!(f, "{start:016x}-{watch:x}-{keys:x}-{position:x}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::time::{advance, pause};

    use super::*;

    const KEYS: u32 = 3;

    fn ids<const N: usize>() -> [TokenId; N] {
        [(); N].map(|()| TokenId::random())
    }

    fn changes(tokens: &[TokenId]) -> Changes {
        Changes { tokens: tokens.iter().copied().collect(), ..Changes::default() }
    }

    /// The changes since this cursor as a set, and the cursor of the next question.
    fn ask(log: &ChangeLog, cursor: Option<&str>) -> (Option<HashSet<TokenId>>, String) {
        let ChangesSince { cursor, tokens, .. } = log.since(cursor, KEYS).expect("there is a watch");
        (tokens.map(|tokens| tokens.into_iter().collect()), cursor)
    }

    fn set(tokens: &[TokenId]) -> HashSet<TokenId> {
        tokens.iter().copied().collect()
    }

    fn record_all(recorders: &mut [Recorder], changes: &Changes) {
        for recorder in recorders {
            recorder.record(Instant::now(), changes);
        }
    }

    #[tokio::test]
    async fn each_change_is_told_once_to_each_cursor_with_its_age() {
        pause();
        let (log, [a, b, c]) = (ChangeLog::new(), ids());
        assert!(log.since(None, KEYS).is_none(), "no watch has begun");
        let mut recorder = log.begin();
        assert!(log.since(None, KEYS).is_none(), "the watch has told of nothing yet");
        recorder.record(Instant::now(), &changes(&[a]));
        let (tokens, first) = ask(&log, None);
        assert_eq!(tokens, None);
        recorder.record(Instant::now(), &changes(&[b]));
        let (tokens, second) = ask(&log, Some(&first));
        assert_eq!(tokens, Some(set(&[b])));
        let asked_at = Instant::now();
        advance(Duration::from_millis(7)).await;
        recorder.record(asked_at, &changes(&[c]));
        advance(Duration::from_millis(5)).await;
        assert_eq!(log.since(Some(&second), KEYS).unwrap().age, Duration::from_millis(12));
        assert_eq!((ask(&log, Some(&second)).0, ask(&log, Some(&first)).0), (Some(set(&[c])), Some(set(&[b, c]))));
        let last = ask(&log, Some(&second)).1;
        assert_eq!(ask(&log, Some(&last)), (Some(set(&[])), last));
    }

    #[test]
    fn a_cursor_that_cannot_be_continued_is_answered_with_a_reset() {
        let (log, other) = (ChangeLog::new(), ChangeLog::new());
        let (mut recorder, mut others) = (log.begin(), other.begin());
        recorder.record(Instant::now(), &changes(&ids::<5>()));
        others.record(Instant::now(), &changes(&ids::<5>()));
        let cursor = ask(&log, None).1;
        let future = Place { position: 6, ..Place::parse(&cursor).unwrap() }.to_string();
        let foreign = ask(&other, None).1;
        let garbage = "\\u{fe0f}%".repeat(2000);
        let lengthy = vec!["0-0-0-0"; 100_000].join(".");
        for text in
            ["", ".", "-", "----", "0-0-0-0", "0-0-0", "x", &format!("{cursor}-0"), &format!("{cursor}."), &future]
                .into_iter()
                .chain([&*foreign, &garbage, &lengthy])
        {
            assert_eq!(ask(&log, Some(text)).0, None, "{text:.100}");
            assert_eq!(ask(&log, Some(&ask(&log, Some(text)).1)).0, Some(set(&[])), "{text:.100}");
        }
        assert_eq!(log.since(Some(&cursor), KEYS + 1).unwrap().tokens, None, "other keys are in force");

        recorder.record(Instant::now(), &Changes { everything: true, ..Changes::default() });
        assert_eq!(ask(&log, Some(&cursor)).0, None, "everything changed");
        let cursor = ask(&log, None).1;
        drop(recorder);
        assert!(log.since(Some(&cursor), KEYS).is_none(), "the watch has ended");
        let mut recorder = log.begin();
        recorder.record(Instant::now(), &Changes::default());
        assert_eq!(ask(&log, Some(&cursor)).0, None, "another watch has begun");
    }

    #[test]
    fn the_log_is_bounded_and_an_older_cursor_is_answered_with_a_reset() {
        let log = ChangeLog::new();
        let mut recorder = log.begin();
        recorder.record(Instant::now(), &Changes::default());
        let cursor = ask(&log, None).1;
        let told: Vec<_> = (0..CAPACITY).map(|_| TokenId::random()).collect();
        recorder.record(Instant::now(), &changes(&told));
        assert_eq!(ask(&log, Some(&cursor)).0, Some(set(&told)));
        recorder.record(Instant::now(), &changes(&ids::<1>()));
        assert_eq!(ask(&log, Some(&cursor)).0, None);
        assert_eq!(log.recent.lock().tokens.len(), CAPACITY);
    }

    #[test]
    fn a_cursor_is_continued_by_each_of_several_replicas() {
        let (logs, [a, b]) = ([ChangeLog::new(), ChangeLog::new()], ids());
        let mut recorders = logs.each_ref().map(ChangeLog::begin);
        record_all(&mut recorders, &Changes::default());
        let first = ask(&logs[0], None).1;
        let (tokens, both) = ask(&logs[1], Some(&first));
        assert_eq!(tokens, None, "the second replica has not answered yet");
        record_all(&mut recorders, &changes(&[a]));
        let (tokens, both) = ask(&logs[0], Some(&both));
        assert_eq!(tokens, Some(set(&[a])));
        recorders[1].record(Instant::now(), &changes(&[b]));
        let (tokens, both) = ask(&logs[1], Some(&both));
        assert_eq!(tokens, Some(set(&[a, b])), "from its own place on");
        assert_eq!(ask(&logs[0], Some(&both)).0, Some(set(&[])));
    }

    #[test]
    fn a_cursor_drops_replicas_that_have_not_answered_for_long() {
        let logs: Vec<_> = (0..MAX_PLACES * 2).map(|_| ChangeLog::new()).collect();
        let mut recorders: Vec<_> = logs.iter().map(ChangeLog::begin).collect();
        record_all(&mut recorders, &Changes::default());
        let cursor = logs.iter().fold(String::new(), |cursor, log| ask(log, Some(&cursor)).1);
        assert_eq!(Place::parse_all(&cursor).unwrap().len(), MAX_PLACES);
        assert!(cursor.len() < 1024);
        assert_eq!(ask(&logs[MAX_PLACES], Some(&cursor)).0, Some(set(&[])));
        assert_eq!(ask(&logs[MAX_PLACES - 1], Some(&cursor)).0, None);
    }
}
