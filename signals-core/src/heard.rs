//! Who hears of a write: those before the statement, those after it, those that wait for the end of the transaction.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::cascade;
use crate::conn::Conn;
use crate::delete;
use crate::dispatch::{Postponed, dispatch, tell_committed};
use crate::error::{Error, Result};
use crate::facts;
use crate::finish::{Pending, finish};
use crate::instances::{Instances, Telling, Told};
use crate::previous::SharedBefore;
use crate::save::{Verb, store};
use crate::signal::{Signal, post_delete, post_save, pre_delete, pre_save};
use crate::table::Pair;
use crate::testing::recording::Recorders;
use crate::transaction::{Deferred, End, run_all};
use crate::unit::{Scene, Unit};
use crate::write;

/// A write, as its receivers hear of it.
#[derive(Clone)]
pub(crate) struct Heard {
    pub(crate) pair: Arc<Pair>,
    pub(crate) unit: Unit,
    recorders: Recorders,
    /// Whether it may be several rows, so that an error of one says which.
    pub(crate) many: bool,
    pub(crate) written: Written,
    /// What each row was before, where that is asked for.
    pub(crate) before: Vec<SharedBefore>,
}

/// The rows of one statement, where they are but one.
const ONE: &[Range<usize>] = &[Range { start: 0, end: 1 }];

/// What a write has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// Whether the rows are new; of a save.
    pub(crate) created: Option<bool>,
    /// The rows of each statement that were written, as slices of those that the program gave.
    pub(crate) batches: Cow<'static, [Range<usize>]>,
    /// The rows that a trigger kept from being deleted, in order.
    pub(crate) kept: Vec<usize>,
}

impl Written {
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
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let mut slices = self.batches.clone();
        if !slices.is_sorted_by_key(|slice| slice.start) {
            slices.to_mut().sort_unstable_by_key(|slice| slice.start);
        }
        (0..slices.len()).flat_map(move |slice| slices[slice].clone())
    }
}

/// What one event is about.
enum Part {
    Row(usize),
    Batch(Range<usize>),
}

impl Heard {
    pub(crate) fn new(unit: Unit, many: bool, pair: Arc<Pair>, recorders: Recorders) -> Self {
        Self { pair, unit, recorders, many, written: Written::default(), before: Vec::new() }
    }

    /// An error of one of several rows says which.
    pub(crate) fn of_row(&self, rows: &dyn Instances, row: usize, error: Error) -> Error {
        let verb = match self.unit {
            Unit::Save(Verb::Insert) => "insert",
            Unit::Save(_) => "update",
            Unit::Delete => "delete",
        };
        if self.many { Error::of_row(verb, rows, row, error) } else { error }
    }

    /// Whether the statement can commit itself.
    pub(crate) async fn commits_itself(
        &self,
        rows: &dyn Instances,
        conn: &mut Conn<'_>,
    ) -> Result<bool> {
        let verb = match &self.unit {
            Unit::Save(verb) => Some(verb),
            // Which rows a trigger has kept is asked after the statement, and this future may be dropped then.
            Unit::Delete if rows.len() > 1 => return facts::is_plain(conn, rows).await,
            Unit::Delete => None,
        };
        let kind = conn.kind();
        let commits_itself = match conn.facts().commits_itself(kind, rows, verb) {
            Some(known) => known,
            None => facts::commits_itself(conn, rows, verb).await?,
        };
        // If one of several rows is not stored, none is.
        let several = rows.len() > 1 && verb == Some(&Verb::Insert);
        Ok(commits_itself && (!several || facts::stores_every_row(conn, rows).await?))
    }

    /// Writes the rows.
    pub(crate) async fn write(
        &self,
        rows: &mut dyn Instances,
        conn: &mut Conn<'_>,
        scene: &Scene,
    ) -> Result<Written> {
        match &self.unit {
            Unit::Save(verb) => {
                write::stamp(rows, verb);
                match self.many {
                    true => write::write_many(rows, conn, verb, self).await,
                    false => Ok(store(conn, rows, verb, self.pair.previous).await?.written()),
                }
            }
            Unit::Delete if self.cascades() => cascade::delete(rows, conn, self, scene).await,
            Unit::Delete if self.many || self.pair.previous => {
                delete::delete_rows(rows, conn, self).await
            }
            Unit::Delete => delete::delete_one(rows, conn).await,
        }
    }

    /// Whether rows of other models may belong to those that are deleted.
    fn cascades(&self) -> bool {
        self.unit == Unit::Delete && !self.pair.dependents.is_empty()
    }

    /// Tells those ahead of the statement. Of a delete with rows that belong to others, they are told later, when it is known
    /// which rows are deleted.
    pub(crate) async fn tell_before(
        &self,
        rows: &mut dyn Instances,
        mut conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        if self.is_silent_before() || self.cascades() {
            return Ok(());
        }
        for row in 0..rows.len() {
            self.tell_before_row(rows, row, conn.as_deref_mut(), scene).await?;
        }
        Ok(())
    }

    /// Whether there is nobody ahead of the statement.
    pub(crate) fn is_silent_before(&self) -> bool {
        self.pair.before.is_empty() && !self.recorders.any()
    }

