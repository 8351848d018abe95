//! Latency for well-behaved clients beside slow clients and floods of logins.

use std::{
    fmt, fs,
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use mayfly::domain::password::{HashCost, Password, PasswordHash};

use crate::support::{Backend, Latencies, LoginFlood, PacedClients, Service, SlowClients, StatusCounts, eventually};

/// The measurements of well-behaved clients in one situation, round by round.
pub struct Row {
    name: String,
    latencies: Vec<Latencies>,
    /// Resident memory of the service, MiB.
    resident: Vec<f64>,
}

/// The number of rounds, and the well-behaved clients of each.
pub struct Rounds {
    pub count: usize,
    pub clients: PacedClients,
}

/// A service that is measured in several situations by turns.
struct Measurement {
    service: Service,
    jwt: String,
    rounds: Rounds,
}

impl Measurement {
    fn on(service: Service, rounds: Rounds) -> Self {
        let (_, jwt) = service.admin().issue("x", "1h");
        Self { service, jwt, rounds }
    }

    fn measure(&self, row: &mut Row) {
        row.latencies.push(self.rounds.clients.verify(self.service.address(), &self.jwt));
        row.resident.push(resident_mebibytes(&self.service));
    }
}

/// Measures well-behaved clients alone and beside idle and slow ones, by turns. Also returns how many requests of slow
/// clients were answered with 408. Asserts that the idle and slow clients stay connected all the time.
pub fn beside_slow_clients(idle: usize, slow: usize, rounds: Rounds) -> ([Row; 2], usize) {
    let measurement = Measurement::on(Service::start(Backend::Redis), rounds);
    let mut rows = [Row::new("good clients alone"), Row::new(&format!("beside {idle} idle and {slow} slow clients"))];
    let mut timed_out = 0;
    for _ in 0..measurement.rounds.count {
        eventually("the other clients have disconnected", || (open_files(&measurement.service) < 100).then_some(()));
        measurement.measure(&mut rows[0]);
        let others = SlowClients::connect(measurement.service.address(), idle, slow);
        eventually("the first slow requests time out", || (others.timed_out() > 0).then_some(()));
        measurement.measure(&mut rows[1]);
        // Some slow clients are connecting again.
        let (held_idle, held_slow) = others.count();
        assert!(held_idle == idle && held_slow >= slow * 9 / 10, "{held_idle} idle and {held_slow} slow are left");
        timed_out += others.timed_out();
    }
    (rows, timed_out)
}

/// Measures well-behaved clients alone, beside requests that cost no hash, and beside as many logins that cost one
/// each: ten times as many as can be hashed. Also returns the responses to these logins per second.
pub fn beside_login_flood(rounds: Rounds) -> ([Row; 3], StatusCounts) {
    let measurement = Measurement::on(Service::start(Backend::Redis), rounds);
    let address = measurement.service.address();
    let capacity = hashing_capacity();
    let rate = capacity * 10;
    let mut rows = [
        Row::new("good clients alone"),
        Row::new(&format!("beside {rate} requests/s without a user's name")),
        Row::new(&format!("beside {rate} logins/s, of which {capacity} can be hashed")),
    ];
    let mut answers = StatusCounts::new();
    for _ in 0..measurement.rounds.count {
        for (kind, row) in rows.iter_mut().enumerate() {
            let flood = (kind > 0).then(|| LoginFlood::start(address, rate, kind == 2));
            // Time for the hashing queue to fill up, or to empty.
            sleep(Duration::from_millis(1500));
            flood.as_ref().map(LoginFlood::take_counts);
            measurement.measure(row);
            if kind == 2 {
                for (status, count) in flood.unwrap().take_counts() {
                    *answers.entry(status).or_default() += count;
                }
            }
        }
    }
    let seconds = measurement.rounds.clients.duration.as_secs() * measurement.rounds.count as u64;
    for count in answers.values_mut() {
        *count /= usize::try_from(seconds).unwrap();
    }
    (rows, answers)
}

impl Row {
    pub const HEAD: &'static str = "| Bearer verifications | answers | p50, ms | p99, ms | p99 of each round | \
        resident after each, MiB |\n|---|---|---|---|---|---|";

    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), latencies: Vec::new(), resident: Vec::new() }
    }

    /// Returns the median over all rounds.
    pub fn quantile(&self, share: f64) -> f64 {
        median(self.latencies.iter().map(|latencies| latencies.quantile(share)))
    }
}

/// A row of a Markdown table: medians over all rounds.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: Vec<String>| values.join(" ");
        let answers: usize = self.latencies.iter().map(Latencies::count).sum();
        let p99 = self.latencies.iter().map(|latencies| format!("{:.2}", latencies.quantile(0.99))).collect();
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

/// Returns how many passwords all cores hash in a second, from the quickest of ten, since the machine may be busy.
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

/// Returns `VmRSS` (proc(5)).
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
fn idle_and_slow_clients_do_not_delay_other_clients() {
    // Longer than the timeout of a slow head.
    let clients = PacedClients { clients: 4, requests_per_second: 100, duration: Duration::from_secs(12) };
    let (rows, timed_out) = beside_slow_clients(300, 100, Rounds { count: 1, clients });
    assert!(rows.iter().all(|row| row.latencies[0].count() >= 1_196));
    assert!(timed_out > 0, "slow requests time out");
}
