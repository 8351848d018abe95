//! Round trips to Redis: a span and a duration for each, by the semantic conventions of databases.

use std::time::Instant;

use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, SpanKind},
};

use super::{metrics, traces};

/// A round trip to Redis: one command, or several in one pipeline.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrip {
    /// The command in capitals, or `PIPELINE`.
    pub command: &'static str,
    /// The name of the script that an `EVALSHA` runs.
    pub script: Option<&'static str>,
    /// The number of commands.
    pub commands: usize,
}

impl RoundTrip {
    /// Runs `call`, which makes this round trip, in a span, and records its duration. `error_type` returns the kind of
    /// an error; a call that is dropped before it ends is recorded as `cancelled`.
    pub async fn observe<T, E>(
        self,
        error_type: impl Fn(&E) -> &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let mut outcome = scopeguard::guard(Some("cancelled"), |error_type| {
            metrics::redis_round_trip_ended(self.command, error_type, begun.elapsed());
        });
        let error_type = |result: &Result<T, E>| result.as_ref().err().map(&error_type);
        let result = traces::in_child_span(|| self.span(), error_type, call).await;
        *outcome = error_type(&result);
        result
    }

    fn span(self) -> SpanBuilder {
        let mut attributes =
            vec![KeyValue::new("db.system.name", "redis"), KeyValue::new("db.operation.name", self.command)];
        attributes.extend(self.script.map(|script| KeyValue::new("db.stored_procedure.name", script)));
        if let Some(commands) = i64::try_from(self.commands).ok().filter(|commands| *commands > 1) {
            attributes.push(KeyValue::new("db.operation.batch.size", commands));
        }
        let name = self.script.map_or_else(|| self.command.into(), |script| format!("{} {script}", self.command));
        SpanBuilder::from_name(name).with_kind(SpanKind::Client).with_attributes(attributes)
    }
}
