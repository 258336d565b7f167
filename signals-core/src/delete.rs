use std::marker::PhantomData;
use std::sync::Arc;

use tracing::Instrument;

use crate::conn::Conn;
use crate::context;
use crate::dispatch::{Postponed, dispatch};
use crate::error::Result;
use crate::executor::Source;
use crate::model::Model;
use crate::save::run;
use crate::signal::{PostDelete, PreDelete, Signal, post_delete, pre_delete};
use crate::store::Route;
use crate::table::Pair;
use crate::testing::recording::Recorders;
use crate::transaction::Deferred;
use crate::unit::{Doubt, Needs, Scene, Unit, perform};

pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    let span = tracing::debug_span!("delete", model = M::NAME);
    delete_in_span::<M, R>(model, source).instrument(span).await
}

async fn delete_in_span<M: Model, R: Route<M>>(model: &mut M, source: Source<'_>) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let recorders = Recorders::of_task();
    let pair = M::__table().delete().or_else(|| recorders.unreceived());
    let deleted = if let Some(pair) = pair {
        let mut unit = Delete { deleted: false, pair, recorders, route: PhantomData::<fn() -> R> };
        perform(&mut unit, model, source).await?;
        unit.deleted
    } else {
        context::observe("delete", M::NAME);
        let mut conn = source.acquire().await?;
        let doubt = Doubt::of(&mut conn, "delete", M::NAME);
        let done = remove::<M, R>(model, doubt.conn).await;
        doubt.end(done)?
    };
    model.__set_pk(None);
    Ok(deleted)
}

/// A delete with receivers.
struct Delete<M: Model, R> {
    deleted: bool,
    pair: Arc<Pair<pre_delete, post_delete, M>>,
    recorders: Recorders<M>,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R> Clone for Delete<M, R> {
    fn clone(&self) -> Self {
        let (pair, recorders) = (Arc::clone(&self.pair), self.recorders.clone());
        Self { deleted: self.deleted, pair, recorders, route: PhantomData }
    }
}

impl<M: Model, R: Route<M>> Unit<M> for Delete<M, R> {
    const VERB: &'static str = "delete";

    fn needs(&self) -> Needs {
        self.pair.needs()
    }

    async fn before(
        &self,
        instance: &mut M,
        conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        self.recorders.before(pre_delete::NAME, instance);
        let event = PreDelete { instance };
        dispatch(&self.pair.before, event, conn, scene.db.as_ref(), &scene.operation).await
    }

    async fn write(&mut self, model: &mut M, conn: &mut Conn<'_>) -> Result<()> {
        self.deleted = remove::<M, R>(model, conn).await?;
        Ok(())
    }

    async fn after(&self, instance: &M, conn: &mut Conn<'_>, scene: &Scene) -> Result<()> {
        if !self.deleted {
            return Ok(());
        }
        let event = PostDelete { instance };
        dispatch(&self.pair.after, event, Some(conn), scene.db.as_ref(), &scene.operation).await
    }

    fn postponed(&self, instance: &M, scene: &Scene) -> Option<Box<dyn Deferred>> {
        if !self.deleted {
            return None;
        }
        let event = PostDelete { instance };
        let deferred = &self.pair.deferred;
        let snapshot = || post_delete::snapshot::<M>(&event);
        let waiting =
            Postponed::of(deferred, &event, snapshot, scene.db.as_ref(), &scene.operation);
        self.recorders.after(post_delete::NAME, None, instance, scene.db.is_some(), waiting)
    }

    fn copy(&self, instance: &M) -> Option<M> {
        let keep = self.pair.deferred.iter().find_map(|e| e.keep)?;
        Some(keep(&PostDelete { instance }))
    }
}

/// Deletes the row, and returns whether there was one.
async fn remove<M: Model, R: Route<M>>(model: &M, conn: &mut Conn<'_>) -> Result<bool> {
    let Some(key) = model.pk() else {
        return Ok(false);
    };
    let bind = |args: &mut _| R::bind_key(&key, args);
    Ok(run(conn, M::STATEMENTS.delete, &bind).await? > 0)
}
