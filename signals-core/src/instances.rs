//! The rows that a statement is about, without the type of their model: what builds and runs statements, and what sends
//! signals, is written, and compiled, once.

use std::any::TypeId;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::any::AnyModel;
use crate::backend::{AnyRow, AnyTake, Arguments, Backend as _, DatabaseKind};
use crate::column::Column;
use crate::model::{Model, key_text};
use crate::parameter::Cx;
use crate::previous::{Before, SharedBefore};
use crate::statements::Statements;
use crate::store::{Bindable, Route};
use crate::subscriber::{Begun, Both, Event, Kept, Subscriber};
use crate::table::Table;

/// Rows by their numbers, in the order in which they are written.
#[allow(unreachable_pub)]
pub trait Instances: Send + Sync {
    fn model(&self) -> &'static str;
    fn id(&self) -> TypeId;
    fn statements(&self) -> &'static Statements;
    fn table(&self) -> &'static Table;
    fn len(&self) -> usize;
    fn has_key(&self, row: usize) -> bool;

    /// The place of a row in the slice that the program gave.
    fn place(&self, row: usize) -> usize;

    /// Writes the rows in this order from now on; in their own where it is empty.
    fn set_order(&mut self, order: Vec<usize>);

    /// The row at a place in the slice.
    fn at(&self, place: usize) -> &dyn AnyModel;

    fn at_mut(&mut self, place: usize) -> &mut dyn AnyModel;

    /// The key of a row, as errors print it.
    fn key(&self, row: usize) -> String;

    /// Gives the value of a column.
    fn give(&self, row: usize, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;

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

    /// Sets the columns that are set at every write, and where they are `added`, those that are set then.
    fn stamp(&mut self, now: SystemTime, added: bool);

    /// A row of the model, from a place in a row of the database.
    fn load(&self, from: &AnyRow, at: usize) -> Result<Box<dyn AnyModel>, sqlx::Error>;

    /// What the rows were before, where that is asked for.
    fn before(&mut self) -> &mut Vec<Before>;

    /// Takes note of what a write can change in the rows.
    fn keep(&mut self);

    /// Brings the rows back to what was noted, where something was.
    fn restore(&mut self);

    /// Whether the rows can be copied.
    fn can_copy(&self) -> bool;

    /// A copy of the rows, where that can be had.
    fn copied(&self) -> Option<Box<dyn Instances>>;

    /// Begins a receiver of the model.
    fn begin<'a>(&'a mut self, to: &Subscriber, told: &Told, cx: Cx<'a, '_>) -> Begun<'a>;

    /// Keeps what happens to the rows for receivers of the model, of which this is one, that wait for the end of the
    /// transaction.
    fn keep_event(&self, to: &Subscriber, told: &Told) -> Option<Box<dyn Kept>>;
}

impl dyn Instances + '_ {
    pub(crate) fn bind(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => {
                self.give(row, column, AnyTake::Sqlite(&mut |value| value.bind(args)))
            }
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => {
                self.give(row, column, AnyTake::Postgres(&mut |value| value.bind(args)))
            }
        }
    }

    /// Binds a column of several rows as one array.
    pub(crate) fn bind_each(
        &self,
        rows: Range<usize>,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        let row = |n| rows.start + n;
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => sqlx::Sqlite::bind_each(args, rows.len(), &|n, take| {
                self.give(row(n), column, AnyTake::Sqlite(take))
            }),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => sqlx::Postgres::bind_each(args, rows.len(), &|n, take| {
                self.give(row(n), column, AnyTake::Postgres(take))
            }),
        }
    }

    /// Whether a column, of a type as this row has it, can be an array.
    pub(crate) fn fits_array(&self, row: usize, column: usize, kind: DatabaseKind) -> bool {
        let mut fits = false;
        let given = match kind {
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => {
                let take = &mut |value: &dyn Bindable<sqlx::Sqlite>| {
                    fits = sqlx::Sqlite::fits_array(&value.type_info());
                    Ok(())
                };
                self.give(row, column, AnyTake::Sqlite(take))
            }
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => {
                let take = &mut |value: &dyn Bindable<sqlx::Postgres>| {
                    fits = sqlx::Postgres::fits_array(&value.type_info());
                    Ok(())
                };
                self.give(row, column, AnyTake::Postgres(take))
            }
            #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
            _ => Ok(()),
        };
        given.is_ok() && fits
    }

    /// What a row was before.
    pub(crate) fn before_of(&mut self, row: usize) -> &mut Before {
        let (rows, place) = (self.len(), self.place(row));
        let before = self.before();
        before.resize_with(rows, Before::default);
        &mut before[place]
    }

    /// Hands out what each row was before.
    pub(crate) fn take_before(&mut self) -> Vec<SharedBefore> {
        let rows = self.len();
        let mut before = std::mem::take(self.before());
        before.resize_with(rows, Before::default);
        before.into_iter().map(|before| Some(Arc::new(before))).collect()
    }
}

