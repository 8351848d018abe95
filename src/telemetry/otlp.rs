//! OTLP: what the standard `OTEL_` variables ask for, and the way to the collector.
//!
//! A signal (traces, metrics, logs) is on where it has an endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, or one of its own) or
//! an exporter (such as `OTEL_TRACES_EXPORTER=otlp`), and off, at no cost, without. What is not built in is refused here;
//! limits, intervals, headers, compression and attributes of the resource are read by the SDK itself.

use std::{collections::BTreeMap, iter::successors, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithHttpConfig};
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

use super::{metrics::Prometheus, traces::Sampling};

pub use opentelemetry_otlp::ExporterBuildError as BuildError;

/// How long a collector may take to answer; `OTEL_EXPORTER_OTLP_TIMEOUT` ends attempts and their repetitions earlier.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whose lines the collector is not sent: they would be about the sending, and beget each other.
const NOT_SENT: [&str; 5] = ["opentelemetry", "hyper", "h2", "rustls", "tokio_rustls"];

/// What to send to a collector.
#[derive(Debug, Clone, Default)]
pub struct Otlp {
    traces: Option<Transport>,
    metrics: Option<Transport>,
    logs: Option<Transport>,
    pub(super) sampling: Sampling,
    resource: Option<Resource>,
}

/// How to get to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// `http://`
    Plain,
    /// `https://`, with the certificates that the system trusts.
    Tls,
}

/// A variable, and what is wrong with it.
pub type Mistake = (&'static str, String);

/// The variables of one signal.
struct Signal {
    exporter: &'static str,
    endpoint: &'static str,
    protocol: &'static str,
}

const TRACES: Signal = Signal {
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
};

const METRICS: Signal = Signal {
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
};

const LOGS: Signal = Signal {
    exporter: "OTEL_LOGS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

/// The variables of the environment. One that is empty counts as unset, as the specification wants it.
struct Variables<'a>(&'a BTreeMap<String, String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

impl Otlp {
    /// Reads the variables that begin with `OTEL_`, and reports all mistakes at once.
    pub fn load(environment: &BTreeMap<String, String>) -> Result<Self, Vec<Mistake>> {
        let variables = Variables(environment);
        if variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(Self::default());
        }
        let mut mistakes = check_support(&variables);
        let mut transport =
            |signal: &Signal| signal.transport(&variables).map_err(|mistake| mistakes.push(mistake)).ok();
        let (traces, metrics, logs) = (transport(&TRACES), transport(&METRICS), transport(&LOGS));
        let sampling = check_sampling(&variables).map_err(|mistake| mistakes.push(mistake)).ok();
        let otlp = (|| {
            let sampling = sampling.filter(|_| mistakes.is_empty())?;
            Some(Self {
                traces: traces?,
                metrics: metrics?,
                logs: logs?,
                sampling,
                resource: Some(resource(&variables)),
            })
        })();
        otlp.ok_or(mistakes)
    }

    /// Where spans go, if anywhere.
    pub(super) fn tracer_provider(&self) -> Result<Option<SdkTracerProvider>, BuildError> {
        let Some(transport) = self.traces else { return Ok(None) };
        let exporter = SpanExporter::builder().with_http().with_http_client(Client::new(transport)?).build()?;
        // A span is begun for a request that is to be traced, and for no other.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(self.resource())
            .with_batch_exporter(exporter);
        Ok(Some(provider.build()))
    }

    /// Where measurements go, if anywhere: to be scraped, to a collector, or both.
    pub(super) fn meter_provider(&self, scraped: Option<&Prometheus>) -> Result<Option<SdkMeterProvider>, BuildError> {
        if self.metrics.is_none() && scraped.is_none() {
            return Ok(None);
        }
        let mut provider = SdkMeterProvider::builder().with_resource(self.resource());
        if let Some(prometheus) = scraped {
            provider = provider.with_reader(prometheus.reader());
        }
        if let Some(transport) = self.metrics {
            let exporter = MetricExporter::builder().with_http().with_http_client(Client::new(transport)?).build()?;
            provider = provider.with_periodic_exporter(exporter);
        }
        Ok(Some(provider.build()))
    }

    /// Where lines of the log go besides standard error, if anywhere.
    pub(super) fn logger_provider(&self) -> Result<Option<SdkLoggerProvider>, BuildError> {
        let Some(transport) = self.logs else { return Ok(None) };
        let exporter = LogExporter::builder().with_http().with_http_client(Client::new(transport)?).build()?;
        Ok(Some(SdkLoggerProvider::builder().with_resource(self.resource()).with_batch_exporter(exporter).build()))
    }

    fn resource(&self) -> Resource {
        self.resource.clone().unwrap_or_else(|| resource(&Variables(&BTreeMap::new())))
    }
}

impl Signal {
    /// How to send the signal, if it is to be sent.
    fn transport(&self, variables: &Variables) -> Result<Option<Transport>, Mistake> {
        let endpoint = [self.endpoint, ENDPOINT].into_iter().find_map(|name| Some((name, variables.get(name)?)));
        let wanted = match variables.get(self.exporter) {
            None => endpoint.is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => return Err((self.exporter, format!("{other:?} is not built in; use \"otlp\" or \"none\""))),
        };
        if !wanted {
            return Ok(None);
        }
        match [self.protocol, PROTOCOL].into_iter().find_map(|name| Some((name, variables.get(name)?))) {
            None | Some((_, "http/protobuf")) => {}
            Some((name, other)) => {
                let mistake = format!("{other:?} is not built in; use \"http/protobuf\" (a collector's port 4318)");
                return Err((name, mistake));
            }
        }
        // What a URL is beyond its scheme, the exporter checks.
        match endpoint {
            None => Ok(Some(Transport::Plain)),
            Some((_, url)) if url.starts_with("http://") => Ok(Some(Transport::Plain)),
            Some((_, url)) if url.starts_with("https://") => Ok(Some(Transport::Tls)),
            Some((name, _)) => Err((name, "not a URL such as http://localhost:4318".into())),
        }
    }
}

/// Refuses what would silently be done otherwise.
fn check_support(variables: &Variables) -> Vec<Mistake> {
    let certificates = [
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    ];
    let set = certificates.into_iter().filter(|name| variables.get(name).is_some());
    let mut mistakes: Vec<_> =
        set.map(|name| (name, "not built in; SSL_CERT_FILE names the certificates to trust".to_owned())).collect();
    let propagators = variables.get("OTEL_PROPAGATORS").unwrap_or("tracecontext");
    if !propagators.split(',').any(|propagator| propagator.trim() == "tracecontext") {
        mistakes.push(("OTEL_PROPAGATORS", "\"tracecontext\" is what is built in".to_owned()));
    }
    mistakes
}

fn check_sampling(variables: &Variables) -> Result<Sampling, Mistake> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = || match variables.get(ARGUMENT).map_or(Ok(1.0), str::parse) {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err((ARGUMENT, "not a number from 0 to 1".to_owned())),
    };
    let (parent_based, ratio) = match variables.get(SAMPLER) {
        None | Some("parentbased_always_on") => (true, 1.0),
        Some("parentbased_always_off") => (true, 0.0),
        Some("parentbased_traceidratio") => (true, ratio()?),
        Some("always_on") => (false, 1.0),
        Some("always_off") => (false, 0.0),
        Some("traceidratio") => (false, ratio()?),
        Some(other) => return Err((SAMPLER, format!("{other:?} is not built in; parentbased_traceidratio is"))),
    };
    Ok(Sampling { parent_based, ratio })
}

