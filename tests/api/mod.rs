//! The API over a real socket, one file a resource; everything that depends on a store runs on each.

mod attacks;
mod auth;
mod browser;
mod oauth;
mod problem;
mod token;
mod user;
mod verify;
