//! The settings of readiness and shutdown.

use std::time::Duration;

use clap::Args;

use super::values::{delay, timeout};

/// The settings of readiness and shutdown.
#[derive(Clone, Args)]
#[command(next_help_heading = "Readiness and shutdown")]
pub struct LifecycleSettings {
    /// Set how long Redis may be unreachable before /readyz answers 503, from 1ms to 1h
    ///
    /// Requests that need Redis are answered with 503 from the first moment.
    #[arg(long, env = "MAYFLY_UNREADY_AFTER", value_name = "DURATION", default_value = "15s", value_parser = timeout())]
    pub unready_after: Duration,

    /// Set how long a shutdown serves on, but unready, until load balancers notice; up to 1h
    #[arg(long, env = "MAYFLY_SHUTDOWN_DELAY", value_name = "DURATION", default_value = "0s", value_parser = delay())]
    pub shutdown_delay: Duration,

    /// Set how long a shutdown waits for requests in flight after the delay, from 1ms to 1h
    #[arg(long, env = "MAYFLY_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "25s")]
    #[arg(value_parser = timeout())]
    pub shutdown_grace: Duration,
}
