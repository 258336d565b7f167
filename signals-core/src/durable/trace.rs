//! Propagates the trace of an event to the runs of its deliveries.

use std::sync::OnceLock;

use tracing::Span;

/// Propagates a trace across processes: writes the context of a span as text, and makes another span part of the same trace. A program
/// implements this trait for its tracing library, and passes the implementation to [`set_propagator`].
///
/// ```
/// use sqlx_signals::durable::{Propagator, set_propagator};
///
/// /// Carries the name of the span that was current when the event was stored.
/// struct SpanNames;
///
/// impl Propagator for SpanNames {
///     fn current(&self) -> Option<String> {
///         Some(tracing::Span::current().metadata()?.name().to_owned())
///     }
///
///     fn join(&self, span: &tracing::Span, context: &str) {
///         span.in_scope(|| tracing::info!("the event was stored in the span {context}"));
///     }
/// }
///
/// assert!(set_propagator(SpanNames));
/// ```
pub trait Propagator: Send + Sync + 'static {
    /// The context of the current span, such as the header `traceparent` of [W3C](https://www.w3.org/TR/trace-context/). It is stored with
    /// the deliveries of an event. `None` if there is no trace.
    fn current(&self) -> Option<String>;

    /// Makes the span of a delivery part of the trace in which its event was stored. The span has not been entered yet.
    fn join(&self, span: &Span, context: &str);
}

static PROPAGATOR: OnceLock<Box<dyn Propagator>> = OnceLock::new();

/// Sets the propagator of the process, which propagates the trace of an event to the runs of its deliveries. Returns `false`, and changes
/// nothing, if a propagator is already set.
///
/// See the example of [`Propagator`].
pub fn set_propagator(propagator: impl Propagator) -> bool {
    PROPAGATOR.set(Box::new(propagator)).is_ok()
}

/// The context of the current span. `None` without a propagator.
pub(super) fn current() -> Option<String> {
    PROPAGATOR.get()?.current()
}

/// Joins the span to the trace of this context.
pub(super) fn join(span: &Span, context: Option<&str>) {
    if let (Some(propagator), Some(context)) = (PROPAGATOR.get(), context) {
        propagator.join(span, context);
    }
}