/// What happens to rows, by their places in the slice that the program gave.
#[derive(Debug, Clone)]
#[allow(unreachable_pub)]
pub enum Told {
    PreSave(usize),
    PostSave { row: usize, created: bool },
    PostSaveBatch { rows: Range<usize>, created: bool },
    PreDelete(usize),
    PostDelete(usize),
    PostDeleteBatch(Range<usize>),
    PostLoad(usize),
}

/// Tells receivers what happens to rows.
pub(crate) struct Telling<'r> {
    pub(crate) rows: &'r mut dyn Instances,
    pub(crate) told: Told,
}

impl Event for Telling<'_> {
    fn created(&self) -> Option<bool> {
        match self.told {
            Told::PostSave { created, .. } | Told::PostSaveBatch { created, .. } => Some(created),
            _ => None,
        }
    }

    fn begin<'a>(&'a mut self, to: &Subscriber, cx: Cx<'a, '_>) -> Begun<'a> {
        match to.any() {
            Some(any) => any.begin(self.rows, &self.told, cx),
            None => self.rows.begin(to, &self.told, cx),
        }
    }

    fn keep(&self, to: &[&Subscriber]) -> Option<Box<dyn Kept>> {
        let (rows, told) = (&*self.rows, &self.told);
        let mut own = to.iter().filter(|to| to.any().is_none());
        let own = own.find_map(|to| rows.keep_event(to, told));
        let any = to.iter().filter_map(|to| to.any()).find_map(|any| any.keep(rows, told));
        match (own, any) {
            (Some(own), Some(any)) => Some(Box::new(Both { own, any })),
            (own, any) => own.or(any),
        }
    }
}

/// Rows of the model `M`, on their way to the database `R`.
pub(crate) struct Of<'m, M: Model, R> {
    rows: Rows<'m, M>,
    /// What receivers are told of the columns.
    fields: Option<Cow<'m, [Column<M>]>>,
    aside: Aside<M::Kept>,
    route: PhantomData<fn() -> R>,
}

/// The rows of the program, or a copy of them, whose type only itself knows: else each future that a save is in would have the
/// code that drops it.
enum Rows<'m, M> {
    Given(&'m mut [M]),
    Copied(Box<dyn Slice<M>>),
}

trait Slice<M>: DerefMut<Target = [M]> + Send + Sync {}

impl<M: Send + Sync> Slice<M> for Vec<M> {}

/// What there is to know of rows beside themselves. Its code is that of the types of their keys.
struct Aside<K> {
    /// The order in which they are written, where it is not their own.
    order: Vec<usize>,
    /// What they were before, where that is asked for.
    before: Vec<Before>,
    /// What a write can change in them, as it was.
    kept: Vec<K>,
}

impl<K> Aside<K> {
    const NOTHING: Self = Self { order: Vec::new(), before: Vec::new(), kept: Vec::new() };

    fn place(&self, row: usize) -> usize {
        self.order.get(row).copied().unwrap_or(row)
    }

    /// Makes room for what is kept of so many rows.
    fn expect(&mut self, rows: usize) {
        self.kept = Vec::with_capacity(rows);
    }
}

impl<M> Deref for Rows<'_, M> {
    type Target = [M];

    fn deref(&self) -> &[M] {
        match self {
            Self::Given(rows) => rows,
            Self::Copied(rows) => rows,
        }
    }
}

