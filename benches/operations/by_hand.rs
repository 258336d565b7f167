//! The same statements with sqlx alone, as one would write them.

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Database, Pool, Transaction};
use sqlx_signals::prelude::*;

use crate::models::Alone;

const INSERT: &str = r#"INSERT INTO "users" ("name", "email") VALUES ($1, $2) RETURNING "id""#;
const UPDATE: &str = r#"UPDATE "users" SET "name" = $1, "email" = $2 WHERE "id" = $3"#;
const DELETE: &str = r#"DELETE FROM "users" WHERE "id" = $1"#;
const FIND: &str = r#"SELECT "id", "name", "email" FROM "users" WHERE "id" = $1"#;
const AUDIT: &str = r#"INSERT INTO "audit" ("user_id") VALUES ($1) RETURNING "id""#;

/// One of the databases, without this library.
#[allow(async_fn_in_trait)]
pub(crate) trait ByHand: Database + Sized {
    /// The connection that the library has.
    fn raw<'c>(conn: &'c mut Conn<'_>) -> &'c mut Self::Connection;
    fn pool(db: &Db) -> &Pool<Self>;
    fn db_from(pool: Pool<Self>) -> Db;

    async fn insert(conn: &mut Self::Connection, user: &mut Alone);
    /// As [`insert`](Self::insert), and waits for the end of the statement.
    async fn insert_to_the_end(conn: &mut Self::Connection, user: &mut Alone);
    async fn insert_on_pool(pool: &Pool<Self>, user: &mut Alone);
    /// Returns the number of rows.
    async fn update(conn: &mut Self::Connection, user: &Alone) -> u64;
    async fn delete(conn: &mut Self::Connection, id: i64);
    async fn find(conn: &mut Self::Connection, id: i64) -> Option<Alone>;
    async fn audit(conn: &mut Self::Connection, user_id: i64);

    async fn execute(conn: &mut Self::Connection, sql: String);

    async fn begin(conn: &mut Self::Connection) -> Transaction<'_, Self>;
    async fn commit(transaction: Transaction<'_, Self>);
    fn within<'t>(transaction: &'t mut Transaction<'_, Self>) -> &'t mut Self::Connection;
    fn pooled(conn: &mut PoolConnection<Self>) -> &mut Self::Connection;

    /// The library, on a pool of sqlx.
    async fn save_on_pool(pool: &Pool<Self>, user: &mut Alone);
    /// A pool with all of sqlx's defaults, as far as the database can have one.
    async fn default_pool(db: &Db) -> Pool<Self>;

    /// And for each so many rows more, one by one.
    async fn insert_many(conn: &mut Self::Connection, users: &mut [Alone], more: usize);
    async fn update_many(conn: &mut Self::Connection, users: &[Alone]);
    const EMPTY_USERS: &str;
}

macro_rules! by_hand {
    ($DB:ident, $accessor:ident, $Connection:ty, begin: $begin:literal, empty: $empty:literal, bulk: $bulk:path) => {
        impl ByHand for sqlx::$DB {
            fn raw<'c>(conn: &'c mut Conn<'_>) -> &'c mut Self::Connection {
                conn.$accessor().expect("a connection of this database")
            }

            fn pool(db: &Db) -> &Pool<Self> {
                db.$accessor().expect("a pool of this database")
            }

            fn db_from(pool: Pool<Self>) -> Db {
                pool.into()
            }

            async fn insert(conn: &mut Self::Connection, user: &mut Alone) {
                let insert = sqlx::query_scalar(INSERT).bind(&user.name).bind(&user.email);
                user.id = Some(insert.fetch_one(conn).await.unwrap());
            }

            async fn insert_to_the_end(conn: &mut Self::Connection, user: &mut Alone) {
                let insert = sqlx::query_scalar(INSERT).bind(&user.name).bind(&user.email);
                user.id = insert.fetch_all(conn).await.unwrap().pop();
            }

            async fn insert_on_pool(pool: &Pool<Self>, user: &mut Alone) {
                let insert = sqlx::query_scalar(INSERT).bind(&user.name).bind(&user.email);
                user.id = Some(insert.fetch_one(pool).await.unwrap());
            }

            async fn update(conn: &mut Self::Connection, user: &Alone) -> u64 {
                let update = sqlx::query(UPDATE).bind(&user.name).bind(&user.email).bind(user.id);
                update.execute(conn).await.unwrap().rows_affected()
            }

            async fn delete(conn: &mut Self::Connection, id: i64) {
                sqlx::query(DELETE).bind(id).execute(conn).await.unwrap();
            }

            async fn find(conn: &mut Self::Connection, id: i64) -> Option<Alone> {
                sqlx::query_as(FIND).bind(id).fetch_optional(conn).await.unwrap()
            }

            async fn audit(conn: &mut Self::Connection, user_id: i64) {
                let _: i64 = sqlx::query_scalar(AUDIT).bind(user_id).fetch_one(conn).await.unwrap();
            }

            async fn execute(conn: &mut Self::Connection, sql: String) {
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await.unwrap();
            }

            async fn begin(conn: &mut Self::Connection) -> Transaction<'_, Self> {
                conn.begin_with($begin).await.unwrap()
            }

            async fn commit(transaction: Transaction<'_, Self>) {
                transaction.commit().await.unwrap();
            }

            fn within<'t>(transaction: &'t mut Transaction<'_, Self>) -> &'t mut Self::Connection {
                transaction
            }

            fn pooled(conn: &mut PoolConnection<Self>) -> &mut Self::Connection {
                conn
            }

            async fn save_on_pool(pool: &Pool<Self>, user: &mut Alone) {
                user.save(pool).await.unwrap();
            }

            async fn default_pool(db: &Db) -> Pool<Self> {
                let options = Self::pool(db).connect_options();
                let mut pool = sqlx::pool::PoolOptions::new();
                if Self::pool(db).options().get_max_connections() == 1 {
                    // In memory: each connection would be another database.
                    pool = pool.max_connections(1);
                }
                pool.connect_with((*options).clone()).await.unwrap()
            }

            async fn insert_many(conn: &mut Self::Connection, users: &mut [Alone], more: usize) {
                use $bulk as bulk;
                let mut transaction = Self::begin(conn).await;
                bulk::insert(&mut *transaction, users).await;
                for user in users.iter() {
                    for _ in 0..more {
                        Self::audit(&mut *transaction, user.id.unwrap()).await;
                    }
                }
                transaction.commit().await.unwrap();
            }

            async fn update_many(conn: &mut Self::Connection, users: &[Alone]) {
                use $bulk as bulk;
                let mut transaction = Self::begin(conn).await;
                bulk::update(&mut *transaction, users).await;
                transaction.commit().await.unwrap();
            }

            const EMPTY_USERS: &str = $empty;
        }
    };
}