/// Who sends: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` go before what is known here.
fn resource(variables: &Variables) -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match variables.get("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name.to_owned()).build(),
        None => resource.build(),
    }
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
    fn new(transport: Transport) -> Result<Self, BuildError> {
        let inner: Arc<dyn HttpClient> = match transport {
            Transport::Plain => Arc::new(HyperClient::with_default_connector(TIMEOUT, None)),
            Transport::Tls => {
                let connector = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
                    .map_err(|error| BuildError::InternalFailure(error.to_string()))?
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

    fn load(variables: &[(&str, &str)]) -> Result<Otlp, Vec<Mistake>> {
        Otlp::load(&variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn signals_are_off_unless_asked_for() {
        for (variables, expected) in [
            (&[][..], [false; 3]),
            (&[("OTEL_SERVICE_NAME", "x")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], [true; 3]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_LOGS_EXPORTER", "none")], [true, true, false]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "true")], [false; 3]),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1/traces")], [true, false, false]),
            (&[("OTEL_METRICS_EXPORTER", "otlp")], [false, true, false]),
        ] {
            let otlp = load(variables).unwrap();
            let on = [otlp.traces, otlp.metrics, otlp.logs].map(|transport| transport.is_some());
            assert_eq!(on, expected, "{variables:?}");
        }
    }

    #[test]
    fn what_is_not_built_in_is_refused() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_PROPAGATORS", "b3,baggage"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ] {
            let mistakes = load(&[endpoint, (name, value)]).unwrap_err();
            assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| mistake.0 == name), "{mistakes:?}");
        }
        // Nobody minds what is not used.
        assert!(load(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_ok());
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampling = |sampler: &str, argument: &str| {
            load(&[("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)]).map(|otlp| otlp.sampling)
        };
        assert_eq!(load(&[]).unwrap().sampling, Sampling { parent_based: true, ratio: 1.0 });
        let expected = Sampling { parent_based: true, ratio: 0.01 };
        assert_eq!(sampling("parentbased_traceidratio", "0.01"), Ok(expected));
        assert_eq!(sampling("traceidratio", "").unwrap(), Sampling { parent_based: false, ratio: 1.0 });
        assert_eq!(sampling("always_off", "x").unwrap(), Sampling { parent_based: false, ratio: 0.0 });
        for bad in ["1.5", "-1", "x", "NaN"] {
            assert_eq!(sampling("traceidratio", bad).unwrap_err()[0].0, "OTEL_TRACES_SAMPLER_ARG", "{bad}");
        }
    }

    #[test]
    fn the_resource_says_who_sends() {
        let resource = load(&[("OTEL_SERVICE_NAME", "tokens")]).unwrap().resource();
        let get = |key: &'static str| resource.get(&key.into()).unwrap().to_string();
        assert_eq!((get("service.name"), get("service.version")), ("tokens".into(), env!("CARGO_PKG_VERSION").into()));
        assert!(Uuid::parse_str(&get("service.instance.id")).is_ok());
    }
}
