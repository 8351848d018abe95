//! What operators see: logs, audit events, metrics and traces.
//!
//! The rest of the code says in one line what happened; only this module knows what becomes of it. Lines go to standard
//! error ([`logs`]), audit events among them on a target of their own ([`audit`]). What the standard `OTEL_` variables
//! ask for ([`otlp`]) is sent to a collector by threads of its own, which nobody waits for.

use std::{
    io::{self, IsTerminal},
    thread,
    time::{Duration, Instant},
};

use opentelemetry::trace::SpanBuilder;
use opentelemetry_sdk::{logs::SdkLoggerProvider, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tokio::{sync::oneshot, time::timeout};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{Layer as _, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{logs::LogFormat, otlp::Otlp};

pub mod audit;
pub mod logs;
pub mod metrics;
pub mod otlp;
mod process;
pub mod redis;
mod repetitions;
pub mod request;
pub mod traces;

/// How long a shutdown waits for the collector to take the last of it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a shutdown waits for the last lines of the log to be written.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// What to tell operators, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to log: tracing's directives.
    pub log: String,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// What to send to a collector.
    pub otlp: Otlp,
}

impl Settings {
    /// Those of a command that does its work and ends: warnings and audit events, on standard error alone.
    pub fn of_command() -> Self {
        Self { log: "warn".into(), log_format: LogFormat::Auto, otlp: Otlp::default() }
    }
}

/// What runs for the sake of the operators, until [`Telemetry::shutdown`].
#[derive(Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    lines: Option<WorkerGuard>,
}

/// Starts logging, and, where `settings` or `prometheus` ask for it, measuring and tracing. To be called within a
/// runtime of tokio, on which the collector is talked to.
///
/// A panic is logged with its place, and without its message, which may hold what nobody should read.
///
/// # Panics
/// Where it is called twice, or with a filter that is none.
pub fn init(settings: &Settings, prometheus: Option<&metrics::Prometheus>) -> Telemetry {
    let (writer, guard) = logs::writer();
    let lines = || {
        let layer = match settings.log_format.resolve(io::stderr().is_terminal()) {
            LogFormat::Json => logs::json(writer.clone()).boxed(),
            LogFormat::Auto | LogFormat::Text => logs::text(writer.clone()).boxed(),
        };
        tracing_subscriber::registry().with(logs::filter(&settings.log)).with(layer)
    };
    // The SDK warns of what it ignores while it makes providers, one of which the lasting subscriber needs.
    let telemetry = tracing::subscriber::with_default(lines().with(otlp::without_sampler_warnings()), || {
        settings.otlp.warn();
        Telemetry {
            lines: Some(guard),
            traces: settings.otlp.tracer_provider(),
            metrics: settings.otlp.meter_provider(prometheus),
            logs: settings.otlp.logger_provider(),
        }
    });
    lines().with(telemetry.logs.as_ref().map(otlp::log_layer)).init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
    if let Some(provider) = &telemetry.metrics {
        metrics::start(provider);
    }
    if let Some(provider) = &telemetry.traces {
        traces::start(provider, settings.otlp.sampler.clone());
    }
    telemetry
}

impl Telemetry {
    /// Sends what is left to the collector, for up to three seconds, then writes what is left of the log, for up to
    /// two.
    pub async fn shutdown(self) {
        let Self { traces, metrics, logs, lines } = self;
        audit::write_repetitions();
        if traces.is_some() || metrics.is_some() || logs.is_some() {
            let flush = move || {
                // A collector that does not answer is in the log already.
                let _ = traces.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
                let _ = metrics.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
                let _ = logs.map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT));
            };
            finish(flush, FLUSH_TIMEOUT).await;
        }
        finish(move || drop(lines), LOG_TIMEOUT).await;
    }
}

/// Waits for blocking work, on a thread of its own that the end of the process ends, for so long.
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
    let result = traces::below(|| SpanBuilder::from_name("hash password"), |_| None, future).await;
    metrics::password_hashed(begun.elapsed());
    result
}
