//! OTLP: export to a collector, as the standard `OTEL_` variables ask for it.
//!
//! A signal (traces, metrics, logs) is on where it has an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, or one of its own)
//! or an exporter (such as `OTEL_TRACES_EXPORTER=otlp`). The SDK reads the other variables: compression, headers,
//! limits, intervals, attributes of the resource. As the specification of the variables asks, unsupported values are
//! reported and ignored, and case does not matter.

use std::{cell::LazyCell, collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracerProvider},
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};
use uuid::Uuid;

use super::metrics::Prometheus;

/// Longest time for one request to the collector. The SDK repeats failed requests until `OTEL_EXPORTER_OTLP_TIMEOUT` is
/// over.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Crates whose log lines are not exported: each export logs some, which would be exported in turn, without end.
const NOT_EXPORTED: [&str; 3] = ["opentelemetry", "ureq", "rustls"];

/// The prefix of the samplers that follow the caller's decision to sample, if the caller made one.
const PARENT_BASED: &str = "parentbased_";

/// The endings of the variables that the rule holds for, whether a value (in lower case) is supported, and the reason
/// that is reported if it is not.
type ValueRule = (&'static [&'static str], fn(&str) -> bool, &'static str);

/// The first rule that a variable matches holds; a variable without a rule takes any value.
const VALUE_RULES: [ValueRule; 10] = [
    (&["_SDK_DISABLED"], |value| ["true", "false"].contains(&value), "it is neither true nor false"),
    (&["_EXPORTER"], |names| are_all_in(names, &["otlp", "none"]), "otlp and none are supported"),
    (&["_PROTOCOL"], |name| name == "http/protobuf", "http/protobuf is supported"),
    (&["_COMPRESSION"], |name| ["gzip", "none"].contains(&name), "gzip and none are supported"),
    (&["_PROPAGATORS"], |names| are_all_in(names, &["tracecontext", "baggage"]), "tracecontext is supported"),
    (&["_SAMPLER"], |name| root_sampler(name, 1.0).is_some(), "it is not supported; parentbased_traceidratio is"),
    (&["_SAMPLER_ARG"], |ratio| parse_ratio(ratio).is_some(), "it is no number from 0 to 1"),
    (&["_ENDPOINT"], is_url, "it is no URL such as http://localhost:4318"),
    (&["_DELAY", "_INTERVAL", "_LIMIT", "_SIZE", "_TIMEOUT"], |n| n.parse::<u64>().is_ok(), "it is no whole number"),
    (&["_CERTIFICATE", "_CLIENT_KEY"], |_| false, "it is not supported; SSL_CERT_FILE names the certificates to trust"),
];

/// The variables of the environment that begin with `OTEL_`.
#[derive(Debug, Clone, Default)]
pub struct Variables(pub BTreeMap<String, String>);

/// The SDK's providers of the signals that are on.
pub(super) struct Providers {
    pub(super) traces: Option<SdkTracerProvider>,
    /// Also on for Prometheus alone.
    pub(super) metrics: Option<SdkMeterProvider>,
    pub(super) logs: Option<SdkLoggerProvider>,
}

impl Variables {
    /// The value of a variable in lower case; empty if it is not set.
    fn get(&self, name: &str) -> String {
        self.0.get(name).map_or_else(String::new, |value| value.trim().to_ascii_lowercase())
    }

