//! The inputs that `make fuzz` found worth keeping, tried once more, without its compiler.

use std::{fs, path::Path};

use rstest::rstest;

#[path = "fuzz/src/lib.rs"]
mod fuzz;

#[rstest]
#[case::authorization("authorization", fuzz::authorization::check)]
#[case::basic("basic", fuzz::basic::check)]
#[case::body("body", fuzz::body::check)]
#[case::client_address("client_address", fuzz::client_address::check)]
#[case::jwk_set("jwk_set", fuzz::jwk_set::check)]
#[case::life("life", fuzz::life::check)]
#[case::token("token", fuzz::token::check)]
fn what_must_hold_holds_for_the_corpus(#[case] target: &str, #[case] check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    for input in inputs {
        let bytes = fs::read(&input).unwrap();
        std::panic::catch_unwind(|| check(&bytes)).unwrap_or_else(|_| panic!("{}", input.display()));
    }
}
