//! Queries: built at run time, in pages, as streams, with locks, and by key.
#![allow(missing_docs)]

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::AssertSqlSafe;
use sqlx_signals::{DatabaseKind, Error, Query};

use common::{Scene, count, execute, table};

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Task {
    id: Option<i64>,
    team: String,
    points: i64,
}

/// Like `Task`, with receivers.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Watched {
    id: Option<i64>,
    team: String,
    points: i64,
}

/// Like `Task`, with a receiver that takes the connection.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Counted {
    id: Option<i64>,
    team: String,
    points: i64,
}

/// Like `Task`, with rows that belong to it.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "tasks")]
struct Discussed {
    id: Option<i64>,
    team: String,
    points: i64,
}

/// Belongs to a `Discussed`.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "comments")]
struct Comment {
    id: Option<i64>,
    #[model(belongs_to = Discussed, on_delete = cascade)]
    task_id: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "seats")]
struct Seat {
    #[model(primary_key)]
    flight: String,
    #[model(primary_key)]
    number: i32,
    passenger: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "words")]
struct Word {
    #[model(primary_key)]
    word: String,
    n: i32,
}

/// A row whose columns other than the key can be NULL.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    title: Option<String>,
    stars: Option<i64>,
}

/// A column that is compared in another way than text.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "nicknames")]
struct Nickname {
    id: Option<i64>,
    name: String,
}

static SCENE: LazyLock<Scene> = Scene::new();

