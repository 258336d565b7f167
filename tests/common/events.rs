//! A subscriber that hears the events of `tracing`, and no spans.
#![allow(dead_code, unreachable_pub, missing_docs)]

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

pub struct Events<F> {
    /// Which events are heard.
    pub selects: fn(&Metadata<'_>) -> bool,
    pub hear: F,
}

impl<F: Fn(&Event<'_>) + 'static> tracing::Subscriber for Events<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (self.selects)(metadata)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        (self.hear)(event);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The fields of an event, each as ` name=value`.
pub fn text(event: &Event<'_>) -> String {
    let mut text = Text(String::new());
    event.record(&mut text);
    text.0
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}
