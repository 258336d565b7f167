//! How errors are printed: `{}` is one line for the person who made the request, `{:#}` adds all details for the log.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use super::key::NO_KEY;
use super::missing_state::{MissingState, without_paths};
use super::{Error, ReceiverError, chain};

/// Stands for the closure in [`Error::WouldDeadlock`], which otherwise names a receiver.
pub(crate) const CLOSURE: &str = "the closure of `Db::transaction`";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, |form| form.error(self))
    }
}

impl fmt::Display for ReceiverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, |form| form.receiver(self))
    }
}

fn print(f: &mut fmt::Formatter<'_>, text: impl FnOnce(Form) -> String) -> fmt::Result {
    match f.alternate() {
        true => f.write_str(&text(Form::Long)),
        false => one_line(f, &text(Form::Short)),
    }
}

/// Writes a text on one line: messages of the program and of the database may contain line breaks.
pub(super) fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    for (i, line) in lines.enumerate() {
        f.write_str(if i == 0 { "" } else { " " })?;
        f.write_str(line)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Short,
    Long,
}

impl Form {
    pub(super) fn error(self, error: &Error) -> String {
        match error {
            Error::Database(error) => self.driver(error),
            Error::CannotConnect { to, advice, source } => {
                let cause = match source {
                    // The message of sqlx only adds "error with configuration".
                    sqlx::Error::Configuration(error) => self.cause(&**error),
                    error => self.cause(error),
                };
                format!("cannot connect to {to}: {cause}; {advice}")
            }
            Error::Other(error) => self.cause(&**error),
            Error::NotFound { model, key } => format!("no such `{model}`: {key}"),
            Error::Stale { model, key, version } => {
                format!("`{model}` {key} is stale: version {version} is not the stored one")
            }
            Error::Restricted { model, key, by, column, rows } => {
                let rows = match rows {
                    None => format!("at least one row of `{by}` refers"),
                    Some(1) => format!("1 row of `{by}` refers"),
                    Some(rows) => format!("{rows} rows of `{by}` refer"),
                };
                let why = format!("{rows} to it by `{column}` (on_delete = restrict)");
                format!("`{model}` {key} cannot be deleted: {why}")
            }
            Error::DuplicateKey { model, key } => {
                format!("`{model}` {key} occurs more than once among the rows")
            }
            Error::Row { verb, model, row, key, source } => {
                self.row(verb, model, *row, key, source)
            }
            Error::NotStored { model } => format!(
                "the database accepted the write of `{model}` and stored no row (a trigger, rule or policy?)"
            ),
            Error::Receiver(failed) => self.receiver(failed),
            Error::RolledBack { reason } => {
                let (operation, cause) = reason.parts();
                let cause = cause.map(|cause| self.error(cause)).unwrap_or_default();
                format!("the transaction was rolled back: {operation}{cause}")
            }
            Error::SchemaChanged(error) => format!(
                "a table has changed since a statement was prepared; run the transaction again: {}",
                self.cause(error)
            ),
            Error::CommitUnknown(error) => format!(
                "the connection was lost during COMMIT or a write that commits itself, and whether it is stored is unknown: {}",
                self.cause(error)
            ),
            Error::CommitNotObservable { model, receiver } => format!(
                "`{model}` has receivers that wait for the commit (`{}`), which cannot be seen through a plain \
                 `sqlx::Transaction` or a raw `BEGIN`; begin the transaction with `Db::begin`, adopt it with `Transaction::from`, \
                 or declare the receivers `durable`, without `once_per_transaction`",
                self.name(receiver)
            ),
            Error::TransactionControl { statement, instead } => format!(
                "`{statement}` in raw SQL begins or ends a transaction behind this library's back; use {instead}"
            ),
            Error::Recursion { chain, limit } => {
                format!("receivers save in a circle, {limit} levels deep: {}", self.names(chain))
            }
            Error::WouldDeadlock { receiver, site: Some(site) } => {
                let place = match self {
                    Self::Short => String::new(),
                    Self::Long => format!(" ({}:{})", site.file(), site.line()),
                };
                format!(
                    "{receiver}{place} used the `Db` or a pool instead of its own transaction, and would wait for itself; pass `tx`"
                )
            }
            Error::WouldDeadlock { receiver, site: None } => format!(
                "receiver `{}` used the `Db` or pool of the transaction that it runs in, and would wait for itself; take \
                 `conn: &mut Conn<'_>` and use that",
                self.name(receiver)
            ),
            Error::WriteLockTimedOut { waited, verb, model, held_for, caller } => {
                let holder = if model.is_empty() {
                    format!("a {verb}")
                } else {
                    format!("a {verb} of `{model}`")
                };
                let place = match caller {
                    Some(caller) if self == Self::Long => {
                        format!(" (begun at {}:{})", caller.file(), caller.line())
                    }
                    _ => String::new(),
                };
                format!(
                    "the write lock of the database was not free within {waited:.1?}: {holder}{place} has held it for \
                     {held_for:.1?}"
                )
            }
            Error::OnlyRehearsed { receiver } => format!(
                "{} used the `Db` or pool of a transaction whose commit is only rehearsed: no other connection sees its rows, \
                 and might wait for it; test this with a commit",
                self.name(receiver)
            ),
            Error::PayloadTooLarge { model, receiver, size, limit } => format!(
                "the event of `{model}` is too large for the durable receiver `{}`: {size} bytes, at most {limit} can be stored",
                self.name(receiver)
            ),
            Error::DeliveriesNotSetUp { found, needed } => {
                let found = match found {
                    0 => "does not exist".to_owned(),
                    found => {
                        format!("has version {found}, and this program needs version {needed}")
                    }
                };
                format!(
                    "the table `signals_delivery` of durable receivers {found}: run `db.deliveries().setup()`, or the SQL of \
                     `durable::migrations` with the migrations of the program"
                )
            }
            Error::NotLinked { receiver } => format!(
                "receiver `{}` is not registered in this program: is its crate linked?",
                self.name(receiver)
            ),
            Error::Check { findings } => {
                let (start, between) =
                    if self == Self::Long { ("\n- ", "\n- ") } else { (" ", "; ") };
                let findings: Vec<_> = findings.iter().map(|text| self.finding(text)).collect();
                format!(
                    "the check of the program and its database found:{start}{}",
                    findings.join(between)
                )
            }
        }
    }

