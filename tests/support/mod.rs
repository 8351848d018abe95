//! The servers, clients and tools that tests use. A process ends when the value that started it is dropped.

mod authority;
mod background_load;
mod browser;
mod client;
mod collector;
mod history;
pub mod issuer;
mod load;
mod log;
mod paced_clients;
mod process;
mod prometheus;
mod proxy;
mod redis_server;
mod service;
mod stepping_clock;
mod terminal;
mod topology;

pub use self::{
    authority::{Authority, Identity},
    background_load::{LoginFlood, SlowClients, StatusCounts},
    browser::Browser,
    client::{Answer, Client, Draft},
    collector::{Collector, Span},
    history::{Fact, History, Question},
    load::{Load, Losses},
    log::Log,
    paced_clients::{Latencies, PacedClients},
    process::{Process, eventually, free_port, run},
    prometheus::{Prometheus, promtool},
    proxy::{Direction, Proxy},
    redis_server::{RedisServer, Version, patient_options},
    service::{ADMIN_PASSWORD, Backend, Service},
    stepping_clock::SteppingClock,
    terminal::Terminal,
    topology::{Cluster, Sentinel},
};
