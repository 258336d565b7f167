//! Each operation with receivers of each kind, on one connection.

use std::time::Duration;

use sqlx_signals::prelude::*;

use crate::Effort;
use crate::by_hand::ByHand;
use crate::database::Database;
use crate::interleaved::{Case, Group, timed};
use crate::models::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Operation {
    Insert,
    Update,
    /// A new row and a known one.
    Save,
    Delete,
    Find,
}

use Operation::*;

pub(crate) const ALL: [Operation; 5] = [Insert, Update, Save, Delete, Find];

impl Operation {
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The one connection that all of them use, and the key of a row that stays.
pub(crate) struct Held {
    conn: Conn<'static>,
    known: i64,
    /// A statement by hand was run, on sqlx's own connection.
    by_hand: bool,
}

impl Held {
    /// On empty tables.
    pub(crate) async fn new<DB: ByHand>(database: &Database) -> Self {
        let mut conn = database.fresh().await.acquire().await.unwrap();
        let mut known = Alone::with_id(None);
        DB::insert(DB::raw(&mut conn), &mut known).await;
        Self { conn, known: known.id.unwrap(), by_hand: true }
    }

    fn raw<DB: ByHand>(&mut self) -> &mut DB::Connection {
        self.by_hand = true;
        DB::raw(&mut self.conn)
    }

    /// SQL by hand on sqlx's connection may have begun a transaction or altered a table, so the library asks the database once.
    /// That is no part of what is measured.
    async fn settle(&mut self) {
        if std::mem::take(&mut self.by_hand) {
            self.conn.begin().await.unwrap().rollback().await.unwrap();
            Alone::with_id(Some(-1)).delete(&mut self.conn).await.unwrap();
        }
    }
}

const ONE: &str = "sqlx";
const TO_THE_END: &str = "sqlx, to the end";
const TRANSACTION: &str = "sqlx: BEGIN … COMMIT";
const ROW_MORE: &str = "sqlx: BEGIN … and 1 row COMMIT";
const ROWS_MORE: &str = "sqlx: BEGIN … and 10 rows COMMIT";

pub(crate) async fn measure<DB: ByHand>(
    database: &Database,
    operation: Operation,
    effort: Effort,
) -> Group {
    let mut held = Held::new::<DB>(database).await;
    let (cases, rounds) = (cases::<DB>(operation), effort.operations);
    Group::measure(database.name(), operation.name(), rounds, cases, &mut held).await
}

/// What the operation is done as.
pub(crate) fn cases<DB: ByHand>(operation: Operation) -> Vec<Case<Held>> {
    let mut cases = vec![
        Case::base(ONE, async move |held: &mut Held| alone::<DB>(held, operation).await),
        saved::<Alone, DB>("no receivers", ONE, operation),
    ];
    if operation != Find {
        cases.extend([
            saved::<OnCommit1, DB>("1 on_commit", ONE, operation),
            saved::<OnCommit10, DB>("10 on_commit", ONE, operation),
            saved::<Sync1, DB>("1 fn", ONE, operation),
            saved::<Sync10, DB>("10 fn", ONE, operation),
            writing::<DB>(TRANSACTION, operation, 0),
            saved::<Async1, DB>("1 async fn", TRANSACTION, operation),
            saved::<Async10, DB>("10 async fn", TRANSACTION, operation),
            writing::<DB>(ROW_MORE, operation, 1),
            saved::<Writing1, DB>("1 that writes a row", ROW_MORE, operation),
            writing::<DB>(ROWS_MORE, operation, 10),
            saved::<Writing10, DB>("10 that write a row", ROWS_MORE, operation),
        ]);
    }
    if operation == Insert {
        // What this library waits for, and `fetch_one` on SQLite does not.
        cases.push(Case::new(TO_THE_END, ONE, async move |held: &mut Held| {
            let mut user = Alone::with_id(None);
            timed(DB::insert_to_the_end(held.raw::<DB>(), &mut user)).await
        }));
    }
    cases
}

/// With this library.
fn saved<M: User, DB: ByHand>(
    name: &'static str,
    base: &'static str,
    operation: Operation,
) -> Case<Held> {
    Case::new(name, base, async move |held: &mut Held| {
        let (mut new, mut known) = (M::with_id(None), M::with_id(Some(held.known)));
        let mut doomed = None;
        if operation == Delete {
            // By the library, as the row that is deleted by hand is inserted by hand.
            held.settle().await;
            let mut row = Alone::with_id(None);
            row.insert(&mut held.conn).await.unwrap();
            doomed = Some(M::with_id(row.id));
        }
        held.settle().await;
        let conn = &mut held.conn;
        match operation {
            Insert => timed(async { new.insert(conn).await.unwrap() }).await,
            Update => timed(async { known.update(conn).await.unwrap() }).await,
            Save => {
                timed(async {
                    new.save(&mut *conn).await.unwrap();
                    known.save(conn).await.unwrap();
                })
                .await
            }
            Delete => {
                let mut doomed = doomed.expect("a row to be deleted");
                timed(async { doomed.delete(conn).await.unwrap() }).await
            }
            Find => timed(async { M::find(conn, known.pk().unwrap()).await.unwrap() }).await,
        }
    })
}

/// The statement by hand.
async fn alone<DB: ByHand>(held: &mut Held, operation: Operation) -> Duration {
    let mut users = Users::prepare::<DB>(held, operation).await;
    timed(users.perform::<DB>(held.raw::<DB>(), operation)).await
}

/// The statement by hand, and what its receivers would write, in a transaction. Of a `save` each half has its own.
fn writing<DB: ByHand>(name: &'static str, operation: Operation, rows: usize) -> Case<Held> {
    Case::base(name, async move |held: &mut Held| {
        let mut users = Users::prepare::<DB>(held, operation).await;
        let known = held.known;
        let conn = held.raw::<DB>();
        let halves: &[Operation] = if operation == Save { &[Insert, Update] } else { &[operation] };
        timed(async {
            for half in halves {
                let mut transaction = DB::begin(conn).await;
                users.perform::<DB>(DB::within(&mut transaction), *half).await;
                for _ in 0..rows {
                    DB::audit(DB::within(&mut transaction), known).await;
                }
                DB::commit(transaction).await;
            }
        })
        .await
    })
}

struct Users {
    new: Alone,
    known: Alone,
    doomed: i64,
}

impl Users {
    async fn prepare<DB: ByHand>(held: &mut Held, operation: Operation) -> Self {
        let doomed = if operation == Delete { doomed_row::<DB>(held).await } else { 0 };
        Self { new: Alone::with_id(None), known: Alone::with_id(Some(held.known)), doomed }
    }

    async fn perform<DB: ByHand>(&mut self, conn: &mut DB::Connection, operation: Operation) {
        match operation {
            Insert => DB::insert(conn, &mut self.new).await,
            Update => assert_eq!(DB::update(conn, &self.known).await, 1),
            Save => {
                DB::insert(conn, &mut self.new).await;
                assert_eq!(DB::update(conn, &self.known).await, 1);
            }
            Delete => DB::delete(conn, self.doomed).await,
            Find => {
                std::hint::black_box(DB::find(conn, self.known.id.unwrap()).await.unwrap());
            }
        }
    }
}

/// A row to be deleted.
async fn doomed_row<DB: ByHand>(held: &mut Held) -> i64 {
    let mut doomed = Alone::with_id(None);
    DB::insert(held.raw::<DB>(), &mut doomed).await;
    doomed.id.unwrap()
}
