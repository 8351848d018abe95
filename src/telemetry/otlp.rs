//! OTLP: what the standard `OTEL_` variables ask for, and the way to the collector.
//!
//! A signal (traces, metrics, logs) is on where it has an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, or one of its own) or
//! an exporter (such as `OTEL_TRACES_EXPORTER=otlp`), and off, at no cost, without. Everything else is read by the SDK
//! itself: protocol, compression, headers, limits, intervals, attributes of the resource. A value that is unknown or not
//! built in is ignored with a warning, and its case does not matter, as the specification of these variables asks.

use std::{collections::BTreeMap, iter::successors, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracerProvider},
};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};
use uuid::Uuid;

use super::metrics::Prometheus;

/// How long a collector may take to answer; `OTEL_EXPORTER_OTLP_TIMEOUT` ends attempts and their repetitions earlier.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whose lines the collector is not sent: they would be about the sending, and beget each other.
const NOT_SENT: [&str; 5] = ["opentelemetry", "hyper", "h2", "rustls", "tokio_rustls"];

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What to send to a collector.
#[derive(Debug, Clone)]
pub struct Otlp {
    traces: Option<Transport>,
    metrics: Option<Transport>,
    logs: Option<Transport>,
    /// Which requests are traced.
    pub(super) sampler: Sampler,
    resource: Resource,
    /// Variables that are ignored, and why.
    ignored: Vec<(String, &'static str)>,
}

/// How to get to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// `http://`
    Plain,
    /// `https://`, with the certificates that the system trusts.
    Tls,
}

/// The variables of the environment, and which of them are ignored.
struct Variables<'a> {
    values: &'a BTreeMap<String, String>,
    ignored: Vec<(String, &'static str)>,
}

impl Default for Otlp {
    /// Sends nothing.
    fn default() -> Self {
        Self::load(&BTreeMap::new())
    }
}

impl Otlp {
    /// Reads the variables that begin with `OTEL_`.
    pub fn load(environment: &BTreeMap<String, String>) -> Self {
        let mut variables = Variables { values: environment, ignored: Vec::new() };
        let is_on = !variables.is_disabled();
        let mut transport = |signal| variables.transport(signal).filter(|_| is_on);
        let (traces, metrics, logs) = (transport("TRACES"), transport("METRICS"), transport("LOGS"));
        let sampler = variables.sampler();
        variables.check_support();
        let resource = resource(variables.get("OTEL_SERVICE_NAME"));
        Self { traces, metrics, logs, sampler, resource, ignored: variables.ignored }
    }

    /// Warns of the variables that are ignored.
    pub(super) fn warn(&self) {
        for (variable, why) in &self.ignored {
            tracing::warn!(variable, "a variable of OpenTelemetry is ignored: {why}");
        }
    }

    /// Where spans go, if anywhere.
    pub(super) fn tracer_provider(&self) -> Option<SdkTracerProvider> {
        let build = |client| SpanExporter::builder().with_http().with_http_client(client).build();
        let exporter = export("traces", self.traces, build)?;
        // A span is begun for a request that is to be traced, and for no other.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(self.resource.clone())
            .with_batch_exporter(exporter);
        Some(provider.build())
    }

    /// Where measurements go, if anywhere: to be scraped, to a collector, or both.
    pub(super) fn meter_provider(&self, scraped: Option<&Prometheus>) -> Option<SdkMeterProvider> {
        let build = |client| MetricExporter::builder().with_http().with_http_client(client).build();
        let exporter = export("metrics", self.metrics, build);
        if exporter.is_none() && scraped.is_none() {
            return None;
        }
        let mut provider = SdkMeterProvider::builder().with_resource(self.resource.clone());
        if let Some(prometheus) = scraped {
            provider = provider.with_reader(prometheus.reader());
        }
        if let Some(exporter) = exporter {
            provider = provider.with_periodic_exporter(exporter);
        }
        Some(provider.build())
    }

    /// Where lines of the log go besides standard error, if anywhere.
    pub(super) fn logger_provider(&self) -> Option<SdkLoggerProvider> {
        let build = |client| LogExporter::builder().with_http().with_http_client(client).build();
        let exporter = export("logs", self.logs, build)?;
        let provider = SdkLoggerProvider::builder().with_resource(self.resource.clone()).with_batch_exporter(exporter);
        Some(provider.build())
    }
}

