//! A future may be dropped at every await. The callbacks of what is stored then run, no others run, and no connection is lost.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;

use common::{Scene, cancelled_after, count, table, until};
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, muted, sqlx, testing, without_signals};
use tokio::sync::oneshot;

static SCENE: LazyLock<Scene> = Scene::new();

#[derive(Debug, Clone, Model)]
#[model(table = "parents")]
struct Parent {
    id: Option<i64>,
    n: i64,
}

#[derive(Debug, Clone, Model)]
#[model(table = "children")]
struct Child {
    id: Option<i64>,
    parent_id: i64,
}

/// Saved without a transaction, because it has only a callback.
#[derive(Debug, Clone, Model)]
#[model(table = "parents")]
struct Alone {
    id: Option<i64>,
    n: i64,
}

#[receiver(pre_save, sender = Parent)]
async fn before(_: PreSave<'_, Parent>, conn: &mut Conn<'_>) -> Result<()> {
    Child { id: None, parent_id: -1 }.save(&mut *conn).await?;
    tokio::task::yield_now().await;
    conn.query("DELETE FROM children WHERE parent_id = -1").execute().await?;
    Ok(())
}

#[receiver(post_save, sender = Parent)]
async fn child(saved: PostSave<'_, Parent>, conn: &mut Conn<'_>) -> Result<()> {
    let mut inner = conn.begin().await?;
    Child { id: None, parent_id: saved.pk() }.save(&mut inner).await?;
    tokio::task::yield_now().await;
    inner.commit().await?;
    Ok(())
}

#[receiver(post_save, sender = Parent, on_commit)]
async fn stored(saved: PostSave<'_, Parent>) {
    tokio::task::yield_now().await;
    SCENE.log.push(format!("commit {}", saved.instance.n));
}

#[receiver(post_save, sender = Parent, on_rollback)]
async fn undone(saved: PostSave<'_, Parent>) {
    SCENE.log.push(format!("rollback {}", saved.instance.n));
}

#[receiver(post_save, sender = Alone, on_commit)]
async fn stored_alone(saved: PostSave<'_, Alone>) {
    assert!(saved.instance.id.is_some());
    tokio::task::yield_now().await;
    SCENE.log.push(format!("commit {}", saved.instance.n));
}

/// A pool of one connection: when it is free, all other calls have ended. And another pool, which sees what is
/// stored.
async fn pools(seen: &Db) -> (Db, Db) {
    table(seen, "parents", "n BIGINT NOT NULL").await;
    table(seen, "children", "parent_id BIGINT NOT NULL").await;
    (common::one_connection(seen).await, seen.clone())
}

/// Waits until the connection is free, and checks that receivers have run for exactly the stored rows.
async fn settle(one: &Db, seen: &Db) -> i64 {
    drop(one.acquire().await.unwrap());
    let parents = Parent::query("ORDER BY id").fetch_all(seen).await.unwrap();
    let expected: Vec<_> = parents.iter().map(|p| format!("commit {}", p.n)).collect();
    let commits =
        || SCENE.log.entries().into_iter().filter(|e| e.starts_with("commit")).collect::<Vec<_>>();
    until(|| commits().len() >= expected.len()).await;
    assert_eq!(commits(), expected);
    parents.len() as i64
}

