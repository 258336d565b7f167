use std::convert::Infallible;
use std::fmt::Debug;

use super::{Deferrable, Signal, Subject, TellsChange};
use crate::signal::entry::AnyEntry;
use crate::signal::rows::RowEvent;
use crate::table::any::{AnyModel, Snapshot};
use crate::table::column::Column;
use crate::table::rows::Rows;

macro_rules! signal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
    };
}

signal! {
    /// Before a row is written. Its receivers may change the instance, and veto by returning an error: no SQL is sent
    /// then.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, email: String }
    /// #[receiver(pre_save, sender = User)]
    /// fn normalize(save: PreSave<'_, User>) -> Result<(), &'static str> {
    ///     save.instance.email = save.instance.email.to_lowercase();
    ///     if save.instance.email.contains('@') { Ok(()) } else { Err("not an address") }
    /// }
    /// ```
    pre_save
}
signal! {
    /// After a row was written.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// /// In the transaction of the save, with its connection.
    /// #[receiver(post_save, sender = User, created)]
    /// async fn log(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    ///     conn.query("INSERT INTO log VALUES ($1)").bind(saved.pk()).execute().await?;
    ///     Ok(())
    /// }
    ///
    /// /// Once it is stored.
    /// #[receiver(post_save, sender = User, on_commit)]
    /// async fn greet(saved: PostSave<'_, User>) {
    ///     println!("welcome, {}", saved.instance.name);
    /// }
    /// ```
    post_save
}
signal! {
    /// Before a row is deleted. Its receivers may veto by returning an error: nothing is deleted then. No SQL is sent
    /// before, unless rows of other models belong to the row (`belongs_to`): those are read first, so that it is known
    /// what is deleted and whether it may be. The receivers of all of these rows run before anything is written, those of a
    /// row before those of the rows that belong to it.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct User { id: Option<i64>, admin: bool }
    /// #[receiver(pre_delete, sender = User)]
    /// fn keep_admins(delete: PreDelete<'_, User>) -> Result<(), &'static str> {
    ///     if delete.instance.admin { Err("an admin cannot be deleted") } else { Ok(()) }
    /// }
    /// ```
    pre_delete
}
signal! {
    /// After a row was deleted; not where there was none.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_delete, sender = User, on_commit)]
    /// fn farewell(deleted: PostDelete<'_, User>) {
    ///     println!("{} is gone, and so is the key {}", deleted.instance.name, deleted.pk());
    /// }
    /// ```
    post_delete
}

signal! {
    /// After a row was read, by whatever reads rows and returns them: `get`, `find`, `all`, `query`, `refresh`,
    /// `get_or_create`. Its receivers may change the instance. It is not sent for rows of [`Db::query`](crate::Db::query),
    /// which may be anything.
    ///
    /// The idea is [SQLAlchemy's](https://docs.sqlalchemy.org/en/20/orm/events.html#sqlalchemy.orm.InstanceEvents.load).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Model)]
    /// # #[model(table = "users")]
    /// struct User {
    ///     id: Option<i64>,
    ///     name: String,
    ///     #[model(skip)]
    ///     initials: String,
    /// }
    ///
    /// #[receiver(post_load, sender = User)]
    /// fn initials(load: PostLoad<'_, User>) {
    ///     load.instance.initials = load.instance.name.split(' ').filter_map(|n| n.chars().next()).collect();
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # User { id: None, name: "Ada Lovelace".into(), initials: String::new() }.save(&db).await?;
    /// assert_eq!(User::get(&db, 1).await?.initials, "AL");
    /// # Ok(()) }
    /// ```
    post_load
}
signal! {
    /// After a statement has written rows: once for the rows of one statement, where [`post_save`] is sent for each of them.
    /// A save of one row arrives as a slice of one. It is sent after the [`post_save`] of its rows.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_save_batch, sender = User, on_commit)]
    /// async fn index(saved: PostSaveBatch<'_, User>) {
    ///     println!("{} users to be indexed", saved.instances.len());
    /// }
    /// ```
    post_save_batch
}
signal! {
    /// After a statement has deleted rows: once for the rows of one statement, where [`post_delete`] is sent for each of
    /// them. A delete of one row arrives as a slice of one. It is sent after the [`post_delete`] of its rows.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct User { id: Option<i64>, name: String }
    /// #[receiver(post_delete_batch, sender = User)]
    /// fn count(deleted: PostDeleteBatch<'_, User>) {
    ///     println!("{} users are gone", deleted.instances.len());
    /// }
    /// ```
    post_delete_batch
}