    /// Starts to export the signals that are on. Pushes to `problems` the variables for which that fails, and why.
    ///
    /// Call this before the log is set up: the SDK would log its warning about a variable once for each signal.
    pub(super) fn providers(&self, prometheus: Option<&Prometheus>, problems: &mut Vec<(String, String)>) -> Providers {
        let resource = self.resource();
        let client = LazyCell::new(Client::new);
        let traces = self.exporter("TRACES", problems, || {
            SpanExporter::builder().with_http().with_http_client(client.clone()).build()
        });
        let metrics = self.exporter("METRICS", problems, || {
            MetricExporter::builder().with_http().with_http_client(client.clone()).build()
        });
        let logs = self
            .exporter("LOGS", problems, || LogExporter::builder().with_http().with_http_client(client.clone()).build());
        Providers {
            // Takes all spans: a request gets one only if [`Self::sampler`] took it.
            traces: traces.map(|exporter| {
                let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn);
                provider.with_resource(resource.clone()).with_batch_exporter(exporter).build()
            }),
            metrics: (metrics.is_some() || prometheus.is_some()).then(|| {
                let mut provider = SdkMeterProvider::builder().with_resource(resource.clone());
                if let Some(prometheus) = prometheus {
                    provider = provider.with_reader(prometheus.reader());
                }
                if let Some(exporter) = metrics {
                    provider = provider.with_periodic_exporter(exporter);
                }
                provider.build()
            }),
            logs: logs.map(|exporter| {
                SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()
            }),
        }
    }

    /// Builds the exporter of a signal (`TRACES`, `METRICS` or `LOGS`), if it is on. Pushes the error to `problems`.
    fn exporter<E>(
        &self,
        signal: &str,
        problems: &mut Vec<(String, String)>,
        build: impl FnOnce() -> Result<E, ExporterBuildError>,
    ) -> Option<E> {
        if !self.is_on(signal) {
            return None;
        }
        build().inspect_err(|error| problems.push((format!("OTEL_{signal}_EXPORTER"), error.to_string()))).ok()
    }

    /// Whether a signal is on: by the rules at the top of this file.
    fn is_on(&self, signal: &str) -> bool {
        let exporters = self.get(&format!("OTEL_{signal}_EXPORTER"));
        let endpoints = [format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"), "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()];
        let endpoint = endpoints.iter().map(|name| self.get(name)).find(|endpoint| !endpoint.is_empty());
        let is_wanted = exporters.split(',').any(|name| name.trim() == "otlp");
        self.get("OTEL_SDK_DISABLED") != "true"
            && (is_wanted || exporters != "none" && endpoint.is_some())
            && endpoint.is_none_or(|endpoint| is_url(&endpoint))
    }

    /// The sampler of requests. Not left to the SDK, for which the case of these variables' values matters.
    pub(super) fn sampler(&self) -> Sampler {
        let ratio = parse_ratio(&self.get("OTEL_TRACES_SAMPLER_ARG")).unwrap_or(1.0);
        let name = self.get("OTEL_TRACES_SAMPLER");
        match root_sampler(&name, ratio) {
            Some(root) if !name.starts_with(PARENT_BASED) => root,
            root => Sampler::ParentBased(Box::new(root.unwrap_or(Sampler::AlwaysOn))),
        }
    }

    /// The attributes of this process: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` override the defaults.
    fn resource(&self) -> Resource {
        let name = self.0.get("OTEL_SERVICE_NAME").map(|name| name.trim()).filter(|name| !name.is_empty());
        let defaults = [
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ];
        Resource::builder_empty()
            .with_attributes(defaults)
            .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
            .with_attributes(name.map(|name| KeyValue::new("service.name", name.to_owned())))
            .build()
    }

    /// The variables whose values are ignored, each with the reason.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let problem = |name: &String| {
            let value = Some(self.get(name)).filter(|value| !value.is_empty())?;
            let has_ending = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
            let (_, is_used, reason) = VALUE_RULES.iter().find(|(endings, ..)| has_ending(endings))?;
            (!is_used(&value)).then(|| (name.clone(), (*reason).to_owned()))
        };
        self.0.keys().filter_map(problem).collect()
    }
}

/// The sampler of this name for requests without a caller's trace; `None`: it is not supported.
fn root_sampler(name: &str, ratio: f64) -> Option<Sampler> {
    match name.strip_prefix(PARENT_BASED).unwrap_or(name) {
        "always_on" => Some(Sampler::AlwaysOn),
        "always_off" => Some(Sampler::AlwaysOff),
        "traceidratio" => Some(Sampler::TraceIdRatioBased(ratio)),
        _ => None,
    }
}

fn parse_ratio(text: &str) -> Option<f64> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

/// Whether the names in a list, separated by commas, are all known.
fn are_all_in(list: &str, known: &[&str]) -> bool {
    list.split(',').all(|name| known.contains(&name.trim()))
}

/// Whether an endpoint has a scheme of HTTP. The SDK checks the rest of it.
fn is_url(endpoint: &str) -> bool {
    endpoint.starts_with("http://") || endpoint.starts_with("https://")
}

