//! Metrics, and the page that Prometheus scrapes.
//!
//! Names and units are those of OpenTelemetry's semantic conventions where there are any; other names begin with
//! `mayfly`. Labels come from the code and the configuration, never from a request: no user, token or path is one.
//! `deploy/observability/README.md` lists the metrics.

use std::{collections::HashMap, sync::OnceLock, time::Duration};

use foldhash::fast::RandomState;
use opentelemetry::{
    KeyValue,
    metrics::{self, BoundCounter, BoundHistogram, Histogram, Meter, MeterProvider, UpDownCounter},
};
use opentelemetry_sdk::metrics::{SdkMeterProvider, reader::MetricReader};
use parking_lot::RwLock;
use prometheus::{Registry, TextEncoder};

use super::{
    events::{ChangesAnswer, LeaseKind, LoginFailure, LoginMethod, ResponseLabels, Verification},
    logs,
};

/// Upper bounds in seconds: from a cached verification (microseconds) to a login that waits for its password hash.
const DURATION_BUCKETS: [f64; 18] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Set by [`start`]; without it, recording does nothing.
static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

struct Instruments {
    /// By [`Counter`] and by series. A series is bound to its labels: adding to it is one atomic addition.
    counters: Vec<Vec<BoundCounter<u64>>>,
    /// By [`Gauge`].
    gauges: Vec<UpDownCounter<i64>>,
    /// Logins by JWTs of trusted issuers, by issuer and result.
    issuer_logins: metrics::Counter<u64>,
    /// Attempts to get the keys of trusted issuers, by issuer and result.
    issuer_key_fetches: metrics::Counter<u64>,
    request_duration: Histogram<f64>,
    /// The series of `request_duration` so far, by method and response: found without building their labels.
    request_series: RwLock<HashMap<(&'static str, ResponseLabels), BoundHistogram<f64>, RandomState>>,
    round_trip_duration: Histogram<f64>,
    password_hash_duration: Histogram<f64>,
}

/// Metrics that count events.
#[derive(Clone, Copy)]
pub enum Counter {
    /// Tokens verified.
    TokenVerifications,
    /// Lookups of records that may be cached under a lease, with and without success.
    LeaseLookups,
    /// Logins that succeeded.
    Logins,
    /// Answers to verifiers that asked for changes.
    ChangesAnswers,
    /// Names of changed tokens in these answers.
    ChangesTold,
    /// Failed logins.
    LoginFailures,
    /// Tokens issued.
    TokensIssued,
    /// Tokens rotated.
    TokensRotated,
    /// Tokens revoked by request.
    TokensRevoked,
    /// Times that the store came back without users and tokens.
    StoreEmptied,
    /// Attempts to connect to Redis.
    RedisConnects,
    /// Logins rejected because the queue for a password hash was full.
    PasswordHashRefusals,
}

/// The keys of a metric's labels, each with all of its values, in the order of their enum.
type Labels = &'static [(&'static str, &'static [&'static str])];

/// Names, units, descriptions and labels of the counters, in the order of [`Counter`].
const COUNTERS: [(&str, &str, &str, Labels); 12] = [
    (
        "mayfly.token.verifications",
        "{verification}",
        "Tokens verified, by result.",
        &[("result", &["active", "expired", "revoked", "invalid", "unavailable"])],
    ),
    (
        "mayfly.lease.lookups",
        "{lookup}",
        "Lookups of records that may be cached under a lease.",
        &[("kind", &["token", "user"]), ("result", &["miss", "hit"])],
    ),
    ("mayfly.logins", "{login}", "Logins that succeeded, by method.", &[("method", &LoginMethod::LABELS)]),
    (
        "mayfly.changes.answers",
        "{answer}",
        "Answers to verifiers that asked which tokens have changed, by result.",
        &[("result", &["first", "continued", "reset", "unavailable"])],
    ),
    ("mayfly.changes.told", "{token}", "Names of changed tokens in answers to verifiers.", &[]),
    ("mayfly.login.failures", "{login}", "Failed logins, by reason.", &[("reason", &LoginFailure::LABELS)]),
    ("mayfly.tokens.issued", "{token}", "Tokens issued.", &[]),
    ("mayfly.tokens.rotated", "{token}", "Tokens rotated.", &[]),
    ("mayfly.tokens.revoked", "{token}", "Tokens revoked by request.", &[]),
    ("mayfly.store.emptied", "{loss}", "Times that the store came back without users and tokens.", &[]),
    ("mayfly.redis.connects", "{attempt}", "Attempts to connect to Redis.", &[("result", &["failed", "ok"])]),
    ("mayfly.password.hash.refusals", "{login}", "Logins rejected because the queue for a hash was full.", &[]),
];

