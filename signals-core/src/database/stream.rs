//! Rows of a statement as a stream.

use std::time::Instant;

use futures_util::future::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use tokio::sync::mpsc::{Sender, channel};

use crate::database::backend::{AnyRow, Statement};
use crate::database::conn::Conn;
use crate::database::execution::{Naming, Returns};
use crate::database::run::was_dead;
use crate::database::source::Source;
use crate::error::Result;
use crate::error::driver::is_outdated;

/// The rows of a statement, each of which is read when the stream is polled.
///
/// The statement borrows the connection, so both are in one future. It passes the rows to the stream, which polls it.
pub(crate) fn rows<'s>(
    source: Source<'s>,
    statement: Result<Statement>,
) -> BoxStream<'s, Result<AnyRow>> {
    let (sender, mut receiver) = channel(1);
    let run = async move {
        if let Err(error) = run(source, statement, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    };
    let mut run = run.boxed().fuse();
    poll_fn(move |cx| {
        // Its end closes the channel, and only that ends the stream.
        let _ = run.poll_unpin(cx);
        receiver.poll_recv(cx)
    })
    .boxed()
}

async fn run(
    source: Source<'_>,
    statement: Result<Statement>,
    sender: &Sender<Result<AnyRow>>,
) -> Result<()> {
    let mut statement = statement?;
    let mut conn = source.acquire().await?;
    conn.ensure_connected().await?;
    loop {
        let mut again = conn.again(&statement);
        let is_named = conn.naming() == Naming::Named;
        let sent_at = Instant::now();
        let mut sent = false;
        let result = conn.start(statement, Returns::Rows).pass_to(sender, &mut sent).await;
        let result = match result {
            Err(error) if !sent && is_named && is_outdated(&error) => match again.take() {
                Some(again) => rerun(&mut conn, error, again, sender).await,
                None => Err(error),
            },
            result => result,
        };
        match (conn.note_result(result).await, again) {
            (Err(error), Some(again)) if !sent => {
                conn.reconnect(error, |error| was_dead(error, sent_at)).await?;
                statement = again;
            }
            (done, _) => return done,
        }
    }
}

/// Runs a statement once more, after the database has refused it as outdated with `error`.
async fn rerun(
    conn: &mut Conn<'_>,
    error: sqlx::Error,
    again: Statement,
    sender: &Sender<Result<AnyRow>>,
) -> Result<(), sqlx::Error> {
    conn.prepare_again(error).await?;
    conn.start(again, Returns::Rows).pass_to(sender, &mut false).await
}
