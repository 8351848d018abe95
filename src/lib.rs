//! Mayfly issues API tokens that live exactly as long as their owners choose.
//!
//! A token is a signed JWT and one key in Redis, whose TTL is the token's life. Deleting the key revokes the token on
//! every replica: what a replica caches is used for a quarter of a second, and a revocation waits longer than that.
//!
//! # Layout
//! - [`cli`]: the command line, one file a subcommand. [`config`]: the settings, one file a subject.
//! - [`app`]: puts the parts together and runs them.
//! - [`server`]: accepts connections, with limits and deadlines. Only this module uses hyper.
//! - [`http`]: the API, one file a resource. Only this module uses poem.
//! - [`service`]: the use cases, without HTTP and Redis.
//! - [`store`]: the traits of a store, and the stores: in memory, in Redis, and [`store::leased`], the cache in front.
//!   Only `store::redis` uses Redis.
//! - [`domain`]: values and rules, without I/O.
//! - [`telemetry`]: logs, audit events, metrics and traces. Only this module uses OpenTelemetry.
//! - [`single_flight`], [`watched_files`]: shared work, and files that are read again when they change.
//!
//! Imports run one way: `main → cli → app → {server, http, service, store}`, `http → {server, service}`,
//! `service → {domain, store}`, `store → domain`. [`config`] imports the options of what it configures, and each module
//! reports to [`telemetry`]. `tests/architecture.rs` checks this.
//!
//! # The path of a request
//! [`server`] reads the request. `http::envelope` gives it an id, measures it and turns every failure into a problem.
//! An operation of its resource asks `http::auth` for the user, calls one use case of [`service`], and converts the
//! result.
//!
//! A verification takes the shortest path:
//! ```text
//! server::connection → http::envelope → http::verify, http::auth     the Bearer token of the request
//!   service::tokens                     SHA-256 of the JWT, and the version of the keys
//!     store::leased: cache, leases      cached under a lease: answered from here
//!   otherwise
//!     service::signing_keys → domain::{keys, claims}    the signature, once for each version of the keys
//!     single_flight → store::redis                      the token, which is then cached
//! ```
//!
//! # What makes revocation strict
//! Three mechanisms; their files have the reasons.
//! - **The lease.** A replica uses a value that it read from the store for at most [`store::leased::LEASE`] after the
//!   read was sent, unless the store confirms that it is unchanged. Each write that takes something away waits longer
//!   than that before it is answered ([`store::leased::LeasedStore::write`]).
//! - **The authority.** A write carries the right that it rests on ([`store::Authority`]): the epoch of the user's
//!   login, and the role of an administrator. The store checks it in the same atomic step, so that a delayed write
//!   never uses a right that was lost meanwhile. In a Cluster a script cannot read the keys of another slot, so an
//!   administrator's right is read first, and the write has to run within one lease of that read, by the clock of its
//!   Redis node. By the same clock, a write that could undo a later change does not run after its own answer.
//! - **The mark.** If answers wait for replicas, a write that changes nothing still writes a mark
//!   (`store/redis/guard.lua`), so that its answer waits for all that it rests on, whichever connection wrote that. A
//!   write is only sent again if a second run does nothing where the first one ran.

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