    /// A finding of a check. The short form has neither the places of receivers, which are in parentheses, nor paths in backticks.
    fn finding(self, text: &str) -> Cow<'_, str> {
        if self == Self::Long {
            return Cow::Borrowed(text);
        }
        let mut parts = text.split(" (");
        let mut short = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (inner, rest) = part.split_once(')').unwrap_or((part, ""));
            let kept: Vec<_> = inner.split(", ").filter(|part| !part.contains(".rs:")).collect();
            match kept.len() == inner.split(", ").count() {
                true => short += &format!(" ({part}"),
                false if kept.is_empty() => short += rest,
                false => short += &format!(" ({}){rest}", kept.join(", ")),
            }
        }
        let names = short.split('`').enumerate();
        let names = names.map(|(i, name)| match i % 2 == 1 && !name.contains(' ') {
            true => without_paths(name),
            false => name.to_owned(),
        });
        Cow::Owned(names.collect::<Vec<_>>().join("`"))
    }

    /// An error of sqlx. Those of a pool also say what to do.
    fn driver(self, error: &sqlx::Error) -> String {
        let advice = match error {
            sqlx::Error::PoolClosed => "; call `Db::close` after the last use, or connect again",
            sqlx::Error::PoolTimedOut => {
                "; all connections were in use: end transactions sooner, or raise `max_connections` or `acquire_timeout`"
            }
            _ => "",
        };
        format!("{}{advice}", self.cause(error))
    }

    fn row(self, verb: &str, model: &str, row: usize, key: &str, source: &Error) -> String {
        let row = match key {
            NO_KEY => format!("row {row}, `{model}` without a key"),
            key => format!("row {row}, `{model}` {key}"),
        };
        match source {
            Error::Receiver(failed) if !failed.refused => {
                format!("{row}: {}", self.receiver(failed))
            }
            // The message already names the model.
            Error::Receiver(failed) if failed.model == model => {
                format!("could not {verb} {row}: {}", self.refusal(failed))
            }
            source => format!("could not {verb} {row}: {}", self.error(source)),
        }
    }

    fn receiver(self, failed: &ReceiverError) -> String {
        let ReceiverError { verb, model, .. } = failed;
        if failed.refused {
            return format!("could not {verb} `{model}`: {}", self.refusal(failed));
        }
        let of = if *verb == "send" { String::new() } else { format!("the {verb} of ") };
        let cause = self.cause(&*failed.source);
        format!(
            "receiver `{}` of {of}`{model}`{} failed: {cause}",
            self.name(failed.receiver),
            self.place(failed)
        )
    }

    /// Which receiver refused an operation, and why.
    fn refusal(self, failed: &ReceiverError) -> String {
        // In a recursion, each level would repeat the chain that the innermost error already lists.
        let recursion = chain::from(&*failed.source)
            .filter_map(chain::downcast::<Error>)
            .find(|e| matches!(e, Error::Recursion { .. }));
        if let (Self::Short, Some(recursion)) = (self, recursion) {
            return self.error(recursion);
        }
        let (name, place) = (self.name(failed.receiver), self.place(failed));
        format!("receiver `{name}`{place}: {}", self.cause(&*failed.source))
    }

    fn place(self, failed: &ReceiverError) -> String {
        let ReceiverError { signal, file, line, model, .. } = failed;
        match self {
            Self::Short => String::new(),
            // The name of a custom signal is already in the message, as the model.
            Self::Long if signal == model => format!(" ({file}:{line})"),
            Self::Long => format!(" of `{signal}` ({file}:{line})"),
        }
    }

    /// The message of a cause. The long form appends the cause of that cause, unless the message already ends with it.
    fn cause(self, error: &(dyn StdError + 'static)) -> String {
        if let Some(error) = chain::downcast::<Error>(error) {
            return self.error(error);
        }
        if let Some(failed) = chain::downcast::<ReceiverError>(error) {
            return self.receiver(failed);
        }
        if let Some(missing) = chain::downcast::<MissingState>(error)
            && self == Self::Long
        {
            return format!("{missing:#}");
        }
        let mut text = error.to_string();
        let next = if self == Self::Long { chain::next(error) } else { None };
        if let Some(next) = next {
            let cause = self.cause(next);
            // Errors of other crates print their cause with `{}`, which is the short form: replace it by the long form.
            if text.ends_with(&Self::Short.cause(next)) {
                text.truncate(text.len() - Self::Short.cause(next).len());
                text.push_str(&cause);
            } else if !text.ends_with(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        text
    }

    /// The name of a receiver; the long form includes its path. A receiver that is connected at run time can have any text as
    /// its name, so a name with a space is not treated as a path.
    fn name(self, path: &str) -> &str {
        match self {
            Self::Short if !path.contains(' ') => path.rsplit("::").next().unwrap_or(path),
            _ => path,
        }
    }

    /// Prints the receivers' names within a text, where they are in backticks.
    fn names(self, text: &str) -> String {
        let names = text.split('`').enumerate();
        let names = names.map(|(i, part)| if i % 2 == 1 { self.name(part) } else { part });
        names.collect::<Vec<_>>().join("`")
    }
}
