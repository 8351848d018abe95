//! Mayfly issues API tokens that live exactly as long as their owners choose.
//!
//! A token is a signed JWT and one key in Redis, whose TTL is the token's life. Deleting the key revokes the token on
//! every replica (a replica is one process of Mayfly): a replica uses a cached value for a quarter of a second, longer
//! only while Redis confirms that the value is unchanged. A revocation waits longer than that before it is answered.
//!
//! # Layout
//! - [`cli`]: the command line, one file a subcommand. [`config`]: the settings, one file a subject.
//! - [`app`]: creates the parts from the settings, connects them and runs them.
//! - [`server`]: accepts connections, with limits and deadlines. Only this module uses hyper.
//! - [`http`]: the API, one file a resource. Only this module uses poem.
//! - [`service`]: the use cases, without HTTP and Redis.
//! - [`store`]: the traits of a store, and the stores: in memory, in Redis, and [`store::leased`], the cache in front.
//!   Only `store::redis` uses Redis.
//! - [`domain`]: values and rules, without I/O.
//! - [`telemetry`]: logs, audit events, metrics and traces. Only this module uses OpenTelemetry.
//! - [`fetch`]: documents from other servers, within limits.
//! - [`single_flight`]: callers that want the same result share one run of the work. [`turns`]: a user who repeats
//!   costly work is served one at a time. [`watched_files`]: files that are read again when they change.
//!
//! Imports run one way, `main → cli → app → config → http → {server, service} → store → domain`: a module may import
//! any module further on, but `server` does not import `store`. All modules except `domain` may report to
//! [`telemetry`], which imports only `domain`. `tests/architecture.rs` checks the order, and that no files import each
//! other in a circle.
//!
//! # The path of a request
//! [`server`] reads the request. `http::envelope` gives it an id, measures it and turns every failure into a problem
//! (RFC 9457). The operation, in the file of its resource, asks `http::auth` for the user, calls one use case of
//! [`service`], and converts the result.
//!
//! A verification takes the shortest path:
//! ```text
//! server::connection → http::envelope → http::verify, http::auth     the Bearer token of the request
//!   service::tokens                     the SHA-256 of the JWT, by which tokens are cached
//!     store::leased: cache, leases      if the token is cached and its lease holds: answered from here
//!   otherwise
//!     service::signing_keys → domain::{keys, claims}    checks the signature, unless the token is cached (by now
//!                                                       without a lease) and the keys have not changed since
//!     single_flight → store::redis                      reads the token, which is then cached
//! ```
//!
//! # What makes revocation strict
//! Three mechanisms; their files have the reasons.
//! - **The lease.** A replica uses a value that it read from the store for at most [`store::leased::LEASE`] after the
//!   read was sent. The lease is renewed while the store confirms that the value is unchanged. Each write that takes
//!   something away waits longer than a lease before it is answered ([`store::leased::LeasedStore::write`]).
//! - **The authority.** A write that a user asks for carries the user's right ([`store::Authority`]): the epoch of the
//!   login, and for an administrator the role. The operator's writes carry a deadline instead. Writes whose arguments
//!   prove the right (the JWT to revoke, the old password hash to replace) carry no authority. Nor does the first token
//!   of a user whom another party logs in: it creates the user, and so is not stored if there is one by then
//!   ([`service::Caller`]). The store checks the authority in the same atomic step as the write, so that a delayed
//!   write never uses a right that was lost meanwhile: in `store/redis/guard.lua` and in `store/memory.rs`. In a Redis
//!   Cluster, a script cannot read the keys of another slot. So `store/redis/connections.rs` reads the administrator's
//!   right first, and the write has to run within one lease of that read, by the clock of its Redis node.
//! - **The mark.** `WAIT` waits until Redis replicas have the last write of its own connection. A script that changes
//!   nothing still writes a mark (`store/redis/guard.lua`), so that its answer, too, waits for all earlier writes that
//!   it depends on, of any connection.
//!
//! A write that could undo a later change does not run after its own answer, by the clock of its Redis node. A write is
//! sent again only if a second run changes nothing where the first one ran, or if the first one was rejected.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod fetch;
pub mod http;
pub mod server;
pub mod service;
pub mod single_flight;
pub mod store;
pub mod telemetry;
pub mod turns;
pub mod watched_files;
