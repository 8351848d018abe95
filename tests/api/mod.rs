//! The API over a real socket: one file for each resource. Tests that depend on the store run on each store.

mod attacks;
mod attributes;
mod auth;
mod browser;
mod changes;
mod demands;
mod kubernetes;
mod oauth;
mod problem;
mod proxy_login;
mod revocation;
mod token;
mod user;
mod verify;