#[cfg(feature = "sqlite")]
by_hand!(Sqlite, sqlite, sqlx::SqliteConnection, begin: "BEGIN IMMEDIATE", empty: "DELETE FROM users", bulk: sqlite);
#[cfg(feature = "postgres")]
by_hand!(Postgres, postgres, sqlx::PgConnection, begin: "BEGIN", empty: "TRUNCATE users", bulk: postgres);

/// Rows in the statement, as many as it may have variables for.
#[cfg(feature = "sqlite")]
mod sqlite {
    use sqlx::{QueryBuilder, SqliteConnection};

    use crate::models::Alone;

    /// SQLite's default of `SQLITE_LIMIT_VARIABLE_NUMBER`.
    const VARIABLES: usize = 32_766;

    pub(super) async fn insert(conn: &mut SqliteConnection, users: &mut [Alone]) {
        for users in users.chunks_mut(VARIABLES / 2) {
            let mut sql = QueryBuilder::new(r#"INSERT INTO "users" ("name", "email") "#);
            sql.push_values(users.iter(), |mut row, user| {
                row.push_bind(&user.name).push_bind(&user.email);
            });
            sql.push(r#" RETURNING "id""#);
            let ids: Vec<i64> = sql.build_query_scalar().fetch_all(&mut *conn).await.unwrap();
            users.iter_mut().zip(ids).for_each(|(user, id)| user.id = Some(id));
        }
    }

    pub(super) async fn update(conn: &mut SqliteConnection, users: &[Alone]) {
        for users in users.chunks(VARIABLES / 3) {
            let mut sql = QueryBuilder::new("WITH new (id, name, email) AS (");
            sql.push_values(users, |mut row, user| {
                row.push_bind(user.id).push_bind(&user.name).push_bind(&user.email);
            });
            sql.push(
                r#") UPDATE "users" SET "name" = new.name, "email" = new.email FROM new WHERE "users"."id" = new.id"#,
            );
            let updated = sql.build().execute(&mut *conn).await.unwrap().rows_affected();
            assert_eq!(updated, users.len() as u64);
        }
    }
}

/// An array a column.
#[cfg(feature = "postgres")]
mod postgres {
    use sqlx::PgConnection;

    use crate::models::Alone;

    pub(super) async fn insert(conn: &mut PgConnection, users: &mut [Alone]) {
        let names: Vec<&str> = users.iter().map(|user| &*user.name).collect();
        let emails: Vec<&str> = users.iter().map(|user| &*user.email).collect();
        let insert = sqlx::query_scalar(
            r#"INSERT INTO "users" ("name", "email") SELECT * FROM UNNEST($1::text[], $2::text[]) RETURNING "id""#,
        );
        let ids: Vec<i64> = insert.bind(names).bind(emails).fetch_all(conn).await.unwrap();
        users.iter_mut().zip(ids).for_each(|(user, id)| user.id = Some(id));
    }

    pub(super) async fn update(conn: &mut PgConnection, users: &[Alone]) {
        let ids: Vec<Option<i64>> = users.iter().map(|user| user.id).collect();
        let names: Vec<&str> = users.iter().map(|user| &*user.name).collect();
        let emails: Vec<&str> = users.iter().map(|user| &*user.email).collect();
        let update = sqlx::query(
            r#"UPDATE "users" SET "name" = new.name, "email" = new.email
               FROM UNNEST($1::bigint[], $2::text[], $3::text[]) AS new (id, name, email) WHERE "users"."id" = new.id"#,
        );
        let updated = update.bind(ids).bind(names).bind(emails).execute(conn).await.unwrap();
        assert_eq!(updated.rows_affected(), users.len() as u64);
    }
}
