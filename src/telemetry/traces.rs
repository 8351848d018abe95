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
    trace::{IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample},
};
use tracing::Instrument;

use super::request::{Answered, Incoming};

/// What begins spans, once and if there are any.
static TRACING: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    tracer: SdkTracer,
    sampler: Sampler,
}

/// Whether a request is traced whose caller's trace, if it has one, is in `context`.
fn wants(sampler: &Sampler, context: &Context) -> bool {
    let span = context.span();
    let parent = Some(span.span_context()).filter(|parent| parent.is_valid());
    let trace_id = parent.map_or_else(|| RandomIdGenerator::default().new_trace_id(), SpanContext::trace_id);
    let result = sampler.should_sample(Some(context), trace_id, "request", &SpanKind::Server, &[], &[]);
    result.decision == SamplingDecision::RecordAndSample
}

/// Traces from now on.
pub(super) fn start(provider: &SdkTracerProvider, sampler: Sampler) {
    let _ = TRACING.set(Tracing { tracer: provider.tracer(env!("CARGO_PKG_NAME")), sampler });
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
        let Tracing { tracer, sampler } = TRACING.get()?;
        let caller = caller();
        let context = match caller.traceparent {
            Some(_) => TraceContextPropagator::new().extract_with_context(&Context::new(), &caller),
            None => Context::new(),
        };
        if !wants(sampler, &context) {
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

/// The same work, within the log span and the trace of this task, whichever task runs it.
pub fn in_current_context<W: Future>(work: W) -> impl Future<Output = W::Output> {
    work.in_current_span().with_current_context()
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
    use super::*;

    fn parent(flags: &str) -> Context {
        let traceparent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let caller = Caller { traceparent: Some(&traceparent), tracestate: None };
        TraceContextPropagator::new().extract_with_context(&Context::new(), &caller)
    }

    #[test]
    fn the_caller_decides_unless_told_otherwise() {
        let parent_based = |root: Sampler| Sampler::ParentBased(Box::new(root));
        for (sampler, flags, expected) in [
            (parent_based(Sampler::AlwaysOff), Some("01"), true),
            (parent_based(Sampler::AlwaysOn), Some("00"), false),
            (parent_based(Sampler::AlwaysOff), None, false),
            (parent_based(Sampler::AlwaysOn), None, true),
            (Sampler::AlwaysOff, Some("01"), false),
            (Sampler::AlwaysOn, Some("00"), true),
        ] {
            let context = flags.map_or_else(Context::new, parent);
            assert_eq!(wants(&sampler, &context), expected, "{sampler:?} {flags:?}");
        }
    }

    #[test]
    fn a_ratio_is_kept() {
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.25)));
        let picked = (0..10_000).filter(|_| wants(&sampler, &Context::new())).count();
        assert!((2_000..3_000).contains(&picked), "{picked}");
    }

    #[tokio::test]
    async fn nothing_is_traced_unless_asked_for() {
        assert!(RequestTrace::begin(Caller::default).is_none());
        assert_eq!(below(|| unreachable!(), |_| None, async { 7 }).await, 7);
    }
}