on_every_database! {
    async fn a_save_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        let mut whole = false;
        for n in 0.. {
            let mut parent = Parent { id: None, n };
            let done = cancelled_after(parent.save(&one), n as usize).await;
            let stored = settle(&one, &seen).await;
            assert_eq!(count(&seen, "children").await, stored, "the receiver's row goes with the save's");
            assert!(parent.id.is_none() || Parent::find(&seen, parent.id.unwrap()).await.unwrap().is_some());
            whole = done.is_some();
            if whole {
                done.unwrap().unwrap();
                assert_eq!(Parent::get(&seen, parent.id.unwrap()).await.unwrap().n, n);
                assert!(n > 0, "there was something to drop");
                break;
            }
        }
        assert!(whole);
    }

    async fn a_save_without_a_transaction_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        for n in 0.. {
            let mut alone = Alone { id: None, n };
            let done = cancelled_after(alone.save(&one), n as usize).await;
            settle(&one, &seen).await;
            if let Some(done) = done {
                assert!(done.unwrap().created && alone.id.is_some());
                break;
            }
        }
    }

    async fn a_save_that_restarts_in_a_transaction_is_dropped_at_every_await(db: Db) {
        use late::{Late, Missed, store_in_between};

        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        // Several rounds: if the answer to a statement is there at once, the future is not pending.
        for round in 0..5 {
            for pending in 0.. {
                common::execute(&seen, "DELETE FROM parents").await;
                SCENE.log.take();
                store_in_between(&seen);
                let n = 100 * round + pending;
                let mut late = Late { id: Some(7), n: Missed(n) };
                let done = cancelled_after(late.save(&one), pending as usize).await;
                drop(one.acquire().await.unwrap());
                let stored = Alone::query("WHERE n = $1").bind(n).count(&seen).await.unwrap();
                let commit = format!("commit {n}");
                if stored == 1 {
                    until(|| SCENE.log.entries().contains(&commit)).await;
                } else {
                    assert!(!SCENE.log.entries().contains(&commit), "{n}");
                }
                if let Some(done) = done {
                    assert!(!done.unwrap().created && stored == 1);
                    break;
                }
            }
        }
    }

    async fn writes_of_many_rows_are_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        let parents = |n: i64| (0..3).map(|i| Parent { id: None, n: 3 * n + i }).collect::<Vec<_>>();
        let mut stored = Vec::new();
        for n in 0.. {
            let mut many = parents(n);
            let done = cancelled_after(Parent::insert_many(&one, &mut many), n as usize).await;
            let rows = settle(&one, &seen).await;
            assert_eq!((rows % 3, count(&seen, "children").await), (0, rows), "all or none");
            for parent in many.iter().filter(|parent| parent.id.is_some()) {
                assert!(Parent::find(&seen, parent.id.unwrap()).await.unwrap().is_some());
            }
            if let Some(done) = done {
                assert_eq!(done.unwrap(), 3);
                stored = many;
                break;
            }
        }
        SCENE.log.take();
        for n in 0.. {
            let mut many = stored.clone();
            many.iter_mut().for_each(|parent| parent.n += 1000);
            let done = cancelled_after(Parent::update_many(&one, &mut many), n as usize).await;
            drop(one.acquire().await.unwrap());
            let changed = Parent::query("WHERE n >= 1000").count(&seen).await.unwrap();
            assert!(changed == 0 || changed == 3, "all or none: {changed}");
            until(|| SCENE.log.entries().iter().filter(|e| e.starts_with("commit")).count() == changed as usize).await;
            if changed == 3 {
                break;
            }
            assert!(done.is_none());
        }
        for n in 0.. {
            let mut many = stored.clone();
            let done = cancelled_after(Parent::delete_many(&one, &mut many), n as usize).await;
            drop(one.acquire().await.unwrap());
            let left = Parent::query("WHERE n >= 1000").count(&seen).await.unwrap();
            assert!(left == 0 || left == 3, "all or none: {left}");
            if left == 0 {
                break;
            }
            assert!(done.is_none());
        }
    }

    async fn an_upsert_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        common::execute(&seen, "CREATE UNIQUE INDEX numbers ON parents (n)").await;
        for n in 0.. {
            let mut parent = Parent { id: None, n };
            let done = cancelled_after(parent.upsert(&one, &[Parent::N]), n as usize).await;
            let stored = settle(&one, &seen).await;
            assert_eq!(count(&seen, "children").await, stored, "the receiver's row goes with the upsert's");
            assert!(parent.id.is_none() || Parent::find(&seen, parent.id.unwrap()).await.unwrap().is_some());
            if let Some(done) = done {
                assert!(done.unwrap().created && n > 0);
                break;
            }
        }
        for n in 100.. {
            let new = Parent { id: None, n };
            let done = cancelled_after(Parent::get_or_create(&one, new, &[Parent::N]), n as usize - 100).await;
            let stored = settle(&one, &seen).await;
            assert_eq!(count(&seen, "children").await, stored);
            if let Some(done) = done {
                assert!(done.unwrap().1 && n > 100);
                break;
            }
        }
    }

    // If a row is refused, further statements find out which one.
    async fn a_refused_write_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        common::execute(&seen, "CREATE UNIQUE INDEX numbers ON parents (n)").await;
        Alone { id: None, n: 7 }.save(&seen).await.unwrap();
        settle(&one, &seen).await;
        for outside in [true, false] {
            for n in 0.. {
                let mut many = [5, 6, 7].map(|n| Alone { id: None, n });
                let done = if outside {
                    cancelled_after(Alone::insert_many(&one, &mut many), n).await
                } else {
                    let mut tx = one.begin().await.unwrap();
                    tx.query("SELECT 1").fetch_one::<(i32,)>().await.unwrap();
                    let done = cancelled_after(Alone::insert_many(&mut tx, &mut many), n).await;
                    assert!(tx.commit().await.unwrap_err().is_rolled_back());
                    done
                };
                assert_eq!(settle(&one, &seen).await, 1, "{outside} {n}");
                assert!(many.iter().all(|alone| alone.id.is_none()), "{outside} {n} {many:?}");
                if let Some(done) = done {
                    let error = done.unwrap_err();
                    assert!(error.to_string().starts_with("could not insert row 2, "), "{outside} {n} {error:?}");
                    break;
                }
            }
        }
    }

    async fn a_dropped_save_marks_the_transaction_of_the_caller(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        for n in 0.. {
            let mut tx = one.begin().await.unwrap();
            let mut parent = Parent { id: None, n };
            let done = cancelled_after(parent.save(&mut tx), n as usize).await;
            let committed = tx.commit().await;
            let stored = settle(&one, &seen).await;
            assert_eq!(count(&seen, "children").await, stored);
            if done.is_some() {
                committed.unwrap();
                assert_eq!(stored, 1);
                break;
            }
            assert!(committed.unwrap_err().is_rolled_back());
            assert_eq!((stored, parent.id), (0, None));
        }
    }

    async fn a_savepoint_contains_the_saves_that_are_dropped_in_it(db: Db) {
        let (one, seen) = pools(&db).await;
        for n in 0..60 {
            let mut tx = one.begin().await.unwrap();
            Child { id: None, parent_id: n }.save(&mut tx).await.unwrap();
            let mut inner = tx.begin().await.unwrap();
            let mut dropped = 0;
            // The second save first checks whether the transaction is still open, and is dropped meanwhile.
            for _ in 0..2 {
                let mut child = Child { id: None, parent_id: -1 };
                let done = cancelled_after(child.save(&mut inner), 0).await;
                dropped += i32::from(done.is_none());
            }
            assert_eq!(inner.commit().await.is_err(), dropped > 0);
            tx.commit().await.unwrap();
        }
        let kept = Child::query("WHERE parent_id >= 0").count(&seen).await.unwrap();
        assert_eq!(kept, 60);
    }

    async fn a_commit_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        for n in 0.. {
            let mut tx = one.begin().await.unwrap();
            Parent { id: None, n }.save(&mut tx).await.unwrap();
            tx.on_commit(async { tokio::task::yield_now().await });
            let done = cancelled_after(tx.commit(), n as usize).await;
            assert_eq!(settle(&one, &seen).await, n + 1, "COMMIT was sent with the first poll");
            if done.is_some() {
                break;
            }
        }
        // If it is dropped before the first poll, it rolls back.
        let mut tx = one.begin().await.unwrap();
        Parent { id: None, n: -1 }.save(&mut tx).await.unwrap();
        let before = count(&seen, "parents").await;
        drop(tx.commit());
        assert_eq!(settle(&one, &seen).await, before);
        until(|| SCENE.log.entries().contains(&"rollback -1".to_owned())).await;
    }

    async fn a_begin_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        for n in 0.. {
            let done = cancelled_after(one.begin(), n as usize).await.is_some();
            // If the transaction were still open, this row would be stored in it and not be visible.
            Parent { id: None, n }.save(&one).await.unwrap();
            assert_eq!(settle(&one, &seen).await, n + 1);
            if done {
                break;
            }
        }
    }

    async fn a_savepoint_is_dropped_at_every_await(db: Db) {
        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        let mut expected = 0;
        for ending in ["begin", "commit", "rollback"] {
            for n in 0.. {
                let mut tx = one.begin().await.unwrap();
                Parent { id: None, n: 100 + n }.save(&mut tx).await.unwrap();
                let done = match ending {
                    "begin" => cancelled_after(tx.begin(), n as usize).await.is_some(),
                    _ => {
                        let mut inner = tx.begin().await.unwrap();
                        Parent { id: None, n: 200 + n }.save(&mut inner).await.unwrap();
                        match ending {
                            "commit" => cancelled_after(inner.commit(), n as usize).await.is_some(),
                            _ => cancelled_after(inner.rollback(), n as usize).await.is_some(),
                        }
                    }
                };
                // What follows is stored with the transaction or not at all, never by itself.
                let more = Parent { id: None, n: 300 + n }.save(&mut tx).await;
                let committed = tx.commit().await;
                let stored = settle(&one, &seen).await;
                match committed {
                    Ok(_) => {
                        more.unwrap();
                        expected += if ending == "commit" { 3 } else { 2 };
                    }
                    Err(error) => assert!(!done && error.is_rolled_back(), "{ending} {n} {error:?}"),
                }
                assert_eq!(stored, expected, "{ending} {n}");
                if done {
                    break;
                }
            }
        }
    }

    async fn a_dropped_save_leaves_the_stored_version(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "versioned")]
        struct Versioned {
            id: Option<i64>,
            n: i64,
            #[model(version)]
            version: i64,
        }
        // sqlx's connection, whose transaction the library verifies before the commit.
        #[receiver(post_save, sender = Versioned)]
        async fn by_sqlx(_: PostSave<'_, Versioned>, conn: &mut Conn<'_>) -> Result<()> {
            let sql = sqlx::raw_sql("SELECT 1");
            match conn.kind() {
                #[cfg(feature = "sqlite")]
                DatabaseKind::Sqlite => _ = sql.execute(conn.sqlite().unwrap()).await?,
                #[cfg(feature = "postgres")]
                DatabaseKind::Postgres => _ = sql.execute(conn.postgres().unwrap()).await?,
                #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
                _ => unreachable!("a connection is of a database of the build"),
            }
            Ok(())
        }

        table(&db, "versioned", "n BIGINT NOT NULL, version BIGINT NOT NULL").await;
        let one = common::one_connection(&db).await;
        for many in [false, true] {
            let mut row = Versioned { id: None, n: 0, version: 1 };
            row.save(&one).await.unwrap();
            for pending in 0.. {
                row.n += 1;
                let done = match many {
                    false => cancelled_after(row.save(&one), pending).await.is_some(),
                    true => {
                        let rows = std::slice::from_mut(&mut row);
                        cancelled_after(Versioned::update_many(&one, rows), pending).await.is_some()
                    }
                };
                drop(one.acquire().await.unwrap());
                let stored = Versioned::get(&db, row.id.unwrap()).await.unwrap();
                assert_eq!(row.version, stored.version, "{many} {pending}");
                row.save(&one).await.unwrap();
                if done {
                    break;
                }
            }
        }
    }

    async fn a_delete_is_dropped_at_every_await(db: Db) {
        #[derive(Debug, Clone, Model)]
        #[model(table = "parents")]
        struct Doomed { id: Option<i64>, n: i64 }
        #[receiver(post_delete, sender = Doomed, on_commit)]
        async fn gone(deleted: PostDelete<'_, Doomed>) {
            tokio::task::yield_now().await;
            SCENE.log.push(format!("gone {}", deleted.instance.n));
        }

        let _turn = SCENE.begin().await;
        let (one, seen) = pools(&db).await;
        for n in 0.. {
            let mut doomed = Doomed { id: None, n };
            doomed.save(&seen).await.unwrap();
            let done = cancelled_after(doomed.delete(&one), n as usize).await;
            drop(one.acquire().await.unwrap());
            let left = Doomed::query("WHERE n = $1").bind(n).count(&seen).await.unwrap();
            let gone = format!("gone {n}");
            if left == 0 {
                until(|| SCENE.log.entries().contains(&gone)).await;
            } else {
                assert!(!SCENE.log.entries().contains(&gone));
            }
            if done.is_some() {
                assert_eq!(left, 0);
                break;
            }
        }
    }

    async fn detached_callbacks_keep_the_mutes_and_recorders_of_their_caller(db: Db) {
        use detached::{Loud, SCENE, unwanted};

        let _turn = SCENE.begin().await;
        table(&db, "loud", "n BIGINT NOT NULL").await;
        for n in 0..4 {
            let recorded = testing::record::<Loud>();
            let (begun, has_begun) = oneshot::channel();
            let (go, may_go) = oneshot::channel::<()>();
            let (done, is_done) = oneshot::channel();
            let other = db.clone();
            let work = async move {
                let _ = begun.send(());
                let _ = may_go.await;
                let saved = Loud { id: None, n }.save(&other).await;
                let _ = done.send(());
                saved.map(drop)
            };
            let mut tx = db.begin().await.unwrap();
            // Twice for a commit, twice for a rollback.
            if n < 2 { tx.on_commit(work) } else { tx.on_rollback(work) }
            let end = async move {
                if n < 2 { tx.commit().await.map(drop) } else { tx.rollback().await }
            };
            let end: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match n % 2 {
                0 => Box::pin(without_signals(end)),
                _ => Box::pin(muted::<unwanted, _>(end)),
            };
            tokio::select! {
                ended = end => panic!("{ended:?}"),
                begun = has_begun => begun.unwrap(),
            }
            go.send(()).unwrap();
            is_done.await.unwrap();
            let saved: &[_] = if n % 2 == 0 { &[] } else { &["wanted"] };
            assert_eq!(SCENE.log.take(), saved, "{n}");
            recorded.assert_created(saved.len());
        }
        assert_eq!(count(&db, "loud").await, 4);
    }

    async fn a_detached_write_keeps_the_mutes_of_its_caller(db: Db) {
        use detached::{Loud, Origin, SCENE, unwanted};

        let _turn = SCENE.begin().await;
        table(&db, "loud", "n BIGINT NOT NULL").await;
        table(&db, "origins", "n BIGINT NOT NULL").await;
        let one = common::one_connection(&db).await;
        // The first save looks at the table. After that, how often the future is pending depends on how fast the database answers.
        muted::<unwanted, _>(Origin { id: None, n: 0 }.save(&one)).await.unwrap();
        let (mut stored, mut left_behind) = (1, 0);
        for n in 1.. {
            let mut origin = Origin { id: None, n };
            let pending = n as usize % 8;
            let done = cancelled_after(muted::<unwanted, _>(origin.save(&one)), pending).await;
            drop(one.acquire().await.unwrap());
            let now = count(&db, "origins").await;
            until(|| SCENE.log.entries().len() as i64 >= now).await;
            left_behind += if done.is_none() { now - stored } else { 0 };
            stored = now;
            if done.is_some() && left_behind > 0 {
                break;
            }
            assert!(n < 500, "no write that was dropped was stored, or none was done");
        }
        let log = SCENE.log.take();
        assert!(log.iter().all(|entry| entry == "wanted"), "{log:?}");
        assert_eq!(Loud::all(&db).await.unwrap().len(), log.len());
    }

    async fn a_detached_circle_of_receivers_ends(db: Db) {
        use detached::{Ring, SCENE};

        let _turn = SCENE.begin().await;
        table(&db, "rings", "n BIGINT NOT NULL").await;
        Ring { id: None, n: 1 }.save(&db).await.unwrap();
        until(|| SCENE.log.entries().iter().any(|entry| entry != "again")).await;
        let log = SCENE.log.take();
        assert!(log.last().unwrap().starts_with("receivers save in a circle, 16 levels deep"), "{log:?}");
        assert_eq!((log.len(), count(&db, "rings").await), (17, 16));
    }
}

