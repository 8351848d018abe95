//! Reports to operators: logs, audit events, metrics and traces.
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
mod json_lines;
pub mod logs;
pub mod metrics;
pub mod otlp;
#[cfg(target_os = "linux")]
mod process;
pub mod redis;
mod repetitions;
pub mod request;
pub mod traces;

/// Longest time for which a shutdown waits until the collector has taken the last data.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time for which a shutdown waits until standard error has taken the last lines of the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of the log and of the export to a collector.
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
    pub fn for_command() -> Self {
        Self { log: "warn".into(), log_format: LogFormat::Auto, otlp: otlp::Variables::default() }
    }
}

/// The log and the exporters while they run.
pub struct Telemetry {
    providers: otlp::Providers,
    /// Ends the thread that writes the log, when it is dropped.
    log_thread: WorkerGuard,
}

/// Starts the log, and metrics and traces where `settings` or `prometheus` ask for them. Needs a runtime of tokio.
///
/// A panic is logged with its place and without its message, which may hold a secret.
///
/// # Panics
/// If it is called twice.
pub fn init(settings: &Settings, prometheus: Option<&metrics::Prometheus>) -> Telemetry {
    let mut problems = settings.otlp.problems();
    let providers = settings.otlp.providers(prometheus, &mut problems);
    let (writer, log_thread) = logs::start_writer();
    tracing_subscriber::registry()
        .with(logs::filter(&settings.log))
        .with(logs::line_layer(settings.log_format, writer))
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
    Telemetry { providers, log_thread }
}

impl Telemetry {
    /// Exports the last data, for up to three seconds, then writes the last lines of the log, for up to two.
    pub async fn shutdown(self) {
        let Self { providers: otlp::Providers { traces, metrics, logs }, log_thread } = self;
        // All repetitions: each is due within a minute.
        audit::write_repetitions(Instant::now() + repetitions::INTERVAL);
        let flush = move || {
            // The log already says if the collector does not answer.
            let _ = traces.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            let _ = metrics.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            let _ = logs.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        };
        run_in_thread(flush, FLUSH_TIMEOUT).await;
        run_in_thread(move || drop(log_thread), LOG_TIMEOUT).await;
    }
}

/// Runs blocking work on a thread of its own and waits for it up to `limit`. After that, the work goes on until the
/// process ends.
async fn run_in_thread(work: impl FnOnce() + Send + 'static, limit: Duration) {
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let _ = timeout(limit, finished).await;
}

/// Runs `future`, which hashes a password, in a span, and records its duration.
pub async fn observe_password_hash<T>(future: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = traces::in_child_span(|| SpanBuilder::from_name("hash password"), |_| None, future).await;
    metrics::password_hashed(begun.elapsed());
    result
}
