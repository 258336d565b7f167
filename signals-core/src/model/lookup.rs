//! Rows by many keys, in one statement.

use std::fmt::Write;

use futures_util::future::BoxFuture;
use sqlx::error::BoxDynError;

use crate::database::backend::{
    AnyRow, AnyTake, Arguments, Backend, Bindable, DatabaseKind, Statement,
};
use crate::database::conn::Conn;
use crate::database::schema_cache::Casts;
use crate::database::source::Source;
use crate::error::Result;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::model::{Model, read};
use crate::table::chunk::{ROWS_OF_ARRAYS, SQLITE_ARGUMENTS};
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, Schema};
use crate::write::inspect;

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
    let mut found = Vec::with_capacity(keys.count);
    let mut load = |row: AnyRow| {
        let number = usize::try_from(row.scalar()?).unwrap_or_default();
        found.push((number.saturating_sub(1), R::load(&row, 1)?));
        Ok(())
    };
    run(conn, TypedRows::<M, R>::new(&mut []).erased().as_rows(), keys, &mut load).await?;
    Ok(found)
}

/// Runs the statements. It is not generic, so that it is compiled once. `of` are no rows, but know the table.
fn run<'f>(
    conn: &'f mut Conn<'_>,
    of: &'f dyn Rows,
    keys: Keys<'f>,
    load: &'f mut (dyn FnMut(AnyRow) -> Result<(), sqlx::Error> + Send),
) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        if keys.count == 0 {
            return Ok(());
        }
        let kind = conn.kind();
        let first = KeyTypes::of(kind, keys);
        let casts = match first.has_text {
            true => inspect::casts(conn, of, of.columns()).await?,
            false => None,
        };
        let most = match kind {
            DatabaseKind::Postgres => ROWS_OF_ARRAYS,
            DatabaseKind::Sqlite => SQLITE_ARGUMENTS / keys.on.len().max(1),
        };
        for start in (0..keys.count).step_by(most) {
            let end = keys.count.min(start + most);
            let lookup = Lookup { schema: of.schema(), keys, start, end, casts: &casts };
            let statement = match kind {
                DatabaseKind::Postgres if first.fit_arrays => lookup.by_arrays(kind),
                _ => lookup.by_values(kind),
            };
            let mut result = Ok(());
            let mut sink = |row| {
                if result.is_ok() {
                    result = load(row);
                }
            };
            conn.run(statement.map_err(sqlx::Error::Encode)?, &mut sink).await?;
            result?;
        }
        Ok(())
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
            let _ = match kind {
                #[cfg(feature = "sqlite")]
                DatabaseKind::Sqlite => {
                    let take = &mut |value: &dyn Bindable<sqlx::Sqlite>| types.add(value);
                    (keys.give)(0, part, AnyTake::Sqlite(take))
                }
                #[cfg(feature = "postgres")]
                DatabaseKind::Postgres => {
                    let take = &mut |value: &dyn Bindable<sqlx::Postgres>| types.add(value);
                    (keys.give)(0, part, AnyTake::Postgres(take))
                }
                #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
                _ => Ok(()),
            };
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

/// One statement: the rows of the keys from `start` to `end`.
struct Lookup<'l> {
    schema: &'static Schema,
    keys: Keys<'l>,
    start: usize,
    end: usize,
    casts: &'l Casts,
}

impl Lookup<'_> {
    /// PostgreSQL: the keys are arrays, so that the text is the same for any number of keys.
    fn by_arrays(&self, kind: DatabaseKind) -> Result<Statement, BoxDynError> {
        let mut args = Arguments::new(kind);
        let mut given = String::new();
        for (part, column) in self.keys.on.iter().enumerate() {
            let place = part + 1;
            given += &format!("UNNEST(${place}){} AS k{part}, ", self.cast(*column));
            let count = self.end - self.start;
            match &mut args {
                #[cfg(feature = "sqlite")]
                Arguments::Sqlite(args) => sqlx::Sqlite::bind_each(args, count, &|n, take| {
                    (self.keys.give)(self.start + n, part, AnyTake::Sqlite(take))
                })?,
                #[cfg(feature = "postgres")]
                Arguments::Postgres(args) => sqlx::Postgres::bind_each(args, count, &|n, take| {
                    (self.keys.give)(self.start + n, part, AnyTake::Postgres(take))
                })?,
            }
        }
        let number = match self.start {
            0 => String::new(),
            start => format!(" + {start}"),
        };
        let given = format!("(SELECT {given}GENERATE_SUBSCRIPTS($1, 1)::bigint AS _n) AS _given");
        let sql = self.select(&format!("_given._n{number}"), &given, "JOIN", "ON");
        Ok(Statement { persistent: true, ..Statement::once(sql, args) })
    }

    fn by_values(&self, kind: DatabaseKind) -> Result<Statement, BoxDynError> {
        let mut args = Arguments::new(kind);
        let (mut values, mut place) = (String::new(), 0);
        for key in self.start..self.end {
            values += if key == self.start { "(" } else { ", (" };
            for (part, column) in self.keys.on.iter().enumerate() {
                place += 1;
                match kind {
                    // Without a number, because SQLite searches the list of all parameters for each numbered one.
                    DatabaseKind::Sqlite => values.push_str("?, "),
                    DatabaseKind::Postgres => {
                        let _ = write!(values, "${place}{}, ", self.cast(*column));
                    }
                }
                match &mut args {
                    #[cfg(feature = "sqlite")]
                    Arguments::Sqlite(args) => {
                        let take = AnyTake::Sqlite(&mut |value| value.bind(args));
                        (self.keys.give)(key, part, take)?;
                    }
                    #[cfg(feature = "postgres")]
                    Arguments::Postgres(args) => {
                        let take = AnyTake::Postgres(&mut |value| value.bind(args));
                        (self.keys.give)(key, part, take)?;
                    }
                }
            }
            let ty = if kind == DatabaseKind::Postgres { "::bigint" } else { "" };
            let _ = write!(values, "{}{ty})", key + 1);
        }
        let columns: String = (0..self.keys.on.len()).map(|part| format!("k{part}, ")).collect();
        let sql = match kind {
            DatabaseKind::Postgres => {
                let given = format!("(VALUES {values}) AS _given({columns}_n)");
                self.select("_given._n", &given, "JOIN", "ON")
            }
            DatabaseKind::Sqlite => {
                // SQLite keeps the order of a CROSS JOIN: the table may be large, but the keys are few.
                let select = self.select("_given._n", "_given", "CROSS JOIN", "WHERE");
                format!("WITH _given({columns}_n) AS (VALUES {values}) {select}")
            }
        };
        let persistent = self.end - self.start == 1;
        Ok(Statement { persistent, ..Statement::once(sql, args) })
    }

    fn select(&self, number: &str, given: &str, join: &str, on: &str) -> String {
        let columns: String =
            self.schema.columns.iter().map(|c| format!(", _stored.{}", c.name)).collect();
        let same = self.keys.on.iter().enumerate();
        let same =
            same.map(|(part, c)| format!("_stored.{} = _given.k{part}", self.schema.name(*c)));
        let (table, same) = (self.schema.table, same.collect::<Vec<_>>().join(" AND "));
        format!("SELECT {number}{columns} FROM {given} {join} {table} AS _stored {on} {same}")
    }

    /// The cast of a part of a key to the type as which it is compared with the column.
    fn cast(&self, column: usize) -> String {
        let casts = self.casts.as_deref().unwrap_or_default();
        let ty = casts.iter().find(|(of, _)| *of == column);
        ty.map_or_else(String::new, |(_, ty)| format!("::{ty}"))
    }
}
