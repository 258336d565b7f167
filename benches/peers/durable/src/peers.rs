//! One module a library: `connect` prepares its pool and its tables, and `run` stores the jobs and returns the time in which its worker has run
//! and acknowledged them.

pub(crate) mod signals {
    use std::time::{Duration, Instant};

    use serde::{Deserialize, Serialize};
    use sqlx_signals::prelude::*;

    use crate::{BATCH, CONNECTIONS, Measure, Outcome, Welcome};

    #[derive(Debug, Clone, Model, Serialize, Deserialize)]
    #[model(table = "peer_users")]
    struct User {
        id: Option<i64>,
        name: String,
        email: String,
    }

    #[receiver(post_save, sender = User, durable(at_least_once))]
    fn welcome(_: PostSave<'_, User>) {
        crate::ended();
    }

    pub(crate) async fn connect(url: &str) -> Outcome<Db> {
        let db = Db::options().max_connections(CONNECTIONS).connect(url).await?;
        db.execute("CREATE TABLE peer_users (id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL)").await?;
        db.deliveries().setup().await?;
        Ok(db)
    }

    pub(crate) async fn run(measure: &Measure, db: &Db) -> Outcome<Duration> {
        measure.empty("signals_delivery").await?;
        let user = |Welcome { name, email }| User { id: None, name, email };
        let mut users: Vec<_> = (0..measure.jobs).map(|_| user(Welcome::new())).collect();
        User::insert_many(db, &mut users).await?;
        let begun = Instant::now();
        let worker = db.deliveries().worker().concurrency(BATCH).spawn().await?;
        let elapsed = measure.until_done(begun, "SELECT count(*) FROM signals_delivery").await?;
        worker.shutdown().await?;
        Ok(elapsed)
    }
}

pub(crate) mod graphile {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use graphile_worker::{
        IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
    };
    use sqlx::PgPool;
    use sqlx::postgres::PgPoolOptions;

    use crate::{BATCH, CONNECTIONS, Measure, Outcome, WAIT, Welcome};

    impl TaskHandler for Welcome {
        const IDENTIFIER: &'static str = "welcome";

        async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
            crate::ended();
            Ok::<(), String>(())
        }
    }

    pub(crate) async fn connect(url: &str) -> Outcome<PgPool> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
        // It creates the tables.
        options(&pool).init().await?;
        Ok(pool)
    }

    fn options(pool: &PgPool) -> WorkerOptions {
        WorkerOptions::default()
            .pg_pool(pool.clone())
            .concurrency(BATCH)
            .local_queue(LocalQueueConfig::default().with_size(BATCH))
            .complete_job_batch_delay(WAIT)
            .listen_os_shutdown_signals(false)
            .define_job::<Welcome>()
    }

    pub(crate) async fn run(measure: &Measure, pool: &PgPool) -> Outcome<Duration> {
        measure.empty("graphile_worker._private_jobs").await?;
        let worker = Arc::new(options(pool).init().await?);
        let spec = JobSpec::default();
        let jobs: Vec<_> = (0..measure.jobs).map(|_| (Welcome::new(), &spec)).collect();
        worker.create_utils().add_jobs(&jobs).await?;
        let begun = Instant::now();
        let running = tokio::spawn({
            let worker = Arc::clone(&worker);
            async move { worker.run().await }
        });
        let left = "SELECT count(*) FROM graphile_worker._private_jobs";
        let elapsed = measure.until_done(begun, left).await?;
        worker.request_shutdown();
        running.await??;
        Ok(elapsed)
    }
}

pub(crate) mod apalis {
    use std::time::{Duration, Instant};

    use apalis::prelude::*;
    use apalis_postgres::{Config, PostgresStorage};
    use sqlx::PgPool;
    use sqlx::postgres::PgPoolOptions;

    use crate::{BATCH, CONNECTIONS, Measure, Outcome, Welcome};

    const QUEUE: &str = "welcome";

    pub(crate) async fn connect(url: &str) -> Outcome<PgPool> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
        PostgresStorage::setup(&pool).await?;
        Ok(pool)
    }

    async fn welcome(_: Welcome) -> Result<(), BoxDynError> {
        crate::ended();
        Ok(())
    }

    pub(crate) async fn run(measure: &Measure, pool: &PgPool) -> Outcome<Duration> {
        measure.empty("apalis.jobs").await?;
        let payload = serde_json::to_vec(&Welcome::new())?;
        let jobs = (0..measure.jobs).map(|_| TaskBuilder::new(payload.clone()).build()).collect();
        let mut tx = pool.begin().await?;
        apalis_postgres::queries::push_tasks(&mut *tx, QUEUE, jobs).await?;
        tx.commit().await?;
        // A claim marks the jobs as taken by this worker. `lock_tasks` would do so once more, with a statement of its own.
        let config = Config::default().queue(QUEUE).batch_size(BATCH).lock_tasks(false);
        let backend = PostgresStorage::<Welcome>::new(pool).with_config(config);
        let begun = Instant::now();
        let context = WorkerContext::new(&format!("worker-{}", fastrand::u64(..)));
        let worker = WorkerBuilder::new(&context)
            .backend(backend)
            .concurrency(BATCH)
            .parallelize(tokio::spawn)
            .build(welcome);
        let running = tokio::spawn(worker.run());
        let left = "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'";
        let elapsed = measure.until_done(begun, left).await?;
        context.stop()?;
        running.await??;
        Ok(elapsed)
    }
}
