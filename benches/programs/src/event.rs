//! The lines by which the host reports: the word `event`, then `key=value` fields, between tabs.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

/// What the host reported at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the process was started, as it was read.
    pub at: Duration,
    /// Which moment: `peak 1`, `reclaim`, …
    pub label: String,
    values: BTreeMap<String, u64>,
}

impl Event {
    /// Reads a line of the host's; nothing when it is no event.
    pub fn parse(line: &str, at: Duration) -> Option<Event> {
        let mut fields = line.split('\t');
        if fields.next() != Some("event") {
            return None;
        }
        let label = fields.next()?.strip_prefix("label=")?.to_owned();
        let values = fields
            .map(|field| {
                let (key, value) = field.split_once('=')?;
                Some((key.to_owned(), value.parse().ok()?))
            })
            .collect::<Option<_>>()?;
        Some(Event { at, label, values })
    }

    /// The value of a field; 0 when the host did not tell it.
    pub fn get(&self, key: &str) -> u64 {
        self.values.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_label_and_values() {
        let line = "event\tlabel=peak 1\tlive=12\trss=34";
        let event = Event::parse(line, Duration::from_secs(1)).expect("well formed");
        assert_eq!((event.label.as_str(), event.get("live")), ("peak 1", 12));
        assert_eq!((event.get("rss"), event.get("pss")), (34, 0));
    }

    #[test]
    fn anything_else_is_no_event() {
        for line in ["", "12.5", "event", "event\tlive=1", "event\tlabel=x\tlive=-1"] {
            assert_eq!(Event::parse(line, Duration::ZERO), None, "{line:?}");
        }
    }
}
