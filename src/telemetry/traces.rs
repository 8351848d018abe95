//! Traces: a span for each request that is to be traced, and one below it for each thing that it waits for.
//!
//! Whether to trace is decided before anything is made, so that a request that is not traced costs a look at its headers
//! and nothing more: even a span that is not recorded would cost more than a microsecond.

use std::sync::OnceLock;

use opentelemetry::{
    Array, Context, KeyValue, StringValue, Value,
    context::FutureExt,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use uuid::Uuid;

use super::request::{Answered, Incoming};

/// What begins spans, once and if there are any.
static TRACING: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    tracer: SdkTracer,
    sampling: Sampling,
}

/// Which requests are traced.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sampling {
    /// Those whose caller's trace is sampled, and of those without a caller's trace the ratio. Else the ratio of all.
    pub(super) parent_based: bool,
    /// From 0 (none) to 1 (all).
    pub(super) ratio: f64,
}

impl Sampling {
    fn wants(self, parent: Option<&SpanContext>) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.is_sampled(),
            Some(parent) => self.picks(parent.trace_id().to_bytes()),
            None => self.picks(Uuid::new_v4().into_bytes()),
        }
    }

    /// The same choice for the same id wherever the ratio is the same: the last 56 bits of a trace id are random.
    fn picks(self, trace_id: [u8; 16]) -> bool {
        const RANGE: u64 = 1 << 56;
        let random = trace_id[9..].iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        #[expect(clippy::cast_precision_loss, reason = "a ratio has fewer digits")]
        let position = random as f64 / RANGE as f64;
        position < self.ratio
    }
}

/// Traces from now on.
pub(super) fn start(provider: &SdkTracerProvider, sampling: Sampling) {
    let _ = TRACING.set(Tracing { tracer: provider.tracer(env!("CARGO_PKG_NAME")), sampling });
}

/// The headers of a caller's trace (W3C Trace Context).
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// `traceparent`
    pub traceparent: Option<&'a str>,
    /// `tracestate`
    pub tracestate: Option<&'a str>,
}

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The span of a request that is traced.
pub(super) struct RequestTrace(Context);

impl RequestTrace {
    /// The trace of a request, continuing that of `caller`; `None`: this request is not traced.
    pub(super) fn begin<'a>(caller: impl FnOnce() -> Caller<'a>) -> Option<Self> {
        let Tracing { tracer, sampling } = TRACING.get()?;
        let caller = caller();
        let context = match caller.traceparent {
            Some(_) => TraceContextPropagator::new().extract_with_context(&Context::new(), &caller),
            None => Context::new(),
        };
        let span = context.span();
        let parent = Some(span.span_context()).filter(|parent| parent.is_valid());
        if !sampling.wants(parent) {
            return None;
        }
        // It is named at the end: which operation it is, the router knows.
        let span = tracer.build_with_context(SpanBuilder::from_name("request").with_kind(SpanKind::Server), &context);
        Some(Self(context.with_span(span)))
    }

    /// Puts what `future` does into the trace.
    pub(super) async fn follow<F: Future>(&self, future: F) -> F::Output {
        future.with_context(self.0.clone()).await
    }

    /// Runs `body` within the trace, so that what it logs belongs to it.
    pub(super) fn within<T>(&self, body: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().attach();
        body()
    }

    /// Ends the span, named and described as the semantic conventions of HTTP say. The path itself is left out: what a
    /// client writes there is its own business.
    pub(super) fn end(&self, request: &Incoming, answered: Answered) {
        let span = self.0.span();
        let (method, route) = (request.method, answered.route);
        span.update_name(route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")));
        let request_id = Array::String(vec![StringValue::from(request.id.to_owned())]);
        span.set_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.response.status_code", i64::from(answered.status)),
            KeyValue::new("http.response.header.x-request-id", Value::Array(request_id)),
            KeyValue::new("url.scheme", "http"),
        ]);
        span.set_attributes(route.map(|route| KeyValue::new("http.route", route)));
        span.set_attributes((request.client)().map(|client| KeyValue::new("client.address", client.to_string())));
        if answered.is_failure() {
            span.set_attribute(KeyValue::new("error.type", answered.status.to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// A span below that of the request which is being worked on, around `future`. `describe` is asked where there is one;
/// `error_type` says of a result whether, and how, it failed.
pub(super) async fn below<T>(
    describe: impl FnOnce() -> SpanBuilder,
    error_type: impl FnOnce(&T) -> Option<&'static str>,
    future: impl Future<Output = T>,
) -> T {
    let Some(Tracing { tracer, .. }) = TRACING.get() else { return future.await };
    let Some(parent) = Context::map_current(|context| context.has_active_span().then(|| context.clone())) else {
        return future.await;
    };
    let context = parent.with_span(tracer.build_with_context(describe(), &parent));
    let result = future.with_context(context.clone()).await;
    let span = context.span();
    if let Some(error_type) = error_type(&result) {
        span.set_attribute(KeyValue::new("error.type", error_type));
        span.set_status(Status::error(""));
    }
    span.end();
    result
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanRef;

    use super::*;

    fn parent(flags: &str) -> Context {
        let traceparent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let caller = Caller { traceparent: Some(&traceparent), tracestate: None };
        TraceContextPropagator::new().extract_with_context(&Context::new(), &caller)
    }

    #[test]
    fn the_caller_decides_unless_told_otherwise() {
        for (parent_based, ratio, flags, expected) in [
            (true, 0.0, Some("01"), true),
            (true, 1.0, Some("00"), false),
            (true, 0.0, None, false),
            (true, 1.0, None, true),
            (false, 0.0, Some("01"), false),
            (false, 1.0, Some("00"), true),
        ] {
            let context = flags.map(parent);
            let span = context.as_ref().map(TraceContextExt::span);
            let wants = Sampling { parent_based, ratio }.wants(span.as_ref().map(SpanRef::span_context));
            assert_eq!(wants, expected, "{parent_based} {ratio} {flags:?}");
        }
    }

    #[test]
    fn a_ratio_is_kept() {
        let sampling = Sampling { parent_based: true, ratio: 0.25 };
        let picked = (0..10_000).filter(|_| sampling.wants(None)).count();
        assert!((2_000..3_000).contains(&picked), "{picked}");
    }

    #[tokio::test]
    async fn nothing_is_traced_unless_asked_for() {
        assert!(RequestTrace::begin(Caller::default).is_none());
        assert_eq!(below(|| unreachable!(), |_| None, async { 7 }).await, 7);
    }
}
