//! The rows that a statement is about, without the type of their model: what builds and runs statements is written, and
//! compiled, once.

use std::marker::PhantomData;
use std::ops::Range;

use sqlx::error::BoxDynError;

use crate::backend::{AnyRow, Arguments};
use crate::compose::Shapes;
use crate::model::Model;
use crate::previous::Old;
use crate::store::{Route, Statements};

pub(crate) trait Instances: Send + Sync {
    fn model(&self) -> &'static str;
    fn statements(&self) -> &'static Statements;
    fn shapes(&self) -> &'static Shapes;
    fn len(&self) -> usize;
    fn has_key(&self, row: usize) -> bool;

    /// The key of a row, as errors print it.
    fn key(&self, row: usize) -> String;

    fn bind(&self, row: usize, column: usize, args: &mut Arguments) -> Result<(), BoxDynError>;

    /// Binds a column of several rows as one array.
    fn bind_each(
        &self,
        rows: Range<usize>,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError>;

    /// Whether a column, of a type as this row has it, can be an array.
    fn fits_array(&self, row: usize, column: usize, args: &mut Arguments) -> bool;

    /// Takes a column as the database has it now.
    fn set(
        &mut self,
        row: usize,
        column: usize,
        from: &AnyRow,
        at: usize,
    ) -> Result<(), sqlx::Error>;

    fn version(&self, row: usize) -> Option<i64>;

    /// Counts the version of a row on.
    fn advance(&mut self, row: usize);

    /// Takes what a row was before.
    fn set_before(&mut self, row: usize, from: &AnyRow, at: usize) -> Result<(), sqlx::Error>;

    /// Binds what a row was before.
    fn bind_before(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError>;

    /// Takes which of its columns have changed.
    fn set_changed(&mut self, row: usize, changed: Vec<bool>);
}

/// Rows of the model `M`, on their way to the database `R`.
pub(crate) struct Of<'m, M, R> {
    pub(crate) rows: &'m mut [M],
    /// What they were before, where that is asked for.
    pub(crate) before: Vec<Old<M>>,
    route: PhantomData<fn() -> R>,
}

impl<'m, M: Model, R> Of<'m, M, R> {
    pub(crate) fn new(rows: &'m mut [M]) -> Self {
        Self { rows, before: Vec::new(), route: PhantomData }
    }

    fn before(&mut self, row: usize) -> &mut Old<M> {
        let rows = self.rows.len();
        self.before.resize_with(rows, Old::none);
        &mut self.before[row]
    }
}

impl<M: Model, R: Route<M>> Instances for Of<'_, M, R> {
    fn model(&self) -> &'static str {
        M::NAME
    }

    fn statements(&self) -> &'static Statements {
        M::STATEMENTS
    }

    fn shapes(&self) -> &'static Shapes {
        M::__table().shapes()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn has_key(&self, row: usize) -> bool {
        self.rows[row].pk().is_some()
    }

    fn key(&self, row: usize) -> String {
        self.rows[row].pk().map_or_else(|| "`None`".to_owned(), |key| format!("{key:?}"))
    }

    fn bind(&self, row: usize, column: usize, args: &mut Arguments) -> Result<(), BoxDynError> {
        R::bind(&self.rows[row], column, args)
    }

    fn bind_each(
        &self,
        rows: Range<usize>,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        R::bind_each(&self.rows[rows], column, args)
    }

    fn fits_array(&self, row: usize, column: usize, args: &mut Arguments) -> bool {
        R::fits_array(&self.rows[row], column, args)
    }

    fn set(
        &mut self,
        row: usize,
        column: usize,
        from: &AnyRow,
        at: usize,
    ) -> Result<(), sqlx::Error> {
        R::set(&mut self.rows[row], column, from, at)
    }

    fn version(&self, row: usize) -> Option<i64> {
        self.rows[row].__version()
    }

    fn advance(&mut self, row: usize) {
        self.rows[row].__advance();
    }

    fn set_before(&mut self, row: usize, from: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        self.before(row).row = Some(R::load(from, at)?);
        Ok(())
    }

    fn bind_before(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        let before = self.before.get(row).and_then(|old| old.row.as_ref());
        before.map_or(Ok(()), |old| R::bind(old, column, args))
    }

    fn set_changed(&mut self, row: usize, changed: Vec<bool>) {
        self.before(row).changed = changed;
    }
}