/// The exporter of a signal that is on. One that cannot be made is warned of, and sends nothing.
fn export<E>(
    signal: &str,
    transport: Option<Transport>,
    build: impl FnOnce(Client) -> Result<E, ExporterBuildError>,
) -> Option<E> {
    let exporter = Client::new(transport?).and_then(build);
    exporter.inspect_err(|error| tracing::warn!(%error, signal, "a signal is not sent to the collector")).ok()
}

impl Variables<'_> {
    /// The value of a variable. One that is empty counts as unset, as the specification wants it.
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The names that a variable lists, in lower case.
    fn names(&self, name: &str) -> Vec<String> {
        let value = self.get(name).unwrap_or_default().to_ascii_lowercase();
        value.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }

    fn ignore(&mut self, name: impl Into<String>, why: &'static str) {
        self.ignored.push((name.into(), why));
    }

    fn is_disabled(&mut self) -> bool {
        const DISABLED: &str = "OTEL_SDK_DISABLED";
        match self.names(DISABLED).join(",").as_str() {
            "true" => return true,
            "" | "false" => {}
            _ => self.ignore(DISABLED, "it is neither true nor false"),
        }
        false
    }

    /// How to send a signal, if it is to be sent.
    fn transport(&mut self, signal: &str) -> Option<Transport> {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        let endpoints = [format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"), ENDPOINT.to_owned()];
        let endpoint = endpoints.into_iter().find_map(|name| Some((self.get(&name)?.to_ascii_lowercase(), name)));
        let exporters = self.names(&exporter);
        let wanted = match &exporters[..] {
            names if names.iter().any(|name| name == "otlp") => true,
            [none] if none == "none" => false,
            _ => endpoint.is_some(),
        };
        if exporters.iter().any(|name| !["otlp", "none"].contains(&&**name)) {
            self.ignore(exporter, "otlp and none are what is built in");
        }
        if !wanted {
            return None;
        }
        // What a URL is beyond its scheme, the SDK checks.
        match endpoint {
            None => Some(Transport::Plain),
            Some((url, _)) if url.starts_with("http://") => Some(Transport::Plain),
            Some((url, _)) if url.starts_with("https://") => Some(Transport::Tls),
            Some((_, name)) => {
                self.ignore(name, "it is no URL such as http://localhost:4318, so that nothing is sent there");
                None
            }
        }
    }

    /// Which requests are traced. The SDK's own reading of these variables minds the case.
    fn sampler(&mut self) -> Sampler {
        const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let argument = self.get(ARGUMENT).map_or(Ok(1.0), str::parse);
        let ratio = argument.ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        if ratio.is_none() {
            self.ignore(ARGUMENT, "it is no number from 0 to 1");
        }
        let name = self.names(SAMPLER).join(",");
        let root = match name.strip_prefix("parentbased_").unwrap_or(&name) {
            "always_on" | "" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio.unwrap_or(1.0)),
            _ => {
                self.ignore(SAMPLER, "it is not built in; parentbased_traceidratio is");
                return Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
            }
        };
        let is_alone = !name.is_empty() && !name.starts_with("parentbased_");
        if is_alone { root } else { Sampler::ParentBased(Box::new(root)) }
    }

    /// Notes what the SDK, as it is built, does not do and would not say.
    fn check_support(&mut self) {
        if self.names("OTEL_PROPAGATORS").iter().any(|name| !["tracecontext", "baggage"].contains(&&**name)) {
            self.ignore("OTEL_PROPAGATORS", "tracecontext is what is built in");
        }
        for (name, value) in self.values.iter().filter(|(_, value)| !value.trim().is_empty()) {
            let is_number =
                ["_DELAY", "_INTERVAL", "_LIMIT", "_SIZE", "_TIMEOUT"].iter().any(|end| name.ends_with(end));
            if is_number && value.parse::<u64>().is_err() {
                self.ignored.push((name.clone(), "it is no whole number"));
            }
            if name.ends_with("_CERTIFICATE") || name.ends_with("_CLIENT_KEY") {
                self.ignored.push((name.clone(), "it is not built in; SSL_CERT_FILE names the certificates to trust"));
            }
        }
    }
}

