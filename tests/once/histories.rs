//! Random histories against a model: the net change of each row, in the order of the first change that was not undone.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex};

use serde::{Deserialize, Serialize};
use sqlx_signals::prelude::*;
use sqlx_signals::{Previous, testing};

use crate::common::execute;
use crate::common::random::{Random, number};
use crate::on_every_database;

/// How many random transactions are executed on each database. `HISTORIES=100000 cargo test -p tests --all-features --test once histories` executes more.
fn histories() -> u64 {
    number("HISTORIES", 150)
}

#[derive(Debug, Clone, Model, Serialize, Deserialize)]
#[model(table = "cells")]
struct Cell {
    #[model(primary_key)]
    key: i64,
    a: i64,
    b: i64,
}

static LOG: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

fn log(line: String) {
    LOG.lock().unwrap().push(line);
}

fn described(saved: &PostSave<'_, Cell>, previous: &Previous<'_, Cell>) -> String {
    let before = previous.row().map(|row| (row.a, row.b));
    let changed = (previous.changed(Cell::A), previous.changed(Cell::B));
    let fields = saved.fields.map(|fields| {
        let mut names: Vec<_> = fields.iter().map(|field| field.name()).collect();
        names.sort_unstable();
        names
    });
    let Cell { key, a, b } = saved.instance;
    format!("{key} {before:?} → {:?} {} {changed:?} {fields:?}", (a, b), saved.created)
}

#[receiver(post_save, sender = Cell, on_commit, once_per_transaction)]
fn cell_saved(saved: PostSave<'_, Cell>, previous: Previous<'_, Cell>) {
    log(format!("saved {}", described(&saved, &previous)));
}

#[receiver(post_save, sender = Cell, on_commit, once_per_transaction, created, order = 1)]
fn cell_created(saved: PostSave<'_, Cell>) {
    log(format!("created {}", saved.pk()));
}

#[receiver(post_save, sender = Cell, on_commit, once_per_transaction, updated, changed(a), order = 2)]
fn cell_changed(saved: PostSave<'_, Cell>) {
    log(format!("changed {}", saved.pk()));
}

#[receiver(post_delete, sender = Cell, on_commit, once_per_transaction)]
fn cell_deleted(deleted: PostDelete<'_, Cell>, previous: Previous<'_, Cell>) {
    let Cell { key, a, b } = deleted.instance;
    let before = previous.row().map(|row| (row.a, row.b));
    log(format!("deleted {key} {before:?} → {:?}", (a, b)));
}

#[receiver(post_save, sender = Cell, durable(at_least_once), once_per_transaction)]
fn stored_save(saved: PostSave<'_, Cell>, previous: Previous<'_, Cell>) {
    log(format!("durable saved {}", described(&saved, &previous)));
}

#[receiver(post_delete, sender = Cell, durable(at_least_once), once_per_transaction)]
fn stored_delete(deleted: PostDelete<'_, Cell>, previous: Previous<'_, Cell>) {
    let before = previous.row().map(|row| (row.a, row.b));
    log(format!("durable deleted {} {before:?}", deleted.pk()));
}

impl Random {
    fn value(&mut self) -> i64 {
        self.below(3)
    }
}

type Table = BTreeMap<i64, (i64, i64)>;

/// A write of one row: the row afterwards, and the columns of a partial save.
#[derive(Debug, Clone)]
struct Written {
    key: i64,
    /// The row as it was saved, or deleted.
    row: (i64, i64),
    is_saved: bool,
    fields: Option<Vec<&'static str>>,
}

/// The model: the rows, and the writes of the transaction that were not undone.
#[derive(Debug, Clone, Default)]
struct State {
    table: Table,
    writes: Vec<Written>,
}

impl State {
    fn save(&mut self, cell: &Cell, fields: Option<Vec<&'static str>>) {
        let row = (cell.a, cell.b);
        self.table.insert(cell.key, row);
        self.writes.push(Written { key: cell.key, row, is_saved: true, fields });
    }

