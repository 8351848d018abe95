//! What the tests start, and how they talk to it. Everything ends with the value that started it.

mod authority;
mod client;
mod collector;
mod crowd;
mod history;
mod load;
mod log;
mod pace;
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
    client::{Answer, Client, Draft},
    collector::{Collector, Span},
    crowd::{Answers, Crowd, Flood},
    history::{Fact, History, Question},
    load::{Load, Losses},
    log::Log,
    pace::{Pace, Waits},
    process::{Process, eventually, free_port, run},
    prometheus::{Prometheus, promtool},
    proxy::{Direction, Proxy},
    redis_server::{RedisServer, Version},
    service::{ADMIN_PASSWORD, Backend, Service},
    stepping_clock::SteppingClock,
    terminal::Terminal,
    topology::{Cluster, Sentinel},
};
