//! Traces: a span for each traced request, with child spans for its round trips to Redis and its password hash.
//!
//! The sampler decides before a span is made: a request that is not traced costs a look at its headers, where an
//! unsampled span would cost 1.2 µs.

use std::{collections::HashMap, sync::OnceLock};

use opentelemetry::{
    Array, Context, KeyValue, StringValue, Value,
    context::FutureExt,
    propagation::TextMapPropagator,
    trace::{SpanBuilder, SpanContext, SpanKind, SpanRef, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample},
};
use tracing::Instrument;

use super::events::{RequestInfo, ResponseLabels};

/// Set by [`start`]; without it, nothing is traced.
static TRACING: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    tracer: SdkTracer,
    sampler: Sampler,
}

/// Whether the sampler takes a request. `context` has the caller's trace, or none.
fn is_sampled(sampler: &Sampler, context: &Context) -> bool {
    let span = context.span();
    let parent = Some(span.span_context()).filter(|parent| parent.is_valid());
    let trace_id = parent.map_or_else(|| RandomIdGenerator::default().new_trace_id(), SpanContext::trace_id);
    let result = sampler.should_sample(Some(context), trace_id, "request", &SpanKind::Server, &[], &[]);
    result.decision == SamplingDecision::RecordAndSample
}

/// Traces requests from now on.
pub(super) fn start(provider: &SdkTracerProvider, sampler: Sampler) {
    let _ = TRACING.set(Tracing { tracer: provider.tracer(env!("CARGO_PKG_NAME")), sampler });
}

/// Begins the span of a request, which continues the caller's trace, if there is one. Returns the context that holds
/// it; `None`: the request is not traced.
pub(super) fn begin<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Option<Context> {
    let Tracing { tracer, sampler } = TRACING.get()?;
    let context = match header("traceparent") {
        Some(traceparent) => caller_context(traceparent, header("tracestate")),
        None => Context::new(),
    };
    if !is_sampled(sampler, &context) {
        return None;
    }
    // The span gets its name at the end: the router finds the operation.
    let span = tracer.build_with_context(SpanBuilder::from_name("request").with_kind(SpanKind::Server), &context);
    Some(context.with_span(span))
}

/// The caller's trace, from its headers (W3C Trace Context).
fn caller_context(traceparent: &str, tracestate: Option<&str>) -> Context {
    let headers = [Some(("traceparent", traceparent)), tracestate.map(|state| ("tracestate", state))];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let headers: HashMap<_, _> = headers.into_iter().flatten().map(owned).collect();
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// Ends the span of a request, named and described by the semantic conventions of HTTP, but without the path: a client
/// may write secrets there.
pub(super) fn end(trace: &Context, request: &RequestInfo, response: ResponseLabels) {
    let span = trace.span();
    let (method, status) = (request.method, response.status);
    span.update_name(response.route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")));
    let request_id = Array::String(vec![StringValue::from(request.id.to_owned())]);
    span.set_attributes([
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.response.status_code", i64::from(status)),
        KeyValue::new("http.response.header.x-request-id", Value::Array(request_id)),
        KeyValue::new("url.scheme", "http"),
    ]);
    span.set_attributes(response.route.map(|route| KeyValue::new("http.route", route)));
    span.set_attributes((request.client)().map(|client| KeyValue::new("client.address", client.to_string())));
    if status >= 500 {
        mark_failed(&span, status.to_string());
    }
    span.end();
}

/// Marks a span as failed.
fn mark_failed(span: &SpanRef, error_type: impl Into<Value>) {
    span.set_attribute(KeyValue::new("error.type", error_type));
    span.set_status(Status::error(""));
}

/// Returns `work` with the log's span and the trace of the current task, which it keeps when another task runs it.
pub fn in_current_context<W: Future>(work: W) -> impl Future<Output = W::Output> {
    work.in_current_span().with_current_context()
}

/// Runs `future` in a child of the current span, which `describe` builds. Without a current span, just runs it.
/// `error_type` returns the kind of error in a result, or `None`.
pub(super) async fn in_child_span<T>(
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
        mark_failed(&span, error_type);
    }
    span.end();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(flags: &str) -> Context {
        caller_context(&format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"), None)
    }

    #[test]
    fn a_parent_based_sampler_follows_the_caller() {
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
            assert_eq!(is_sampled(&sampler, &context), expected, "{sampler:?} {flags:?}");
        }
    }

    #[test]
    fn a_ratio_samples_its_share_of_requests() {
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.25)));
        let traced = (0..10_000).filter(|_| is_sampled(&sampler, &Context::new())).count();
        assert!((2_000..3_000).contains(&traced), "{traced}");
    }

    #[tokio::test]
    async fn nothing_is_traced_before_the_start() {
        assert!(begin(|_| None).is_none());
        assert_eq!(in_child_span(|| unreachable!(), |_| None, async { 7 }).await, 7);
    }
}
