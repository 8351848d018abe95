//! A request, as operators see it: a span for what is logged on its way, a line, a duration, a trace.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::{Instrument, Span};

use super::{
    logs,
    metrics::{self, Counted},
    traces::{Caller, RequestTrace},
};

/// What is known of a request from the start.
pub struct Incoming<'a> {
    /// Its method: one of those of HTTP, or `_OTHER`.
    pub method: &'static str,
    /// The id that the log has it under.
    pub id: &'a str,
    /// Finds out who sent it.
    pub client: &'a (dyn Fn() -> Option<IpAddr> + Sync),
    /// Whether it comes before each request of every protected service. Then it has no span in the log, and a line only
    /// at `debug`, or where the service fails it.
    pub hot: bool,
}

/// What became of it.
#[derive(Clone, Copy)]
pub struct Answered {
    /// The path's template, if there is such a path.
    pub route: Option<&'static str>,
    /// The status of the answer.
    pub status: u16,
}

impl Answered {
    /// Whether the server is to blame.
    pub(super) fn is_failure(self) -> bool {
        self.status >= 500
    }
}

/// A request that is being observed.
pub struct Observed<'a> {
    request: Incoming<'a>,
    begun: Instant,
    span: Span,
    trace: Option<RequestTrace>,
    _in_progress: Counted,
}

impl<'a> Observed<'a> {
    /// Begins to observe a request, within the trace of its caller.
    pub fn begin<'c>(request: Incoming<'a>, caller: impl FnOnce() -> Caller<'c>) -> Self {
        Self {
            begun: Instant::now(),
            span: if request.hot { Span::none() } else { logs::request_span(request.id, (request.client)()) },
            trace: RequestTrace::begin(caller),
            _in_progress: metrics::http_request_in_progress(),
            request,
        }
    }

    /// Does what the request asks for.
    pub async fn follow<F: Future>(&self, work: F) -> F::Output {
        match &self.trace {
            Some(trace) => trace.follow(work.instrument(self.span.clone())).await,
            None if self.span.is_none() => work.await,
            None => work.instrument(self.span.clone()).await,
        }
    }

    /// The request was answered.
    pub fn end(self, answered: Answered) {
        let duration = self.begun.elapsed();
        metrics::http_request(self.request.method, answered, duration);
        match &self.trace {
            Some(trace) => {
                trace.within(|| self.log(answered, duration));
                trace.end(&self.request, answered);
            }
            None => self.log(answered, duration),
        }
    }

    fn log(&self, Answered { route, status }: Answered, duration: Duration) {
        let Incoming { method, id: request_id, client, hot, .. } = self.request;
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if !hot {
            self.span.in_scope(|| {
                // A login that comes too early has an audit event, which is counted up where it repeats.
                if status == 429 {
                    tracing::debug!(target: logs::REQUESTS, method, route, status, duration_us, "request");
                } else {
                    tracing::info!(target: logs::REQUESTS, method, route, status, duration_us, "request");
                }
            });
            return;
        }
        // Found out only where the line is wanted.
        let client = || client().map(tracing::field::display);
        if status < 500 {
            tracing::debug!(
                target: logs::REQUESTS, request_id, client = client(), method, route, status, duration_us, "request"
            );
        } else {
            tracing::warn!(
                target: logs::REQUESTS, request_id, client = client(), method, route, status, duration_us, "request"
            );
        }
    }
}
