//! The statements of the library, executed with sqlx.

use sqlx_signals::durable::Uuid;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};

use crate::One;

/// The two strings of a delivery that a program has to make: the id of the event, and the payload.
pub(crate) fn event(user: &One) -> (String, String) {
    let payload = serde_json::json!({ "row": user }).to_string();
    (Uuid::now_v7().to_string(), payload)
}

pub(crate) const ROWS: usize = 10_000;

/// Inserts many rows with few statements, and their deliveries a thousand at a time.
pub(crate) async fn store_many(conn: &mut Conn<'_>) {
    match conn.kind() {
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => postgres::store_many(conn.postgres().unwrap()).await,
        #[cfg(feature = "sqlite")]
        DatabaseKind::Sqlite => sqlite::store_many(conn.sqlite().unwrap()).await,
        #[allow(unreachable_patterns)]
        _ => unreachable!(),
    }
}

/// Inserts twenty rows one by one, and their deliveries with one statement.
pub(crate) async fn store_twenty(conn: &mut Conn<'_>) {
    match conn.kind() {
        #[cfg(feature = "postgres")]
        DatabaseKind::Postgres => postgres::store_twenty(conn.postgres().unwrap()).await,
        #[cfg(feature = "sqlite")]
        DatabaseKind::Sqlite => sqlite::store_twenty(conn.sqlite().unwrap()).await,
        #[allow(unreachable_patterns)]
        _ => unreachable!(),
    }
}

/// The INSERT of a delivery of each of these receivers, of the row in the table `_written`.
#[cfg(feature = "postgres")]
fn deliveries(receivers: &[&str]) -> String {
    let names: Vec<_> = receivers.iter().map(|name| format!("('durable::{name}')")).collect();
    format!(
        "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) \
         SELECT $3::text::uuid, receiver, 'post_save', 'bench_users', to_json(_written.id)::text, true, $4::text::json, NULL::json, \
         clock_timestamp(), NULL::text FROM _written CROSS JOIN (VALUES {}) AS _receivers (receiver)",
        names.join(", ")
    )
}

#[cfg(feature = "postgres")]
pub(crate) mod postgres {
    use super::*;
    use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr, SqlStr};

    /// The text of one statement that stores a row and its deliveries.
    pub(crate) fn one_statement(receivers: &[&str]) -> SqlStr {
        let row = "INSERT INTO bench_users (name, email) VALUES ($1, $2) RETURNING id";
        let text = format!(
            "WITH _written AS ({row}), _deliveries AS ({}) SELECT id FROM _written",
            deliveries(receivers)
        );
        AssertSqlSafe(text).into_sql_str()
    }

    pub(crate) async fn store(conn: &mut PgConnection, sql: SqlStr) -> i64 {
        let user = One::new();
        let (event, payload) = event(&user);
        sqlx::query_scalar(sql)
            .bind(user.name)
            .bind(user.email)
            .bind(event)
            .bind(payload)
            .fetch_one(conn)
            .await
            .unwrap()
    }

    /// BEGIN, the row, the delivery, COMMIT.
    pub(crate) async fn store_in_transaction(conn: &mut PgConnection) {
        let user = One::new();
        let (event, payload) = event(&user);
        let mut tx = conn.begin().await.unwrap();
        let id: i64 = insert(&mut tx, &user).await;
        let delivery = "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload) \
                        VALUES ($1::text::uuid, 'durable::first', 'post_save', 'bench_users', $2, true, $3::text::json)";
        let query = sqlx::query(delivery).bind(event).bind(id.to_string()).bind(payload);
        query.execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn store_many(conn: &mut PgConnection) {
        let users: Vec<_> = (0..ROWS).map(|_| One::new()).collect();
        let mut tx = conn.begin().await.unwrap();
        let sql = "INSERT INTO bench_users (name, email) SELECT unnest($1::text[]), unnest($2::text[]) RETURNING id";
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        let emails: Vec<_> = users.iter().map(|user| user.email.as_str()).collect();
        let query = sqlx::query_scalar(sql).bind(names).bind(emails);
        let ids: Vec<i64> = query.fetch_all(&mut *tx).await.unwrap();
        for ids in ids.chunks(1000) {
            insert_deliveries(&mut tx, ids).await;
        }
        tx.commit().await.unwrap();
    }

    pub(crate) async fn store_twenty(conn: &mut PgConnection) {
        let mut tx = conn.begin().await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(insert(&mut tx, &One::new()).await);
        }
        insert_deliveries(&mut tx, &ids).await;
        tx.commit().await.unwrap();
    }

    async fn insert_deliveries(conn: &mut PgConnection, ids: &[i64]) {
        let event = |id: &i64| event(&One { id: Some(*id), ..One::new() });
        let (events, payloads): (Vec<_>, Vec<_>) = ids.iter().map(event).unzip();
        let keys: Vec<_> = ids.iter().map(|id| id.to_string()).collect();
        let sql = "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload) SELECT e.id::uuid, 'durable::first', \
                   'post_save', 'bench_users', e.key, true, e.payload::json FROM unnest($1::text[], $2::text[], $3::text[]) AS e (id, key, payload)";
        let query = sqlx::query(sql).bind(events).bind(keys).bind(payloads);
        query.execute(conn).await.unwrap();
    }

    pub(crate) async fn insert(conn: &mut PgConnection, user: &One) -> i64 {
        sqlx::query_scalar("INSERT INTO bench_users (name, email) VALUES ($1, $2) RETURNING id")
            .bind(&user.name)
            .bind(&user.email)
            .fetch_one(conn)
            .await
            .unwrap()
    }
}