    fn delete(&mut self, key: i64, row: (i64, i64)) {
        if self.table.remove(&key).is_some() {
            self.writes.push(Written { key, row, is_saved: false, fields: None });
        }
    }

    fn cells(&self, random: &mut Random) -> Vec<Cell> {
        let some = self.table.iter().filter(|_| random.below(2) == 0).collect::<Vec<_>>();
        some.into_iter()
            .map(|(key, _)| Cell { key: *key, a: random.value(), b: random.value() })
            .collect()
    }

    /// What the receivers log after the commit, and what the durable ones do, if the table was `before` when the transaction began.
    fn expected(&self, before: &Table) -> (Vec<String>, Vec<String>) {
        let (mut lines, mut durable, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for Written { key, .. } in &self.writes {
            if seen.contains(key) {
                continue;
            }
            seen.push(*key);
            let writes: Vec<_> = self.writes.iter().filter(|write| write.key == *key).collect();
            let (was, last) = (before.get(key).copied(), writes.last().unwrap());
            if !last.is_saved {
                if was.is_some() {
                    lines.push(format!("deleted {key} {was:?} → {:?}", last.row));
                    durable.push(format!("durable deleted {key} {was:?}"));
                }
                continue;
            }
            let (a, b) = last.row;
            let changed = was.map_or((true, true), |was| (was.0 != a, was.1 != b));
            let fields = writes.iter().map(|write| write.fields.clone());
            let fields: Option<Vec<Vec<_>>> = fields.collect();
            let fields = fields.map(|fields| {
                let mut names = fields.concat();
                names.sort_unstable();
                names.dedup();
                names
            });
            let line =
                format!("{key} {was:?} → {:?} {} {changed:?} {fields:?}", (a, b), was.is_none());
            durable.push(format!("durable saved {line}"));
            lines.push(format!("saved {line}"));
            match was {
                None => lines.push(format!("created {key}")),
                Some(_) if changed.0 => lines.push(format!("changed {key}")),
                Some(_) => {}
            }
        }
        durable.sort();
        (lines, durable)
    }
}

/// A random write through any source of a connection. It succeeds.
async fn write(conn: &mut Conn<'_>, state: &mut State, random: &mut Random) {
    let mut cell = Cell { key: random.below(5), a: random.value(), b: random.value() };
    let row = state.table.get(&cell.key).copied();
    match (random.below(9), row) {
        (0..=1, _) => {
            cell.save(conn).await.unwrap();
            state.save(&cell, None);
        }
        (2, _) => {
            cell.upsert(conn, &[Cell::KEY]).await.unwrap();
            state.save(&cell, None);
        }
        (3..=5, None) => {
            cell.insert(conn).await.unwrap();
            state.save(&cell, None);
        }
        (3, Some((_, b))) => {
            cell.b = b;
            cell.save_fields(conn, &[Cell::A]).await.unwrap();
            state.save(&cell, Some(vec!["a"]));
        }
        (4..=5, Some(_)) => {
            let row = (cell.a, cell.b);
            cell.delete(conn).await.unwrap();
            state.delete(cell.key, row);
        }
        (6, _) => {
            let mut cells = state.cells(random);
            Cell::update_many(conn, &mut cells).await.unwrap();
            cells.iter().for_each(|cell| state.save(cell, None));
        }
        (7, _) => {
            let mut cells = state.cells(random);
            Cell::delete_many(conn, &mut cells).await.unwrap();
            cells.iter().for_each(|cell| state.delete(cell.key, (cell.a, cell.b)));
        }
        (_, _) if random.below(2) == 0 => {
            let query = Cell::query("WHERE key >= $1 ORDER BY key").bind(cell.key);
            query.set(Cell::B, cell.b).update(conn).await.unwrap();
            for (key, (a, _)) in state.table.clone().split_off(&cell.key) {
                state.save(&Cell { key, a, b: cell.b }, Some(vec!["b"]));
            }
        }
        (_, _) => {
            Cell::query("WHERE a = $1 ORDER BY key").bind(cell.a).delete(conn).await.unwrap();
            for (key, row) in state.table.clone().into_iter().filter(|(_, (a, _))| *a == cell.a) {
                state.delete(key, row);
            }
        }
    }
}

type Steps<'s> = Pin<Box<dyn Future<Output = ()> + Send + 's>>;

/// Random writes and savepoints.
fn steps<'s>(
    tx: &'s mut Transaction<'_>,
    state: &'s mut State,
    random: &'s mut Random,
    depth: u32,
) -> Steps<'s> {
    Box::pin(async move {
        for _ in 0..random.below(6) {
            if random.below(4) > 0 || depth == 3 {
                write(tx, state, random).await;
                continue;
            }
            let before = state.clone();
            let mut savepoint = tx.begin().await.unwrap();
            steps(&mut savepoint, state, random, depth + 1).await;
            match random.below(4) {
                0 => {
                    savepoint.rollback().await.unwrap();
                    *state = before;
                }
                1 => {
                    drop(savepoint);
                    *state = before;
                }
                2 if !state.table.is_empty() => {
                    // A write fails, so the savepoint can only be rolled back.
                    let key = *state.table.keys().next().unwrap();
                    Cell { key, a: 9, b: 9 }.insert(&mut savepoint).await.unwrap_err();
                    savepoint.commit().await.unwrap_err();
                    *state = before;
                }
                _ => drop(savepoint.commit().await.unwrap()),
            }
        }
    })
}