#[receiver(post_load, sender = Watched)]
fn loaded(load: PostLoad<'_, Watched>) -> Result<(), &'static str> {
    if load.instance.team == "refused" {
        return Err("this row is refused");
    }
    SCENE.log.push(format!("load {}", load.instance.id.unwrap()));
    load.instance.team.push('!');
    Ok(())
}

#[receiver(pre_delete, sender = Watched)]
fn veto(delete: PreDelete<'_, Watched>) -> Result<(), &'static str> {
    if delete.instance.team == "kept" { Err("this one is kept") } else { Ok(()) }
}

#[receiver(post_delete, sender = Watched)]
fn deleted(delete: PostDelete<'_, Watched>) {
    SCENE.log.push(format!("deleted {} of {}", delete.pk(), delete.instance.team));
}

#[receiver(post_load, sender = Counted)]
async fn counted(load: PostLoad<'_, Counted>, conn: &mut Conn<'_>) -> Result<()> {
    load.instance.points = Task::query("").count(conn).await?;
    Ok(())
}

async fn tasks(db: &Db, teams: &[&str]) -> Vec<i64> {
    table(db, "tasks", "team TEXT NOT NULL, points BIGINT NOT NULL").await;
    let task = |(n, team): (usize, &&str)| Task {
        id: None,
        team: (*team).to_owned(),
        points: n as i64 / 2,
    };
    let mut all: Vec<_> = teams.iter().enumerate().map(task).collect();
    Task::insert_many(db, &mut all).await.unwrap();
    all.into_iter().map(|task| task.id.unwrap()).collect()
}

fn ids(tasks: &[Task]) -> Vec<i64> {
    tasks.iter().map(|task| task.id.unwrap()).collect()
}

/// A filter whose conditions are known only at run time.
fn filtered(team: Option<&str>, points: Option<i64>) -> Query<'_, Task> {
    let mut conditions = vec!["WHERE true".to_owned()];
    if team.is_some() {
        conditions.push(format!("team = ${}", conditions.len()));
    }
    if points.is_some() {
        conditions.push(format!("points >= ${}", conditions.len()));
    }
    let mut query = Task::query(AssertSqlSafe(conditions.join(" AND ")));
    if let Some(team) = team {
        query = query.bind(team);
    }
    if let Some(points) = points {
        query = query.bind(points);
    }
    query
}

fn list(from: usize, values: usize) -> String {
    let list: Vec<_> = (from..from + values).map(|n| format!("${n}")).collect();
    list.join(", ")
}

/// Is generic over the connection, and uses it several times.
async fn rename(db: impl Executor<Task>, from: &str, to: &str) -> Result<u64> {
    let mut conn = db.acquire().await?;
    let found = Task::query("WHERE team = $1").bind(from).count(&mut conn).await?;
    let renamed =
        Task::query("WHERE team = $1").bind(from).set(Task::TEAM, to).update(&mut conn).await?;
    assert_eq!(u64::try_from(found).unwrap(), renamed);
    Ok(renamed)
}

async fn any_task<E: Executor<Task>>(db: E) -> Result<Option<Task>> {
    Task::query("ORDER BY id").first(db).await
}

on_every_database! {
    async fn a_filter_that_is_built_at_run_time_has_one_type(db: Db) {
        tasks(&db, &["red", "blue", "red", "blue"]).await;
        for (team, points, found) in [
            (None, None, 4),
            (Some("red"), None, 2),
            (None, Some(1), 2),
            (Some("blue"), Some(1), 1),
        ] {
            assert_eq!(filtered(team, points).count(&db).await.unwrap(), found);
        }
        let mut all = vec![filtered(None, None), filtered(Some("red"), None)];
        assert_eq!(all.pop().unwrap().delete(&db).await.unwrap(), 2);
    }

    async fn any_number_of_values_can_be_bound(db: Db) {
        let all = tasks(&db, &["a", "b", "c", "d"]).await;
        let sql = |values: usize| AssertSqlSafe(format!("WHERE team <> $1 AND id IN ({})", list(2, values)));
        let some = Task::query(sql(3)).bind("b").bind_all(all[..3].to_vec()).fetch_all(&db).await.unwrap();
        assert_eq!(ids(&some), [all[0], all[2]]);
        let mut query = Task::query(sql(2)).bind("b");
        for id in &all[2..] {
            query = query.bind_all([id]);
        }
        assert_eq!(query.count(&db).await.unwrap(), 2);
        let none: [i64; 0] = [];
        assert_eq!(Task::query("").bind_all(none).count(&db).await.unwrap(), 4);
        let thousands: Vec<i64> = (0..10_000).collect();
        let sql = AssertSqlSafe(format!("WHERE id IN ({})", list(1, thousands.len())));
        assert_eq!(Task::query(sql).bind_all(&thousands).count(&db).await.unwrap(), 4);
    }

    async fn a_function_that_is_generic_over_connections_can_query(db: Db) {
        tasks(&db, &["a", "b"]).await;
        assert_eq!(rename(&db, "a", "c").await.unwrap(), 1);
        let mut tx = db.begin().await.unwrap();
        assert_eq!(rename(&mut tx, "c", "d").await.unwrap(), 1);
        assert_eq!(any_task(&mut tx).await.unwrap().unwrap().team, "d");
        tx.rollback().await.unwrap();
        let renamed = tokio::spawn(async move {
            #[cfg(feature = "sqlite")]
            if let Some(pool) = db.sqlite() {
                let mut conn = pool.acquire().await.unwrap();
                return rename(pool, "c", "e").await.unwrap() + rename(&mut *conn, "e", "f").await.unwrap();
            }
            #[cfg(feature = "postgres")]
            if let Some(pool) = db.postgres() {
                let mut tx = pool.begin().await.unwrap();
                return rename(pool, "c", "e").await.unwrap() + rename(&mut tx, "e", "f").await.unwrap();
            }
            unreachable!()
        });
        assert_eq!(renamed.await.unwrap(), 2);
    }

    async fn a_stream_reads_each_row_when_it_is_polled(db: Db) {
        let _turn = SCENE.begin().await;
        let all = tasks(&db, &["a", "b", "c"]).await;
        let mut rows = Watched::query("WHERE points >= $1 ORDER BY id DESC").bind(0).fetch(&db);
        let first = rows.try_next().await.unwrap().unwrap();
        assert_eq!((first.id.unwrap(), &*first.team), (all[2], "c!"));
        assert_eq!(SCENE.log.take(), [format!("load {}", all[2])]);
        let rest: Vec<_> = rows.try_collect().await.unwrap();
        assert_eq!(rest.len(), 2);
        assert!(Task::query("WHERE points > 10").fetch(&db).try_next().await.unwrap().is_none());
        // In a task that must be `Send`.
        let sum = tokio::spawn(async move {
            let points = Task::query("").fetch(&db).try_fold(0, async |sum, task| Ok(sum + task.points));
            points.await.unwrap()
        });
        assert_eq!(sum.await.unwrap(), 1);
    }

    async fn a_stream_returns_every_row_wherever_the_budget_of_its_task_ends(db: Db) {
        tasks(&db, &["a"; 3]).await;
        for used in 1..=130 {
            let mut rows = Task::query("").fetch(&db);
            rows.try_next().await.unwrap().unwrap();
            // The rest of the rows has arrived, so nothing but the end of the budget makes the task wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
            for _ in 0..used {
                tokio::task::consume_budget().await;
            }
            let rest: Vec<_> = rows.try_collect().await.unwrap();
            assert_eq!(rest.len(), 2, "after {used} units of the budget");
        }
    }

    async fn a_receiver_that_takes_the_connection_sees_each_row_of_a_stream(db: Db) {
        tasks(&db, &["a", "b", "c"]).await;
        let rows: Vec<_> = Counted::query("").fetch(&db).try_collect().await.unwrap();
        assert_eq!(rows.iter().map(|row| row.points).collect::<Vec<_>>(), [3, 3, 3]);
    }

    async fn a_stream_that_is_dropped_leaves_its_connection_usable(db: Db) {
        tasks(&db, &["a"; 500]).await;
        let db = common::one_connection(&db).await;
        let mut tx = db.begin().await.unwrap();
        for read in [0, 1, 100] {
            let mut rows = Task::query("ORDER BY id").fetch(&mut tx);
            for _ in 0..read {
                rows.try_next().await.unwrap().unwrap();
            }
            drop(rows);
            assert_eq!(Task::query("").count(&mut tx).await.unwrap(), 500);
        }
        assert_eq!(Task::query("").delete(&mut tx).await.unwrap(), 500);
        tx.commit().await.unwrap();
        let mut rows = Task::query("").fetch(&db);
        assert!(rows.try_next().await.unwrap().is_none());
        drop(rows);
        assert_eq!(count(&db, "tasks").await, 0);
    }

    async fn a_stream_returns_errors_and_ends(db: Db) {
        let _turn = SCENE.begin().await;
        tasks(&db, &["a", "refused", "c"]).await;
        let mut rows = Task::query("WHERE nonsense").fetch(&db);
        assert!(rows.try_next().await.is_err());
        assert!(rows.try_next().await.unwrap().is_none());
        let mut rows = Watched::query("ORDER BY id").fetch(&db);
        assert!(rows.try_next().await.unwrap().is_some());
        let error = rows.try_next().await.unwrap_err();
        assert!(error.to_string().contains("this row is refused"), "{error}");
        assert!(rows.try_next().await.unwrap().is_none(), "an error ends the stream");
        let null = match db.kind() {
            DatabaseKind::Sqlite => "UPDATE tasks SET points = 'many' WHERE team = 'refused'",
            DatabaseKind::Postgres => "ALTER TABLE tasks ALTER points DROP NOT NULL; UPDATE tasks SET points = NULL WHERE team = 'refused'",
        };
        execute(&db, null).await;
        let mut rows = Task::query("ORDER BY id").fetch(&db);
        assert!(rows.try_next().await.unwrap().is_some());
        assert!(rows.try_next().await.is_err());
        assert!(rows.try_next().await.unwrap().is_none(), "a row that cannot be read ends the stream");
        drop(rows);
        let mut paged = Task::query("ORDER BY id").after(Task::ID, 1_i64).fetch(&db);
        assert!(paged.try_next().await.unwrap_err().to_string().contains("`after`"));
    }

    async fn a_query_tells_whether_a_row_exists_and_returns_the_first(db: Db) {
        let all = tasks(&db, &["a", "b", "b"]).await;
        let team = |team: &'static str| Task::query("WHERE team = $1 ORDER BY id DESC").bind(team);
        assert!(team("b").exists(&db).await.unwrap());
        assert!(!team("c").exists(&db).await.unwrap());
        assert!(Task::query("ORDER BY id LIMIT 1 OFFSET 2 -- the last").exists(&db).await.unwrap());
        assert!(!Task::query("ORDER BY id LIMIT 1 OFFSET 3").exists(&db).await.unwrap());
        assert!(Task::query("WHERE nonsense").exists(&db).await.is_err());
        assert_eq!(team("b").first(&db).await.unwrap().unwrap().id, Some(all[2]));
        assert!(team("c").first(&db).await.unwrap().is_none());
        for clause in ["ORDER BY id -- all", "ORDER BY id LIMIT 2", "AS t ORDER BY t.id", "ORDER BY id"] {
            let first = Task::query(clause).first(&db).await.unwrap().unwrap();
            assert_eq!(first.id, Some(all[0]), "{clause}");
        }
        let limited = Task::query("").after(Task::ID, all[0]).limit(0).first(&db).await.unwrap();
        assert!(limited.is_none());
    }

    async fn a_table_is_read_in_pages(db: Db) {
        let all = tasks(&db, &["a", "b", "a", "a", "b", "a"]).await;
        let team = |last: Option<i64>| {
            Task::query("WHERE team = $1 OR team = $2").bind("a").bind("x").after(Task::ID, last).limit(3)
        };
        let first = team(None).fetch_all(&db).await.unwrap();
        assert_eq!(ids(&first), [all[0], all[2], all[3]]);
        let second = team(first[2].id).fetch_all(&db).await.unwrap();
        assert_eq!(ids(&second), [all[5]]);
        assert!(team(second[0].id).fetch_all(&db).await.unwrap().is_empty());
        assert_eq!(team(first[2].id).count(&db).await.unwrap(), 1);

        let newest = Task::query("").before(Task::ID, None::<i64>).limit(2).fetch_all(&db).await.unwrap();
        assert_eq!(ids(&newest), [all[5], all[4]]);
        let older = Task::query("").before(Task::ID, newest[1].id).limit(2).fetch_all(&db).await.unwrap();
        assert_eq!(ids(&older), [all[3], all[2]]);

        // `points` has pairs of equal values.
        let mut last: Option<(i64, i64)> = None;
        let mut seen = Vec::new();
        loop {
            let page = Task::query("")
                .before(Task::POINTS, last.map(|(points, _)| points))
                .before(Task::ID, last.map(|(_, id)| id))
                .limit(3);
            let page = page.fetch_all(&db).await.unwrap();
            let Some(end) = page.last() else { break };
            last = Some((end.points, end.id.unwrap()));
            seen.extend(ids(&page));
        }
        assert_eq!(seen, all.iter().rev().copied().collect::<Vec<_>>());
        // The limit alone, beside an order of the clause.
        let one = Task::query("WHERE team = $1 ORDER BY id DESC").limit(1).bind("b").fetch_all(&db).await.unwrap();
        assert_eq!(ids(&one), [all[4]]);
    }

    async fn pages_of_a_column_that_can_be_null_have_every_row_once(db: Db) {
        table(&db, "notes", "title TEXT, stars BIGINT").await;
        let (titles, stars) = ([None, Some("a"), Some("b")], [None, Some(1), Some(2)]);
        let note = |n: usize| Note { id: None, title: titles[n % 3].map(str::to_owned), stars: stars[n / 3 % 3] };
        let mut all: Vec<_> = (0..20).map(note).collect();
        Note::insert_many(&db, &mut all).await.unwrap();
        for (size, descending) in [(1, false), (1, true), (3, false), (3, true), (7, false)] {
            let mut last: Option<Note> = None;
            let mut seen = Vec::new();
            while seen.len() <= 20 {
                let (title, stars) = (last.as_ref().and_then(|l| l.title.clone()), last.as_ref().and_then(|l| l.stars));
                let id = last.and_then(|l| l.id);
                let page = match descending {
                    false => Note::query("WHERE id > $1").after(Note::TITLE, title).after(Note::STARS, stars).after(Note::ID, id),
                    true => Note::query("WHERE id > $1").before(Note::TITLE, title).before(Note::STARS, stars).before(Note::ID, id),
                };
                let page = page.bind(0).limit(size).fetch_all(&db).await.unwrap();
                last = page.last().cloned();
                if last.is_none() {
                    break;
                }
                seen.extend(page);
            }
            let order = if descending { "DESC" } else { "" };
            let sql = AssertSqlSafe(format!("ORDER BY title {order}, stars {order}, id {order}"));
            assert_eq!(seen, Note::query(sql).fetch_all(&db).await.unwrap(), "{size} {descending}");
        }
        let error = Note::query("").after(Note::TITLE, "a").after(Note::ID, None::<i64>).fetch_all(&db).await.unwrap_err();
        assert_eq!(error.to_string(), "the page has no value for the column `id`, which cannot be NULL");
    }

    async fn pages_compare_text_by_the_rules_of_the_column(db: Db) {
        let ty = match db.kind() {
            DatabaseKind::Sqlite => "TEXT COLLATE NOCASE",
            DatabaseKind::Postgres => {
                execute(&db, "CREATE EXTENSION citext").await;
                "CITEXT"
            }
        };
        table(&db, "nicknames", &format!("name {ty} NOT NULL")).await;
        let names = ["a", "B", "c", "D", "e", "E"];
        let mut all = names.map(|name| Nickname { id: None, name: name.to_owned() });
        Nickname::insert_many(&db, &mut all).await.unwrap();
        let mut last: Option<Nickname> = None;
        let mut seen = Vec::new();
        loop {
            let name = last.as_ref().map(|last| last.name.clone());
            let page = Nickname::query("").after(Nickname::NAME, name).after(Nickname::ID, last.and_then(|l| l.id));
            last = page.limit(1).fetch_optional(&db).await.unwrap();
            let Some(row) = &last else { break };
            seen.push(row.name.clone());
        }
        assert_eq!(seen, names);
        assert_eq!(Nickname::query("").after(Nickname::NAME, "B").count(&db).await.unwrap(), 4);
    }

    async fn a_placeholder_without_a_value_is_an_error_before_any_sql(db: Db) {
        let all = tasks(&db, &["a", "a", "a"]).await;
        let said = |error: Error| error.to_string();
        let expected = "the query uses $1, and has no value for it";
        assert_eq!(said(Task::query("WHERE id < $1").limit(100).delete(&db).await.unwrap_err()), expected);
        assert_eq!(said(Task::query("WHERE id < $1").delete(&db).await.unwrap_err()), expected);
        assert_eq!(said(Task::query("WHERE points = $1").fetch_all(&db).await.unwrap_err()), expected);
        assert_eq!(said(Task::query("WHERE points = $1").after(Task::ID, 1).fetch_all(&db).await.unwrap_err()), expected);
        assert_eq!(said(Task::query("WHERE points = $1").count(&db).await.unwrap_err()), expected);
        let second = "the query uses $2, and has no value for it";
        assert_eq!(said(Task::query("WHERE id = $1 OR id = $2").bind(1).exists(&db).await.unwrap_err()), second);
        let set = Task::query("WHERE id = $2").set(Task::POINTS, 1).limit(1).update(&db).await.unwrap_err();
        assert_eq!(said(set), second);
        assert_eq!(ids(&Task::query("WHERE team <> '$1' -- $2\nORDER BY id").fetch_all(&db).await.unwrap()), all);
    }

    async fn rows_of_every_clause_are_counted(db: Db) {
        tasks(&db, &["a", "b", "a", "a"]).await;
        for clause in [
            "WHERE team = 'a' UNION SELECT * FROM tasks WHERE points = 0",
            "WHERE team = 'a' UNION ALL SELECT * FROM tasks WHERE points = 0",
            "AS t WHERE t.team = 'a' EXCEPT SELECT * FROM tasks WHERE points = 0",
            "WHERE team = 'a' ORDER BY 2",
            "WHERE team = 'a' ORDER BY points DESC, 3 LIMIT 2",
            "ORDER BY id LIMIT 2",
        ] {
            let rows = Task::query(clause).fetch_all(&db).await.unwrap().len();
            assert_eq!(Task::query(clause).count(&db).await.unwrap(), rows as i64, "{clause}");
            assert!(Task::query(clause).exists(&db).await.unwrap(), "{clause}");
        }
    }

    async fn rows_of_every_clause_are_written(db: Db) {
        for (clause, written) in [
            ("WHERE id = 1 UNION SELECT * FROM tasks WHERE id = 2", &[1, 2][..]),
            ("WHERE id = 1 UNION ALL SELECT * FROM tasks WHERE id < 3", &[1, 2]),
            ("AS t WHERE t.id > 1 EXCEPT SELECT * FROM tasks WHERE id = 2", &[3]),
            ("ORDER BY 2 DESC LIMIT 1", &[3]),
            ("AS t ORDER BY 3 DESC, 2 LIMIT 1", &[1]),
        ] {
            for (watched, deletes) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{clause}, {watched} {deletes}");
                execute(&db, "DROP TABLE IF EXISTS comments; DROP TABLE IF EXISTS tasks").await;
                table(&db, "comments", "task_id BIGINT NOT NULL").await;
                table(&db, "tasks", "team TEXT NOT NULL, points BIGINT NOT NULL").await;
                let rows = "INSERT INTO tasks VALUES (1, 'a', 3), (2, 'b', 2), (3, 'c', 1)";
                execute(&db, rows).await;
                let count = match (watched, deletes) {
                    (false, false) => Task::query(clause).set(Task::POINTS, 0).update(&db).await,
                    (true, false) => Watched::query(clause).set(Watched::POINTS, 0).update(&db).await,
                    (false, true) => Task::query(clause).delete(&db).await,
                    (true, true) => Discussed::query(clause).delete(&db).await,
                };
                assert_eq!(count.unwrap(), written.len() as u64, "{what}");
                let left = Task::query("WHERE points > 0 ORDER BY id").fetch_all(&db).await.unwrap();
                let expected: Vec<_> = (1..=3).filter(|id| !written.contains(id)).collect();
                assert_eq!(ids(&left), expected, "{what}");
            }
        }
    }

    async fn a_page_can_have_joins_and_comments(db: Db) {
        let all = tasks(&db, &["a", "b", "a"]).await;
        table(&db, "comments", "task_id BIGINT NOT NULL").await;
        for id in &all {
            Comment { id: None, task_id: *id }.insert(&db).await.unwrap();
        }
        for clause in [
            "AS t JOIN comments AS c ON c.task_id = t.id",
            "JOIN comments ON task_id = tasks.id -- all",
            "WHERE team = 'a' OR team = 'b' -- ORDER BY",
            "AS t WHERE EXISTS (SELECT 1 FROM comments AS c WHERE c.task_id = t.id LIMIT 1)",
        ] {
            let page = Task::query(clause).after(Task::ID, all[0]).limit(1).fetch_all(&db).await.unwrap();
            assert_eq!(ids(&page), [all[1]], "{clause}");
        }
        for clause in ["ORDER BY id", "WHERE true LIMIT 1", "GROUP BY id"] {
            let error = Task::query(clause).after(Task::ID, 1).fetch_all(&db).await.unwrap_err();
            let said = "`after` cannot be used if the clause of the query has anything but a condition and a lock";
            assert_eq!(error.to_string(), said, "{clause}");
        }
        let error = Task::query("ORDER BY id LIMIT 1").limit(1).count(&db).await.unwrap_err();
        let said = "`limit` cannot be used if the clause of the query has LIMIT, OFFSET or FETCH";
        assert_eq!(error.to_string(), said);
        let both = Task::query("").after(Task::POINTS, 1).before(Task::ID, 1);
        assert!(both.fetch_all(&db).await.unwrap_err().to_string().contains("both `after` and `before`"));
    }

    async fn a_page_can_be_updated_and_deleted(db: Db) {
        let _turn = SCENE.begin().await;
        let all = tasks(&db, &["a", "a", "a", "b", "a"]).await;
        let page = || Task::query("WHERE team = $1").bind("a").after(Task::ID, all[0]).limit(2);
        assert_eq!(page().set(Task::POINTS, 7).update(&db).await.unwrap(), 2);
        let changed = Task::query("WHERE points = 7 ORDER BY id").fetch_all(&db).await.unwrap();
        assert_eq!(ids(&changed), [all[1], all[2]]);
        let watched = Watched::query("WHERE team = $1").bind("a").after(Watched::ID, all[1]).limit(2);
        assert_eq!(watched.delete(&db).await.unwrap(), 2);
        let said: Vec<_> = [all[2], all[4]].iter().map(|id| format!("deleted {id} of a")).collect();
        assert_eq!(SCENE.log.take(), said);
        assert_eq!(page().delete(&db).await.unwrap(), 1);
        assert_eq!(ids(&Task::query("ORDER BY id").fetch_all(&db).await.unwrap()), [all[0], all[3]]);
    }

    async fn a_locked_row_is_waited_for_or_skipped(db: Db) {
        let all = tasks(&db, &["a", "a", "b"]).await;
        let next = || Task::query("WHERE team = $1").bind("a").after(Task::ID, None::<i64>);
        let mut tx = db.begin().await.unwrap();
        let first = next().for_update().skip_locked().first(&mut tx).await.unwrap().unwrap();
        assert_eq!(first.id, Some(all[0]));
        if db.kind() == DatabaseKind::Sqlite {
            // The options have no effect: nobody else can write.
            assert_eq!(next().for_no_key_update().fetch_all(&mut tx).await.unwrap().len(), 2);
            assert_eq!(next().skip_locked().limit(1).delete(&mut tx).await.unwrap(), 1);
            tx.commit().await.unwrap();
            return;
        }
        let mut other = db.begin().await.unwrap();
        let second = next().skip_locked().first(&mut other).await.unwrap().unwrap();
        assert_eq!(second.id, Some(all[1]));
        let mut third = db.begin().await.unwrap();
        let rest = || Task::query("").after(Task::ID, None::<i64>);
        assert_eq!(rest().for_no_key_update().skip_locked().count(&mut third).await.unwrap(), 1);
        let joined = Task::query("AS t JOIN tasks AS u ON u.id = t.id").for_update().skip_locked();
        assert_eq!(ids(&joined.fetch_all(&mut third).await.unwrap()), [all[2]]);
        assert_eq!(rest().skip_locked().delete(&mut third).await.unwrap(), 1);
        // Without `skip_locked`, the first transaction has to end first.
        let waits = async { next().for_update().fetch_all(&mut third).await.unwrap().len() };
        let ends = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            next().limit(1).delete(&mut tx).await.unwrap();
            other.rollback().await.unwrap();
            tx.commit().await.unwrap();
        };
        let (waited, ()) = tokio::join!(waits, ends);
        assert_eq!(waited, 1);
    }

    async fn a_row_is_deleted_by_its_key_with_its_signals(db: Db) {
        let _turn = SCENE.begin().await;
        let all = tasks(&db, &["a", "kept", "c", "d"]).await;
        table(&db, "comments", "task_id BIGINT NOT NULL").await;
        assert!(Watched::delete_by_key(&db, all[0]).await.unwrap());
        assert_eq!(SCENE.log.take(), [format!("deleted {} of a", all[0])]);
        assert!(!Watched::delete_by_key(&db, all[0]).await.unwrap());
        let error = Watched::delete_by_key(&db, &all[1]).await.unwrap_err();
        assert!(error.to_string().contains("this one is kept"), "{error}");
        assert!(SCENE.log.take().is_empty());
        assert_eq!(count(&db, "tasks").await, 3);
        // Rows that belong to the row are deleted too.
        Comment { id: None, task_id: all[2] }.insert(&db).await.unwrap();
        assert!(Discussed::delete_by_key(&db, all[2]).await.unwrap());
        assert_eq!(count(&db, "comments").await, 0);
        let mut tx = db.begin().await.unwrap();
        assert!(Task::delete_by_key(&mut tx, all[3]).await.unwrap());
        tx.rollback().await.unwrap();
        assert_eq!(count(&db, "tasks").await, 2);
    }

    async fn a_composite_key_deletes_one_row(db: Db) {
        execute(&db, "CREATE TABLE seats (flight TEXT, number INTEGER, passenger TEXT, PRIMARY KEY (flight, number))").await;
        let seat = |flight: &str, number| Seat { flight: flight.to_owned(), number, passenger: None };
        Seat::insert_many(&db, &mut [seat("A", 1), seat("A", 2), seat("B", 1)]).await.unwrap();
        assert!(Seat::delete_by_key(&db, ("A".to_owned(), 1)).await.unwrap());
        assert!(!Seat::delete_by_key(&db, ("A".to_owned(), 1)).await.unwrap());
        assert!(Seat::delete_by_key(&db, ("B".to_owned(), 1)).await.unwrap());
        assert_eq!(Seat::all(&db).await.unwrap(), [seat("A", 2)]);
    }

    async fn rows_are_read_by_many_keys_in_their_order(db: Db) {
        let _turn = SCENE.begin().await;
        let all = tasks(&db, &["a", "b", "c", "d"]).await;
        let keys = [all[2], all[0], all[2], all[3]];
        assert_eq!(ids(&Task::get_many(&db, &keys).await.unwrap()), keys);
        assert_eq!(ids(&Task::get_many(&db, &keys[..1]).await.unwrap()), keys[..1]);
        assert!(Task::get_many(&db, &[]).await.unwrap().is_empty());
        let watched = Watched::get_many(&db, &keys[..2]).await.unwrap();
        assert_eq!(watched.iter().map(|w| &*w.team).collect::<Vec<_>>(), ["c!", "a!"]);
        assert_eq!(SCENE.log.take(), [format!("load {}", all[2]), format!("load {}", all[0])]);
        let error = Watched::get_many(&db, &[all[0], 4711]).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("4711"), "{error}");
        assert!(SCENE.log.take().is_empty(), "no row is returned");
        let mut many: Vec<_> = (0..40_000).map(|n| Task { id: None, team: n.to_string(), points: n }).collect();
        Task::insert_many(&db, &mut many).await.unwrap();
        let keys: Vec<_> = many.iter().rev().map(|task| task.id.unwrap()).collect();
        assert_eq!(ids(&Task::get_many(&db, &keys).await.unwrap()), keys);
    }

    async fn rows_are_read_by_many_keys_of_any_type(db: Db) {
        execute(&db, "CREATE TABLE seats (flight TEXT, number INTEGER, passenger TEXT, PRIMARY KEY (flight, number))").await;
        let seat = |flight: &str, number| Seat { flight: flight.to_owned(), number, passenger: None };
        let mut all = [seat("A", 1), seat("A", 2), seat("B", 1)];
        Seat::insert_many(&db, &mut all).await.unwrap();
        let keys = [("B".to_owned(), 1), ("A".to_owned(), 2)];
        assert_eq!(Seat::get_many(&db, &keys).await.unwrap(), [seat("B", 1), seat("A", 2)]);
        assert_eq!(Seat::get_many(&db, &keys[..1]).await.unwrap(), [seat("B", 1)]);

        execute(&db, match db.kind() {
            DatabaseKind::Sqlite => "CREATE TABLE words (word TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER NOT NULL)",
            DatabaseKind::Postgres => "CREATE EXTENSION citext; CREATE TABLE words (word CITEXT PRIMARY KEY, n INTEGER NOT NULL)",
        }).await;
        Word { word: "One".to_owned(), n: 1 }.insert(&db).await.unwrap();
        Word { word: "Two".to_owned(), n: 2 }.insert(&db).await.unwrap();
        // Keys are compared by the rules of the column.
        let words = Word::get_many(&db, &["TWO".to_owned(), "one".to_owned()]).await.unwrap();
        assert_eq!(words.iter().map(|word| word.n).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(Word::get_many(&db, &["TWO".to_owned()]).await.unwrap()[0].n, 2);
    }
}

