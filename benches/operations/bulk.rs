//! Many rows in few statements.

use sqlx_signals::prelude::*;

use crate::Effort;
use crate::by_hand::ByHand;
use crate::database::Database;
use crate::interleaved::{Case, Group, timed};
use crate::models::*;

/// How many rows single statements are measured with: more would take their time and say the same.
const LOOP: usize = 1_000;

struct Bulk {
    conn: Conn<'static>,
    /// Rows that are stored.
    known: Vec<Alone>,
}

impl Bulk {
    /// Empties the table, for rows that are to be new.
    async fn empty<DB: ByHand>(&mut self) {
        self.conn.execute(DB::EMPTY_USERS).await.unwrap();
    }
}

const HAND: &str = "sqlx, few statements";
const HAND_WRITING: &str = "sqlx, few statements and 1 row each";

pub(crate) async fn measure_inserts<DB: ByHand>(
    database: &Database,
    rows: usize,
    effort: Effort,
) -> Group {
    let conn = database.fresh().await.acquire().await.unwrap();
    let mut bulk = Bulk { conn, known: Vec::new() };
    let mut cases = vec![
        by_hand::<DB>(HAND, rows, 0),
        inserted::<Alone, DB>("insert_many", HAND, rows),
        inserted::<OnCommit1, DB>("insert_many, 1 on_commit", HAND, rows),
        inserted::<OnCommit10, DB>("insert_many, 10 on_commit", HAND, rows),
        inserted::<Sync1, DB>("insert_many, 1 fn", HAND, rows),
        inserted::<Sync10, DB>("insert_many, 10 fn", HAND, rows),
        inserted::<Async1, DB>("insert_many, 1 async fn", HAND, rows),
        inserted::<Async10, DB>("insert_many, 10 async fn", HAND, rows),
    ];
    if rows <= LOOP {
        cases.extend([
            Case::new("save, one by one in a transaction", HAND, async move |bulk: &mut Bulk| {
                bulk.empty::<DB>().await;
                timed(save_each(&mut bulk.conn, &mut new(rows))).await
            }),
            by_hand::<DB>(HAND_WRITING, rows, 1),
            inserted::<Writing1, DB>("insert_many, 1 that writes a row", HAND_WRITING, rows),
        ]);
    }
    Group::measure(database.name(), format!("insert {rows}"), effort.bulks, cases, &mut bulk).await
}

fn new<M: User>(rows: usize) -> Vec<M> {
    (0..rows).map(|_| M::with_id(None)).collect()
}

/// By hand, and for each row so many more that are written one by one.
fn by_hand<DB: ByHand>(name: &'static str, rows: usize, more: usize) -> Case<Bulk> {
    Case::base(name, async move |bulk: &mut Bulk| {
        bulk.empty::<DB>().await;
        let mut users = new(rows);
        timed(DB::insert_many(DB::raw(&mut bulk.conn), &mut users, more)).await
    })
}

/// With this library.
fn inserted<M: User, DB: ByHand>(
    name: &'static str,
    base: &'static str,
    rows: usize,
) -> Case<Bulk> {
    Case::new(name, base, async move |bulk: &mut Bulk| {
        bulk.empty::<DB>().await;
        let mut users = new::<M>(rows);
        timed(async { M::insert_many(&mut bulk.conn, &mut users).await.unwrap() }).await
    })
}

pub(crate) async fn measure_updates<DB: ByHand>(
    database: &Database,
    rows: usize,
    effort: Effort,
) -> Group {
    let mut conn = database.fresh().await.acquire().await.unwrap();
    let mut known = new(rows);
    DB::insert_many(DB::raw(&mut conn), &mut known, 0).await;
    let mut bulk = Bulk { conn, known };
    let mut cases = vec![
        Case::base(HAND, async |bulk: &mut Bulk| {
            let users = changed(bulk);
            timed(DB::update_many(DB::raw(&mut bulk.conn), &users)).await
        }),
        updated::<Alone>("update_many"),
        updated::<Sync1>("update_many, 1 fn"),
        updated::<Async1>("update_many, 1 async fn"),
    ];
    if rows <= LOOP {
        cases.push(Case::new(
            "save, one by one in a transaction",
            HAND,
            async |bulk: &mut Bulk| {
                let mut users = changed(bulk);
                timed(save_each(&mut bulk.conn, &mut users)).await
            },
        ));
    }
    Group::measure(database.name(), format!("update {rows}"), effort.bulks, cases, &mut bulk).await
}

/// Every row with another address: SQLite does not write a page that stays as it is.
fn changed<M: User>(bulk: &Bulk) -> Vec<M> {
    bulk.known.iter().map(|known| M::with_id(known.id)).collect()
}

fn updated<M: User>(name: &'static str) -> Case<Bulk> {
    Case::new(name, HAND, async |bulk: &mut Bulk| {
        let mut users = changed::<M>(bulk);
        timed(async { M::update_many(&mut bulk.conn, &mut users).await.unwrap() }).await
    })
}

async fn save_each(conn: &mut Conn<'_>, users: &mut [Alone]) {
    let mut tx = conn.begin().await.unwrap();
    for user in users {
        user.save(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}
