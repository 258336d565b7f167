//! A save that stores deliveries, compared with the same SQL by hand, on one connection.

use sqlx_signals::prelude::*;

use crate::interleaved::{Case, Group, Rounds, timed};
use crate::{One, Plain, Three, by_hand};

/// In one transaction, as are the twenty rows.
const MANY: &str = "sqlx: 10,000 rows, 10,000 deliveries";
const TWENTY: &str = "sqlx: BEGIN, 20 rows, 20 deliveries, COMMIT";
const THREE: [&str; 3] = ["one", "two", "three"];

pub(crate) async fn measure(database: &str, db: &Db, quick: bool) {
    let rounds = if quick { Rounds(3, 2) } else { Rounds(120, 10) };
    let mut conn = db.acquire().await.unwrap();
    #[cfg(feature = "postgres")]
    if conn.postgres().is_some() {
        println!("{}", Group::measure(database, "store", rounds, postgres(), &mut conn).await);
    }
    #[cfg(feature = "sqlite")]
    if conn.sqlite().is_some() {
        println!("{}", Group::measure(database, "store", rounds, sqlite(), &mut conn).await);
    }
    let rounds = if quick { Rounds(1, 1) } else { Rounds(15, 1) };
    let many = vec![
        Case::base(MANY, async |conn: &mut Conn<'_>| timed(by_hand::store_many(conn)).await),
        Case::new("insert_many with one durable receiver", MANY, async |conn: &mut Conn<'_>| {
            let mut rows: Vec<_> = (0..by_hand::ROWS).map(|_| One::new()).collect();
            timed(One::insert_many(conn, &mut rows)).await
        }),
    ];
    println!("{}", Group::measure(database, "store many", rounds, many, &mut conn).await);
    let saves = if quick { Rounds(3, 1) } else { Rounds(60, 2) };
    let in_transaction = vec![
        Case::base(TWENTY, async |conn: &mut Conn<'_>| timed(by_hand::store_twenty(conn)).await),
        Case::new("20 saves with one durable receiver", TWENTY, async |conn: &mut Conn<'_>| {
            timed(async {
                let mut tx = conn.begin().await.unwrap();
                for _ in 0..20 {
                    One::new().save(&mut tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            })
            .await
        }),
    ];
    println!(
        "{}",
        Group::measure(database, "store in a transaction", saves, in_transaction, &mut conn).await
    );
}

#[cfg(feature = "postgres")]
fn postgres() -> Vec<Case<Conn<'static>>> {
    use by_hand::postgres::{insert, one_statement, store, store_in_transaction};

    let (one, three) = (one_statement(&["first"]), one_statement(&THREE));
    vec![
        Case::base("sqlx: row and 1 delivery, one statement", async move |conn: &mut Conn<'_>| {
            timed(store(conn.postgres().unwrap(), one.clone())).await
        }),
        Case::new(
            "save with 1 durable receiver",
            "sqlx: row and 1 delivery, one statement",
            async |conn: &mut Conn<'_>| timed(One::new().save(conn)).await,
        ),
        Case::base(
            "sqlx: row and 3 deliveries, one statement",
            async move |conn: &mut Conn<'_>| {
                timed(store(conn.postgres().unwrap(), three.clone())).await
            },
        ),
        Case::new(
            "save with 3 durable receivers",
            "sqlx: row and 3 deliveries, one statement",
            async |conn: &mut Conn<'_>| timed(Three::new().save(conn)).await,
        ),
        Case::base("sqlx: BEGIN, row, delivery, COMMIT", async |conn: &mut Conn<'_>| {
            timed(store_in_transaction(conn.postgres().unwrap())).await
        }),
        Case::new(
            "save with 1 durable receiver ",
            "sqlx: BEGIN, row, delivery, COMMIT",
            async |conn: &mut Conn<'_>| timed(One::new().save(conn)).await,
        ),
        Case::base("sqlx: row alone", async |conn: &mut Conn<'_>| {
            let user = One::new();
            timed(insert(conn.postgres().unwrap(), &user)).await
        }),
        Case::new("save without receivers", "sqlx: row alone", async |conn: &mut Conn<'_>| {
            timed(Plain::new().save(conn)).await
        }),
    ]
}

#[cfg(feature = "sqlite")]
fn sqlite() -> Vec<Case<Conn<'static>>> {
    use by_hand::sqlite::{insert, store};

    vec![
        Case::base("sqlx: BEGIN, row, 1 delivery, COMMIT", async |conn: &mut Conn<'_>| {
            timed(store(conn.sqlite().unwrap(), &["first"])).await
        }),
        Case::new(
            "save with 1 durable receiver",
            "sqlx: BEGIN, row, 1 delivery, COMMIT",
            async |conn: &mut Conn<'_>| timed(One::new().save(conn)).await,
        ),
        Case::base("sqlx: BEGIN, row, 3 deliveries, COMMIT", async |conn: &mut Conn<'_>| {
            timed(store(conn.sqlite().unwrap(), &THREE)).await
        }),
        Case::new(
            "save with 3 durable receivers",
            "sqlx: BEGIN, row, 3 deliveries, COMMIT",
            async |conn: &mut Conn<'_>| timed(Three::new().save(conn)).await,
        ),
        Case::base("sqlx: row alone", async |conn: &mut Conn<'_>| {
            let user = One::new();
            timed(insert(conn.sqlite().unwrap(), &user)).await
        }),
        Case::new("save without receivers", "sqlx: row alone", async |conn: &mut Conn<'_>| {
            timed(Plain::new().save(conn)).await
        }),
    ]
}
