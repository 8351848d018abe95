//! `make bench`: measures signing and verifying a token, by algorithm.

use divan::{Bencher, black_box};
use mayfly::domain::{
    claims::Claims, jwk::Algorithm, key_rotation::generate, keys::KeySet, life::Life, token::TokenId,
};
use secrecy::ExposeSecret;

fn main() {
    divan::main();
}

fn keys(algorithm: Algorithm) -> KeySet {
    KeySet::parse(generate(algorithm, 0).expose_secret()).unwrap()
}

fn claims() -> Claims {
    let (owner, description) = ("alice".parse().unwrap(), "a token of 20 letter".parse().unwrap());
    let life = Life::from_seconds(86_400).unwrap();
    Claims::new(&owner, TokenId::random(), &description, life, 1_662_720_135, None)
}

#[divan::bench(args = Algorithm::ALL)]
fn sign(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let (keys, claims) = (keys(algorithm), claims());
    bencher.bench_local(|| keys.sign(black_box(&claims)));
}

#[divan::bench(args = Algorithm::ALL)]
fn verify(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let keys = keys(algorithm);
    let jwt = keys.sign(&claims());
    bencher.bench_local(|| keys.verify(black_box(jwt.expose_secret())).unwrap());
}
