//! Many rows in few statements.

use sqlx_signals::prelude::*;

use crate::Effort;
use crate::by_hand::ByHand;
use crate::database::Database;
use crate::interleaved::{Case, Group, timed};
use crate::models::{Alone, Sync1, User};

/// How many rows a loop of single saves is measured with: more would take its time and say the same.
const LOOP: usize = 1_000;

struct Bulk {
    conn: Conn<'static>,
    users: Vec<Alone>,
    /// The same, with a receiver that is told of each.
    heard: Vec<Sync1>,
}

impl Bulk {
    async fn of(db: Db, rows: usize) -> Self {
        let users = (0..rows).map(|i| Alone {
            id: None,
            name: format!("Ann {i}"),
            email: format!("ann{i}@example.org"),
        });
        let users: Vec<_> = users.collect();
        let heard = users.iter().map(|Alone { name, email, .. }| {
            let (name, email) = (name.clone(), email.clone());
            Sync1 { id: None, name, email }
        });
        Self { conn: db.acquire().await.unwrap(), heard: heard.collect(), users }
    }

    /// Empties the table, for rows that are to be new.
    async fn empty<DB: ByHand>(&mut self) {
        self.conn.execute(DB::EMPTY_USERS).await.unwrap();
        self.users.iter_mut().for_each(|user| user.id = None);
        self.heard.iter_mut().for_each(|user| user.id = None);
    }

    /// Changes every row: SQLite does not write a page that stays as it is.
    fn change(&mut self) {
        for user in &mut self.users {
            user.email = Alone::with_id(None).email;
        }
    }
}

const HAND: &str = "sqlx, few statements";

pub(crate) async fn measure_inserts<DB: ByHand>(
    database: &Database,
    rows: usize,
    effort: Effort,
) -> Group {
    let mut bulk = Bulk::of(database.fresh().await, rows).await;
    let mut cases = vec![
        Case::base(HAND, async |bulk: &mut Bulk| {
            bulk.empty::<DB>().await;
            timed(DB::insert_many(DB::raw(&mut bulk.conn), &mut bulk.users)).await
        }),
        Case::new("insert_many", HAND, async |bulk: &mut Bulk| {
            bulk.empty::<DB>().await;
            let insert = Alone::insert_many(&mut bulk.conn, &mut bulk.users);
            timed(async { insert.await.unwrap() }).await
        }),
        Case::new("insert_many, 1 fn", HAND, async |bulk: &mut Bulk| {
            bulk.empty::<DB>().await;
            let insert = Sync1::insert_many(&mut bulk.conn, &mut bulk.heard);
            timed(async { insert.await.unwrap() }).await
        }),
    ];
    if rows <= LOOP {
        cases.push(Case::new(
            "save, one by one in a transaction",
            HAND,
            async |bulk: &mut Bulk| {
                bulk.empty::<DB>().await;
                timed(save_each(&mut bulk.conn, &mut bulk.users)).await
            },
        ));
    }
    Group::measure(database.name(), format!("insert {rows}"), effort.bulks, cases, &mut bulk).await
}

pub(crate) async fn measure_updates<DB: ByHand>(
    database: &Database,
    rows: usize,
    effort: Effort,
) -> Group {
    let mut bulk = Bulk::of(database.fresh().await, rows).await;
    DB::insert_many(DB::raw(&mut bulk.conn), &mut bulk.users).await;
    let mut cases = vec![
        Case::base(HAND, async |bulk: &mut Bulk| {
            bulk.change();
            timed(DB::update_many(DB::raw(&mut bulk.conn), &bulk.users)).await
        }),
        Case::new("update_many", HAND, async |bulk: &mut Bulk| {
            bulk.change();
            let update = Alone::update_many(&mut bulk.conn, &mut bulk.users);
            timed(async { update.await.unwrap() }).await
        }),
    ];
    if rows <= LOOP {
        cases.push(Case::new(
            "save, one by one in a transaction",
            HAND,
            async |bulk: &mut Bulk| timed(save_each(&mut bulk.conn, &mut bulk.users)).await,
        ));
    }
    Group::measure(database.name(), format!("update {rows}"), effort.bulks, cases, &mut bulk).await
}

async fn save_each(conn: &mut Conn<'_>, users: &mut [Alone]) {
    let mut tx = conn.begin().await.unwrap();
    for user in users {
        user.save(&mut tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}
