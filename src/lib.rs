//! Mayfly issues API tokens that live exactly as long as their owner says.
//!
//! A token is a signed JWT and one key in Redis, whose TTL is its life; deleting the key revokes the token on every
//! replica, because a replica keeps no state of its own.
//!
//! # Layout
//! - [`cli`]: the command line, one file a subcommand; [`config`]: every setting once.
//! - [`app`]: puts the parts together and runs them.
//! - [`server`]: accepts connections, with limits and deadlines. It alone knows hyper.
//! - [`http`]: the only place that knows poem. One file a resource.
//! - [`service`]: the use cases. They know neither poem nor Redis.
//! - [`store`]: the [`store::Store`] trait, in memory and in Redis, and [`store::leased`], which remembers reads for a moment;
//!   `store::redis` alone knows Redis.
//! - [`domain`]: values and rules, without any of the above.
//! - [`watched_files`]: files that are read again when they change, for signing keys and certificates.
//! - [`telemetry`]: what operators see, one file a subject: logs, audit events, metrics, traces. It alone knows
//!   OpenTelemetry.
//!
//! Imports run one way: `main → cli → app → {server, http, service, store}`, `http → {server, service}`,
//! `service → {domain, store}`,
//! `store → domain`; [`config`] knows the options of what it configures, and any of them tells `telemetry` what happened, in one line. `tests/architecture.rs` keeps it so.
//!
//! # The path of a request
//! [`server`] accepts the connection and hyper reads the request; `http::envelope` names it, observes it and will turn
//! whatever fails into a problem; an operation in the file of its resource asks `http::auth` who is asking, calls one method of
//! [`service`], which makes one call of the store, and converts the result.

//!
//! # What makes revocation strict
//! Three mechanisms, each in a sentence; the files have the reasons.
//! - **A lease.** A replica uses again what it read from the store for at most [`store::leased::LEASE`] after the read was sent,
//!   and every change waits longer than that between its write and its answer.
//! - **An authority.** A write carries the right that it rests on ([`store::Authority`]), and the store checks that right in the
//!   same atomic step, so that a write that was delayed on its way uses no right that was lost meanwhile: the epoch of the
//!   user's login, and the role of an administrator. Only in a Cluster, where no script sees the keys of another slot, an
//!   administrator's right is read before, and the write runs within one lease of that read, by the clock of the server that
//!   runs it. What is to undo no change that was answered runs no later than its own answer, by that clock, too.
//! - **A mark.** A write that is answered once replicas have it writes something in any case (`store/redis/guard.lua`), so that
//!   its answer waits for all that it rests on, whichever connection wrote that. No write is sent twice, unless the second run
//!   does nothing where the first one ran.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod server;
pub mod service;
pub mod single_flight;
pub mod store;
pub mod telemetry;
pub mod watched_files;
