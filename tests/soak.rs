//! `make soak`: what the tests try for seconds, for minutes. Prints one table.

#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]
#![allow(dead_code, unused_imports, reason = "most of `support` is for the tests")]

mod revocation;
mod support;

use std::time::Instant;

fn main() {
    let begun = Instant::now();
    let seed = fastrand::u64(..);
    println!("revoking at random on three replicas, with seed {seed} …");
    let report = revocation::revoke_at_random(64, 10_000, seed);
    println!("| revocations | verifications | accepted after the answer | seconds |");
    println!("|---|---|---|---|");
    println!(
        "| {} | {} | {} | {} |",
        report.revocations,
        report.verifications,
        report.violations,
        begun.elapsed().as_secs()
    );
    assert_eq!(report.violations, 0);
}
