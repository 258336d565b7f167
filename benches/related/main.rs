//! What it takes to load 1,000 rows with the 10 rows that belong to each, in two statements, compared with the same by hand.
#![allow(missing_docs)]

#[path = "../shared/interleaved.rs"]
mod interleaved;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/valgrind.rs"]
mod valgrind;

use std::collections::HashMap;

use interleaved::{Case, Group, Rounds, timed};
use report::Report;
use serde_json::json;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, sqlx};
use valgrind::instructions;

const PARENTS: usize = 1_000;
const CHILDREN: usize = 10;

#[derive(Debug, Clone, Model)]
#[model(table = "bench_users")]
struct User {
    id: Option<i64>,
    name: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "bench_posts")]
struct Post {
    id: Option<i64>,
    #[model(belongs_to = User, on_delete = cascade)]
    author_id: i64,
    title: String,
}

#[derive(sqlx::FromRow)]
struct HandUser {
    id: i64,
    name: String,
}

#[derive(sqlx::FromRow)]
struct HandPost {
    id: i64,
    author_id: i64,
    title: String,
}

async fn create(db: &Db) {
    let id = match db.kind() {
        DatabaseKind::Sqlite => "id INTEGER PRIMARY KEY",
        DatabaseKind::Postgres => "id BIGSERIAL PRIMARY KEY",
    };
    let sql = format!(
        "DROP TABLE IF EXISTS bench_posts; DROP TABLE IF EXISTS bench_users; CREATE TABLE bench_users ({id}, name TEXT NOT NULL); \
         CREATE TABLE bench_posts ({id}, author_id BIGINT NOT NULL REFERENCES bench_users, title TEXT NOT NULL); CREATE INDEX \
         bench_posts_author ON bench_posts (author_id)"
    );
    db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    let user = |n| User { id: None, name: format!("User {n}") };
    let mut users: Vec<_> = (0..PARENTS).map(user).collect();
    User::insert_many(db, &mut users).await.unwrap();
    let post = |n: usize| Post {
        id: None,
        author_id: users[n % PARENTS].id.unwrap(),
        title: format!("Post {n}"),
    };
    let mut posts: Vec<_> = (0..PARENTS * CHILDREN).map(post).collect();
    Post::insert_many(db, &mut posts).await.unwrap();
    if db.kind() == DatabaseKind::Postgres {
        db.execute("ANALYZE bench_users, bench_posts").await.unwrap();
    }
}

/// What the program was started for.
enum Run {
    Measure(Rounds),
    /// Valgrind counts its instructions: the database, the number of the case, and how often.
    Perform(String, usize, u32),
}

impl Run {
    fn of_args() -> Self {
        let args: Vec<_> = std::env::args().skip(1).collect();
        match &args[..] {
            [perform, database, case, times] if perform == "--perform" => {
                Self::Perform(database.clone(), case.parse().unwrap(), times.parse().unwrap())
            }
            _ if is_quick() => Self::Measure(Rounds(5, 1)),
            _ => Self::Measure(Rounds(60, 1)),
        }
    }

    fn includes(&self, database: &str) -> bool {
        !matches!(self, Self::Perform(other, ..) if other != database)
    }
}

fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

/// Adds the instructions of both cases to the report, if valgrind is installed.
fn count_instructions(database: &str, report: &mut Report) {
    let of = |case: &str| instructions(&["--perform", database, case], [1, 6]);
    match (of("0"), of("1")) {
        (Some(by_hand), Some(library)) => {
            println!(
                "{database}: {by_hand} instructions by hand, {library} with children_of_each\n"
            );
            let counted = json!({ "sqlx": by_hand, "children_of_each": library });
            report.add(json!({ "database": database, "group": "instructions", "rows": [counted] }));
        }
        _ => report.not_measured("instructions: valgrind cannot run this program"),
    }
}

