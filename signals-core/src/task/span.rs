//! Spans, for whoever is told of them.

use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

/// A span for debugging. Where nobody subscribes to such, it is none at all: a disabled one is made, entered and left for the
/// `log` crate all the same.
macro_rules! span {
    ($name:literal, $($fields:tt)*) => {
        if tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG {
            tracing::debug_span!($name, $($fields)*)
        } else {
            tracing::Span::none()
        }
    };
}

pub(crate) use span;

/// Does something in a span, where anybody is told of it.
pub(crate) fn traced<'t, T>(
    span: Span,
    work: impl Future<Output = T> + Send + 't,
) -> BoxFuture<'t, T> {
    if span.is_disabled() { Box::pin(work) } else { Box::pin(work.instrument(span)) }
}
