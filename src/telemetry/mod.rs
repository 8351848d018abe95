//! What operators see: logs, audit events, metrics and traces.
//!
//! The rest of the code reports in one line what happened; this module writes, counts and exports it. Log lines go to
//! standard error ([`logs`]), audit events among them ([`audit`]). Threads of their own export to a collector what the
//! standard `OTEL_` variables ask for ([`otlp`]); no request waits for them.

use std::{thread, time::Duration};

use opentelemetry::trace::SpanBuilder;
use tokio::{
    sync::oneshot,
    time::{Instant, interval, timeout},
};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

pub use self::logs::LogFormat;

pub mod audit;
pub mod events;
pub mod logs;
pub mod metrics;
pub mod otlp;
#[cfg(target_os = "linux")]
mod process;
pub mod redis;
mod repetitions;
pub mod request;
pub mod traces;

/// Time that a shutdown gives the collector to take the last data.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a shutdown gives standard error to take the last lines of the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of logs and export.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The log's filter: tracing's directives.
    pub log: String,
    /// The log's format.
    pub log_format: LogFormat,
    /// The variables of OpenTelemetry.
    pub otlp: otlp::Variables,
}

impl Settings {
    /// The settings of a command that does its work and ends: warnings and audit events, on standard error alone.
    pub fn of_command() -> Self {
        Self { log: "warn".into(), log_format: LogFormat::Auto, otlp: otlp::Variables::default() }
    }
}

/// The running log and export.
pub struct Telemetry {
    providers: otlp::Providers,
    /// Ends the thread that writes the log.
    lines: WorkerGuard,
}

/// Starts the log, and metrics and traces where `settings` or `prometheus` ask for them. Needs a runtime of tokio.
///
/// A panic is logged with its place and without its message, which may hold a secret.
///
/// # Panics
/// Where it is called twice, or with a filter that is none.
pub fn init(settings: &Settings, prometheus: Option<&metrics::Prometheus>) -> Telemetry {
    let mut problems = settings.otlp.problems();
    let providers = settings.otlp.providers(prometheus, &mut problems);
    let (writer, lines) = logs::writer();
    tracing_subscriber::registry()
        .with(logs::filter(&settings.log))
        .with(logs::lines(settings.log_format, writer))
        .with(providers.logs.as_ref().map(otlp::log_layer))
        .init();
    for (variable, reason) in problems {
        tracing::warn!(variable, "a variable of OpenTelemetry is ignored: {reason}");
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
    if let Some(provider) = &providers.metrics {
        metrics::start(provider);
    }
    if let Some(provider) = &providers.traces {
        traces::start(provider, settings.otlp.sampler());
    }
    tokio::spawn(async {
        let mut seconds = interval(Duration::from_secs(1));
        loop {
            audit::write_repetitions(seconds.tick().await);
        }
    });
    Telemetry { providers, lines }
}

impl Telemetry {
    /// Exports the last data, for up to three seconds, then writes the last lines of the log, for up to two.
    pub async fn shutdown(self) {
        let Self { providers: otlp::Providers { traces, metrics, logs }, lines } = self;
        // In a minute, all repetitions are due.
        audit::write_repetitions(Instant::now() + repetitions::INTERVAL);
        let flush = move || {
            // A collector that does not answer is in the log already.
            let _ = traces.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            let _ = metrics.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            let _ = logs.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        };
        finish(flush, FLUSH_TIMEOUT).await;
        finish(move || drop(lines), LOG_TIMEOUT).await;
    }
}

/// Runs blocking work on a thread of its own and waits for it up to `limit`; the end of the process ends the thread.
async fn finish(work: impl FnOnce() + Send + 'static, limit: Duration) {
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let _ = timeout(limit, finished).await;
}

/// Observes the hashing of a password.
pub async fn password_hash<T>(future: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = traces::child(|| SpanBuilder::from_name("hash password"), |_| None, future).await;
    metrics::password_hashed(begun.elapsed());
    result
}
