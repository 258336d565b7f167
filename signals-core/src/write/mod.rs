//! One write of type-erased rows: its statements, its receivers and its transaction.
//!
//! May import: `error`, `task`, `database`, `table`, `transaction`, `signal`.

pub(crate) mod bulk;
pub(crate) mod cascade;
pub(crate) mod delete;
pub(crate) mod inspect;
pub(crate) mod key_order;
pub(crate) mod locate;
pub(crate) mod notify;
pub(crate) mod perform;
pub(crate) mod restore;
pub(crate) mod save;
pub(crate) mod single;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::database::backend::DatabaseKind;
use crate::database::detached::{Answer, OnDetached};
use crate::error::{Error, Result};
use crate::table::chunk;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;

/// What is done to rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteKind {
    Save(SaveKind),
    Delete,
}

impl WriteKind {
    /// As the chain of a recursion and the reason of a rollback call it.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Save(_) => "save",
            Self::Delete => "delete",
        }
    }

    /// Whether several rows are more than one statement, of which all or none are to be stored.
    pub(crate) fn is_several(&self, rows: &dyn Rows, kind: DatabaseKind, settled: bool) -> bool {
        match self {
            // A receiver before the statement can still give a row its key, which decides how many statements there are.
            Self::Save(SaveKind::Insert) if settled => chunk::inserts(kind, rows).len() != 1,
            Self::Save(_) => true,
            // SQLite is asked first which rows are there, and a version that is not the stored one undoes the others.
            Self::Delete => {
                let versioned = rows.schema().has(ColumnGroup::Version);
                kind == DatabaseKind::Sqlite || versioned || chunk::deletes(kind, rows).len() != 1
            }
        }
    }
}

/// What a save may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SaveKind {
    /// UPDATE by key, or INSERT.
    Save,
    Insert,
    Update,
    /// UPDATE of these columns.
    Fields(Arc<[usize]>),
    /// UPDATE of the row that has the same in these columns, or INSERT.
    Upsert(Arc<[usize]>),
    /// INSERT, or nothing where a row has the same in these columns.
    GetOrCreate(Arc<[usize]>),
}

/// What has become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Created,
    Updated,
    /// Another row was there already.
    Not,
}

impl Stored {
    pub(crate) fn of(written: &WriteOutcome) -> Self {
        match written.created {
            Some(true) => Self::Created,
            Some(false) => Self::Updated,
            None => Self::Not,
        }
    }

    pub(crate) fn saved(self) -> Saved {
        Saved { created: self == Self::Created }
    }

    pub(crate) fn written(self) -> WriteOutcome {
        match self {
            Self::Created => WriteOutcome::one(Some(true)),
            Self::Updated => WriteOutcome::one(Some(false)),
            Self::Not => WriteOutcome::default(),
        }
    }
}

/// The rows of one statement, where they are but one.
const ONE: &[Range<usize>] = &[Range { start: 0, end: 1 }];

/// What a write has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOutcome {
    /// Whether the rows are new; of a save.
    pub(crate) created: Option<bool>,
    /// The rows of each statement that were written, as slices of those that the program gave.
    pub(crate) batches: Cow<'static, [Range<usize>]>,
    /// The rows that a trigger kept from being deleted, in order.
    pub(crate) kept: Vec<usize>,
}

impl WriteOutcome {
    /// The one row that there is.
    pub(crate) const fn one(created: Option<bool>) -> Self {
        Self { created, batches: Cow::Borrowed(ONE), kept: Vec::new() }
    }

    /// Several rows, as slices of those that the program gave.
    pub(crate) fn several(created: Option<bool>, batches: Vec<Range<usize>>) -> Self {
        Self { created, batches: batches.into(), kept: Vec::new() }
    }

    /// How many rows were written.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(Range::len).sum()
    }

    /// The rows that were written, in the order in which the program gave them.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let mut slices = self.batches.clone();
        if !slices.is_sorted_by_key(|slice| slice.start) {
            slices.to_mut().sort_unstable_by_key(|slice| slice.start);
        }
        (0..slices.len()).flat_map(move |slice| slices[slice].clone())
    }
}

/// Says which of the rows of a statement an error is about.
pub(crate) fn row_error(verb: &'static str, rows: &dyn Rows, row: usize, error: Error) -> Error {
    let (model, key) = (rows.model(), rows.key(row));
    Error::Row { verb, model, row: rows.place(row), key, source: Box::new(error) }
}

/// What a save did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Whether the row is new.
    pub created: bool,
}

/// What takes the answer of a statement whose future was dropped into a copy of the rows.
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
    /// If the answer cannot be taken.
    pub(crate) fn take(
        on_detached: OnDetached,
        rows: &mut dyn Rows,
        answer: Answer,
    ) -> Result<WriteOutcome> {
        match on_detached.downcast::<Self>() {
            Ok(this) => (this.0)(rows, answer),
            Err(_) => Err(Error::other("a statement was sent without a way to take its answer")),
        }
    }
}
