//! Tracing spans that cost nothing without a subscriber.

use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

/// Creates a debug span if debug spans are enabled, otherwise `Span::none()`. A disabled span that is created with `debug_span!`
/// would still be created, entered and exited for the `log` crate.
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

/// Runs `work` in a span, if the span is enabled.
pub(crate) fn traced<'t, T>(
    span: Span,
    work: impl Future<Output = T> + Send + 't,
) -> BoxFuture<'t, T> {
    if span.is_disabled() { Box::pin(work) } else { Box::pin(work.instrument(span)) }
}
