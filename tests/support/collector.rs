//! A receiver of OTLP over HTTP that decodes the protocol's messages.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
};
use prost::Message;

/// A collector that keeps all data it receives.
pub struct Collector {
    pub url: String,
    received: Arc<Mutex<Received>>,
}

/// The data that a collector received.
#[derive(Clone, Default)]
pub struct Received {
    pub traces: Vec<ExportTraceServiceRequest>,
    pub metrics: Vec<ExportMetricsServiceRequest>,
    pub logs: Vec<ExportLogsServiceRequest>,
    /// All requests, undecoded, heads included.
    pub bytes: Vec<u8>,
}

/// A span.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace_id: String,
    pub id: String,
    pub parent_id: String,
    pub kind: i32,
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::default();
        let theirs = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let received = Arc::clone(&theirs);
                thread::spawn(move || serve(&stream.unwrap(), &received));
            }
        });
        Self { url, received }
    }

    pub fn received(&self) -> Received {
        self.received.lock().unwrap().clone()
    }
}

/// Reads requests until the client closes the connection.
fn serve(stream: &TcpStream, received: &Mutex<Received>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("the exporter says how long the body is")];
        reader.read_exact(&mut body).ok()?;
        {
            let mut received = received.lock().unwrap();
            match head.split(' ').nth(1).unwrap() {
                "/v1/traces" => received.traces.push(Message::decode(&body[..]).unwrap()),
                "/v1/metrics" => received.metrics.push(Message::decode(&body[..]).unwrap()),
                "/v1/logs" => received.logs.push(Message::decode(&body[..]).unwrap()),
                other => panic!("{other} is no path of OTLP"),
            }
            received.bytes.extend(head.as_bytes());
            received.bytes.extend(body);
        }
        let mut writer = stream;
        writer
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
    }
}

impl Received {
    pub fn spans(&self) -> Vec<Span> {
        let resources = self.traces.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|spans| {
            let resource = spans.resource.as_ref().map(resource).unwrap_or_default();
            let spans = spans.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| Span {
                name: span.name.clone(),
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                kind: span.kind,
                attributes: attributes(&span.attributes),
                resource: resource.clone(),
            })
        });
        spans.collect()
    }

    /// Returns the body, the attributes and the trace id of each log record.
    pub fn log_lines(&self) -> Vec<(String, BTreeMap<String, String>, String)> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        let records = resources.flat_map(|logs| &logs.scope_logs).flat_map(|scope| &scope.log_records);
        let line = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
            (text(record.body.as_ref()), attributes(&record.attributes), hex(&record.trace_id))
        };
        records.map(line).collect()
    }

    pub fn metric_names(&self) -> Vec<&str> {
        let resources = self.metrics.iter().flat_map(|request| &request.resource_metrics);
        let metrics = resources.flat_map(|metrics| &metrics.scope_metrics).flat_map(|scope| &scope.metrics);
        metrics.map(|metric| &*metric.name).collect()
    }
}

fn resource(resource: &Resource) -> BTreeMap<String, String> {
    attributes(&resource.attributes)
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::ArrayValue(array)) => {
            array.values.iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
