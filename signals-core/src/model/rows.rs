use crate::database::decode::caught;
use std::any::TypeId;
use std::borrow::Cow;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::{AnyRow, AnyTake, AnyType, DatabaseKind};
use crate::error::key::key_text;
use crate::model::Model;
use crate::model::store::Route;
use crate::signal::erased::{ErasedReceiver, KeptEvent, Started};
use crate::signal::parameter::Context;
use crate::signal::receivers::ReceiverCache;
use crate::signal::rows::{RowEvent, SignalRows};
use crate::table::any::AnyModel;
use crate::table::cache::StatementCache;
use crate::table::column::Column;
use crate::table::field::Asked;
use crate::table::previous_row::PreviousRow;
use crate::table::rows::Rows;
use crate::table::schema::Schema;

/// RowStorage of the model `M`, on their way to the database `R`.
pub(crate) struct TypedRows<'m, M: Model, R> {
    rows: RowStorage<'m, M>,
    /// What receivers are told of the columns.
    fields: Option<Cow<'m, [Column<M>]>>,
    /// The same for receivers of every model, when one asks for them.
    any_fields: OnceLock<AnyFields>,
    aside: RowsState<M::Kept>,
    route: PhantomData<fn() -> R>,
}

/// The rows of the program, or rows of the library's own, whose type only itself knows: else each future that a save is in
/// would have the code that drops it.
enum RowStorage<'m, M> {
    Given(&'m mut [M]),
    Owned(Box<dyn Slice<M>>),
}

impl<M> RowStorage<'_, M> {
    fn owned(&mut self) -> Option<&mut Vec<M>> {
        match self {
            Self::Given(_) => None,
            Self::Owned(rows) => Some(rows.all()),
        }
    }
}

/// Gives copies their keys, where `Clone` makes rows that are not stored yet.
fn keep_keys<M: Model>(copies: &mut [M], rows: &[M]) {
    for (copy, row) in copies.iter_mut().zip(rows) {
        if copy.pk().is_none() {
            copy.__set_pk(row.pk());
        }
    }
}

type AnyFields = Option<Box<[Column<dyn AnyModel>]>>;

fn for_any<M>(fields: Option<&[Column<M>]>) -> AnyFields {
    Some(fields?.iter().map(|column| Column::new(column.name())).collect())
}

trait Slice<M>: DerefMut<Target = [M]> + Send + Sync {
    fn all(&mut self) -> &mut Vec<M>;
}

impl<M: Send + Sync> Slice<M> for Vec<M> {
    fn all(&mut self) -> &mut Vec<M> {
        self
    }
}

/// What there is to know of rows beside themselves. Its code is that of the types of their keys.
struct RowsState<K> {
    /// The order in which they are written, where it is not their own.
    order: Vec<usize>,
    /// What they were before, where that is asked for.
    before: Vec<PreviousRow>,
    /// What a write can change in them, as it was whenever that was noted.
    kept: Vec<K>,
}

impl<K> RowsState<K> {
    const NOTHING: Self = Self { order: Vec::new(), before: Vec::new(), kept: Vec::new() };

    fn place(&self, row: usize) -> usize {
        self.order.get(row).copied().unwrap_or(row)
    }

    /// Makes room for what is kept of so many rows.
    fn expect(&mut self, rows: usize) {
        self.kept.reserve_exact(rows);
    }
}

impl<M> Deref for RowStorage<'_, M> {
    type Target = [M];

    fn deref(&self) -> &[M] {
        match self {
            Self::Given(rows) => rows,
            Self::Owned(rows) => rows,
        }
    }
}

impl<M> DerefMut for RowStorage<'_, M> {
    fn deref_mut(&mut self) -> &mut [M] {
        match self {
            Self::Given(rows) => rows,
            Self::Owned(rows) => rows,
        }
    }
}

impl<'m, M: Model, R> TypedRows<'m, M, R> {
    pub(crate) fn new(rows: &'m mut [M]) -> Self {
        let (rows, aside) = (RowStorage::Given(rows), RowsState::NOTHING);
        Self { rows, fields: None, any_fields: OnceLock::new(), aside, route: PhantomData }
    }

    pub(crate) fn one(row: &'m mut M) -> Self {
        Self::new(std::slice::from_mut(row))
    }

    /// With the columns that receivers are told of.
    pub(crate) fn with_fields(self, fields: &'m [Column<M>]) -> Self {
        Self { fields: Some(fields.into()), ..self }
    }

    /// RowStorage of the library's own, with none in it yet; where receivers are told of a column, it is this one.
    pub(crate) fn owned(field: Option<usize>) -> TypedRows<'static, M, R> {
        let fields = field.map(|column| Cow::Owned(vec![Column::new(M::COLUMNS[column])]));
        let (rows, aside) = (RowStorage::Owned(Box::new(Vec::new())), RowsState::NOTHING);
        TypedRows { rows, fields, any_fields: OnceLock::new(), aside, route: PhantomData }
    }

    fn row(&self, row: usize) -> &M {
        &self.rows[self.aside.place(row)]
    }

    fn row_mut(&mut self, row: usize) -> &mut M {
        &mut self.rows[self.aside.place(row)]
    }
}

