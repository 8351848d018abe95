//! What Redis is asked: a span and a duration for each round trip, as the semantic conventions of databases say.

use std::time::Instant;

use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, SpanKind},
};

use super::{metrics, traces};

/// A round trip: one command, or several at once.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrip {
    /// The command, in capitals, or `PIPELINE`.
    pub command: &'static str,
    /// The script that it runs, if it does.
    pub script: Option<&'static str>,
    /// How many commands.
    pub commands: usize,
}

impl RoundTrip {
    /// Observes `call`, which makes this round trip; `error_type` has a word for what goes wrong. A call that is given up
    /// is observed, too: as `cancelled`.
    pub async fn observe<T, E>(
        self,
        error_type: impl Fn(&E) -> &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut measured = Measured { command: self.command, error_type: Some("cancelled"), begun: Instant::now() };
        let error_type = |result: &Result<T, E>| result.as_ref().err().map(&error_type);
        let result = traces::below(|| self.span(), error_type, call).await;
        measured.error_type = error_type(&result);
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

/// Records a duration when it is dropped, however that comes about.
struct Measured {
    command: &'static str,
    error_type: Option<&'static str>,
    begun: Instant,
}

impl Drop for Measured {
    fn drop(&mut self) {
        metrics::redis_round_trip(self.command, self.error_type, self.begun.elapsed());
    }
}