/// Metrics that say how many there are at the moment.
#[derive(Clone, Copy)]
pub enum Gauge {
    /// HTTP requests in progress.
    ActiveRequests,
    /// Open connections to Redis.
    RedisConnectionsOpen,
    /// Writes that wait for a connection of their own.
    RedisConnectionsPending,
    /// Connections on which a write waits for Redis replicas.
    RedisConnectionsReserved,
    /// Logins in the queue for a password hash.
    PasswordHashWaiting,
}

/// Names, units and descriptions of the gauges, in the order of [`Gauge`].
const GAUGES: [(&str, &str, &str); 5] = [
    ("http.server.active_requests", "{request}", "HTTP requests in progress."),
    ("mayfly.redis.connections.open", "{connection}", "Open connections to Redis."),
    ("mayfly.redis.connections.pending", "{write}", "Writes that wait for a connection of their own."),
    ("mayfly.redis.connections.reserved", "{connection}", "Connections on which a write waits for replicas."),
    ("mayfly.password.hash.waiting", "{login}", "Logins in the queue for a password hash."),
];

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let counter = |(name, unit, description, labels): (_, _, _, Labels)| {
            let counter = meter.u64_counter(name).with_unit(unit).with_description(description).build();
            let bind = |labels: Vec<KeyValue>| {
                let series = counter.bind(&labels);
                // Prometheus sees the series from the start, and so its first event as an increase.
                series.add(0);
                series
            };
            combinations(labels).into_iter().map(bind).collect()
        };
        let gauge = |(name, unit, description)| {
            let gauge = meter.i64_up_down_counter(name).with_unit(unit).with_description(description).build();
            gauge.add(0, &[]);
            gauge
        };
        let duration = |name, description| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
            histogram.with_boundaries(DURATION_BUCKETS.to_vec()).build()
        };
        let issuer_counter =
            |name, unit, description| meter.u64_counter(name).with_unit(unit).with_description(description).build();
        Self {
            issuer_logins: issuer_counter(
                "mayfly.issuer.logins",
                "{login}",
                "Logins by JWTs of trusted issuers, by issuer and result.",
            ),
            issuer_key_fetches: issuer_counter(
                "mayfly.issuer.key.fetches",
                "{attempt}",
                "Attempts to get the keys of trusted issuers, by issuer and result.",
            ),
            counters: COUNTERS.map(counter).into(),
            gauges: GAUGES.map(gauge).into(),
            request_duration: duration("http.server.request.duration", "Duration of HTTP requests."),
            request_series: RwLock::default(),
            round_trip_duration: duration("db.client.operation.duration", "Duration of round trips to Redis."),
            password_hash_duration: duration("mayfly.password.hash.duration", "Duration of password hashes."),
        }
    }
}

/// All combinations of the labels' values, in the order of [`Counter::add_to`]'s series: the last key varies first.
fn combinations(labels: Labels) -> Vec<Vec<KeyValue>> {
    labels.iter().fold(vec![Vec::new()], |combinations, (key, values)| {
        let extended = combinations.iter().flat_map(|labels| {
            values.iter().map(move |value| [labels.as_slice(), &[KeyValue::new(*key, *value)]].concat())
        });
        extended.collect()
    })
}

/// Makes the instruments: all metrics are recorded from now on.
pub(super) fn start(provider: &SdkMeterProvider) {
    let meter = provider.meter(env!("CARGO_PKG_NAME"));
    let _ = INSTRUMENTS.set(Instruments::new(&meter));
    #[cfg(target_os = "linux")]
    super::process::register(&meter);
    meter
        .u64_observable_counter("mayfly.log.lines.dropped")
        .with_unit("{line}")
        .with_description("Lines of the log that were dropped: standard error was not read in time, or is closed.")
        .with_callback(|observer| observer.observe(logs::dropped_lines(), &[]))
        .build();
}

impl Counter {
    /// Counts this many events of a counter without labels.
    pub fn add(self, events: u64) {
        self.add_to(0, events);
    }

    /// Counts events in one series: its position among the [`combinations`] of the counter's labels.
    fn add_to(self, series: usize, events: u64) {
        if let Some(instruments) = INSTRUMENTS.get() {
            instruments.counters[self as usize][series].add(events);
        }
    }
}

