//! Metrics: what there is to count and to measure, and the page that Prometheus scrapes.
//!
//! Names and units are those of OpenTelemetry's semantic conventions where these have any, and begin with `mayfly`
//! otherwise. The values of labels come out of the code, never out of a request: no user, no token, no path.
//! Where nobody asked for metrics, all of this does nothing. `deploy/observability/README.md` lists them all.
//!
//! What the hot path counts is bound to its labels beforehand: an atomic addition, or a histogram's short lock.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use foldhash::fast::RandomState;
use opentelemetry::{
    KeyValue, global,
    metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter, MeterProvider, UpDownCounter},
};
use opentelemetry_sdk::metrics::{SdkMeterProvider, reader::MetricReader};
use prometheus::{Registry, TextEncoder};

use super::{audit::LoginFailure, logs, process, request::Answered};

/// Seconds, from a leased verification (microseconds) to a request that waits for its turn to hash (seconds).
const DURATION_BUCKETS: [f64; 18] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// What measures, if anything.
static METER: OnceLock<Meter> = OnceLock::new();

/// Without a meter, they do nothing.
static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| match METER.get() {
    Some(meter) => Instruments::new(meter),
    None => Instruments::new(&global::meter(env!("CARGO_PKG_NAME"))),
});

/// What became of a token that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// It lives.
    Active,
    /// Its time is over.
    Expired,
    /// It is well signed, and not there: revoked, as a rule.
    Revoked,
    /// It was never issued here.
    Invalid,
    /// Nobody knows.
    Unavailable,
}

/// What is read under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    /// Tokens.
    Token,
    /// Users.
    User,
}

/// Method, route and status: as many as the code has.
type RequestSeries = (&'static str, Option<&'static str>, u16);