#[cfg(feature = "sqlite")]
pub(crate) mod sqlite {
    use super::*;
    use sqlx::{Connection, SqliteConnection};

    /// BEGIN IMMEDIATE, the row, a delivery for each receiver, COMMIT.
    pub(crate) async fn store(conn: &mut SqliteConnection, receivers: &[&str]) {
        let user = One::new();
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let id: i64 = insert(&mut tx, &user).await;
        let row = delivery(id, &user);
        let rows = receivers.iter().map(|receiver| row(&format!("durable::{receiver}")));
        insert_deliveries(&mut tx, rows).await;
        tx.commit().await.unwrap();
    }

    pub(crate) async fn store_many(conn: &mut SqliteConnection) {
        let users: Vec<_> = (0..ROWS).map(|_| One::new()).collect();
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let mut ids = Vec::with_capacity(ROWS);
        for users in users.chunks(1000) {
            let values = vec!["(?, ?)"; users.len()].join(", ");
            let sql = format!("INSERT INTO bench_users (name, email) VALUES {values} RETURNING id");
            let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql));
            for user in users {
                query = query.bind(&user.name).bind(&user.email);
            }
            ids.extend(query.fetch_all(&mut *tx).await.unwrap());
        }
        for ids in ids.chunks(1000) {
            let rows = ids.iter().map(|id| delivery(*id, &One::new())("durable::first"));
            insert_deliveries(&mut tx, rows).await;
        }
        tx.commit().await.unwrap();
    }

    pub(crate) async fn store_twenty(conn: &mut SqliteConnection) {
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(insert(&mut tx, &One::new()).await);
        }
        let rows = ids.iter().map(|id| delivery(*id, &One::new())("durable::first"));
        insert_deliveries(&mut tx, rows).await;
        tx.commit().await.unwrap();
    }

    /// The delivery of a row to a receiver, as an array of its columns.
    fn delivery(id: i64, user: &One) -> impl Fn(&str) -> serde_json::Value + use<> {
        let (event, payload) = event(user);
        move |receiver| {
            let key = id.to_string();
            let (signal, sender) = ("post_save", "bench_users");
            serde_json::json!([event, receiver, signal, sender, key, true, payload, null, 0, null])
        }
    }

    async fn insert_deliveries(
        conn: &mut SqliteConnection,
        rows: impl Iterator<Item = serde_json::Value>,
    ) {
        let rows = serde_json::Value::from_iter(rows).to_string();
        let deliveries = "INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, \
             CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + (value ->> 8), value ->> 9 FROM json_each($1)";
        sqlx::query(deliveries).bind(rows).execute(conn).await.unwrap();
    }

    pub(crate) async fn insert(conn: &mut SqliteConnection, user: &One) -> i64 {
        let insert = "INSERT INTO bench_users (name, email) VALUES ($1, $2) RETURNING id";
        let query = sqlx::query_scalar(insert).bind(&user.name).bind(&user.email);
        query.fetch_all(conn).await.unwrap()[0]
    }
}