/// A row is about to be written: the event of [`pre_save`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PreSave<'e, M: ?Sized> {
    /// The row, which the receiver may change; its key too.
    pub instance: &'e mut M,
    /// The columns that are written, where it is not all of them.
    pub fields: Option<&'e [Column<M>]>,
}

/// A row was written: the event of [`post_save`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PostSave<'e, M: ?Sized> {
    /// The row as it was written.
    pub instance: &'e M,
    /// Whether the row is new.
    pub created: bool,
    /// The columns that were written, where it is not all of them.
    pub fields: Option<&'e [Column<M>]>,
}

/// A row is about to be deleted: the event of [`pre_delete`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PreDelete<'e, M: ?Sized> {
    /// The row.
    pub instance: &'e M,
}

/// A row was deleted: the event of [`post_delete`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PostDelete<'e, M: ?Sized> {
    /// The row as it was; it still has its key.
    pub instance: &'e M,
}

/// A row was read: the event of [`post_load`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PostLoad<'e, M: ?Sized> {
    /// The row, which the receiver may change.
    pub instance: &'e mut M,
}

/// Rows were written by one statement: the event of [`post_save_batch`].
#[non_exhaustive]
pub struct PostSaveBatch<'e, M: ?Sized + Subject> {
    /// The rows as they were written, in the order in which they were given: a `&[M]`.
    pub instances: M::Slice<'e>,
    /// Whether the rows are new.
    pub created: bool,
    /// The columns that were written, where it is not all of them.
    pub fields: Option<&'e [Column<M>]>,
}

/// Rows were deleted by one statement: the event of [`post_delete_batch`].
#[non_exhaustive]
pub struct PostDeleteBatch<'e, M: ?Sized + Subject> {
    /// The rows as they were, in the order in which they were given: a `&[M]`. They still have their keys.
    pub instances: M::Slice<'e>,
}

impl<M: ?Sized + Subject> Clone for PostSaveBatch<'_, M> {
    fn clone(&self) -> Self {
        Self { instances: self.instances.clone(), created: self.created, fields: self.fields }
    }
}

impl<M: ?Sized + Subject> Clone for PostDeleteBatch<'_, M> {
    fn clone(&self) -> Self {
        Self { instances: self.instances.clone() }
    }
}

macro_rules! copies {
    ($($event:ident),*) => { $(
        impl<M: ?Sized> Clone for $event<'_, M> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<M: ?Sized> Copy for $event<'_, M> {}
    )* };
}

copies!(PostSave, PreDelete, PostDelete);

impl Signal for pre_save {
    const NAME: &'static str = "pre_save";
    type Event<'e, M: ?Sized + Subject> = PreSave<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PreSave<'_, M> {
        match *kept {}
    }

    fn replay_any(kept: &Infallible) -> PreSave<'_, dyn AnyModel> {
        match *kept {}
    }

    fn of_mut<'e, M: Send + Sync + 'static>(
        rows: &'e mut [M],
        fields: Option<&'e [Column<M>]>,
        told: &RowEvent,
    ) -> Option<PreSave<'e, M>> {
        let RowEvent::PreSave(row) = *told else { return None };
        Some(PreSave { instance: &mut rows[row], fields })
    }

    fn of_any<'e>(rows: &'e mut dyn Rows, told: &RowEvent) -> Option<PreSave<'e, dyn AnyModel>> {
        let RowEvent::PreSave(row) = *told else { return None };
        let (instance, fields) = rows.at_mut_with_fields(row);
        Some(PreSave { instance, fields })
    }
}

/// A write that is kept until the transaction has ended.
#[derive(Debug)]
pub struct KeptSave<M> {
    instance: M,
    created: bool,
    fields: Option<Vec<Column<M>>>,
    /// The same, where it is kept for receivers of every model.
    any_fields: Option<Vec<Column<dyn AnyModel>>>,
}

impl Signal for post_save {
    const NAME: &'static str = "post_save";
    type Event<'e, M: ?Sized + Subject> = PostSave<'e, M>;
    type Kept<M: Send + Sync + 'static> = KeptSave<M>;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn rows_mut<M: Send + Sync + 'static>(kept: &mut KeptSave<M>) -> &mut [M] {
        std::slice::from_mut(&mut kept.instance)
    }

    fn replay<M: Send + Sync + 'static>(kept: &KeptSave<M>) -> PostSave<'_, M> {
        let KeptSave { instance, created, fields, .. } = kept;
        PostSave { instance, created: *created, fields: fields.as_deref() }
    }

