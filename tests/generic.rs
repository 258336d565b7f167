//! Functions of a program that are generic over models and connections, in tasks that must be `Send`.
#![allow(missing_docs)]

mod common;

use common::{count, table};
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
#[model(table = "things")]
struct Thing {
    id: Option<i64>,
    n: i64,
}

fn thing(n: i64) -> Thing {
    Thing { id: None, n }
}

#[receiver(post_save, sender = Thing)]
async fn generic_in_a_receiver(saved: PostSave<'_, Thing>, conn: &mut Conn<'_>) -> Result<()> {
    if saved.instance.n == 1 {
        put_on(conn, &mut thing(100)).await?;
    }
    Ok(())
}

async fn put<M: Model + Portable>(db: &Db, model: &mut M) -> Result<bool> {
    Ok(model.save(db).await?.created)
}

async fn put_on<M: Model + Portable>(conn: &mut Conn<'_>, model: &mut M) -> Result<()> {
    model.save(&mut *conn).await?;
    model.refresh(conn).await
}

async fn put_all<M: Model + Portable>(db: Db, models: Vec<M>) -> Result<()> {
    for mut model in models {
        model.save(&db).await?;
    }
    Ok(())
}

async fn in_transaction<M: Model + Portable>(db: &Db, mut model: M) -> Result<()> {
    db.transaction(async |tx| model.save(tx).await).await?;
    Ok(())
}

async fn by_key<M: Model<Pk = i64> + Portable>(db: &Db, key: i64) -> Result<Option<M>> {
    M::find(db, key).await
}

async fn anywhere<M: Model>(db: impl Executor<M>, mut model: M) -> Result<()> {
    model.save(db).await?;
    Ok(())
}

async fn read_anywhere(db: impl Executor<Thing>) -> Result<Vec<Thing>> {
    Thing::all(db).await
}

struct Repository<M> {
    db: Db,
    model: std::marker::PhantomData<fn() -> M>,
}

impl<M: Model<Pk = i64> + Portable> Repository<M> {
    async fn put(&self, model: &mut M) -> Result<()> {
        model.save(&self.db).await?;
        Ok(())
    }

    async fn get(&self, key: i64) -> Result<M> {
        M::get(&self.db, key).await
    }
}

on_every_database! {
    async fn generic_functions_run_in_spawned_tasks(db: Db) {
        table(&db, "things", "n BIGINT NOT NULL").await;
        let own = db.clone();
        let task = tokio::spawn(async move {
            assert!(put(&own, &mut thing(1)).await?);
            put_on(&mut own.acquire().await?, &mut thing(2)).await?;
            put_all(own.clone(), vec![thing(3), thing(4)]).await?;
            in_transaction(&own, thing(5)).await?;
            assert!(by_key::<Thing>(&own, 1).await?.is_some());
            anywhere(&own, thing(6)).await?;
            anywhere(&mut own.begin().await?, thing(7)).await?;
            let repository = Repository { db: own.clone(), model: std::marker::PhantomData };
            repository.put(&mut thing(8)).await?;
            let one: Thing = repository.get(1).await?;
            assert_eq!(one.n, 1);
            assert_eq!(read_anywhere(&own).await?.len(), 8);
            Ok::<(), sqlx_signals::Error>(())
        });
        task.await.unwrap().unwrap();
        assert_eq!(count(&db, "things").await, 8);
    }
}