/// Exports the lines of the log, with the fields of their spans.
pub(super) fn log_layer<S>(provider: &SdkLoggerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let bridge = OpenTelemetryTracingBridge::builder(provider)
        .with_tracing_span_attributes(TracingSpanAttributes::all())
        .build();
    bridge.with_filter(FilterFn::new(|metadata| !NOT_EXPORTED.iter().any(|name| metadata.target().starts_with(name))))
}

/// The HTTP client of the exporters, which the SDK calls on threads of its own.
#[derive(Debug, Clone)]
struct Client(Agent);

impl Client {
    fn new() -> Self {
        let trusted = rustls_native_certs::load_native_certs().certs;
        let trusted = trusted.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .root_certs(RootCerts::from(trusted));
        let config = Agent::config_builder().tls_config(tls.build()).timeout_global(Some(REQUEST_TIMEOUT));
        // The SDK itself looks at the status of a response.
        Self(config.http_status_as_error(false).proxy(None).build().into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, mut body) = self.0.run(request.map(Vec::from))?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    fn load(variables: &[(&str, &str)]) -> Variables {
        Variables(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    fn signals(variables: &Variables) -> [bool; 3] {
        ["TRACES", "METRICS", "LOGS"].map(|signal| variables.is_on(signal))
    }

    #[test]
    fn a_signal_is_on_with_an_endpoint_or_an_exporter() {
        for (variables, expected) in [
            (&[][..], [false; 3]),
            (&[("OTEL_SERVICE_NAME", "x")], [false; 3]),
            (&[(ENDPOINT, "")], [false; 3]),
            (&[(ENDPOINT, "http://c:4318")], [true; 3]),
            (&[(ENDPOINT, "http://c:4318"), ("OTEL_LOGS_EXPORTER", "NONE")], [true, true, false]),
            (&[(ENDPOINT, "HTTP://c:4318"), ("OTEL_SDK_DISABLED", "True")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1/traces")], [true, false, false]),
            (&[("OTEL_METRICS_EXPORTER", "Otlp")], [false, true, false]),
        ] {
            let variables = load(variables);
            assert_eq!((signals(&variables), &*variables.problems()), (expected, &[][..]), "{variables:?}");
        }
    }

    #[test]
    fn unsupported_values_are_reported_and_ignored() {
        for (name, value, expected) in [
            ("OTEL_METRICS_EXPORTER", "prometheus", [true; 3]),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus", [true; 3]),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", [false, true, true]),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", [true; 3]),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zstd", [true; 3]),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", [true; 3]),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5", [true; 3]),
            ("OTEL_PROPAGATORS", "b3,tracecontext", [true; 3]),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem", [true; 3]),
            ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/key.pem", [true; 3]),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "-1", [true; 3]),
            ("OTEL_SDK_DISABLED", "yes", [true; 3]),
        ] {
            let variables = load(&[(ENDPOINT, "http://c:4318"), (name, value)]);
            let reported: Vec<_> = variables.problems().into_iter().map(|(name, _)| name).collect();
            assert_eq!((signals(&variables), &*reported), (expected, &[name.to_owned()][..]), "{value}");
        }
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        for (sampler, argument, expected) in [
            ("", "", "ParentBased(AlwaysOn)"),
            ("parentbased_always_off", "", "ParentBased(AlwaysOff)"),
            ("ParentBased_TraceIdRatio", "0.01", "ParentBased(TraceIdRatioBased(0.01))"),
            ("traceidratio", "", "TraceIdRatioBased(1.0)"),
            ("traceidratio", "NaN", "TraceIdRatioBased(1.0)"),
            ("ALWAYS_OFF", "", "AlwaysOff"),
            ("xray", "", "ParentBased(AlwaysOn)"),
        ] {
            let variables = load(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
            assert_eq!(format!("{:?}", variables.sampler()), expected, "{sampler} {argument}");
        }
    }

    #[test]
    fn the_resource_names_the_service() {
        let resource = load(&[("OTEL_SERVICE_NAME", "Tokens")]).resource();
        let get = |key: &'static str| resource.get(&key.into()).unwrap().to_string();
        assert_eq!((get("service.name"), get("service.version")), ("Tokens".into(), env!("CARGO_PKG_VERSION").into()));
        assert!(Uuid::parse_str(&get("service.instance.id")).is_ok());
    }
}
