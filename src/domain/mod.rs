//! Values and rules, and nothing else: no web, no Redis, no clock.
//!
//! A value that exists is valid: a text becomes a value only by parsing, and the error says what the user can do about
//! it.

pub mod attributes;
pub mod claims;
pub mod demands;
pub mod duration;
pub mod idempotency;
pub mod issuer;
pub mod issuer_jwt;
pub mod issuers_file;
pub mod jwk;
pub mod key_rotation;
pub mod key_url;
pub mod keys;
pub mod life;
pub mod listing;
pub mod origin;
pub mod password;
pub mod throttle;
pub mod token;
pub mod user;
pub mod user_template;