impl<'m, M: Model, R: Route<M>> TypedRows<'m, M, R> {
    /// Without the type of the model. Not inlined: the table of its methods would be in each object file that does so.
    #[inline(never)]
    pub(crate) fn instances(&mut self) -> &mut (dyn SignalRows + 'm) {
        self
    }

    /// The same on the heap.
    #[inline(never)]
    pub(crate) fn boxed(self) -> Box<dyn SignalRows + 'm> {
        Box::new(self)
    }
}

impl<M: Model, R: Route<M>> Rows for TypedRows<'_, M, R> {
    fn model(&self) -> &'static str {
        M::NAME
    }

    fn id(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn schema(&self) -> &'static Schema {
        M::STATEMENTS
    }

    fn statement_cache(&self) -> &'static StatementCache {
        M::__table().statement_cache()
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

    fn any_fields(&self) -> Option<&[Column<dyn AnyModel>]> {
        self.any_fields.get_or_init(|| for_any(self.fields.as_deref())).as_deref()
    }

    fn at_mut_with_fields(
        &mut self,
        place: usize,
    ) -> (&mut dyn AnyModel, Option<&[Column<dyn AnyModel>]>) {
        let Self { rows, fields, any_fields, .. } = self;
        let fields = any_fields.get_or_init(|| for_any(fields.as_deref())).as_deref();
        (&mut rows[place], fields)
    }

    fn has_key(&self, row: usize) -> bool {
        self.row(row).pk().is_some()
    }

    fn clear_key(&mut self, row: usize) {
        self.row_mut(row).__set_pk(None);
    }

    fn key(&self, row: usize) -> String {
        key_text(self.row(row).pk())
    }

    fn type_name(&self, column: usize, kind: DatabaseKind) -> String {
        let name = Cell::new(String::new());
        R::asked(column, Asked::Name(kind, &name));
        name.take()
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

    fn fits(&self, column: usize, ty: &AnyType) -> bool {
        R::asked(column, Asked::Reads(ty))
    }

    fn fits_all(&self, column: usize, ty: &AnyType) -> bool {
        R::asked(column, Asked::ReadsAll(ty))
    }

    fn fits_rowid(&self, column: usize) -> bool {
        R::asked(column, Asked::ReadsRowid)
    }

    fn differs(
        &self,
        column: usize,
        row: &AnyRow,
        other: &AnyRow,
        at: usize,
    ) -> Result<bool, sqlx::Error> {
        let is_same = || caught(|| Ok(R::asked(column, Asked::ReadsSame(row, other, at))));
        Ok(row.differs(other, at)? && !is_same()?)
    }

    fn load(&self, from: &AnyRow, at: usize) -> Result<Box<dyn AnyModel>, sqlx::Error> {
        Ok(Box::new(R::load(from, at)?))
    }

    fn previous_rows(&mut self) -> &mut Vec<PreviousRow> {
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

    fn push(&mut self, from: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        let row = R::load(from, at)?;
        self.rows.owned().ok_or(sqlx::Error::RowNotFound)?.push(row);
        Ok(())
    }

    fn truncate(&mut self, rows: usize) {
        if let Some(all) = self.rows.owned() {
            all.truncate(rows);
        }
    }

    fn reorder(&mut self, order: &[usize]) {
        if let Some(all) = self.rows.owned() {
            let mut old: Vec<_> = std::mem::take(all).into_iter().map(Some).collect();
            all.extend(order.iter().filter_map(|row| old[*row].take()));
        }
    }
}

impl<M: Model, R: Route<M>> SignalRows for TypedRows<'_, M, R> {
    fn receivers(&self) -> &'static ReceiverCache {
        M::__table()
    }

    fn copied(&self) -> Option<Box<dyn SignalRows>> {
        let mut rows = M::COPY?(&self.rows);
        keep_keys(&mut rows, &self.rows);
        let fields = self.fields.as_deref().map(|fields| Cow::Owned(fields.to_vec()));
        let aside = RowsState { order: self.aside.order.clone(), ..RowsState::NOTHING };
        let rows = RowStorage::Owned(Box::new(rows));
        let any_fields = OnceLock::new();
        Some(
            TypedRows::<'static, M, R> { rows, fields, any_fields, aside, route: PhantomData }
                .boxed(),
        )
    }

    fn begin<'a>(
        &'a mut self,
        to: &ErasedReceiver,
        told: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a> {
        (to.own::<M>().begin)(to, &mut self.rows, self.fields.as_deref(), told, cx)
    }

    fn keep_event(&self, to: &ErasedReceiver, told: &RowEvent) -> Option<Box<dyn KeptEvent>> {
        let rows = &self.rows[told.first()..];
        let complete = |copies: &mut [M]| keep_keys(copies, rows);
        (to.own::<M>().keep)(to, &self.rows, self.fields.as_deref(), told, &complete)
    }
}
