//! An `after` that cannot hold is logged and reported by `db.check()`.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

#[path = "common/events.rs"]
mod events;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use events::Events;
use sqlx_signals::Error;
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct Egg {
    id: Option<i64>,
}

#[receiver(post_save, sender = Egg, after = hen)]
fn egg(_: PostSave<'_, Egg>) {}

#[receiver(post_save, sender = Egg, after = egg)]
fn hen(_: PostSave<'_, Egg>) {}

#[receiver(post_save, sender = Egg, after = hen)]
fn farmer(_: PostSave<'_, Egg>) {}

// A circle of receivers of two models is reported once.
#[receiver(post_save, sender = [phases::Order, phases::Invoice], after = stock)]
fn pack<M: Model>(_: PostSave<'_, M>) {}

#[receiver(post_save, sender = [phases::Order, phases::Invoice], after = pack)]
fn stock<M: Model>(_: PostSave<'_, M>) {}

mod phases {
    use sqlx_signals::AnyModel;

    use super::*;

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Order {
        pub(crate) id: Option<i64>,
    }

    #[derive(Debug, Clone, Model)]
    pub(crate) struct Invoice {
        pub(crate) id: Option<i64>,
    }

    #[receiver(post_save, sender = [Order, Invoice], on_commit, order = 0, after = audit)]
    fn mail<M: Model>(_: PostSave<'_, M>) {}

    #[receiver(post_save, on_rollback, order = 1)]
    fn apologize(_: PostSave<'_, dyn AnyModel>) {}

    // Cannot hold: the others run later. It is not a circle, although `mail` is also after `audit`.
    #[receiver(post_save, sender = [Order, Invoice], order = 2, after = [mail, apologize])]
    fn audit<M: Model>(_: PostSave<'_, M>) {}

    // Cannot hold: a save is committed or rolled back.
    #[receiver(post_save, sender = Order, on_commit, order = 3, after = apologize)]
    fn thank(_: PostSave<'_, Order>) {}

    // Always holds.
    #[receiver(post_save, sender = Order, on_rollback, order = 4, after = audit)]
    fn alert(_: PostSave<'_, Order>) {}

    // Of another signal, and of another model: there is no order between them.
    #[receiver(post_delete, sender = Order, order = 5, after = [mail, apologize])]
    fn deleted(_: PostDelete<'_, Order>) {}

    #[receiver(post_save, sender = Invoice, order = 6, after = thank)]
    fn billed(_: PostSave<'_, Invoice>) {}

    #[receiver(post_save, sender = Order, on_commit(detached), order = 7, after = mail)]
    fn upload(_: PostSave<'_, Order>) {}

    // Cannot hold: nothing waits for a detached receiver.
    #[receiver(post_save, sender = Order, on_commit, order = 8, after = upload)]
    fn link(_: PostSave<'_, Order>) {}
}

struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

// One test: the log is written when the registry is first used.
#[tokio::test]
async fn an_after_that_cannot_hold_is_logged_and_found_by_the_check() {
    let errors = Arc::new(Mutex::new(Vec::new()));
    let selects = |metadata: &tracing::Metadata<'_>| *metadata.level() == tracing::Level::ERROR;
    let heard = Arc::clone(&errors);
    let hear = move |event: &tracing::Event<'_>| {
        let mut message = Message(String::new());
        event.record(&mut message);
        heard.lock().unwrap().push(message.0);
    };
    let guard = tracing::subscriber::set_default(Events { selects, hear });
    sqlx_signals::registry();
    drop(guard);

    let db = Db::connect("sqlite::memory:").await.unwrap();
    let tables = "CREATE TABLE egg (id INTEGER PRIMARY KEY); CREATE TABLE \"order\" (id INTEGER PRIMARY KEY); \
                  CREATE TABLE invoice (id INTEGER PRIMARY KEY)";
    db.execute(tables).await.unwrap();
    let Err(Error::Check { findings }) = db.check().await else { panic!("nothing is found") };
    // The lines of the receivers.
    let without_lines = |text: &str| -> String {
        text.split("tests/after.rs:")
            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()))
            .collect()
    };
    assert!(findings[0].contains("tests/after.rs:"), "{findings:?}");
    let found: Vec<_> = findings.iter().map(|finding| without_lines(finding)).collect();
    assert_eq!(
        found,
        [
            "receiver `after::phases::audit` (, in transaction) cannot run `after` `after::phases::mail` (on commit), which runs \
             later",
            "receiver `after::phases::audit` (, in transaction) cannot run `after` `after::phases::apologize` (on rollback), \
             which runs later",
            "receiver `after::phases::thank` (, on commit) cannot run `after` `after::phases::apologize` (on rollback), and only \
             one of them runs for an event",
            "receiver `after::phases::link` (, on commit) cannot run `after` `after::phases::upload` (on commit, detached), which \
             runs on a task of its own that no other receiver waits for",
            "receivers are each said to run `after` another: `after::egg` after `after::hen` after `after::egg`",
            "receivers are each said to run `after` another: `after::pack` after `after::stock` after `after::pack`",
        ]
    );
    let logged = errors.lock().unwrap().clone();
    assert_eq!(logged.len(), findings.len(), "{logged:?}");
    for (logged, finding) in logged.iter().zip(&findings) {
        assert!(logged.starts_with(finding), "{logged}");
    }

    // They run all the same, each once.
    Egg { id: None }.save(&db).await.unwrap();
    phases::Order { id: None }.save(&db).await.unwrap();
}
