//! The span and the metrics of a write.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{Instrument, Span};

use crate::database::backend::DatabaseKind;
use crate::error::Result;
use crate::signal::receivers::ReceiverCache;
use crate::table::rows::Rows;
use crate::task::measure::Stopwatch;
use crate::task::span::traced;
use crate::write::{Stored, WriteKind, WriteOutcome};

/// Creates the span of a write, with fields by
/// [OpenTelemetry's conventions](https://opentelemetry.io/docs/specs/semconv/database/database-spans/).
macro_rules! write_span {
    ($name:literal, $rows:expr, $kind:expr $(, $($more:tt)*)?) => {
        $crate::task::span::span!(
            $name,
            model = $rows.model(),
            // Recorded later: borrowing the source here would enlarge the future of every save.
            db.system.name = tracing::field::Empty,
            db.collection.name = $rows.table(),
            db.operation.name = $kind.statement($rows.as_rows()),
            $($($more)*)?
        )
    };
}

pub(crate) use write_span;

impl WriteKind {
    /// The SQL command of the write. `None` if the database decides whether the row is inserted or updated.
    pub(crate) fn statement(&self, rows: &dyn Rows) -> Option<&'static str> {
        match self {
            Self::Insert | Self::GetOrCreate(_) => Some("INSERT"),
            Self::Update | Self::Fields(_) => Some("UPDATE"),
            Self::Delete => Some("DELETE"),
            Self::Save if !rows.has_key(0) => Some("INSERT"),
            Self::Save | Self::Upsert(_) => None,
        }
    }
}

/// What a write has done, as its span tells.
pub(crate) trait Outcome: Send {
    /// Whether a row was inserted. `None` if nothing was saved.
    fn created(&self) -> Option<bool>;
}

impl Outcome for WriteOutcome {
    fn created(&self) -> Option<bool> {
        self.created
    }
}

impl Outcome for Option<Stored> {
    fn created(&self) -> Option<bool> {
        self.as_ref().map(|saved| saved.created)
    }
}

/// Records in the span of a write which database it goes to.
pub(crate) fn record_system(span: &Span, database: DatabaseKind) {
    if !span.is_disabled() {
        span.record("db.system.name", database.system_name());
    }
}

/// Runs a write in its span, if the span is enabled. `statement` is what the span already says about it: if that is nothing, the span
/// gets to know afterwards whether a row was inserted or updated.
pub(crate) fn in_span<'w, T: Outcome + 'w>(
    span: Span,
    statement: Option<&'static str>,
    write: impl Future<Output = Result<T>> + Send + 'w,
) -> BoxFuture<'w, Result<T>> {
    if span.is_disabled() || statement.is_some() {
        return traced(span, write);
    }
    let write = write.instrument(span.clone());
    Box::pin(write.inspect(move |done| {
        if let Some(created) = done.as_ref().ok().and_then(Outcome::created) {
            span.record("db.operation.name", if created { "INSERT" } else { "UPDATE" });
        }
    }))
}

/// A write: its model's cache, its verb, its model, and its SQL command if it is known.
pub(crate) type About = (&'static ReceiverCache, &'static str, &'static str, Option<&'static str>);

/// As [`in_span`], and records the metrics of the write.
pub(crate) fn measured<'w, T: Outcome + 'w>(
    span: Span,
    (cache, verb, model, statement): About,
    write: impl Future<Output = Result<T>> + Send + 'w,
) -> BoxFuture<'w, Result<T>> {
    if !cfg!(feature = "metrics") {
        return in_span(span, statement, write);
    }
    // An `async` block would contain the future twice.
    let since = Stopwatch::start();
    let record = move |done: &Result<T>| cache.keys.record(verb, model, done.is_ok(), since);
    in_span(span, statement, write.inspect(record))
}
