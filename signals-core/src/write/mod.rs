//! One write of type-erased rows: its statements, its receivers and its transaction.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`, `signal`.

pub(crate) mod arbiter;
pub(crate) mod bulk;
pub(crate) mod bulk_update;
pub(crate) mod cascade;
pub(crate) mod continued_save;
pub(crate) mod delete;
pub(crate) mod facts;
pub(crate) mod grouped;
pub(crate) mod inspect;
pub(crate) mod key_order;
pub(crate) mod locate;
pub(crate) mod lookup;
pub(crate) mod notify;
mod notify_deferred;
pub(crate) mod own_transaction;
pub(crate) mod perform;
pub(crate) mod read_back;
pub(crate) mod restore;
pub(crate) mod row_locks;
pub(crate) mod save;
pub(crate) mod single;
pub(crate) mod single_text;
pub(crate) mod span;
pub(crate) mod track;
pub(crate) mod with_deliveries;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::database::backend::DatabaseKind;
use crate::database::detached::{Answer, OnDetached};
use crate::database::writer::Verb;
use crate::error::{Error, Result};
use crate::table::chunk;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;

/// The kind of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteKind {
    /// UPDATE by key, or INSERT if there is no such row.
    Save,
    Insert,
    Update,
    /// UPDATE of only these columns.
    Fields(Arc<[usize]>),
    /// UPDATE of the row that has the same values in these columns, or INSERT if there is none.
    Upsert(Arc<[usize]>),
    /// INSERT, unless a row has the same values in these columns.
    GetOrCreate(Arc<[usize]>),
    Delete,
}

impl WriteKind {
    /// The verb in the operation chain of a recursion error and in the reason of a rollback.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Delete => "delete",
            _ => "save",
        }
    }

    /// What the queue of the writers says that the write does.
    pub(crate) fn write_verb(&self) -> Verb {
        match self {
            Self::Delete => Verb::Delete,
            _ => Verb::Save,
        }
    }

    /// The verb in the error of a row.
    pub(crate) fn row_verb(&self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Delete => "delete",
            _ => "update",
        }
    }

    /// Whether only an existing row is updated.
    pub(crate) fn is_update(&self) -> bool {
        matches!(self, Self::Update | Self::Fields(_))
    }

    /// Whether a successful write has stored what it should. An INSERT that finds a conflicting row, or whose row a trigger drops, must have
    /// no effect.
    pub(crate) fn stores(&self, done: &WriteOutcome) -> bool {
        !self.may_store_nothing() || done.created.is_some()
    }

    /// Whether the write succeeds if the database has a conflicting row.
    pub(crate) fn may_store_nothing(&self) -> bool {
        matches!(self, Self::GetOrCreate(_))
    }

    /// Whether a write of several rows needs a transaction, because it may take several statements
    /// that must succeed or fail together. `settled` means that no receiver runs before the
    /// statement.
    pub(crate) fn needs_transaction(
        &self,
        rows: &dyn Rows,
        kind: DatabaseKind,
        settled: bool,
    ) -> bool {
        match self {
            // Rows with a key and rows without one are inserted by different statements, and a
            // `pre_save` receiver can still set a key. So the number of statements is known only if
            // the rows are settled.
            Self::Insert if settled => chunk::inserts(kind, rows).len() != 1,
            // On SQLite, the stored rows are selected before the DELETE. If the rows have versions,
            // one stale row must undo the deletes of the others.
            Self::Delete => {
                let versioned = rows.schema().has(ColumnGroup::Version);
                kind == DatabaseKind::Sqlite || versioned || chunk::deletes(kind, rows).len() != 1
            }
            _ => true,
        }
    }
}

/// The batches of a write of a single row.
const ONE: &[Range<usize>] = &[Range { start: 0, end: 1 }];

/// The result of a write.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOutcome {
    /// Whether the saved rows are new. `None` for a delete, or if nothing was saved.
    pub(crate) created: Option<bool>,
    /// The written rows of each statement, as ranges of the caller's slice.
    pub(crate) batches: Cow<'static, [Range<usize>]>,
    /// The rows that a trigger kept from being deleted, as sorted indices into the caller's slice.
    pub(crate) kept: Vec<usize>,
}

impl WriteOutcome {
    /// The result of a write of a single row.
    pub(crate) const fn one(created: Option<bool>) -> Self {
        Self { created, batches: Cow::Borrowed(ONE), kept: Vec::new() }
    }

    /// The result of a save of a single row. `None` if nothing was stored.
    pub(crate) fn of_save(saved: Option<Stored>) -> Self {
        saved.map_or_else(Self::default, |saved| Self::one(Some(saved.created)))
    }

    pub(crate) fn saved(&self) -> Option<Stored> {
        self.created.map(Stored::new)
    }

    /// The result of a write of several rows, given as ranges of the caller's slice.
    pub(crate) fn several(created: Option<bool>, batches: Vec<Range<usize>>) -> Self {
        Self { created, batches: batches.into(), kept: Vec::new() }
    }

    /// The number of written rows.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(Range::len).sum()
    }

    /// The written rows, in the order of the caller's slice.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let mut slices = self.batches.clone();
        if !slices.is_sorted_by_key(|slice| slice.start) {
            slices.to_mut().sort_unstable_by_key(|slice| slice.start);
        }
        (0..slices.len()).flat_map(move |slice| slices[slice].clone())
    }
}

/// Adds to an error which row it is about.
pub(crate) fn row_error(verb: &'static str, rows: &dyn Rows, row: usize, error: Error) -> Error {
    let (model, key) = (rows.model(), rows.key(row));
    Error::Row { verb, model, row: rows.slice_index(row), key, source: Box::new(error) }
}

/// What a save did.
///
/// `Pk` is the type of the model's key. `Saved` alone is the result for a key of type `i64`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let mut ulm = City { id: None, name: "Ulm".into() };
/// let saved = ulm.save(&db).await?;
/// assert!(saved.created);
/// assert_eq!(City::get(&db, saved.pk).await?.name, "Ulm");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved<Pk = i64> {
    /// Whether the row is new.
    pub created: bool,
    /// The primary key of the row.
    pub pk: Pk,
}

/// What a save did, without the key, which is in the row.
pub(crate) type Stored = Saved<()>;

impl Stored {
    pub(crate) const CREATED: Self = Self { created: true, pk: () };
    pub(crate) const UPDATED: Self = Self { created: false, pk: () };

    pub(crate) const fn new(created: bool) -> Self {
        Self { created, pk: () }
    }
}

/// Reads the answer of a detached statement into a copy of the rows. The future that sent the
/// statement was dropped, so the original rows are no longer available. `database` knows this type
/// only as [`OnDetached`].
pub(crate) struct TakeAnswer(Box<Take>);

type Take = dyn FnOnce(&mut dyn Rows, Answer) -> Result<WriteOutcome> + Send;

impl TakeAnswer {
    pub(crate) fn boxed(
        take: impl FnOnce(&mut dyn Rows, Answer) -> Result<WriteOutcome> + Send + 'static,
    ) -> OnDetached {
        Box::new(Self(Box::new(take)))
    }

    /// # Errors
    ///
    /// Returns an error if the answer cannot be read into the rows.
    pub(crate) fn take(
        on_detached: OnDetached,
        rows: &mut dyn Rows,
        answer: Answer,
    ) -> Result<WriteOutcome> {
        match on_detached.downcast::<Self>() {
            Ok(this) => (this.0)(rows, answer),
            Err(_) => Err(Error::other("a detached statement has no handler for its answer")),
        }
    }
}
