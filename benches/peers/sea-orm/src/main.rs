//! `ActiveModelTrait::insert` and `update`, without and with `after_save`.
#[path = "../../common.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Args, Writers, email, name};
use sea_orm::{ActiveValue::Set, ConnectOptions, Database, entity::prelude::*};

static SAVED: AtomicUsize = AtomicUsize::new(0);

mod user {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub name: String,
        pub email: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod heard {
    use super::{AtomicUsize, Ordering, SAVED};
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub name: String,
        pub email: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    #[async_trait::async_trait]
    impl ActiveModelBehavior for ActiveModel {
        async fn after_save<C: ConnectionTrait>(model: Model, _: &C, _: bool) -> Result<Model, DbErr> {
            let saved: &AtomicUsize = &SAVED;
            saved.fetch_add(model.name.len(), Ordering::Relaxed);
            Ok(model)
        }
    }
}

macro_rules! on {
    ($args:expr, $db:expr, $entity:ident, $hook:expr) => {{
        measure!($args, "insert", $hook, |i| {
            let user = $entity::ActiveModel { name: Set(name(i)), email: Set(email(i)), ..Default::default() };
            user.insert(&$db).await.unwrap()
        });
        let user = $entity::ActiveModel { name: Set(name(0)), email: Set(email(0)), ..Default::default() };
        let mut user = user.insert(&$db).await.unwrap();
        measure!($args, "update", $hook, |i| {
            let mut change: $entity::ActiveModel = user.into();
            change.name = Set(name(i));
            change.email = Set(email(i));
            user = change.update(&$db).await.unwrap()
        });
        drop(user);
    }};
}

/// Tasks that share a pool.
async fn write(writers: Writers) {
    let mut options = ConnectOptions::new(&writers.url);
    options.max_connections(10).sqlx_logging(false);
    if !writers.is_postgres() {
        let synchronous = writers.synchronous.clone();
        options.map_sqlx_sqlite_opts(move |options| options.pragma("synchronous", synchronous.clone()));
    }
    let db = Database::connect(options).await.unwrap();
    on_tasks!(writers, move || {
        let db = db.clone();
        async move {
            let user = user::ActiveModel { name: Set(name(1)), email: Set(email(1)), ..Default::default() };
            user.insert(&db).await.is_ok()
        }
    });
}

#[tokio::main]
async fn main() {
    if let Some(writers) = Writers::read() {
        return write(writers).await;
    }
    let args = Args::read();
    let db = Database::connect(&args.url).await.unwrap();
    on!(args, db, user, false);
    on!(args, db, heard, true);
    assert!(SAVED.load(Ordering::Relaxed) > 0);
}
