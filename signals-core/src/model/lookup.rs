//! Rows by many keys, in one statement.

use std::ops::Range;

use futures_util::future::BoxFuture;
use sqlx::error::BoxDynError;

use crate::database::backend::{
    AnyRow, AnyTake, Arguments, Backend, Bindable, DatabaseKind, Statement, on, on_kind,
};
use crate::database::conn::Conn;
use crate::database::source::Source;
#[cfg(feature = "durable")]
use crate::database::writer::Verb;
use crate::error::Result;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::model::{Model, read};
use crate::table::chunk::{ROWS_OF_ARRAYS, SQLITE_ARGUMENTS, rows_of_values};
use crate::table::compose;
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, Schema};
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};
use crate::write::inspect;
#[cfg(feature = "durable")]
use crate::write::row_locks::can_lock;

/// Passes a part of the key with an index to the [`AnyTake`]: `(key, part, take)`.
pub(crate) type GiveKey<'g> =
    &'g (dyn Fn(usize, usize, AnyTake<'_>) -> Result<(), BoxDynError> + Send + Sync);

/// The keys by which rows are found.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'k> {
    /// The columns that are compared with the parts of a key.
    pub(crate) on: &'k [usize],
    pub(crate) count: usize,
    pub(crate) give: GiveKey<'k>,
}

/// The rows with these keys, in the order of the keys.
pub(crate) async fn get_many<M: Model, R: Route<M>>(
    source: Source<'_>,
    keys: &[M::Pk],
) -> Result<Vec<M>> {
    let mut conn = source.acquire().await?;
    let on: Vec<_> = M::STATEMENTS.group(ColumnGroup::Key).collect();
    let give = |key: usize, part, take: AnyTake<'_>| R::give_key(&keys[key], part, take);
    let found = find::<M, R>(&mut conn, Keys { on: &on, count: keys.len(), give: &give }).await?;
    let mut ordered: Vec<_> = keys.iter().map(|_| None).collect();
    for (key, row) in found {
        ordered[key] = Some(row);
    }
    let row = |(row, key): (Option<M>, &M::Pk)| row.ok_or_else(|| read::not_found::<M>(Some(key)));
    let rows = ordered.into_iter().zip(keys).map(row).collect::<Result<Vec<_>>>()?;
    loaded::<M, R>(rows, &mut conn).await
}

/// Notifies the receivers of [`post_load`](crate::post_load) of the rows.
pub(crate) async fn loaded<M: Model, R: Route<M>>(
    rows: Vec<M>,
    conn: &mut Conn<'_>,
) -> Result<Vec<M>> {
    let mut rows = read::ManyRows::<M, R>::of(rows);
    read::loaded(&mut rows, conn).await?;
    Ok(rows.rows)
}

/// Finds the rows whose columns equal one of the keys, each with the index of its key. The receivers are not notified.
pub(crate) async fn find<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    keys: Keys<'_>,
) -> Result<Vec<(usize, M)>> {
    find_as::<M, R>(StatementKind::Match, conn, keys).await
}

/// As [`find`]. On PostgreSQL, locks the rows until the end of the transaction, unless they are those of a view that cannot be locked.
#[cfg(feature = "durable")]
pub(crate) async fn find_and_lock<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    keys: Keys<'_>,
) -> Result<Vec<(usize, M)>> {
    let mut none = TypedRows::<M, R>::new(&mut []);
    let statement = match can_lock(conn, none.erased(), Verb::Save).await? {
        true => StatementKind::LockMatching,
        false => StatementKind::Match,
    };
    find_as::<M, R>(statement, conn, keys).await
}

async fn find_as<M: Model, R: Route<M>>(
    statement: StatementKind,
    conn: &mut Conn<'_>,
    keys: Keys<'_>,
) -> Result<Vec<(usize, M)>> {
    let mut found = Vec::with_capacity(keys.count);
    let mut load = |key, row: AnyRow| {
        found.push((key, R::load(&row, 1)?));
        Ok(())
    };
    let mut none = TypedRows::<M, R>::new(&mut []);
    run(statement, conn, none.erased().as_rows(), keys, &mut load).await?;
    Ok(found)
}

/// As [`find`], for keys of one column on SQLite: `number` finds the index of the key that a row has. Decoding that index for
/// each row would take longer than everything else that the library adds.
pub(crate) async fn find_by_value<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    keys: Keys<'_>,
    number: impl Fn(&M) -> Option<usize> + Send + Sync,
) -> Result<(Vec<usize>, Vec<M>)> {
    let (mut numbers, mut rows) = (Vec::new(), Vec::new());
    let mut load = |row: AnyRow| {
        let row = R::load(&row, 0)?;
        let number = number(&row).ok_or_else(|| {
            sqlx::Error::Decode("the row was found by another key than it contains".into())
        })?;
        numbers.push(number);
        rows.push(row);
        Ok(())
    };
    run_by_value(conn, M::STATEMENTS, keys, &mut load).await?;
    Ok((numbers, rows))
}

