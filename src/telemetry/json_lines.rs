//! Lines of the log as JSON objects.
//!
//! The fields of a span are encoded once, when they are recorded. The format of tracing-subscriber parses them again
//! for each line and for each field that is added.

use std::fmt;

use serde::{Serializer as _, ser::SerializeMap};
use serde_json::Serializer;
use tracing::{Event, Subscriber, span::Record};
use tracing_log::NormalizeEvent;
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Formats an event as `{"timestamp":…,"level":…,…,"target":…,"span":{"name":…,…}}`: the fields of the event between
/// `level` and `target`, those of the innermost span in `span`. Without a span, `span` is left out.
pub(super) struct JsonLine;

/// Formats the fields of a span as members of a JSON object, each after a comma.
pub(super) struct JsonMembers;

impl<S> FormatEvent<S, JsonMembers> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonMembers>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Of an event of the crate `log`, the level and the target of that crate.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        line.write_str(r#"{"timestamp":""#)?;
        SystemTime.format_time(&mut line)?;
        write!(line, r#"","level":"{}""#, metadata.level())?;
        write_members(&mut line, event)?;
        let target = serde_json::to_string(metadata.target()).map_err(|_| fmt::Error)?;
        write!(line, r#","target":{target}"#)?;
        if let Some(span) = context.parent_span() {
            // The name is a literal of this crate.
            write!(line, r#","span":{{"name":"{}""#, span.name())?;
            if let Some(members) = span.extensions().get::<FormattedFields<JsonMembers>>() {
                line.write_str(members)?;
            }
            line.write_char('}')?;
        }
        line.write_str("}\n")
    }
}

impl<'w> FormatFields<'w> for JsonMembers {
    fn format_fields<R: RecordFields>(&self, mut members: Writer<'w>, fields: R) -> fmt::Result {
        write_members(&mut members, fields)
    }

    fn add_fields(&self, members: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        write_members(&mut members.as_writer(), fields)
    }
}

/// Writes each of these fields after a comma.
fn write_members(out: &mut Writer<'_>, fields: impl RecordFields) -> fmt::Result {
    let mut object = Vec::with_capacity(256);
    let mut serializer = Serializer::new(&mut object);
    let mut visitor = SerdeMapVisitor::new(serializer.serialize_map(None).map_err(|_| fmt::Error)?);
    fields.record(&mut visitor);
    visitor.take_serializer().and_then(SerializeMap::end).map_err(|_| fmt::Error)?;
    let object = str::from_utf8(&object).map_err(|_| fmt::Error)?;
    match object.strip_prefix('{').and_then(|object| object.strip_suffix('}')) {
        Some("") | None => Ok(()),
        Some(members) => write!(out, ",{members}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, pipe},
        sync::Arc,
    };

    use serde_json::{Value, json};
    use tracing::{error_span, field::Empty, info, subscriber::with_default, warn};
    use tracing_subscriber::{fmt::layer, layer::SubscriberExt, registry};

    use super::*;

    /// The lines of these events, without their time.
    fn lines(events: impl FnOnce()) -> Vec<Value> {
        let (mut reader, writer) = pipe().unwrap();
        let lines = layer().with_writer(Arc::new(writer)).fmt_fields(JsonMembers).event_format(JsonLine);
        with_default(registry().with(lines), events);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let parsed = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let without_time = parsed.map(|mut line: Value| {
            let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
            line
        });
        without_time.collect()
    }

    #[test]
    fn a_line_has_the_fields_of_its_event_and_of_its_span() {
        let written = lines(|| {
            warn!(target: "t", count = 2, name = "a \"b\"\n", missing = None::<u8>, "no span");
            let outer = error_span!("outer", id = %"{\"x\"", user = Empty, unset = Empty);
            let _entered = outer.enter();
            info!(target: "t", is_first = true, "before");
            outer.record("user", "ann\u{1b}");
            info!(target: "t", ratio = 0.5);
            error_span!("inner").in_scope(|| info!(target: "t", "within"));
        });
        let outer = json!({"name": "outer", "id": "{\"x\""});
        let logged_in = json!({"name": "outer", "id": "{\"x\"", "user": "ann\u{1b}"});
        assert_eq!(
            written,
            [
                json!({"level": "WARN", "message": "no span", "count": 2, "name": "a \"b\"\n", "target": "t"}),
                json!({"level": "INFO", "message": "before", "is_first": true, "target": "t", "span": outer}),
                json!({"level": "INFO", "ratio": 0.5, "target": "t", "span": logged_in}),
                json!({"level": "INFO", "message": "within", "target": "t", "span": {"name": "inner"}}),
            ]
        );
    }
}
