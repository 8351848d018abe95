//! The observation of a request: a span for the log, a line of the log, a duration, a trace.

use std::time::{Duration, Instant};

use opentelemetry::{Context, context::FutureExt};
use tracing::{Instrument, Span};

use super::{
    events::{REQUEST, RequestInfo, ResponseLabels},
    logs,
    metrics::{self, Gauge, GaugeGuard},
    traces,
};

/// A request that is being observed.
pub struct ObservedRequest<'a> {
    info: RequestInfo<'a>,
    begun: Instant,
    span: Span,
    trace: Option<Context>,
    _active: GaugeGuard,
}

impl<'a> ObservedRequest<'a> {
    /// Begins to observe a request. `header` finds the value of a header by its name, to continue the caller's trace.
    pub fn begin<'h>(info: RequestInfo<'a>, header: impl Fn(&str) -> Option<&'h str>) -> Self {
        Self {
            begun: Instant::now(),
            span: if info.is_verification { Span::none() } else { logs::request_span(info.id, (info.client)()) },
            trace: traces::begin(header),
            _active: Gauge::ActiveRequests.raise(),
            info,
        }
    }

    /// Runs `work` within the span and the trace of the request.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        match &self.trace {
            Some(trace) => work.instrument(self.span.clone()).with_context(trace.clone()).await,
            None if self.span.is_none() => work.await,
            None => work.instrument(self.span.clone()).await,
        }
    }

    /// Ends the observation: records the duration, writes the line of the log and ends the trace.
    pub fn end(self, response: ResponseLabels) {
        let duration = self.begun.elapsed();
        metrics::request_answered(self.info.method, response, duration);
        // So that the line has the id of the trace.
        let _attached = self.trace.clone().map(Context::attach);
        self.log(response, duration);
        if let Some(trace) = &self.trace {
            traces::end(trace, &self.info, response);
        }
    }

    fn log(&self, ResponseLabels { route, status }: ResponseLabels, duration: Duration) {
        let RequestInfo { method, id: request_id, client, is_verification, is_poll } = self.info;
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        macro_rules! line {
            ($level:ident $(, $field:ident = $value:expr)*) => {
                tracing::$level!(target: REQUEST, $($field = $value,)* method, route, status, duration_us, "request")
            };
        }
        if is_verification {
            // The client's address is found only if the line passes the log's filter.
            let client = || client().map(tracing::field::display);
            if status < 500 {
                line!(debug, request_id = request_id, client = client());
            } else {
                line!(warn, request_id = request_id, client = client());
            }
            return;
        }
        // At `debug` for a throttled login: its audit event, whose repetitions are counted, replaces the line.
        self.span.in_scope(|| if status == 429 || is_poll { line!(debug) } else { line!(info) });
    }
}