struct Instruments {
    requests: Histogram<f64>,
    /// Those series that there were so far: found again without building their labels.
    requests_bound: RwLock<HashMap<RequestSeries, BoundHistogram<f64>, RandomState>>,
    active_requests: UpDownCounter<i64>,
    verifications: [BoundCounter<u64>; 5],
    lease_hits: [BoundCounter<u64>; 2],
    lease_misses: [BoundCounter<u64>; 2],
    redis: Histogram<f64>,
    redis_connections: UpDownCounter<i64>,
    redis_pending: UpDownCounter<i64>,
    redis_reserved: UpDownCounter<i64>,
    redis_connects: [BoundCounter<u64>; 2],
    hashes: BoundHistogram<f64>,
    hashes_waiting: UpDownCounter<i64>,
    hashes_refused: BoundCounter<u64>,
    login_failures: [BoundCounter<u64>; 4],
    issued: BoundCounter<u64>,
    rotated: BoundCounter<u64>,
    revoked: BoundCounter<u64>,
    emptied: BoundCounter<u64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, unit: &'static str, description: &'static str| {
            meter.u64_counter(name).with_unit(unit).with_description(description).build()
        };
        let duration = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(DURATION_BUCKETS.to_vec())
                .build()
        };
        let level = |name: &'static str, unit: &'static str, description: &'static str| {
            let level = meter.i64_up_down_counter(name).with_unit(unit).with_description(description).build();
            level.add(0, &[]);
            level
        };
        let verifications =
            counter("mayfly.token.verifications", "{verification}", "Tokens presented, by what became of them.");
        let leases = counter("mayfly.lease.lookups", "{lookup}", "Reads that a lease may answer, by whether one did.");
        let lease = |kind: &'static str, result: &'static str| {
            bind(&leases, &[KeyValue::new("kind", kind), KeyValue::new("result", result)])
        };
        let connects = counter("mayfly.redis.connects", "{attempt}", "Attempts to connect to Redis, by the result.");
        let login_failures = counter("mayfly.login.failures", "{login}", "Logins refused, by the reason.");
        process::observe(meter);
        meter
            .u64_observable_counter("mayfly.log.lines.dropped")
            .with_unit("{line}")
            .with_description("Lines of the log that were dropped: standard error was not read in time, or is closed.")
            .with_callback(|observer| observer.observe(logs::dropped_lines(), &[]))
            .build();
        Self {
            requests: duration("http.server.request.duration", "Duration of HTTP requests."),
            requests_bound: RwLock::default(),
            active_requests: level("http.server.active_requests", "{request}", "HTTP requests in progress."),
            verifications: ["active", "expired", "revoked", "invalid", "unavailable"]
                .map(|result| bind(&verifications, &[KeyValue::new("result", result)])),
            lease_hits: ["token", "user"].map(|kind| lease(kind, "hit")),
            lease_misses: ["token", "user"].map(|kind| lease(kind, "miss")),
            redis: duration("db.client.operation.duration", "Duration of round trips to Redis, waiting included."),
            redis_connections: level("mayfly.redis.connections.open", "{connection}", "Open connections to Redis."),
            redis_pending: level(
                "mayfly.redis.connections.pending",
                "{write}",
                "Writes that wait for a connection of their own.",
            ),
            redis_reserved: level(
                "mayfly.redis.connections.reserved",
                "{connection}",
                "Connections on which a write waits for replicas.",
            ),
            redis_connects: ["failed", "ok"].map(|result| bind(&connects, &[KeyValue::new("result", result)])),
            hashes: duration("mayfly.password.hash.duration", "Duration of password hashes, without the wait.")
                .bind(&[]),
            hashes_waiting: level(
                "mayfly.password.hash.waiting",
                "{login}",
                "Logins that wait for their turn to hash.",
            ),
            hashes_refused: bind(
                &counter("mayfly.password.hash.refusals", "{login}", "Logins sent away because too many waited."),
                &[],
            ),
            login_failures: [
                LoginFailure::UnknownUser,
                LoginFailure::WrongPassword,
                LoginFailure::Disabled,
                LoginFailure::Throttled,
            ]
            .map(|reason| bind(&login_failures, &[KeyValue::new("reason", reason.as_str())])),
            issued: bind(&counter("mayfly.tokens.issued", "{token}", "Tokens issued."), &[]),
            rotated: bind(&counter("mayfly.tokens.rotated", "{token}", "Tokens rotated."), &[]),
            revoked: bind(&counter("mayfly.tokens.revoked", "{token}", "Tokens revoked by request."), &[]),
            emptied: bind(
                &counter("mayfly.store.emptied", "{loss}", "Times that the store came back without users and tokens."),
                &[],
            ),
        }
    }
}

/// A counter of one series, which is there from the start, so that its first event is a change.
fn bind(counter: &Counter<u64>, labels: &[KeyValue]) -> BoundCounter<u64> {
    let bound = counter.bind(labels);
    bound.add(0);
    bound
}

/// Measures from now on.
pub(super) fn start(provider: &SdkMeterProvider) {
    let _ = METER.set(provider.meter(env!("CARGO_PKG_NAME")));
    LazyLock::force(&INSTRUMENTS);
}

/// An HTTP request was answered.
pub(super) fn http_request(method: &'static str, Answered { route, status }: Answered, duration: Duration) {
    if METER.get().is_none() {
        return;
    }
    let series = (method, route, status);
    let seconds = duration.as_secs_f64();
    if let Some(bound) = INSTRUMENTS.requests_bound.read().unwrap_or_else(PoisonError::into_inner).get(&series) {
        return bound.record(seconds);
    }
    let mut labels = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    labels.extend(route.map(|route| KeyValue::new("http.route", route)));
    let bound = INSTRUMENTS.requests.bind(&labels);
    bound.record(seconds);
    INSTRUMENTS.requests_bound.write().unwrap_or_else(PoisonError::into_inner).insert(series, bound);
}