/// A row that another writer stores after the UPDATE of a save has missed it, and before the INSERT.
mod late {
    use std::sync::Mutex;

    use super::*;
    use sqlx::encode::IsNull;
    use sqlx::error::BoxDynError;
    use sqlx::{Database, Decode, Encode, Type};
    use tokio::runtime::Handle;
    use tokio::task::block_in_place;

    #[derive(Debug, Clone, Model)]
    #[model(table = "parents")]
    pub(crate) struct Late {
        pub(crate) id: Option<i64>,
        pub(crate) n: Missed,
    }

    #[receiver(post_save, sender = Late, on_commit)]
    async fn stored_late(saved: PostSave<'_, Late>) {
        SCENE.log.push(format!("commit {}", saved.instance.n.0));
    }

    /// The connection of the other writer, and the number of statements before it writes.
    static OTHER: Mutex<Option<(Db, usize)>> = Mutex::new(None);

    pub(crate) fn store_in_between(other: &Db) {
        *OTHER.lock().unwrap() = Some((other.clone(), 1));
    }

    /// A value that is part of the UPDATE and of the INSERT. The latter is made when the former has run.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Missed(pub(crate) i64);

    impl<DB: Database> Type<DB> for Missed
    where
        i64: Type<DB>,
    {
        fn type_info() -> DB::TypeInfo {
            i64::type_info()
        }
    }

