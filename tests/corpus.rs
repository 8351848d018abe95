//! Replays the inputs that `make fuzz` collected: `tests/fuzz/corpus` has one archive for each target.

use std::{fs, path::Path, process::Command};

use rstest::rstest;

#[path = "fuzz/src/lib.rs"]
mod fuzz;

#[rstest]
#[case::authorization("authorization", fuzz::authorization::check)]
#[case::basic("basic", fuzz::basic::check)]
#[case::body("body", fuzz::body::check)]
#[case::client_address("client_address", fuzz::client_address::check)]
#[case::demands("demands", fuzz::demands::check)]
#[case::issuer("issuer", fuzz::issuer::check)]
#[case::jwk_set("jwk_set", fuzz::jwk_set::check)]
#[case::life("life", fuzz::life::check)]
#[case::token("token", fuzz::token::check)]
#[case::verifier("verifier", fuzz::verifier::check)]
fn each_input_of_the_corpus_passes(#[case] target: &str, #[case] check: fn(&[u8])) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/corpus/{target}.tar.gz"));
    let unpacked = tempfile::tempdir().unwrap();
    let tar = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(unpacked.path()).status().unwrap();
    assert!(tar.success());

    let mut inputs: Vec<_> = fs::read_dir(&unpacked).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    for input in inputs {
        let bytes = fs::read(&input).unwrap();
        let name = input.file_name().unwrap().display();
        std::panic::catch_unwind(|| check(&bytes)).unwrap_or_else(|_| panic!("{name} of {}", archive.display()));
    }
}