/// Counts one up while it lives, and down when it is dropped, however that comes about.
pub struct Counted(fn(&Instruments) -> &UpDownCounter<i64>);

impl Counted {
    fn new(level: fn(&Instruments) -> &UpDownCounter<i64>) -> Self {
        level(&INSTRUMENTS).add(1, &[]);
        Self(level)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.0)(&INSTRUMENTS).add(-1, &[]);
    }
}

/// An HTTP request is in progress, until the value is dropped.
pub(super) fn http_request_in_progress() -> Counted {
    Counted::new(|instruments| &instruments.active_requests)
}

/// A login waits for its turn to hash, until the value is dropped.
pub fn password_hash_waiting() -> Counted {
    Counted::new(|instruments| &instruments.hashes_waiting)
}

/// A token was presented.
pub fn token_verified(result: Verification) {
    INSTRUMENTS.verifications[result as usize].add(1);
}

/// A lease was asked, and answered or not.
pub fn lease_lookup(kind: Leased, hit: bool) {
    let counters = if hit { &INSTRUMENTS.lease_hits } else { &INSTRUMENTS.lease_misses };
    counters[kind as usize].add(1);
}

/// Redis answered, or did not.
pub(super) fn redis_round_trip(command: &'static str, error_type: Option<&'static str>, duration: Duration) {
    let mut labels = vec![KeyValue::new("db.operation.name", command), KeyValue::new("db.system.name", "redis")];
    labels.extend(error_type.map(|error| KeyValue::new("error.type", error)));
    INSTRUMENTS.redis.record(duration.as_secs_f64(), &labels);
}

/// A connection to Redis was made, or was not.
pub fn redis_connect(succeeded: bool) {
    INSTRUMENTS.redis_connects[usize::from(succeeded)].add(1);
}

/// A connection to Redis is open, until the value is dropped.
pub fn redis_connection_open() -> Counted {
    Counted::new(|instruments| &instruments.redis_connections)
}

/// A write waits for a connection of its own, until the value is dropped.
pub fn redis_connection_pending() -> Counted {
    Counted::new(|instruments| &instruments.redis_pending)
}

/// A write has a connection of its own, to wait for replicas on, until the value is dropped.
pub fn redis_connection_reserved() -> Counted {
    Counted::new(|instruments| &instruments.redis_reserved)
}

/// A password was hashed.
pub(super) fn password_hashed(duration: Duration) {
    INSTRUMENTS.hashes.record(duration.as_secs_f64());
}

/// A login was sent away because too many wait already.
pub fn password_hash_refused() {
    INSTRUMENTS.hashes_refused.add(1);
}

/// Somebody was not let in.
pub(super) fn login_failed(reason: LoginFailure) {
    INSTRUMENTS.login_failures[reason as usize].add(1);
}

/// A token was issued.
pub(super) fn token_issued() {
    INSTRUMENTS.issued.add(1);
}

/// A token was rotated.
pub(super) fn token_rotated() {
    INSTRUMENTS.rotated.add(1);
}

/// So many tokens were revoked by request.
pub(super) fn tokens_revoked(tokens: u64) {
    INSTRUMENTS.revoked.add(tokens);
}

/// The store lost everything.
pub fn store_emptied() {
    INSTRUMENTS.emptied.add(1);
}

/// What Prometheus scrapes.
#[derive(Clone, Default)]
pub struct Prometheus(Registry);

impl Prometheus {
    /// The media type of [`Prometheus::page`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    pub(super) fn reader(&self) -> impl MetricReader + use<> {
        // The code is one scope; its version is in `target_info`.
        opentelemetry_prometheus::exporter()
            .with_registry(self.0.clone())
            .scope_info_enabled(false)
            .build()
            .expect("a registry of our own takes its one collector")
    }

    /// Everything measured so far, in Prometheus' text format.
    ///
    /// # Panics
    /// Where two metrics have one name.
    pub fn page(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).expect("metrics are consistent")
    }
}
