//! Starts both services, kills them at random moments, and compares their databases.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use signals_nats::async_nats::jetstream::consumer::pull;
use signals_nats::async_nats::jetstream::{self, Context};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::shipping::{self, Shipment};
use crate::shop::{self, ORDERS, Order};
use crate::{COMMAND, nats, variable};

/// How often each service is killed at least.
const KILLS: usize = 8;
/// How long everything may take.
const LIMIT: Duration = Duration::from_secs(50);

pub(crate) async fn run() -> Result<()> {
    let world = World::create().await?;
    let shown = world.show().await;
    world.remove().await?;
    shown
}

/// The databases of the services, and the broker.
struct World {
    /// Of the database of the shop.
    dir: PathBuf,
    /// The server of the database of the shipping service.
    server: Db,
    name: String,
    /// The URLs of the two databases.
    shop: String,
    shipping: String,
    broker: Context,
    stream: String,
}

impl World {
    async fn create() -> Result<Self> {
        let (client, stream) = nats().await?;
        let broker = jetstream::new(client);
        // An earlier run may have been interrupted.
        let _ = broker.delete_stream(&stream.name).await;
        let created = broker.create_stream(&stream).await;
        created.map_err(|error| unusable("NATS JetStream", error))?;
        let url = variable("DATABASE_URL")?;
        let server = Db::connect(&url).await.map_err(|error| unusable("PostgreSQL", error))?;
        let name = format!("two_services_{}", std::process::id());
        server.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        let (address, options) = url.split_once('?').unwrap_or((&url, ""));
        let (address, _) = address.rsplit_once('/').unwrap_or((address, ""));
        let shipping = format!("{address}/{name}?{options}");
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).map_err(Error::other)?;
        let shop = format!("sqlite:{}", dir.join("shop.db").display());
        Ok(Self { dir, server, name, shop, shipping, broker, stream: stream.name })
    }

    async fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(Error::other)?;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        self.server.execute(sqlx::AssertSqlSafe(drop)).await?;
        self.broker.delete_stream(&self.stream).await.map_err(Error::other)?;
        Ok(())
    }

    /// Kills the services until all orders are taken, and compares the orders with the shipments.
    async fn show(&self) -> Result<()> {
        let begun = Instant::now();
        let shop = shop::database(&self.shop).await?;
        let shipping = shipping::database(&self.shipping).await?;
        let mut services = [self.start("shop")?, self.start("shipping")?];
        let is_killed = |services: &[Service]| services.iter().all(|s| s.kills >= KILLS);
        while !is_killed(&services) || Order::query("").count(&shop).await? < ORDERS {
            sleep(Duration::from_millis(fastrand::u64(20..600))).await;
            services[fastrand::usize(..2)].kill(self).await?;
            check_time(begun, "the services were not killed often enough")?;
        }
        while !self.is_done(&shop, &shipping).await? {
            sleep(Duration::from_millis(50)).await;
            services.iter_mut().try_for_each(Service::check)?;
            check_time(begun, "not everything is shipped")?;
        }
        for Service { name, kills, .. } in &services {
            println!("{name}: killed {kills} times");
        }
        println!(
            "messages that the shipping service has received: {}",
            self.consumer().await?.delivered.consumer_sequence
        );
        let paid = Order::query("WHERE paid ORDER BY id").fetch_all(&shop).await?;
        let paid: Vec<_> = paid.iter().filter_map(|order| order.id).collect();
        let shipped = Shipment::query("ORDER BY order_id").fetch_all(&shipping).await?;
        let shipped: Vec<_> = shipped.iter().map(|shipment| shipment.order_id).collect();
        println!("orders: {ORDERS}, paid: {}, shipments: {}", paid.len(), shipped.len());
        if paid != shipped {
            let text = format!("the paid orders {paid:?} are not the shipped ones {shipped:?}");
            return Err(Error::other(text));
        }
        println!("every paid order was shipped exactly once");
        Ok(())
    }

    fn start(&self, name: &'static str) -> Result<Service> {
        Ok(Service { name, child: self.spawn(name)?, kills: 0 })
    }

    fn spawn(&self, name: &str) -> Result<Child> {
        let program = std::env::current_exe().map_err(Error::other)?;
        let mut command = Command::new(program);
        command.arg(name).kill_on_drop(true);
        command.env("SHOP_DATABASE", &self.shop).env("SHIPPING_DATABASE", &self.shipping);
        command.spawn().map_err(Error::other)
    }

    /// Whether no event waits, in the database of the shop, in the broker or in the database of the shipping service.
    async fn is_done(&self, shop: &Db, shipping: &Db) -> Result<bool> {
        if waiting(shop).await? > 0 {
            return Ok(false);
        }
        let consumer = self.consumer().await?;
        if consumer.num_pending > 0 || consumer.num_ack_pending > 0 {
            return Ok(false);
        }
        Ok(waiting(shipping).await? == 0)
    }

    /// How far the shipping service has read the stream.
    async fn consumer(&self) -> Result<jetstream::consumer::Info> {
        let stream = self.broker.get_stream(&self.stream).await.map_err(Error::other)?;
        let consumer = stream.get_consumer::<pull::Config>("shipping-shop_order_paid").await;
        Ok(consumer.map_err(Error::other)?.cached_info().clone())
    }
}

/// How many events or deliveries wait in a database.
async fn waiting(db: &Db) -> Result<i64> {
    let waiting = db.query("SELECT count(*) FROM signals_delivery").fetch_one::<(i64,)>().await?;
    Ok(waiting.0)
}

fn unusable(server: &str, error: impl std::fmt::Display) -> Error {
    Error::other(format!("{server} cannot be used: {error}; run this program with `{COMMAND}`"))
}

fn check_time(begun: Instant, problem: &str) -> Result<()> {
    match begun.elapsed() < LIMIT {
        true => Ok(()),
        false => Err(Error::other(format!("after {LIMIT:?}, {problem}"))),
    }
}

/// A process that is started again whenever it is killed.
struct Service {
    name: &'static str,
    child: Child,
    kills: usize,
}

impl Service {
    async fn kill(&mut self, world: &World) -> Result<()> {
        self.check()?;
        // SIGKILL, as `kill -9`.
        self.child.kill().await.map_err(Error::other)?;
        self.child = world.spawn(self.name)?;
        self.kills += 1;
        Ok(())
    }

    /// Checks that it runs.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait().map_err(Error::other)? {
            None => Ok(()),
            Some(status) => Err(Error::other(format!("the {} has ended: {status}", self.name))),
        }
    }
}
