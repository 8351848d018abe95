//! The API over a real socket, one file a resource; everything that depends on a store runs on each.

mod auth;
mod problem;
mod token;
