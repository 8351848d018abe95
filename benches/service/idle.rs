//! What a replica without requests costs while others create tokens.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::{cpu_microseconds, support::RedisServer, tokens::Filler, unobserved};

const SECONDS: u64 = 4;
const CREATES_PER_SECOND: [usize; 3] = [0, 20, 5_000];

/// Creates are sent in batches this far apart.
const BATCH: Duration = Duration::from_millis(10);

pub fn run() {
    let redis = RedisServer::start();
    let replica = unobserved(&redis.url(), &[]);
    let filler = Filler::new(&redis.url(), &replica.keys_file, 100);
    println!("\nAn idle replica for {SECONDS} s while others create tokens\n");
    println!("| creates/s | CPU of the replica, % of a core |\n|---|---|");
    for rate in CREATES_PER_SECOND {
        eprintln!("idle beside {rate} creates/s …");
        let (before, begun) = (cpu_microseconds([&replica.process]), Instant::now());
        let created = filler.block_on(create(&filler, rate));
        let elapsed = begun.elapsed().as_secs_f64();
        let share = (cpu_microseconds([&replica.process]) - before) / 1e6 / elapsed;
        #[expect(clippy::cast_precision_loss, reason = "the count is far below 2^52")]
        let rate = created as f64 / elapsed;
        println!("| {rate:.0} | {:.1} |", share * 100.0);
    }
}

/// Creates tokens at this rate, or as many as the machine can, and returns their number.
async fn create(filler: &Filler, per_second: usize) -> usize {
    let mut interval = tokio::time::interval(BATCH);
    let (begun, mut created) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        interval.tick().await;
        let due = usize::try_from(begun.elapsed().as_millis()).unwrap() * per_second / 1_000;
        // A machine that cannot keep up does not catch up later.
        let batch = due.saturating_sub(created).min(2 * per_second / 100 + 1);
        join_all((0..batch).map(|number| filler.create(created + number))).await;
        created += batch;
    }
    created
}