/// A key that cannot be passed as arrays, so that each part of it is an argument.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "cells")]
struct Cell {
    #[model(primary_key)]
    object: sqlx_signals::sqlx::postgres::types::Oid,
    #[model(primary_key)]
    x: i64,
    #[model(primary_key)]
    y: i64,
    #[model(primary_key)]
    z: i64,
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn rows_are_read_by_more_keys_than_one_statement_has_arguments_for() {
    let test = common::TestDb::postgres("rows_by_very_many_keys").await;
    execute(
        &test.db,
        "CREATE TABLE cells (object OID, x BIGINT, y BIGINT, z BIGINT, PRIMARY KEY (object, x, y, z));
         INSERT INTO cells SELECT n::oid, n, -n, 0 FROM generate_series(1::bigint, 16384) AS n",
    )
    .await;
    let pool = test.db.postgres().unwrap();
    let keys: Vec<_> =
        Cell::all(pool).await.unwrap().into_iter().map(|c| c.pk().unwrap()).collect();
    let found = Cell::get_many(pool, &keys).await.unwrap();
    assert!(found.len() == 16_384 && found.iter().map(Cell::pk).eq(keys.into_iter().map(Some)));
    test.passed().await;
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx_signals::sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Sad,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "moods")]
struct Feeling {
    id: Option<i64>,
    mood: Mood,
}

