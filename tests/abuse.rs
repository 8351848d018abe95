//! What good clients notice of those who are a burden.

use std::{
    fmt, fs,
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use mayfly::domain::password::{HashCost, Password, PasswordHash};

use crate::support::{Answers, Backend, Crowd, Flood, Pace, Service, Waits, eventually};

/// What a measurement of good clients showed, round by round.
pub struct Row {
    name: String,
    waits: Vec<Waits>,
    /// Resident memory of the service, MiB.
    resident: Vec<f64>,
}

/// How good clients are asked after.
pub struct Rounds {
    pub count: usize,
    pub pace: Pace,
}

/// What is to be measured in turns.
struct Turns {
    service: Service,
    jwt: String,
    rounds: Rounds,
}

impl Turns {
    fn on(service: Service, rounds: Rounds) -> Self {
        let (_, jwt) = service.admin().issue("x", "1h");
        Self { service, jwt, rounds }
    }

    fn measure(&self, row: &mut Row) {
        row.waits.push(self.rounds.pace.verify(self.service.address(), &self.jwt));
        row.resident.push(resident_mebibytes(&self.service));
    }
}

/// Good clients without and with a crowd, in turns, and how many requests of slow clients were answered with 408. As many
/// as are asked for are there all the time.
pub fn hold_a_crowd(idle: usize, slow: usize, rounds: Rounds) -> ([Row; 2], usize) {
    let turns = Turns::on(Service::start(Backend::Redis), rounds);
    let mut rows = [Row::new("good clients alone"), Row::new(&format!("beside {idle} idle and {slow} slow clients"))];
    let mut refused = 0;
    for _ in 0..turns.rounds.count {
        eventually("nobody else is there", || (open_files(&turns.service) < 100).then_some(()));
        turns.measure(&mut rows[0]);
        let crowd = Crowd::gather(turns.service.address(), idle, slow);
        eventually("the first slow ones are sent away", || (crowd.refused() > 0).then_some(()));
        turns.measure(&mut rows[1]);
        // Some of the slow ones are on their way back.
        let (held_idle, held_slow) = crowd.size();
        assert!(held_idle == idle && held_slow >= slow * 9 / 10, "{held_idle} idle and {held_slow} slow are left");
        refused += crowd.refused();
    }
    (rows, refused)
}

/// Good clients alone, beside requests that cost no hash, and beside as many logins that cost one each: ten times as many
/// as can be hashed. With what became of these, a second.
pub fn flood_logins(rounds: Rounds) -> ([Row; 3], Answers) {
    let turns = Turns::on(Service::start(Backend::Redis), rounds);
    let address = turns.service.address();
    let capacity = hashing_capacity();
    let rate = capacity * 10;
    let mut rows = [
        Row::new("good clients alone"),
        Row::new(&format!("beside {rate} requests/s without a user's name")),
        Row::new(&format!("beside {rate} logins/s, of which {capacity} can be hashed")),
    ];
    let mut answers = Answers::new();
    for _ in 0..turns.rounds.count {
        for (kind, row) in rows.iter_mut().enumerate() {
            let flood = (kind > 0).then(|| Flood::start(address, rate, kind == 2));
            // Until the queue is full, or empty again.
            sleep(Duration::from_millis(1500));
            flood.as_ref().map(Flood::take_answers);
            turns.measure(row);
            if kind == 2 {
                for (status, count) in flood.unwrap().take_answers() {
                    *answers.entry(status).or_default() += count;
                }
            }
        }
    }
    let seconds = turns.rounds.pace.duration.as_secs() * turns.rounds.count as u64;
    for count in answers.values_mut() {
        *count /= usize::try_from(seconds).unwrap();
    }
    (rows, answers)
}

impl Row {
    pub const HEAD: &'static str = "| Bearer verifications | answers | p50, ms | p99, ms | p99 of each round | resident \
        after each, MiB |\n|---|---|---|---|---|---|";

    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), waits: Vec::new(), resident: Vec::new() }
    }

    /// The median of the rounds.
    pub fn quantile(&self, share: f64) -> f64 {
        median(self.waits.iter().map(|waits| waits.quantile(share)))
    }
}

/// A row of a table: medians of the rounds.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: Vec<String>| values.join(" ");
        let answers: usize = self.waits.iter().map(Waits::count).sum();
        let p99 = self.waits.iter().map(|waits| format!("{:.2}", waits.quantile(0.99))).collect();
        let resident = self.resident.iter().map(|mebibytes| format!("{mebibytes:.0}")).collect();
        write!(
            f,
            "| {} | {answers} | {:.2} | {:.2} | {} | {} |",
            self.name,
            self.quantile(0.5),
            self.quantile(0.99),
            join(p99),
            join(resident)
        )
    }
}

/// How many passwords all cores hash in a second, by the quickest of a few: however busy the machine is.
fn hashing_capacity() -> usize {
    let quickest = (0..10).map(|_| {
        let begun = Instant::now();
        PasswordHash::of(&Password::generate(), HashCost::default());
        begun.elapsed().as_micros()
    });
    let cores = available_parallelism().unwrap().get();
    cores * 1_000_000 / usize::try_from(quickest.min().unwrap()).unwrap()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `VmRSS` of proc(5).
fn resident_mebibytes(service: &Service) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes / 1024.0
}

fn open_files(service: &Service) -> usize {
    fs::read_dir(format!("/proc/{}/fd", service.process.id())).unwrap().count()
}

#[test]
fn a_crowd_is_held_and_keeps_nobody_waiting() {
    // Long enough for the slow ones to be late.
    let pace = Pace { clients: 4, requests_per_second: 100, duration: Duration::from_secs(12) };
    let (rows, refused) = hold_a_crowd(300, 100, Rounds { count: 1, pace });
    assert!(rows.iter().all(|row| row.waits[0].count() >= 1_196));
    assert!(refused > 0, "those who send slowly are sent away");
}