    fn replay_any(kept: &KeptSave<Snapshot>) -> PostSave<'_, dyn AnyModel> {
        let KeptSave { instance, created, any_fields, .. } = kept;
        PostSave { instance, created: *created, fields: any_fields.as_deref() }
    }

    fn of<'e, M: Send + Sync + 'static>(
        rows: &'e [M],
        fields: Option<&'e [Column<M>]>,
        told: &RowEvent,
    ) -> Option<PostSave<'e, M>> {
        let RowEvent::PostSave { row, created } = *told else { return None };
        Some(PostSave { instance: &rows[row], created, fields })
    }

    fn of_any<'e>(rows: &'e mut dyn Rows, told: &RowEvent) -> Option<PostSave<'e, dyn AnyModel>> {
        let RowEvent::PostSave { row, created } = *told else { return None };
        Some(PostSave { instance: rows.at(row), created, fields: rows.any_fields() })
    }

    fn snapshot(rows: &dyn Rows, told: &RowEvent) -> Option<KeptSave<Snapshot>> {
        let RowEvent::PostSave { row, created } = *told else { return None };
        let any_fields = rows.any_fields().map(<[_]>::to_vec);
        Some(KeptSave { instance: Snapshot::of(rows.at(row)), created, fields: None, any_fields })
    }
}

impl TellsChange for post_save {}

impl Deferrable for post_save {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostSave<'_, M>) -> KeptSave<M> {
        KeptSave {
            instance: event.instance.clone(),
            created: event.created,
            fields: event.fields.map(<[_]>::to_vec),
            any_fields: None,
        }
    }
}

impl Signal for pre_delete {
    const NAME: &'static str = "pre_delete";
    type Event<'e, M: ?Sized + Subject> = PreDelete<'e, M>;
    type Kept<M: Send + Sync + 'static> = Infallible;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn replay<M: Send + Sync + 'static>(kept: &Infallible) -> PreDelete<'_, M> {
        match *kept {}
    }

    fn replay_any(kept: &Infallible) -> PreDelete<'_, dyn AnyModel> {
        match *kept {}
    }

    fn of<'e, M: Send + Sync + 'static>(
        rows: &'e [M],
        _: Option<&'e [Column<M>]>,
        told: &RowEvent,
    ) -> Option<PreDelete<'e, M>> {
        let RowEvent::PreDelete(row) = *told else { return None };
        Some(PreDelete { instance: &rows[row] })
    }

    fn of_any<'e>(rows: &'e mut dyn Rows, told: &RowEvent) -> Option<PreDelete<'e, dyn AnyModel>> {
        let RowEvent::PreDelete(row) = *told else { return None };
        Some(PreDelete { instance: rows.at(row) })
    }
}

impl Signal for post_delete {
    const NAME: &'static str = "post_delete";
    type Event<'e, M: ?Sized + Subject> = PostDelete<'e, M>;
    type Kept<M: Send + Sync + 'static> = M;

    type AnySender = dyn AnyModel;
    type AnyEntry = AnyEntry<Self>;

    fn rows_mut<M: Send + Sync + 'static>(kept: &mut M) -> &mut [M] {
        std::slice::from_mut(kept)
    }

    fn replay<M: Send + Sync + 'static>(kept: &M) -> PostDelete<'_, M> {
        PostDelete { instance: kept }
    }

    fn replay_any(kept: &Snapshot) -> PostDelete<'_, dyn AnyModel> {
        PostDelete { instance: kept }
    }

    fn of<'e, M: Send + Sync + 'static>(
        rows: &'e [M],
        _: Option<&'e [Column<M>]>,
        told: &RowEvent,
    ) -> Option<PostDelete<'e, M>> {
        let RowEvent::PostDelete(row) = *told else { return None };
        Some(PostDelete { instance: &rows[row] })
    }

    fn of_any<'e>(rows: &'e mut dyn Rows, told: &RowEvent) -> Option<PostDelete<'e, dyn AnyModel>> {
        let RowEvent::PostDelete(row) = *told else { return None };
        Some(PostDelete { instance: rows.at(row) })
    }

    fn snapshot(rows: &dyn Rows, told: &RowEvent) -> Option<Snapshot> {
        let RowEvent::PostDelete(row) = *told else { return None };
        Some(Snapshot::of(rows.at(row)))
    }
}

impl Deferrable for post_delete {
    fn keep<M: Clone + Send + Sync + 'static>(event: &PostDelete<'_, M>) -> M {
        event.instance.clone()
    }
}
