//! What the tests start, and how they talk to it. Everything ends with the value that started it.

mod client;
mod process;
mod redis_server;
mod service;

pub use self::{
    client::{Answer, Client},
    process::{Process, eventually, free_port, run},
    redis_server::RedisServer,
    service::{ADMIN_PASSWORD, Backend, Service},
};
