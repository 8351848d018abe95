//! Properties of every input: one module a target, each with a `check` that panics where a property is violated.
//!
//! `make fuzz` searches for inputs, and `tests/corpus.rs` replays those that it kept.

pub mod authorization;
pub mod basic;
pub mod body;
pub mod client_address;
pub mod demands;
mod in_process;
pub mod issuer;
pub mod jwk_set;
pub mod life;
pub mod token;
pub mod verifier;
