//! Rows of a model, which implement the type-erased traits of the layers below.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::{AnyRow, AnyTake, AnyType, DatabaseKind};
use crate::database::decode::caught;
use crate::error::key::key_text;
use crate::model::Model;
use crate::model::store::Route;
use crate::signal::erased::{ErasedReceiver, KeptEvent, ModelCalls, Started};
use crate::signal::parameter::Context;
use crate::signal::receivers::ReceiverCache;
use crate::signal::rows::{EventRows, RowEvent, SignalRows};
use crate::table::any::{AnyModel, AnyRows};
use crate::table::cache::StatementCache;
use crate::table::column::Column;
use crate::table::field::Asked;
use crate::table::previous_row::PreviousRow;
use crate::table::rows::{Rows, integer};
use crate::table::schema::Schema;

/// Rows of the model `M` that are written and read by the route `R`.
pub(crate) struct TypedRows<'m, M: Model, R> {
    rows: RowStorage<'m, M>,
    /// The columns of a partial save, for the events of typed receivers.
    fields: Option<Cow<'m, [Column<M>]>>,
    /// The same columns for receivers of every model, built at the first use.
    any_fields: OnceLock<AnyFields>,
    state: RowsState<M::Kept>,
    route: PhantomData<fn() -> R>,
}

/// The caller's rows, or rows of the library. The latter are a trait object, because otherwise every future that contains a
/// save would contain the code that drops them.
enum RowStorage<'m, M> {
    Borrowed(&'m mut [M]),
    Owned(Box<dyn Slice<M>>),
}

impl<M> RowStorage<'_, M> {
    fn owned(&mut self) -> Option<&mut Vec<M>> {
        match self {
            Self::Borrowed(_) => None,
            Self::Owned(rows) => Some(rows.as_vec()),
        }
    }
}

/// Copies the keys of `rows` to `copies`: a `Clone` implementation may reset the key.
fn copy_keys<M: Model>(copies: &mut [M], rows: &[M]) {
    for (copy, row) in copies.iter_mut().zip(rows) {
        if copy.pk().is_none() {
            copy.__set_pk(row.pk());
        }
    }
}

type AnyFields = Option<Box<[Column<dyn AnyModel>]>>;

fn erase_columns<M>(fields: Option<&[Column<M>]>) -> AnyFields {
    Some(fields?.iter().map(|column| Column::new(column.name())).collect())
}

trait Slice<M>: DerefMut<Target = [M]> + Send + Sync {
    fn as_vec(&mut self) -> &mut Vec<M>;
}

impl<M: Send + Sync> Slice<M> for Vec<M> {
    fn as_vec(&mut self) -> &mut Vec<M> {
        self
    }
}

/// The state of a write of rows. It depends only on the type of the saved fields, so models can share its code.
struct RowsState<K> {
    /// The order of writing, as indexes into the slice. If it is empty, the rows are written in the order of the slice.
    order: Vec<usize>,
    /// The rows before the write, if a receiver asks for them.
    previous: Vec<PreviousRow>,
    /// The fields that a write can change, as saved by each call of `keep`.
    saved: Vec<K>,
}

impl<K> RowsState<K> {
    const EMPTY: Self = Self { order: Vec::new(), previous: Vec::new(), saved: Vec::new() };

    fn slice_index(&self, row: usize) -> usize {
        self.order.get(row).copied().unwrap_or(row)
    }

    /// Reserves space for the saved fields of this number of rows.
    fn reserve(&mut self, rows: usize) {
        self.saved.reserve_exact(rows);
    }
}

impl<M> Deref for RowStorage<'_, M> {
    type Target = [M];

    fn deref(&self) -> &[M] {
        match self {
            Self::Borrowed(rows) => rows,
            Self::Owned(rows) => rows,
        }
    }
}

impl<M> DerefMut for RowStorage<'_, M> {
    fn deref_mut(&mut self) -> &mut [M] {
        match self {
            Self::Borrowed(rows) => rows,
            Self::Owned(rows) => rows,
        }
    }
}

impl<'m, M: Model, R> TypedRows<'m, M, R> {
    pub(crate) fn new(rows: &'m mut [M]) -> Self {
        let (rows, state) = (RowStorage::Borrowed(rows), RowsState::EMPTY);
        Self { rows, fields: None, any_fields: OnceLock::new(), state, route: PhantomData }
    }

    pub(crate) fn one(row: &'m mut M) -> Self {
        Self::new(std::slice::from_mut(row))
    }

    /// Sets the columns that events name.
    pub(crate) fn with_fields(self, fields: &'m [Column<M>]) -> Self {
        Self { fields: Some(fields.into()), ..self }
    }