/// sqlx asks the server for a type that it does not know, after it has prepared the statement.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn types_of_the_program_are_read_by_the_first_statement_of_a_connection() {
    let test = common::TestDb::postgres("types_of_the_program").await;
    execute(
        &test.db,
        "CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TABLE moods (id BIGSERIAL PRIMARY KEY, mood mood NOT NULL);
         INSERT INTO moods (mood) VALUES ('happy'), ('sad')",
    )
    .await;
    let both = [(1, Mood::Happy), (2, Mood::Sad)].map(|(id, mood)| Feeling { id: Some(id), mood });
    let these = || Feeling::query("WHERE id IN ($1, $2) ORDER BY id").bind_all([1, 2]);
    for keeps_statements in [true, false] {
        let options = || Db::options().max_connections(1).statement_cache(keeps_statements);
        let new = async || options().connect(&test.url).await.unwrap();
        assert_eq!(these().fetch_all(&new().await).await.unwrap(), both);
        assert_eq!(these().fetch(&new().await).try_collect::<Vec<_>>().await.unwrap(), both);
        assert_eq!(Feeling::get_many(&new().await, &[1, 2]).await.unwrap(), both);
        assert_eq!(Feeling::query("ORDER BY id").fetch_all(&new().await).await.unwrap(), both);
        let db = new().await;
        let raw = db.query("SELECT mood FROM moods WHERE id = 2").fetch_one::<(Mood,)>();
        assert_eq!(raw.await.unwrap(), (Mood::Sad,));

        // An error would end the transaction.
        let db = new().await;
        let mut tx = db.begin().await.unwrap();
        tx.execute("SELECT 1").await.unwrap();
        assert_eq!(these().fetch_all(&mut tx).await.unwrap(), both);
        assert_eq!(Feeling::get(&mut tx, 1).await.unwrap(), both[0]);
        let error = tx.query("SELECT 1 / 0").fetch_one::<(i32,)>().await.unwrap_err();
        assert!(error.to_string().contains("division by zero"), "{error}");
        tx.rollback().await.unwrap();

        let db = new().await;
        let mut conn = db.postgres().unwrap().acquire().await.unwrap();
        let these = Feeling::query("WHERE id IN ($1, $2) ORDER BY id").bind_all([1, 2]);
        assert_eq!(these.fetch_all(&mut conn).await.unwrap(), both);
    }
    test.passed().await;
}