    impl<'r, DB: Database> Decode<'r, DB> for Missed
    where
        i64: Decode<'r, DB>,
    {
        fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
            i64::decode(value).map(Self)
        }
    }

    impl<'q, DB: Database> Encode<'q, DB> for Missed
    where
        i64: Encode<'q, DB>,
    {
        fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
            let other = match &mut *OTHER.lock().unwrap() {
                Some((_, before)) if *before > 0 => {
                    *before -= 1;
                    None
                }
                other => other.take(),
            };
            if let Some((other, _)) = other {
                let insert = common::execute(&other, "INSERT INTO parents (id, n) VALUES (7, -1)");
                block_in_place(|| Handle::current().block_on(insert));
            }
            self.0.encode_by_ref(buffer)
        }
    }
}

mod detached {
    use super::*;

    pub(crate) static SCENE: LazyLock<Scene> = Scene::new();

    #[derive(Debug, Clone, Model)]
    #[model(table = "loud")]
    pub(crate) struct Loud {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[receiver(post_save, sender = Loud)]
    pub(crate) fn unwanted(_: PostSave<'_, Loud>) {
        SCENE.log.push("unwanted");
    }

    #[receiver(post_save, sender = Loud)]
    fn wanted(_: PostSave<'_, Loud>) {
        SCENE.log.push("wanted");
    }

