use std::marker::PhantomData;
use std::sync::Arc;

use tracing::Instrument;

use crate::backend::{AnyRow, Backend, DatabaseKind};
use crate::conn::Conn;
use crate::context;
use crate::dispatch::{Postponed, dispatch};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::model::{Model, Saved};
use crate::read;
use crate::signal::{PostSave, PreSave, Signal, post_save, pre_save};
use crate::store::{Bind, Route, Statements, statement};
use crate::table::Pair;
use crate::testing::recording::Recorders;
use crate::transaction::Deferred;
use crate::unit::{Doubt, Needs, Scene, Unit, perform};

/// How often a save tries anew where another one was faster, before it takes it that nothing is ever stored.
const ATTEMPTS: usize = 16;

/// What a save may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Save,
    Insert,
    Update,
}

pub(crate) async fn save<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    verb: Verb,
) -> Result<Saved> {
    let span = tracing::debug_span!("save", model = M::NAME);
    save_in_span::<M, R>(model, source, verb).instrument(span).await
}

async fn save_in_span<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    verb: Verb,
) -> Result<Saved> {
    let recorders = Recorders::of_task();
    let Some(pair) = M::__table().save().or_else(|| recorders.unreceived()) else {
        context::observe("save", M::NAME);
        let mut conn = source.acquire().await?;
        let doubt = Doubt::of(&mut conn, "save", M::NAME);
        let done = store::<M, R>(model, doubt.conn, verb).await;
        return Ok(Saved { created: doubt.end(done)? });
    };
    let mut unit = Save { verb, created: false, pair, recorders, route: PhantomData::<fn() -> R> };
    perform(&mut unit, model, source).await?;
    Ok(Saved { created: unit.created })
}

/// A save with receivers.
struct Save<M: Model, R> {
    verb: Verb,
    created: bool,
    pair: Arc<Pair<pre_save, post_save, M>>,
    recorders: Recorders<M>,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R> Clone for Save<M, R> {
    fn clone(&self) -> Self {
        let (pair, recorders) = (Arc::clone(&self.pair), self.recorders.clone());
        Self { verb: self.verb, created: self.created, pair, recorders, route: PhantomData }
    }
}

impl<M: Model, R> Save<M, R> {
    fn event<'e>(&self, instance: &'e M) -> PostSave<'e, M> {
        PostSave { instance, created: self.created, fields: None }
    }
}

impl<M: Model, R: Route<M>> Unit<M> for Save<M, R> {
    const VERB: &'static str = "save";

    fn needs(&self) -> Needs {
        self.pair.needs()
    }

    async fn before(
        &self,
        instance: &mut M,
        conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        self.recorders.before(pre_save::NAME, instance);
        let event = PreSave { instance, fields: None };
        dispatch(&self.pair.before, event, conn, scene.db.as_ref(), &scene.operation).await
    }

    async fn write(&mut self, model: &mut M, conn: &mut Conn<'_>) -> Result<()> {
        self.created = store::<M, R>(model, conn, self.verb).await?;
        Ok(())
    }

    async fn after(&self, model: &M, conn: &mut Conn<'_>, scene: &Scene) -> Result<()> {
        let (after, event) = (&self.pair.after, self.event(model));
        dispatch(after, event, Some(conn), scene.db.as_ref(), &scene.operation).await
    }

    fn postponed(&self, model: &M, scene: &Scene) -> Option<Box<dyn Deferred>> {
        let event = self.event(model);
        let deferred = &self.pair.deferred;
        let snapshot = || post_save::snapshot::<M>(&event);
        let waiting =
            Postponed::of(deferred, &event, snapshot, scene.db.as_ref(), &scene.operation);
        let (created, seen) = (Some(self.created), scene.db.is_some());
        self.recorders.after(post_save::NAME, created, model, seen, waiting)
    }

    fn copy(&self, model: &M) -> Option<M> {
        let keep = self.pair.deferred.iter().find_map(|e| e.keep)?;
        Some(keep(&self.event(model)).into_instance())
    }
}

/// Writes the row, and returns whether it is new. A key that the database gives is set when the statement is through.
async fn store<M: Model, R: Route<M>>(
    model: &mut M,
    conn: &mut Conn<'_>,
    verb: Verb,
) -> Result<bool> {
    let Some(key) = model.pk() else {
        if verb == Verb::Update {
            return Err(read::not_found::<M>(None));
        }
        let row = run_one(conn, M::STATEMENTS.insert, &|args| R::bind(model, args)).await?;
        let row = row.ok_or(Error::NotStored { model: M::NAME })?;
        model.__set_pk(Some(R::load_key(&row)?));
        return Ok(true);
    };
    let row: &M = model;
    let bind: Bind<'_> = &|args| {
        R::bind(row, args)?;
        R::bind_key(&key, args)
    };
    match store_with_key(conn, M::STATEMENTS, verb, bind).await? {
        Some(Stored::Created) => Ok(true),
        Some(Stored::Updated) => Ok(false),
        None if verb == Verb::Update => Err(read::not_found::<M>(Some(&key))),
        None => Err(Error::NotStored { model: M::NAME }),
    }
}

enum Stored {
    Created,
    Updated,
}

async fn store_with_key(
    conn: &mut Conn<'_>,
    sql: &Statements,
    verb: Verb,
    bind: Bind<'_>,
) -> Result<Option<Stored>> {
    match verb {
        Verb::Insert => {
            let rows = run(conn, sql.insert_with_key, bind).await?;
            return Ok((rows > 0).then_some(Stored::Created));
        }
        Verb::Update => {
            let rows = run(conn, sql.update, bind).await?;
            return Ok((rows > 0).then_some(Stored::Updated));
        }
        Verb::Save => {}
    }
    // Where neither the UPDATE nor the INSERT finds its row as it wants it, somebody stored or deleted it in between.
    for _ in 0..ATTEMPTS {
        match conn.kind() {
            DatabaseKind::Sqlite => {
                if run(conn, sql.update, bind).await? > 0 {
                    return Ok(Some(Stored::Updated));
                }
                if run(conn, sql.insert_or_nothing, bind).await? > 0 {
                    return Ok(Some(Stored::Created));
                }
            }
            DatabaseKind::Postgres => {
                if let Some(row) = run_one(conn, sql.save, bind).await? {
                    let created = flag(&row)?;
                    return Ok(Some(if created { Stored::Created } else { Stored::Updated }));
                }
            }
        }
    }
    Ok(None)
}

/// Runs a statement, and returns the number of rows affected.
pub(crate) async fn run(conn: &mut Conn<'_>, sql: &'static str, bind: Bind<'_>) -> Result<u64> {
    conn.run(statement(conn, sql, bind)?, &mut |_| ()).await
}

/// Runs a statement of at most one row.
pub(crate) async fn run_one(
    conn: &mut Conn<'_>,
    sql: &'static str,
    bind: Bind<'_>,
) -> Result<Option<AnyRow>> {
    conn.run_one(statement(conn, sql, bind)?).await
}

/// The first column of a row, as a truth value.
fn flag(row: &AnyRow) -> Result<bool, sqlx::Error> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, 0),
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Postgres::get(row, 0),
    }
}
