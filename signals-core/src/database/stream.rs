//! Rows of a statement as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::database::backend::{AnyRow, Statement};
use crate::database::conn::Conn;
use crate::database::execution::Naming;
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
    let mut run: Option<BoxFuture<'s, Result<()>>> = Some(Box::pin(run(source, statement, sender)));
    poll_fn(move |cx| next(&mut run, &mut receiver, cx)).boxed()
}

fn next(
    run: &mut Option<BoxFuture<'_, Result<()>>>,
    receiver: &mut Receiver<AnyRow>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<AnyRow>>> {
    if let Poll::Ready(Some(row)) = receiver.poll_recv(cx) {
        return Poll::Ready(Some(Ok(row)));
    }
    let Some(running) = run else { return Poll::Ready(None) };
    let result = Pin::new(running).poll(cx);
    if let Poll::Ready(Ok(())) = result {
        *run = None;
    }
    // A row comes before the error of a later one.
    match (receiver.poll_recv(cx), result) {
        (Poll::Ready(Some(row)), Poll::Ready(Err(error))) => {
            *run = Some(Box::pin(async { Err(error) }));
            Poll::Ready(Some(Ok(row)))
        }
        (Poll::Ready(Some(row)), _) => Poll::Ready(Some(Ok(row))),
        (_, Poll::Ready(Err(error))) => {
            *run = None;
            Poll::Ready(Some(Err(error)))
        }
        (_, Poll::Ready(Ok(()))) => Poll::Ready(None),
        (_, Poll::Pending) => Poll::Pending,
    }
}

async fn run(
    source: Source<'_>,
    statement: Result<Statement>,
    sender: Sender<AnyRow>,
) -> Result<()> {
    let statement = statement?;
    let mut conn = source.acquire().await?;
    conn.ensure_connected().await?;
    let again = if conn.naming() == Naming::Named { statement.again() } else { None };
    let mut sent = false;
    let result = conn.start(statement, false).pass_to(&sender, &mut sent).await;
    let result = match (result, again) {
        (Err(error), Some(again)) if !sent && is_outdated(&error) => {
            rerun(&mut conn, error, again, &sender).await
        }
        (result, _) => result,
    };
    conn.note_result(result).await
}

/// Runs a statement once more, after the database has refused it as outdated with `error`.
async fn rerun(
    conn: &mut Conn<'_>,
    error: sqlx::Error,
    again: Statement,
    sender: &Sender<AnyRow>,
) -> Result<(), sqlx::Error> {
    conn.prepare_again(error).await?;
    conn.start(again, false).pass_to(sender, &mut false).await
}