/// Who sends: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` go before what is known here.
fn resource(service_name: Option<&str>) -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match service_name {
        Some(name) => resource.with_service_name(name.to_owned()).build(),
        None => resource.build(),
    }
}

/// Drops what the SDK says of samplers: it reads these variables, too, and does not know them in upper case.
pub(super) fn without_sampler_warnings() -> FilterFn {
    FilterFn::new(|metadata| !metadata.name().starts_with("TracerProvider.Config."))
}

/// Sends lines of the log to where this provider sends them, with the fields of the request's span.
pub(super) fn log_layer<S>(provider: &SdkLoggerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let bridge = OpenTelemetryTracingBridge::builder(provider)
        .with_tracing_span_attributes(TracingSpanAttributes::all())
        .build();
    bridge.with_filter(FilterFn::new(|metadata| {
        let origin = metadata.target().split("::").next().unwrap_or_default();
        !NOT_SENT.iter().any(|prefix| origin.starts_with(prefix))
    }))
}

/// Sends, on the runtime, what the SDK's own threads hand over: those have no runtime, and hyper needs one.
#[derive(Debug)]
struct Client {
    runtime: Handle,
    inner: Arc<dyn HttpClient>,
}

impl Client {
    fn new(transport: Transport) -> Result<Self, ExporterBuildError> {
        let inner: Arc<dyn HttpClient> = match transport {
            Transport::Plain => Arc::new(HyperClient::with_default_connector(TIMEOUT, None)),
            Transport::Tls => {
                let connector = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
                    .map_err(|error| ExporterBuildError::InternalFailure(error.to_string()))?
                    .https_only()
                    .enable_http1()
                    .build();
                Arc::new(HyperClient::new(connector, TIMEOUT, None))
            }
        };
        Ok(Self { runtime: Handle::current(), inner })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.inner);
        let answer = self.runtime.spawn(async move { client.send_bytes(request).await }).await?;
        // hyper names the cause, such as a certificate that nobody trusts, only as such.
        answer.map_err(|error| match successors(error.source(), |error| error.source()).last() {
            Some(cause) => format!("{error}: {cause}").into(),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Otlp {
        Otlp::load(&variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn signals_are_off_unless_asked_for() {
        for (variables, expected) in [
            (&[][..], [false; 3]),
            (&[("OTEL_SERVICE_NAME", "x")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], [true; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_LOGS_EXPORTER", "NONE")], [true, true, false]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "HTTP://c:4318"), ("OTEL_SDK_DISABLED", "True")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1/traces")], [true, false, false]),
            (&[("OTEL_METRICS_EXPORTER", "Otlp")], [false, true, false]),
        ] {
            let otlp = load(variables);
            let on = [otlp.traces, otlp.metrics, otlp.logs].map(|transport| transport.is_some());
            assert_eq!((on, otlp.ignored.len()), (expected, 0), "{variables:?}");
        }
    }

    #[test]
    fn what_is_not_built_in_is_ignored_and_said() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (name, value, expected) in [
            ("OTEL_METRICS_EXPORTER", "prometheus", [true; 3]),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus", [true; 3]),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", [false, true, true]),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", [true; 3]),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5", [true; 3]),
            ("OTEL_PROPAGATORS", "b3,tracecontext", [true; 3]),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem", [true; 3]),
            ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/key.pem", [true; 3]),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "-1", [true; 3]),
            ("OTEL_SDK_DISABLED", "yes", [true; 3]),
        ] {
            let otlp = load(&[endpoint, (name, value)]);
            let on = [otlp.traces, otlp.metrics, otlp.logs].map(|transport| transport.is_some());
            let ignored: Vec<_> = otlp.ignored.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((on, &*ignored), (expected, &[name][..]), "{value}");
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
            let otlp = load(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
            assert_eq!(format!("{:?}", otlp.sampler), expected, "{sampler} {argument}");
        }
    }

    #[test]
    fn the_resource_says_who_sends() {
        let resource = load(&[("OTEL_SERVICE_NAME", "tokens")]).resource;
        let get = |key: &'static str| resource.get(&key.into()).unwrap().to_string();
        assert_eq!((get("service.name"), get("service.version")), ("tokens".into(), env!("CARGO_PKG_VERSION").into()));
        assert!(Uuid::parse_str(&get("service.instance.id")).is_ok());
    }
}
