//! Starts both services, kills them at random moments, and compares their databases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use signals_nats::async_nats::jetstream::consumer::pull;
use signals_nats::async_nats::jetstream::{self, Context};
use sqlx_signals::prelude::*;
use sqlx_signals::{Error, sqlx};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::shipping::{self, Shipment};
use crate::shop::{self, Order};
use crate::{COMMAND, nats, orders, variable};

/// How often each service is killed at least.
const KILLS: usize = 8;
/// How long everything may take, for the number of orders.
fn limit(orders: i64) -> Duration {
    Duration::from_secs(50) + Duration::from_millis(orders.unsigned_abs() * 10)
}

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

    /// Kills the services until all orders are taken and half of them are shipped. Then waits for the rest, and compares the orders with the
    /// shipments.
    async fn show(&self) -> Result<()> {
        let (begun, orders) = (Instant::now(), orders()?);
        let check_time = |problem: &str| check_time(begun, limit(orders), problem);
        let shop = shop::database(&self.shop).await?;
        let shipping = shipping::database(&self.shipping).await?;
        // In a long test, a service runs for some seconds before it is killed.
        let pauses = if orders > 10_000 { 10 } else { 1 };
        let mut services = [self.start("shop")?, self.start("shipping")?];
        while services.iter().any(|service| service.kills < KILLS)
            || Order::query("").count(&shop).await? < orders
            || Shipment::query("").count(&shipping).await? < orders / 2
        {
            sleep(Duration::from_millis(fastrand::u64(20..600)) * pauses).await;
            services[fastrand::usize(..2)].kill(self).await?;
            check_time("the services were not killed often enough")?;
        }
        while !self.is_done(&shop, &shipping).await? {
            sleep(Duration::from_millis(50)).await;
            services.iter_mut().try_for_each(Service::check)?;
            check_time("not everything is shipped")?;
        }
        for Service { name, kills, .. } in &services {
            println!("{name}: killed {kills} times");
        }
        println!(
            "messages that the shipping service has received: {}",
            self.consumer().await?.delivered.consumer_sequence
        );
        let (paid, shipped) = (paid(&shop).await?, shipped(&shipping).await?);
        let lost = paid.iter().filter(|order| !shipped.contains_key(order)).count();
        let twice = shipped.values().filter(|shipments| **shipments > 1).count();
        let unpaid = shipped.keys().filter(|order| paid.binary_search(order).is_err()).count();
        println!("orders: {orders}, paid: {}, shipped: {}", paid.len(), shipped.len());
        println!("not shipped: {lost}, shipped twice: {twice}, shipped but not paid: {unpaid}");
        if lost + twice + unpaid > 0 {
            return Err(Error::other("the paid orders are not the shipped ones"));
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
        if is_waiting(shop).await? {
            return Ok(false);
        }
        let consumer = self.consumer().await?;
        if consumer.num_pending > 0 || consumer.num_ack_pending > 0 {
            return Ok(false);
        }
        Ok(!is_waiting(shipping).await?)
    }

    /// How far the shipping service has read the stream.
    async fn consumer(&self) -> Result<jetstream::consumer::Info> {
        let stream = self.broker.get_stream(&self.stream).await.map_err(Error::other)?;
        let consumer = stream.get_consumer::<pull::Config>("shipping-shop_order_paid").await;
        Ok(consumer.map_err(Error::other)?.cached_info().clone())
    }
}

/// Whether an event or a delivery waits in a database.
async fn is_waiting(db: &Db) -> Result<bool> {
    let waiting = db.query("SELECT id FROM signals_delivery LIMIT 1").fetch_optional::<(i64,)>();
    Ok(waiting.await?.is_some())
}

/// The ids of the paid orders, in their order.
async fn paid(shop: &Db) -> Result<Vec<i64>> {
    let paid = shop.query("SELECT id FROM orders WHERE paid ORDER BY id").fetch_all::<(i64,)>();
    Ok(paid.await?.into_iter().map(|(id,)| id).collect())
}

/// How often each order was shipped.
async fn shipped(shipping: &Db) -> Result<BTreeMap<i64, i64>> {
    let counted = "SELECT order_id, count(*) FROM shipments GROUP BY order_id";
    Ok(shipping.query(counted).fetch_all::<(i64, i64)>().await?.into_iter().collect())
}

fn unusable(server: &str, error: impl std::fmt::Display) -> Error {
    Error::other(format!("{server} cannot be used: {error}; run this program with `{COMMAND}`"))
}

fn check_time(begun: Instant, limit: Duration, problem: &str) -> Result<()> {
    match begun.elapsed() < limit {
        true => Ok(()),
        false => Err(Error::other(format!("after {limit:?}, {problem}"))),
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
