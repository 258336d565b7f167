//! The spans and events of a save.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

use sqlx_signals::prelude::*;

/// Writes down the spans and events of this library.
#[derive(Clone, Default)]
struct Subscriber {
    seen: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
    next: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        if field.name() == "elapsed" {
            let _ = write!(self.0, " elapsed");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("sqlx_signals_core")
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut fields = Fields(format!("span {}", span.metadata().name()));
        span.record(&mut fields);
        self.seen.lock().unwrap().push(fields.0);
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::span::Id::from_u64(id + 1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.seen.lock().unwrap().push(fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_save_and_its_receivers_are_traced() {
    #[derive(Debug, Clone, Model)]
    struct Traced {
        id: Option<i64>,
        n: i64,
    }

    #[receiver(post_save, sender = Traced)]
    async fn well(_: PostSave<'_, Traced>) {}

    #[receiver(post_save, sender = Traced, robust)]
    fn fails(_: PostSave<'_, Traced>) -> Result<(), &'static str> {
        Err("out of order")
    }

    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE traced (id INTEGER PRIMARY KEY, n BIGINT NOT NULL)").await.unwrap();
    let subscriber = Subscriber::default();
    let guard = tracing::subscriber::set_default(subscriber.clone());
    Traced { id: None, n: 1 }.save(&db).await.unwrap();
    drop(guard);
    let seen = subscriber.seen.lock().unwrap().clone();
    let [save, first, received, second, failed] = &seen[..] else { panic!("{seen:#?}") };
    assert_eq!(save, "span save model=\"Traced\"");
    assert!(
        first.starts_with(
            "span receiver receiver=\"traces::well\" signal=\"post_save\" sender=\"Traced\""
        ),
        "{first}"
    );
    assert!(
        received.starts_with("DEBUG message=received") && received.ends_with("elapsed"),
        "{received}"
    );
    assert!(second.contains("traces::fails"), "{second}");
    assert!(
        failed.starts_with("ERROR message=a receiver failed")
            && failed.contains("cause=out of order"),
        "{failed}"
    );
}