/// Both ways, each on a connection of its own.
macro_rules! measure {
    ($DB:ident, $db:expr, $pool:expr, $run:expr, |$keys:ident, $conn:ident| $children:expr) => {{
        struct Held {
            conn: Conn<'static>,
            by_hand: sqlx::pool::PoolConnection<sqlx::$DB>,
        }
        let (db, pool) = ($db, $pool);
        create(&db).await;
        let mut held =
            Held { conn: db.acquire().await.unwrap(), by_hand: pool.acquire().await.unwrap() };
        let cases = vec![
            Case::base("sqlx", async |held: &mut Held| {
                timed(async {
                    let $conn = &mut *held.by_hand;
                    let users: Vec<HandUser> = sqlx::query_as("SELECT id, name FROM bench_users")
                        .fetch_all(&mut *$conn)
                        .await
                        .unwrap();
                    let $keys: Vec<i64> = users.iter().map(|user| user.id).collect();
                    let posts: Vec<HandPost> = $children;
                    let places: HashMap<_, _> =
                        $keys.iter().enumerate().map(|(place, key)| (*key, place)).collect();
                    let mut of_each: Vec<Vec<HandPost>> =
                        users.iter().map(|_| Vec::new()).collect();
                    for post in posts {
                        of_each[places[&post.author_id]].push(post);
                    }
                    assert!(of_each.iter().all(|posts| posts.len() == CHILDREN));
                    let read =
                        of_each.iter().flatten().all(|post| post.id > 0 && !post.title.is_empty());
                    assert!(read && users.iter().all(|user| !user.name.is_empty()));
                    (users, of_each)
                })
                .await
            }),
            Case::new("children_of_each", "sqlx", async |held: &mut Held| {
                timed(async {
                    let users = User::all(&mut held.conn).await.unwrap();
                    let of_each =
                        Post::OF_AUTHOR.children_of_each(&mut held.conn, &users).await.unwrap();
                    assert!(of_each.iter().all(|posts| posts.len() == CHILDREN));
                    let read = of_each
                        .iter()
                        .flatten()
                        .all(|post| post.id.is_some() && !post.title.is_empty());
                    assert!(read && users.iter().all(|user| !user.name.is_empty()));
                    (users, of_each)
                })
                .await
            }),
        ];
        let name = format!("{PARENTS} rows with {CHILDREN} each");
        match $run {
            Run::Measure(rounds) => {
                Some(Group::measure(stringify!($DB), name, *rounds, cases, &mut held).await)
            }
            Run::Perform(_, case, times) => {
                for _ in 0..*times {
                    cases[*case].run(&mut held).await;
                }
                None
            }
        }
    }};
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let run = Run::of_args();
    let mut report = Report::new("related", is_quick());
    let add = |report: &mut Report, group: Group| {
        println!("{group}");
        report.add(group.into_json());
    };
    #[cfg(feature = "sqlite")]
    if run.includes("Sqlite") {
        let file = std::env::temp_dir().join(format!("related-{}.db", std::process::id()));
        let db = Db::connect(&format!("sqlite:{}", file.display())).await.unwrap();
        let options = db.sqlite().unwrap().connect_options();
        let pool = sqlx::SqlitePool::connect_with((*options).clone()).await.unwrap();
        report.measured("SQLite in a file".to_owned());
        let group = measure!(Sqlite, db.clone(), pool.clone(), &run, |keys, conn| {
            let mut sql = sqlx::QueryBuilder::<sqlx::Sqlite>::new(
                "SELECT id, author_id, title FROM bench_posts WHERE author_id IN (",
            );
            let mut list = sql.separated(", ");
            for key in &keys {
                list.push_bind(*key);
            }
            sql.push(")");
            sql.build_query_as().fetch_all(conn).await.unwrap()
        });
        if let Some(group) = group {
            add(&mut report, group);
            count_instructions("Sqlite", &mut report);
        }
        pool.close().await;
        db.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", file.display()));
        }
    }
    #[cfg(feature = "postgres")]
    match std::env::var("DATABASE_URL") {
        _ if !run.includes("Postgres") => {}
        Ok(url) => {
            let db = Db::connect(&url).await.unwrap();
            let pool = sqlx::PgPool::connect(&url).await.unwrap();
            report.measured("PostgreSQL".to_owned());
            let group = measure!(Postgres, db.clone(), pool.clone(), &run, |keys, conn| {
                let sql = "SELECT id, author_id, title FROM bench_posts WHERE author_id = ANY($1)";
                sqlx::query_as(sql).bind(&keys).fetch_all(conn).await.unwrap()
            });
            db.execute("DROP TABLE bench_posts, bench_users").await.unwrap();
            if let Some(group) = group {
                add(&mut report, group);
                count_instructions("Postgres", &mut report);
            }
        }
        Err(_) => report.not_measured("PostgreSQL: DATABASE_URL is not set"),
    }
    #[cfg(not(feature = "sqlite"))]
    report.not_measured("SQLite: the feature is not enabled");
    #[cfg(not(feature = "postgres"))]
    report.not_measured("PostgreSQL: the feature is not enabled");
    if matches!(run, Run::Measure(_)) {
        report.write();
    }
}
