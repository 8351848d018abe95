//! Which node of a Cluster serves which slots, in the view of one node (`CLUSTER SLOTS`).

use redis::Value;

use crate::store::{StoreError, StoreResult};

/// The number of slots in a Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of all keys with this hash tag.
pub(super) fn slot_of(hash_tag: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(hash_tag.as_bytes()) % SLOTS
}

/// The answer of one node to `CLUSTER SLOTS`. Equal answers have equal views.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClusterView(Vec<SlotRange>);

/// Slots in sequence that one primary serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: Primary,
}

/// A primary, as other nodes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    /// The id of the node, which it keeps for ever.
    pub(super) id: String,
    /// Its host; `None`: the one that the answering node was asked at.
    pub(super) host: Option<String>,
    pub(super) port: u16,
}

impl ClusterView {
    /// Reads the answer to `CLUSTER SLOTS`.
    pub(super) fn parse(answer: &Value) -> StoreResult<Self> {
        let ranges = match answer {
            Value::Array(ranges) => ranges.iter().map(parse_range).collect(),
            _ => None,
        };
        ranges.map(Self).ok_or_else(|| StoreError::unavailable("the answer to CLUSTER SLOTS cannot be read"))
    }

    /// All ranges of slots.
    pub(super) fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// The ranges of slots that this node serves.
    pub(super) fn ranges_of(&self, id: &str) -> impl DoubleEndedIterator<Item = &SlotRange> {
        self.0.iter().filter(move |range| range.primary.id == id)
    }
}

/// First slot, last slot, primary and replicas; a node is its host, port, id and more.
fn parse_range(range: &Value) -> Option<SlotRange> {
    let Value::Array(range) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else { return None };
    let [host, Value::Int(port), id, ..] = primary.as_slice() else { return None };
    let host = match host {
        Value::Nil => None,
        host => Some(text(host)?).filter(|host| !host.is_empty()),
    };
    // The answering node does not know the host.
    if host.as_deref() == Some("?") {
        return None;
    }
    let slot = |slot: &i64| u16::try_from(*slot).ok().filter(|slot| *slot < SLOTS);
    let primary = Primary { id: text(id)?, host, port: u16::try_from(*port).ok()? };
    Some(SlotRange { first: slot(first)?, last: slot(last)?, primary })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_has_the_primary_of_each_range() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port, id| Value::Array(vec![host, Value::Int(port), bulk(id), Value::Map(vec![])]);
        let range = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary]);
        let answer = |host| {
            Value::Array(vec![range(0, 99, node(host, 7000, "a")), range(100, 16_383, node(bulk("b"), 7001, "b"))])
        };
        let view = ClusterView::parse(&answer(bulk("10.0.0.1"))).unwrap();
        let primary = Primary { id: "a".into(), host: Some("10.0.0.1".into()), port: 7000 };
        assert_eq!(view.ranges_of("a").collect::<Vec<_>>(), [&SlotRange { first: 0, last: 99, primary }]);
        assert_eq!(view.ranges().len(), 2);
        for unknown in [Value::Nil, bulk("")] {
            assert_eq!(ClusterView::parse(&answer(unknown)).unwrap().ranges()[0].primary.host, None);
        }
        assert!(ClusterView::parse(&answer(bulk("?"))).is_err());
        assert!(ClusterView::parse(&Value::Okay).is_err());
    }

    /// The examples of Redis' specification of a Cluster.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!((slot_of("123456789"), slot_of("foo")), (12_739, 12_182));
    }
}