impl<M> DerefMut for Rows<'_, M> {
    fn deref_mut(&mut self) -> &mut [M] {
        match self {
            Self::Given(rows) => rows,
            Self::Copied(rows) => rows,
        }
    }
}

impl<'m, M: Model, R> Of<'m, M, R> {
    pub(crate) fn new(rows: &'m mut [M]) -> Self {
        let (rows, aside) = (Rows::Given(rows), Aside::NOTHING);
        Self { rows, fields: None, aside, route: PhantomData }
    }

    pub(crate) fn one(row: &'m mut M) -> Self {
        Self::new(std::slice::from_mut(row))
    }

    /// With the columns that receivers are told of.
    pub(crate) fn with_fields(self, fields: &'m [Column<M>]) -> Self {
        Self { fields: Some(fields.into()), ..self }
    }

    fn row(&self, row: usize) -> &M {
        &self.rows[self.aside.place(row)]
    }

    fn row_mut(&mut self, row: usize) -> &mut M {
        &mut self.rows[self.aside.place(row)]
    }
}

impl<M: Model, R: Route<M>> Instances for Of<'_, M, R> {
    fn model(&self) -> &'static str {
        M::NAME
    }

    fn id(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn statements(&self) -> &'static Statements {
        M::STATEMENTS
    }

    fn table(&self) -> &'static Table {
        M::__table()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn place(&self, row: usize) -> usize {
        self.aside.place(row)
    }

    fn set_order(&mut self, order: Vec<usize>) {
        self.aside.order = order;
    }

    fn at(&self, place: usize) -> &dyn AnyModel {
        &self.rows[place]
    }

    fn at_mut(&mut self, place: usize) -> &mut dyn AnyModel {
        &mut self.rows[place]
    }

    fn has_key(&self, row: usize) -> bool {
        self.row(row).pk().is_some()
    }

    fn key(&self, row: usize) -> String {
        key_text(self.row(row).pk())
    }

    fn give(&self, row: usize, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        R::give(self.row(row), column, take)
    }

    fn set(
        &mut self,
        row: usize,
        column: usize,
        from: &AnyRow,
        at: usize,
    ) -> Result<(), sqlx::Error> {
        R::set(self.row_mut(row), column, from, at)
    }

    fn version(&self, row: usize) -> Option<i64> {
        self.row(row).__version()
    }

    fn advance(&mut self, row: usize) {
        self.row_mut(row).__advance();
    }

    fn load(&self, from: &AnyRow, at: usize) -> Result<Box<dyn AnyModel>, sqlx::Error> {
        Ok(Box::new(R::load(from, at)?))
    }

    fn before(&mut self) -> &mut Vec<Before> {
        &mut self.aside.before
    }

    // Loops, for an iterator with closures is a dozen functions that are compiled for each model.
    fn stamp(&mut self, now: SystemTime, added: bool) {
        for row in &mut *self.rows {
            row.__stamp(now, added);
        }
    }

    fn keep(&mut self) {
        self.aside.expect(self.rows.len());
        for row in &*self.rows {
            self.aside.kept.push(row.__keep());
        }
    }

    fn restore(&mut self) {
        for row in self.rows.iter_mut().rev() {
            let Some(kept) = self.aside.kept.pop() else { break };
            row.__restore(kept);
        }
    }

    fn can_copy(&self) -> bool {
        M::COPY.is_some()
    }

    fn copied(&self) -> Option<Box<dyn Instances>> {
        let rows = M::COPY?(&self.rows);
        let fields = self.fields.as_deref().map(|fields| Cow::Owned(fields.to_vec()));
        let aside = Aside { order: self.aside.order.clone(), ..Aside::NOTHING };
        let rows = Rows::Copied(Box::new(rows));
        Some(Box::new(Of::<'static, M, R> { rows, fields, aside, route: PhantomData }))
    }

    fn begin<'a>(&'a mut self, to: &Subscriber, told: &Told, cx: Cx<'a, '_>) -> Begun<'a> {
        (to.own::<M>().begin)(to, &mut self.rows, self.fields.as_deref(), told, cx)
    }

    fn keep_event(&self, to: &Subscriber, told: &Told) -> Option<Box<dyn Kept>> {
        (to.own::<M>().keep)(to, &self.rows, self.fields.as_deref(), told)
    }
}