/// One transaction, or one write in autocommit. Returns whether it was committed.
async fn history(db: &Db, state: &mut State, random: &mut Random) -> bool {
    match random.below(6) {
        0 => {
            let mut conn = db.acquire().await.unwrap();
            write(&mut conn, state, random).await;
            true
        }
        1 => {
            let mut tx = db.begin().await.unwrap();
            steps(&mut tx, state, random, 0).await;
            tx.rollback().await.unwrap();
            false
        }
        2 => {
            let ran = db.transaction(async |tx| {
                steps(tx, state, random, 0).await;
                Ok(())
            });
            ran.await.unwrap();
            true
        }
        _ => {
            let mut tx = db.begin().await.unwrap();
            steps(&mut tx, state, random, 0).await;
            tx.commit().await.unwrap();
            true
        }
    }
}

on_every_database! {
    async fn the_net_change_is_that_of_a_model(db: Db) {
        let _turn = crate::SCENE.begin().await;
        execute(&db, "CREATE TABLE cells (key BIGINT PRIMARY KEY, a BIGINT NOT NULL, b BIGINT NOT NULL)").await;
        db.deliveries().setup().await.unwrap();
        let first = number("HISTORIES_SEED", 0);
        let mut table = Table::new();
        let mut lines = 0;
        LOG.lock().unwrap().clear();
        for seed in first..first + histories() {
            let (mut random, mut state) = (Random(seed), State { table: table.clone(), writes: Vec::new() });
            if !history(&db, &mut state, &mut random).await {
                state = State { table: table.clone(), writes: Vec::new() };
            }
            let (expected, durable) = state.expected(&table);
            lines += expected.len();
            let logged = std::mem::take(&mut *LOG.lock().unwrap());
            assert_eq!(logged, expected, "seed {seed}, first {first}, {:#?}", state.writes);
            testing::deliver(&db).await.unwrap();
            let mut delivered = std::mem::take(&mut *LOG.lock().unwrap());
            delivered.sort();
            assert_eq!(delivered, durable, "seed {seed}, first {first}, {:#?}", state.writes);
            table = state.table;
        }
        assert!(lines as u64 > histories(), "{lines}");
    }
}
