//! Statements about Mayfly, tried on the real parts: the real binary over a real socket, a real redis-server, a real
//! browser, a real Prometheus. A part that is missing fails the run; `make setup` installs them all.

#![allow(dead_code, reason = "some of `support` is for `make bench` and `make soak`")]
#![expect(unreachable_pub, reason = "`support` is written like the library that it is")]

mod abuse;
mod api;
mod architecture;
mod authority;
mod browser;
mod cli;
mod client;
mod clients_python;
mod clocks;
mod cluster;
mod conformance;
mod connections;
mod corpus;
mod deploy;
mod failover;
mod faults;
mod forward_auth;
mod idempotency;
mod issuers;
mod keys;
mod kubernetes;
mod last_used;
mod leaked_tokens;
mod lifecycle;
mod nemesis;
mod openapi;
mod packaging;
mod page;
mod proxy_login;
mod readiness;
mod readme;
mod redis;
mod replicas;
mod replication;
mod revocation;
mod store_contract;
mod support;
mod telemetry;
mod throttle;
mod tls;
mod verifiers;