    /// Tells those ahead of the statement about one row. A row without a key is not stored, and so it is not deleted.
    pub(crate) async fn tell_before_row(
        &self,
        rows: &mut dyn Instances,
        row: usize,
        mut conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        let (signal, told) = match self.unit {
            Unit::Delete if !rows.has_key(row) => return Ok(()),
            Unit::Delete => (pre_delete::NAME, Told::PreDelete(row)),
            Unit::Save(_) => (pre_save::NAME, Told::PreSave(row)),
        };
        if self.recorders.any()
            && let Some(conn) = &mut conn
        {
            conn.scope.tell();
        }
        self.recorders.before(signal, rows.at(row));
        let mut event = Telling { rows: &mut *rows, told };
        let done = dispatch(&self.pair.before, &mut event, conn, scene, &None).await;
        done.map_err(|error| self.of_row(rows, row, error))
    }

    /// Tells those behind the statement.
    pub(crate) async fn tell_after(
        &self,
        rows: &mut dyn Instances,
        mut conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        if !self.pair.after.is_empty() {
            for row in self.written.rows() {
                let mut event = Telling { rows: &mut *rows, told: self.told(row) };
                let (after, conn) = (&self.pair.after, conn.as_deref_mut());
                let done = dispatch(after, &mut event, conn, scene, self.before_of(row)).await;
                done.map_err(|error| self.of_row(rows, row, error))?;
            }
        }
        if !self.pair.batch.is_empty() {
            for batch in self.written.batches.iter() {
                let mut event = Telling { rows: &mut *rows, told: self.told_batch(batch) };
                let conn = conn.as_deref_mut();
                dispatch(&self.pair.batch, &mut event, conn, scene, &None).await?;
            }
        }
        Ok(())
    }

    /// Tells those behind a statement that has committed itself, and those that waited for that.
    pub(crate) async fn tell_alone(&self, rows: &mut dyn Instances, scene: &Scene) -> Result<()> {
        // The rows are stored, whatever their receivers do.
        let received = self.tell_after(rows, None, scene).await.map_err(Error::not_refused);
        let received = Pending::new(received);
        let mut uncopied = Vec::new();
        let postponed = self.postponed_or(rows, scene, |part, keep| {
            // A `Clone` that panics must lose no receiver: the row is stored.
            catch_unwind(AssertUnwindSafe(keep)).unwrap_or_else(|_| {
                uncopied.push(part);
                None
            })
        });
        if !postponed.is_empty() {
            finish(run_all(postponed, End::Committed, None)).await;
        }
        // Without a copy they run here, and are lost if this future is dropped.
        for part in uncopied {
            let (to, told, before) = match &part {
                Part::Row(row) => (&self.pair.deferred, self.told(*row), self.before_of(*row)),
                Part::Batch(rows) => (&self.pair.deferred_batch, self.told_batch(rows), &None),
            };
            let mut event = Telling { rows: &mut *rows, told };
            tell_committed(to, &mut event, scene, before).await;
        }
        received.take()
    }

    /// What waits for the end of the transaction.
    pub(crate) fn postponed(
        &self,
        rows: &mut dyn Instances,
        scene: &Scene,
    ) -> Vec<Box<dyn Deferred>> {
        self.postponed_or(rows, scene, |_, keep| keep())
    }

    /// As [`postponed`](Self::postponed); `attempt` is given what keeps each event, which may panic.
    fn postponed_or(
        &self,
        rows: &mut dyn Instances,
        scene: &Scene,
        mut attempt: impl FnMut(
            Part,
            &mut dyn FnMut() -> Option<Box<dyn Deferred>>,
        ) -> Option<Box<dyn Deferred>>,
    ) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if !self.pair.deferred.is_empty() || self.recorders.any() {
            let (created, seen) = (self.written.created, scene.db.is_some());
            let signal = if created.is_some() { post_save::NAME } else { post_delete::NAME };
            for row in self.written.rows() {
                let event = Telling { rows: &mut *rows, told: self.told(row) };
                let before = self.before_of(row);
                let mut keep = || Postponed::of(&self.pair.deferred, &event, scene, before);
                let waiting = attempt(Part::Row(row), &mut keep);
                all.extend(self.recorders.after(signal, created, rows.at(row), seen, waiting));
            }
        }
        if !self.pair.deferred_batch.is_empty() {
            for batch in self.written.batches.iter() {
                let event = Telling { rows: &mut *rows, told: self.told_batch(batch) };
                let mut keep = || Postponed::of(&self.pair.deferred_batch, &event, scene, &None);
                all.extend(attempt(Part::Batch(batch.clone()), &mut keep));
            }
        }
        all
    }

    fn told(&self, row: usize) -> Told {
        match self.written.created {
            Some(created) => Told::PostSave { row, created },
            None => Told::PostDelete(row),
        }
    }

    fn told_batch(&self, rows: &Range<usize>) -> Told {
        match self.written.created {
            Some(created) => Told::PostSaveBatch { rows: rows.clone(), created },
            None => Told::PostDeleteBatch(rows.clone()),
        }
    }

    fn before_of(&self, row: usize) -> &SharedBefore {
        self.before.get(row).unwrap_or(&None)
    }
}