/// Counts the verification of a token.
pub fn token_verified(result: Verification) {
    Counter::TokenVerifications.add_to(result as usize, 1);
}

/// Counts a lookup that was answered from the cache, under a lease (`is_hit`), or by the store.
pub fn lease_lookup(kind: LeaseKind, is_hit: bool) {
    Counter::LeaseLookups.add_to(2 * kind as usize + usize::from(is_hit), 1);
}

/// Counts a login that succeeded.
pub fn logged_in(method: LoginMethod) {
    Counter::Logins.add_to(method as usize, 1);
}

/// Counts an answer to a verifier that asked for changes.
pub fn changes_answered(answer: ChangesAnswer) {
    Counter::ChangesAnswers.add_to(answer as usize, 1);
}

/// Counts a failed login.
pub(super) fn login_failed(reason: LoginFailure) {
    Counter::LoginFailures.add_to(reason as usize, 1);
}

/// Counts a login by a JWT of this trusted issuer, as it is named in the operator's file.
pub fn issuer_login(issuer: &str, is_ok: bool) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.issuer_logins.add(1, &issuer_labels(issuer, is_ok));
    }
}

/// Counts an attempt to get the keys of this trusted issuer.
pub fn issuer_keys_fetched(issuer: &str, is_ok: bool) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.issuer_key_fetches.add(1, &issuer_labels(issuer, is_ok));
    }
}

fn issuer_labels(issuer: &str, is_ok: bool) -> [KeyValue; 2] {
    let result = if is_ok { "ok" } else { "failed" };
    [KeyValue::new("issuer", issuer.to_owned()), KeyValue::new("result", result)]
}

/// Counts an attempt to connect to Redis.
pub fn redis_connect(is_connected: bool) {
    Counter::RedisConnects.add_to(usize::from(is_connected), 1);
}

/// Lowers a [`Gauge`] again when it is dropped.
pub struct GaugeGuard(Gauge);

impl Gauge {
    /// Counts one more, until the guard is dropped.
    pub fn raise(self) -> GaugeGuard {
        self.add(1);
        GaugeGuard(self)
    }

    fn add(self, change: i64) {
        if let Some(instruments) = INSTRUMENTS.get() {
            instruments.gauges[self as usize].add(change, &[]);
        }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Records the duration of an HTTP request.
pub(super) fn request_answered(method: &'static str, response: ResponseLabels, duration: Duration) {
    let Some(instruments) = INSTRUMENTS.get() else { return };
    let seconds = duration.as_secs_f64();
    if let Some(series) = instruments.request_series.read().get(&(method, response)) {
        return series.record(seconds);
    }
    let mut labels = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.response.status_code", i64::from(response.status)),
    ];
    labels.extend(response.route.map(|route| KeyValue::new("http.route", route)));
    let series = instruments.request_duration.bind(&labels);
    series.record(seconds);
    instruments.request_series.write().insert((method, response), series);
}

/// Records the duration of a round trip to Redis that was answered, failed, timed out or was cancelled. `command`: its
/// name, or `PIPELINE`. `error_type`: the kind of its error, or `cancelled`.
pub(super) fn redis_round_trip_ended(command: &'static str, error_type: Option<&'static str>, duration: Duration) {
    let Some(instruments) = INSTRUMENTS.get() else { return };
    let mut labels = vec![KeyValue::new("db.operation.name", command), KeyValue::new("db.system.name", "redis")];
    labels.extend(error_type.map(|error| KeyValue::new("error.type", error)));
    instruments.round_trip_duration.record(duration.as_secs_f64(), &labels);
}

/// Records the duration of a password hash.
pub(super) fn password_hashed(duration: Duration) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.password_hash_duration.record(duration.as_secs_f64(), &[]);
    }
}

/// The metrics as Prometheus scrapes them.
#[derive(Clone, Default)]
pub struct Prometheus(Registry);

impl Prometheus {
    /// The media type of [`Prometheus::page`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    /// Reads the SDK's metrics into this registry when Prometheus asks.
    pub(super) fn reader(&self) -> impl MetricReader + use<> {
        // Without labels for the instrumentation scope: there is one, and its version is in `target_info`.
        opentelemetry_prometheus::exporter()
            .with_registry(self.0.clone())
            .scope_info_enabled(false)
            .build()
            .expect("a registry of our own takes its one collector")
    }

    /// All values so far, in Prometheus' text format.
    ///
    /// # Panics
    /// If two metrics have the same name.
    pub fn page(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).expect("metrics are consistent")
    }
}
