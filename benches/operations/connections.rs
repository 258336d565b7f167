//! A save without receivers through each of what leads to a connection.

use sqlx::Pool;
use sqlx::pool::PoolConnection;
use sqlx_signals::prelude::*;

use crate::Effort;
use crate::by_hand::ByHand;
use crate::database::Database;
use crate::interleaved::{Case, Group, timed};
use crate::models::{Alone, User};

/// Inserts one after the other. What a pool does when it takes a connection back falls on the next.
const BATCH: usize = 50;

struct Ways<DB: ByHand> {
    held: PoolConnection<DB>,
    default_pool: Pool<DB>,
    conn: Conn<'static>,
    db: Db,
    /// Its pool is the program's.
    from: Db,
    /// The program has asked for its pool.
    shared: Db,
}

const HELD: &str = "sqlx, on a held connection";
const TRANSACTION: &str = "sqlx, in a transaction";

pub(crate) async fn measure<DB: ByHand>(database: &Database, effort: Effort) -> Group {
    // Each has a pool of its own; in memory each pool is a database of its own.
    let db = database.fresh().await;
    let other = database.another().await;
    let by_hand = database.another().await;
    let default = DB::default_pool(&database.another().await).await;
    database.tables_in::<DB>(&default).await;
    let default_of_from = DB::default_pool(&database.another().await).await;
    database.tables_in::<DB>(&default_of_from).await;
    let shared = database.another().await;
    DB::pool(&shared);
    let mut ways: Ways<DB> = Ways {
        held: DB::pool(&by_hand).acquire().await.unwrap(),
        default_pool: default,
        conn: other.acquire().await.unwrap(),
        db,
        from: DB::db_from(default_of_from),
        shared,
    };
    let cases = vec![
        Case::base(HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    DB::insert(DB::pooled(&mut ways.held), user).await;
                }
            })
            .await
        }),
        Case::new("sqlx, to the end of the statement", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    DB::insert_to_the_end(DB::pooled(&mut ways.held), user).await;
                }
            })
            .await
        }),
        Case::new("save(&mut conn)", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    user.save(&mut ways.conn).await.unwrap();
                }
            })
            .await
        }),
        Case::new("sqlx, on its default pool", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            let took = timed(async {
                for user in &mut users {
                    DB::insert_on_pool(&ways.default_pool, user).await;
                }
            });
            let took = took.await;
            settle(&ways.default_pool).await;
            took
        }),
        Case::new("save(&pool), sqlx's default pool", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            let took = timed(async {
                for user in &mut users {
                    DB::save_on_pool(&ways.default_pool, user).await;
                }
            });
            let took = took.await;
            settle(&ways.default_pool).await;
            took
        }),
        Case::new("save(&db)", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    user.save(&ways.db).await.unwrap();
                }
            })
            .await
        }),
        Case::new("save(&db), Db::from(pool)", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    user.save(&ways.from).await.unwrap();
                }
            })
            .await
        }),
        Case::new("save(&db), after db.postgres()", HELD, async |ways: &mut Ways<DB>| {
            let mut users = users();
            timed(async {
                for user in &mut users {
                    user.save(&ways.shared).await.unwrap();
                }
            })
            .await
        }),
        Case::base(TRANSACTION, async |ways: &mut Ways<DB>| {
            let mut users = users();
            let mut transaction = DB::begin(DB::pooled(&mut ways.held)).await;
            let took = timed(async {
                for user in &mut users {
                    DB::insert(DB::within(&mut transaction), user).await;
                }
            });
            let took = took.await;
            DB::commit(transaction).await;
            took
        }),
        Case::new("save(&mut tx)", TRANSACTION, async |ways: &mut Ways<DB>| {
            let mut users = users();
            let mut tx = ways.conn.begin().await.unwrap();
            let took = timed(async {
                for user in &mut users {
                    user.save(&mut tx).await.unwrap();
                }
            });
            let took = took.await;
            tx.commit().await.unwrap();
            took
        }),
    ];
    let name = format!("{BATCH} saves, no receivers, through");
    let group = Group::measure(database.name(), name, effort.batches, cases, &mut ways).await;
    drop(ways);
    group
}

fn users() -> Vec<Alone> {
    (0..BATCH).map(|_| Alone::with_id(None)).collect()
}

/// Waits until the pool has its connections back, so that nothing of one case falls on the next.
async fn settle<DB: ByHand>(pool: &Pool<DB>) {
    while pool.num_idle() < pool.size() as usize {
        tokio::task::yield_now().await;
    }
}