    /// Stored without a transaction; after that it saves another row.
    #[derive(Debug, Clone, Model)]
    #[model(table = "origins")]
    pub(crate) struct Origin {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[receiver(post_save, sender = Origin, on_commit)]
    async fn follow(saved: PostSave<'_, Origin>, db: Db) -> Result<()> {
        tokio::task::yield_now().await;
        Loud { id: None, n: saved.instance.n }.save(&db).await.map(drop)
    }

    /// Saves itself again, in callbacks that run on a detached task.
    #[derive(Debug, Clone, Model)]
    #[model(table = "rings")]
    pub(crate) struct Ring {
        pub(crate) id: Option<i64>,
        pub(crate) n: i64,
    }

    #[receiver(post_save, sender = Ring, on_commit)]
    async fn again(_: PostSave<'_, Ring>, db: Db) -> Result<()> {
        SCENE.log.push("again");
        let (begun, has_begun) = oneshot::channel();
        let mut tx = db.begin().await?;
        tx.on_commit(async move {
            let _ = begun.send(());
            tokio::task::yield_now().await;
            let saved = Ring { id: None, n: 1 }.save(&db).await;
            saved.map(drop).inspect_err(|error| SCENE.log.push(error.to_string()))
        });
        tokio::select! {
            biased;
            _ = has_begun => {}
            _ = tx.commit() => {}
        }
        Ok(())
    }
}