    /// An empty collection of rows of the library. If `field` is set, events name this column.
    pub(crate) fn owned(field: Option<usize>) -> TypedRows<'static, M, R> {
        let fields = field.map(|column| Cow::Owned(vec![Column::new(M::COLUMNS[column])]));
        let (rows, state) = (RowStorage::Owned(Box::new(Vec::new())), RowsState::EMPTY);
        TypedRows { rows, fields, any_fields: OnceLock::new(), state, route: PhantomData }
    }

    fn row(&self, row: usize) -> &M {
        &self.rows[self.state.slice_index(row)]
    }

    fn row_mut(&mut self, row: usize) -> &mut M {
        &mut self.rows[self.state.slice_index(row)]
    }
}

impl<'m, M: Model, R: Route<M>> TypedRows<'m, M, R> {
    /// The rows without the type of the model. Not inlined, because each object file that inlines it contains another copy of
    /// the vtable.
    #[inline(never)]
    pub(crate) fn erased(&mut self) -> &mut (dyn SignalRows + 'm) {
        self
    }

    /// The same, boxed.
    #[inline(never)]
    pub(crate) fn boxed(self) -> Box<dyn SignalRows + 'm> {
        Box::new(self)
    }
}

impl<M: Model, R: Route<M>> AnyRows for TypedRows<'_, M, R> {
    fn at(&self, index: usize) -> &dyn AnyModel {
        &self.rows[index]
    }

    fn any_fields(&self) -> Option<&[Column<dyn AnyModel>]> {
        self.any_fields.get_or_init(|| erase_columns(self.fields.as_deref())).as_deref()
    }

    fn at_mut(&mut self, index: usize) -> (&mut dyn AnyModel, Option<&[Column<dyn AnyModel>]>) {
        let Self { rows, fields, any_fields, .. } = self;
        let fields = any_fields.get_or_init(|| erase_columns(fields.as_deref())).as_deref();
        (&mut rows[index], fields)
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

    fn table(&self) -> &'static str {
        M::TABLE
    }

    fn columns(&self) -> &'static [&'static str] {
        M::COLUMNS
    }

    fn statement_cache(&self) -> &'static StatementCache {
        M::__table().statement_cache()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn slice_index(&self, row: usize) -> usize {
        self.state.slice_index(row)
    }

    fn set_order(&mut self, order: Vec<usize>) {
        self.state.order = order;
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

    fn integer_key(&self, row: usize) -> Option<i64> {
        integer(&self.row(row).pk()?)
    }

    fn type_name(&self, column: usize, kind: DatabaseKind) -> String {
        let name = Cell::new(String::new());
        R::asked(column, Asked::Name(kind, &name));
        name.take()
    }

    fn give(&self, row: usize, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        R::give(self.row(row), column, take)
    }

    fn give_of(
        &self,
        row: &dyn AnyModel,
        column: usize,
        take: AnyTake<'_>,
    ) -> Result<(), BoxDynError> {
        R::give(row.downcast_ref().ok_or("a row of another model")?, column, take)
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

    fn load(&self, from: &AnyRow, at: usize) -> Result<Arc<dyn AnyModel>, sqlx::Error> {
        Ok(Arc::new(R::load(from, at)?))
    }

    fn previous_rows(&mut self) -> &mut Vec<PreviousRow> {
        &mut self.state.previous
    }

    // Loops instead of iterators, which would be a dozen more functions to compile for each model.
    fn stamp(&mut self, now: SystemTime, added: bool) {
        for row in &mut *self.rows {
            row.__stamp(now, added);
        }
    }

    fn keep(&mut self) {
        self.state.reserve(self.rows.len());
        for row in &*self.rows {
            self.state.saved.push(row.__keep());
        }
    }

    fn restore(&mut self) {
        for row in self.rows.iter_mut().rev() {
            let Some(saved) = self.state.saved.pop() else { break };
            row.__restore(saved);
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
        copy_keys(&mut rows, &self.rows);
        let fields = self.fields.as_deref().map(|fields| Cow::Owned(fields.to_vec()));
        let state = RowsState { order: self.state.order.clone(), ..RowsState::EMPTY };
        let rows = RowStorage::Owned(Box::new(rows));
        let any_fields = OnceLock::new();
        Some(
            TypedRows::<'static, M, R> { rows, fields, any_fields, state, route: PhantomData }
                .boxed(),
        )
    }

    fn begin<'a>(
        &'a mut self,
        to: &ErasedReceiver,
        calls: &(dyn Any + Send + Sync),
        event: &RowEvent,
        cx: Context<'a, '_>,
    ) -> Started<'a> {
        let (rows, created) = (&mut self.rows[event.rows.clone()], event.created);
        let rows = EventRows { rows, fields: self.fields.as_deref(), created };
        (ModelCalls::of_erased(calls).begin)(to, rows, cx)
    }

    fn keep_event(&self, to: &ErasedReceiver, event: &RowEvent) -> Option<Box<dyn KeptEvent>> {
        let keep = to.model_calls::<M>().keep?;
        let rows = &self.rows[event.rows.clone()];
        let fields = event.fields.columns(self.fields.as_deref());
        Some(keep(rows, fields.as_deref(), event.created, copy_keys::<M>))
    }
}