/// Runs the statements of [`find_by_value`]. It is not generic, so that it is compiled once.
fn run_by_value<'f>(
    conn: &'f mut Conn<'_>,
    schema: &'static Schema,
    keys: Keys<'f>,
    load: &'f mut (dyn FnMut(AnyRow) -> Result<(), sqlx::Error> + Send),
) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        let on = schema.qualified(keys.on[0]);
        for start in (0..keys.count).step_by(SQLITE_ARGUMENTS) {
            let some = start..keys.count.min(start + SQLITE_ARGUMENTS);
            let persistent = some.len() == 1;
            let list = vec!["?"; some.len()].join(", ");
            let sql = format!("{} WHERE {on} IN ({list})", schema.select);
            let mut args = Arguments::new(conn.kind());
            on!(Arguments, &mut args, DB, args => for key in some {
                let take = &mut |value: &dyn Bindable<DB>| value.bind(args);
                (keys.give)(key, 0, DB::any_take(take)).map_err(sqlx::Error::Encode)?;
            });
            conn.read_each(Statement { persistent, ..Statement::once(sql, args) }, load).await?;
        }
        Ok(())
    })
}

/// Runs the statements. It is not generic, so that it is compiled once. `of` are no rows, but know the table. `load` is called with
/// the index of the key and the row.
fn run<'f>(
    wanted: StatementKind,
    conn: &'f mut Conn<'_>,
    of: &'f dyn Rows,
    keys: Keys<'f>,
    load: &'f mut (dyn FnMut(usize, AnyRow) -> Result<(), sqlx::Error> + Send),
) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        if keys.count == 0 {
            return Ok(());
        }
        let kind = conn.kind();
        let first = KeyTypes::of(kind, keys);
        let most = match kind {
            DatabaseKind::Postgres if first.fit_arrays => ROWS_OF_ARRAYS,
            DatabaseKind::Postgres => rows_of_values(kind, keys.on.len()),
            // As few statements as possible: a list of keys costs less than a list of rows.
            DatabaseKind::Sqlite => SQLITE_ARGUMENTS / keys.on.len().max(1),
        };
        let columns = (0..of.schema().columns.len()).collect();
        let mut spec = StatementSpec::new(wanted, RowInput::Arrays, columns, keys.on.to_vec());
        if first.has_text {
            spec.casts = inspect::casts(conn, of).await?;
        }
        for start in (0..keys.count).step_by(most) {
            let some = start..keys.count.min(start + most);
            if !first.fit_arrays {
                spec.input = RowInput::Values(some.len());
            }
            let statement = statement(kind, of, &spec, keys, some).map_err(sqlx::Error::Encode)?;
            let mut load = |row: AnyRow| {
                let number = usize::try_from(row.scalar()?).unwrap_or_default();
                load(start + number.saturating_sub(1), row)
            };
            conn.read_each(statement, &mut load).await?;
        }
        Ok(())
    })
}

/// The statement for some of the keys.
fn statement(
    kind: DatabaseKind,
    of: &dyn Rows,
    spec: &StatementSpec,
    keys: Keys<'_>,
    some: Range<usize>,
) -> Result<Statement, BoxDynError> {
    let mut args = Arguments::new(kind);
    let (parts, model) = (0..keys.on.len(), of.schema());
    on!(Arguments, &mut args, DB, args => match spec.input {
        RowInput::Arrays => {
            for part in parts {
                DB::bind_each(args, some.len(), &|n, take| {
                    (keys.give)(some.start + n, part, DB::any_take(take))
                })?;
            }
        }
        RowInput::Values(_) => {
            // A single key is compared with its columns directly.
            let compared = !spec.found_by(kind).is_empty();
            for (key, part) in some.flat_map(|key| parts.clone().map(move |part| (key, part))) {
                let take = &mut |value: &dyn Bindable<DB>| match compared {
                    true => value.bind_compared(args),
                    false => value.bind(args),
                };
                (keys.give)(key, part, DB::any_take(take))?;
            }
        }
    });
    Ok(match spec.input {
        RowInput::Arrays | RowInput::Values(1) => {
            Statement::prepared(of.statement_cache().sql(spec, model, kind), args)
        }
        RowInput::Values(_) => Statement::once(compose::sql(spec, model, kind), args),
    })
}

/// What the types of the first key allow.
struct KeyTypes {
    /// Whether the keys can be bound as one array for each column.
    fit_arrays: bool,
    /// Whether a part of the key is text, which PostgreSQL may compare in another way than the column's type does.
    has_text: bool,
}

impl KeyTypes {
    fn of(kind: DatabaseKind, keys: Keys<'_>) -> Self {
        let mut types = Self { fit_arrays: true, has_text: false };
        for part in 0..keys.on.len() {
            // If the key cannot be given, binding it returns the error.
            let _ = on_kind!(kind, DB => {
                (keys.give)(0, part, DB::any_take(&mut |value| types.add(value)))
            });
        }
        types
    }

    fn add<DB: Backend>(&mut self, value: &dyn Bindable<DB>) -> Result<(), BoxDynError> {
        let ty = value.type_info();
        self.fit_arrays &= DB::fits_array(&ty);
        self.has_text |= DB::is_text(&ty);
        Ok(())
    }
}
