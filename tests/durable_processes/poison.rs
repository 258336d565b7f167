//! A delivery that aborts its process is dead in the end, and has used up no attempt of the deliveries beside it.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sqlx_signals::DatabaseKind;
use sqlx_signals::prelude::*;

use crate::process::{End, Process};
use crate::{Effects, Scene, book};

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "parcels")]
struct Parcel {
    id: Option<i64>,
    name: String,
}

impl Parcel {
    /// Aborts a worker that runs this receiver with the bomb that is meant for it.
    fn open(&self, receiver: &str) {
        if self.name == format!("bomb of {receiver}") {
            std::process::abort();
        }
    }
}

#[receiver(post_save, sender = Parcel, durable(max_attempts = 1))]
async fn open_parcel(
    saved: PostSave<'_, Parcel>,
    delivery: Delivery<'_>,
    State(effects): State<Effects>,
) {
    effects.push(&saved.instance.name, &delivery);
    saved.instance.open("open_parcel");
}

#[receiver(post_save, sender = Parcel, durable(max_attempts = 1))]
async fn book_parcel(saved: PostSave<'_, Parcel>, conn: &mut Conn<'_>) -> Result<()> {
    book(&saved.instance.name, conn).await?;
    saved.instance.open("book_parcel");
    Ok(())
}

#[receiver(post_save, sender = Parcel, durable(max_attempts = 1, ordering_key = name))]
async fn sort_parcel(saved: PostSave<'_, Parcel>, conn: &mut Conn<'_>) -> Result<()> {
    conn.execute("UPDATE counter SET value = value + 1").await?;
    saved.instance.open("sort_parcel");
    Ok(())
}

async fn poison(kind: DatabaseKind, receiver: &str) {
    let begun = Instant::now();
    let scene = Scene::new(kind, &format!("poison_{receiver}")).await;
    let bomb = format!("bomb of {receiver}");
    let parcel = |n: usize| Parcel {
        id: None,
        name: if n == 50 { bomb.clone() } else { format!("parcel {n:03}") },
    };
    let mut parcels: Vec<_> = (0..=100).map(parcel).collect();
    Parcel::insert_many(&scene.db, &mut parcels).await.unwrap();
    let mut kills = 0;
    while Process::start(&scene, "work", "").end().await == End::Killed {
        kills += 1;
        assert!(kills <= 5, "a delivery that kills its worker is tried for ever");
        scene.an_hour_passes().await;
    }
    assert_eq!(scene.left().await, 0);

    let dead = (receiver.to_owned(), format!("its worker was lost {kills} times while it ran"));
    assert_eq!(scene.dead().await, [dead]);
    let rows = scene.names("parcels").await;
    let run: BTreeSet<_> = scene.effects.read().into_iter().map(|effect| effect.name).collect();
    assert!(rows.iter().all(|name| run.contains(name)), "each delivery without a connection ran");
    let mut booked = rows.clone();
    booked.retain(|name| receiver != "book_parcel" || *name != bomb);
    assert_eq!(scene.names("bookings").await, booked, "each delivery with a connection ran once");
    let sorted = rows.len() - usize::from(receiver == "sort_parcel");
    assert_eq!(scene.counter().await, sorted as i64, "each delivery with a key ran once");
    println!(
        "{kind:?}, {receiver}: {} deliveries, {kills} aborts, 1 dead, lost 0, {:?}",
        3 * rows.len(),
        begun.elapsed()
    );
    scene.passed().await;
}

macro_rules! poison {
    ($($name:ident: $kind:ident, $receiver:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            poison(DatabaseKind::$kind, $receiver).await;
        }
    )* };
}

poison! {
    a_delivery_that_aborts_its_process_is_dead_on_sqlite: Sqlite, "open_parcel";
    a_delivery_that_aborts_its_process_is_dead_on_postgres: Postgres, "open_parcel";
    a_delivery_that_aborts_its_process_in_its_transaction_is_dead_on_sqlite: Sqlite, "book_parcel";
    a_delivery_that_aborts_its_process_in_its_transaction_is_dead_on_postgres: Postgres, "book_parcel";
    a_delivery_with_a_key_that_aborts_its_process_is_dead_on_sqlite: Sqlite, "sort_parcel";
    a_delivery_with_a_key_that_aborts_its_process_is_dead_on_postgres: Postgres, "sort_parcel";
}