/// SQLite accepts `offset` as the name of a column.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "messages")]
struct Message {
    id: Option<i64>,
    offset: i64,
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_column_can_have_the_name_of_a_clause() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    table(&db, "messages", "offset INTEGER NOT NULL").await;
    let mut messages: Vec<_> = (1..=5).map(|offset| Message { id: None, offset }).collect();
    Message::insert_many(&db, &mut messages).await.unwrap();
    let late = || Message::query("WHERE offset > $1 AND offset < 9").bind(2);
    assert_eq!(late().limit(1).fetch_all(&db).await.unwrap(), messages[2..3]);
    assert_eq!(late().after(Message::ID, 3).fetch_all(&db).await.unwrap(), messages[3..]);
    assert_eq!(late().first(&db).await.unwrap(), Some(messages[2].clone()));
    let skipped = Message::query("WHERE offset > 2 ORDER BY offset LIMIT 2 OFFSET 1");
    assert_eq!(skipped.fetch_all(&db).await.unwrap(), messages[3..]);
    let ordered = Message::query("WHERE 2 < offset ORDER BY id % 2, offset");
    assert_eq!(ordered.limit(1).fetch_all(&db).await.unwrap(), messages[3..4]);
    let limited = Message::query("WHERE offset > 2 LIMIT 2").limit(1).fetch_all(&db).await;
    assert!(limited.unwrap_err().to_string().contains("LIMIT"));
    for clause in [
        "WHERE 3 IS offset",
        "WHERE 3 LIKE offset",
        "WHERE 3 BETWEEN offset AND 9 AND offset > 2",
        "WHERE CASE offset WHEN 3 THEN offset ELSE 0 END",
        "WHERE 3 IS /* a /* comment */ offset",
    ] {
        let third = || Message::query(AssertSqlSafe(clause));
        assert_eq!(third().limit(9).fetch_all(&db).await.unwrap(), messages[2..3], "{clause}");
        let after = third().after(Message::ID, 2).fetch_all(&db).await;
        assert_eq!(after.unwrap(), messages[2..3], "{clause}");
        assert_eq!(third().count(&db).await.unwrap(), 1, "{clause}");
    }
    assert_eq!(late().set(Message::OFFSET, 9).update(&db).await.unwrap(), 3);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_can_follow_an_operator() {
    let test = common::TestDb::postgres("limit_after_operator").await;
    let db = &test.db;
    tasks(db, &["a", "b", "c"]).await;
    for clause in ["ORDER BY id USING > LIMIT 2", "ORDER BY id USING > FETCH FIRST 2 ROWS ONLY"] {
        let last = || Task::query(AssertSqlSafe(clause));
        assert_eq!(last().first(db).await.unwrap().map(|task| task.id), Some(Some(3)), "{clause}");
        let limited = last().limit(1).fetch_all(db).await.unwrap_err();
        assert!(limited.to_string().contains("`limit` cannot be used"), "{clause}: {limited}");
    }
    test.passed().await;
}
