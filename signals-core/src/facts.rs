//! What is known of the tables of a database: which columns of a result can be read for certain, and whether rows can be kept
//! from being written.
//!
//! A statement that commits itself must not be judged a failure afterwards, and it would be if a column that it returns
//! cannot be read. So the first write looks at the table. If the type fits the field, and the column cannot be NULL (or the
//! field can be `None`), writes need no transaction for it.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::LazyLock;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use crate::backend::DatabaseKind;
use crate::conn::Conn;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::link;
use crate::save::Verb;
use crate::statements::{Group, Role};

/// The tables of one database, by their models.
#[derive(Debug, Default)]
pub(crate) struct Facts(ArcSwap<HashMap<TypeId, Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    readable: Columns,
    /// Nothing keeps a row from being written: one that an UPDATE or a DELETE does not write is not there.
    plain: bool,
    /// Whether an INSERT can name these columns in `ON CONFLICT`.
    arbiters: Vec<(Vec<usize>, bool)>,
}

/// Some columns of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Columns(u64);

impl Columns {
    const NONE: Self = Self(0);

    /// Columns behind the 63rd share one bit, and nothing is ever known of them.
    const REST: usize = 63;

    fn of(columns: impl Iterator<Item = usize>) -> Self {
        Self(columns.fold(0, |all, column| all | Self::bit(column)))
    }

    fn bit(column: usize) -> u64 {
        1 << column.min(Self::REST)
    }

    fn has(self, column: usize) -> bool {
        self.0 & Self::bit(column) != 0
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

impl Facts {
    /// What is known where a connection comes without its [`Db`](crate::Db).
    pub(crate) fn elsewhere(kind: DatabaseKind) -> &'static Self {
        static ELSEWHERE: LazyLock<[Facts; 2]> = LazyLock::new(Default::default);
        &ELSEWHERE[usize::from(kind == DatabaseKind::Postgres)]
    }

    /// The columns that a save of the first row reads back, and of which it is not known that they can be read.
    pub(crate) fn unsure(&self, rows: &dyn Instances, verb: &Verb) -> Columns {
        let returned = returned(rows, verb);
        if returned.is_empty() {
            return returned;
        }
        let all = self.0.load();
        returned.without(all.get(&rows.id()).map_or(Columns::NONE, |known| known.readable))
    }

    /// Whether a row that an UPDATE or a DELETE did not write is not there.
    pub(crate) fn plain(&self, rows: &dyn Instances) -> bool {
        let plain = self.0.load().get(&rows.id()).is_some_and(|known| known.plain);
        plain && !rows.statements().has(Group::Version)
    }

    /// Whether an INSERT can name the columns that are asked for in `ON CONFLICT`, if that is known.
    pub(crate) fn arbiter(
        &self,
        rows: &dyn Instances,
        are: impl Fn(&[usize]) -> bool,
    ) -> Option<bool> {
        let all = self.0.load();
        let mut arbiters = all.get(&rows.id())?.arbiters.iter();
        arbiters.find(|(columns, _)| are(columns)).map(|(_, arbiter)| *arbiter)
    }

    fn add(&self, rows: &dyn Instances, new: Known) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            let known = all.entry(rows.id()).or_default();
            known.readable.0 |= new.readable.0;
            known.plain |= new.plain;
            known.arbiters.extend(new.arbiters.clone());
            all
        });
    }
}

/// The columns that a save reads back.
fn returned(rows: &dyn Instances, verb: &Verb) -> Columns {
    let (model, keyed) = (rows.statements(), rows.has_key(0));
    let reads = |group: Group| match (group, verb) {
        (Group::Computed, _) => true,
        (Group::Key, Verb::Upsert(_)) => true,
        (Group::Key, Verb::Insert | Verb::Save | Verb::GetOrCreate(_)) => !keyed,
        (Group::Version, Verb::Upsert(_)) => true,
        (Group::Added, Verb::Save) => keyed,
        (Group::Added, Verb::Update | Verb::Fields(_) | Verb::Upsert(_)) => true,
        _ => false,
    };
    let columns = model.columns.iter().enumerate();
    Columns::of(columns.filter(|(_, c)| reads(c.role.group())).map(|(column, _)| column))
}

/// Whether a save, of which this is not known yet, can certainly read what it returns. If not, it must be undone when it
/// cannot, and so needs a transaction.
///
/// # Errors
///
/// What the database refuses.
pub(crate) fn reads_for_certain<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Instances,
    verb: &'s Verb,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        let unsure = conn.facts().unsure(rows, verb);
        let found = match conn.kind() {
            DatabaseKind::Sqlite => in_sqlite(conn, rows, unsure).await,
            DatabaseKind::Postgres => in_postgres(conn, rows, unsure).await,
        };
        match found {
            Ok(readable) => conn.facts().add(rows, Known { readable, ..Known::default() }),
            Err(Error::Database(sqlx::Error::Database(error))) if !link::has_hung_up(&*error) => {
                return Err(sqlx::Error::Database(error).into());
            }
            // The connection is lost; the write itself may find another one.
            Err(_) => return Ok(false),
        }
        Ok(conn.facts().unsure(rows, verb).is_empty())
    })
}

/// A value of any type can be in any column, but for the rowid. Of the others we take those for certain that the program
/// writes itself and that cannot be NULL.
async fn in_sqlite(conn: &mut Conn<'_>, rows: &dyn Instances, unsure: Columns) -> Result<Columns> {
    let (model, row) = (rows.statements(), rows.at(0));
    let (schema, name) = row.table().split_once('.').unwrap_or(("main", row.table()));
    // The rowid is the one key that has no index.
    let sql = "SELECT name, \"notnull\", pk = 1 AND upper(type) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM \
               pragma_index_list($1, $2) AS i WHERE i.origin = 'pk') FROM pragma_table_xinfo($1, $2)";
    let found: Vec<(String, bool, bool)> =
        conn.query(sql).bind(name).bind(schema).fetch_all().await?;
    let is_certain = |i: &usize| {
        let column = &model.columns[*i];
        let of_table = found.iter().find(|(name, ..)| name == row.columns()[*i]);
        let (not_null, rowid) = of_table.map_or((false, false), |(_, n, rowid)| (*n, *rowid));
        rowid || (column.role != Role::Generated && (column.optional || not_null))
    };
    Ok(Columns::of((0..Columns::REST).filter(|i| unsure.has(*i)).filter(is_certain)))
}

/// A value is of the type of its column; whether that can be NULL, the table says.
async fn in_postgres(
    conn: &mut Conn<'_>,
    rows: &dyn Instances,
    unsure: Columns,
) -> Result<Columns> {
    let (model, row) = (rows.statements(), rows.at(0));
    let columns: Vec<usize> = (0..Columns::REST).filter(|i| unsure.has(*i)).collect();
    // No plain columns: sqlx would ask the server for the tables that those are of.
    let names = columns.iter().map(|i| format!("CASE WHEN true THEN {} END", model.name(*i)));
    let names = names.collect::<Vec<_>>().join(", ");
    let types = conn.types_of(format!("SELECT {names} FROM {}", model.table)).await?;
    let columns = columns.into_iter().zip(types);
    let columns = columns.filter(|(i, ty)| rows.fits(*i, ty)).map(|(i, _)| i);
    let mut readable: Vec<usize> = columns.collect();
    let asks = |i: &usize| {
        let column = &model.columns[*i];
        !column.optional && column.role != Role::GeneratedKey
    };
    if readable.iter().any(asks) {
        let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnotnull";
        let not_null: Vec<(String,)> = conn.query(sql).bind(model.table).fetch_all().await?;
        let is_not_null = |i: &usize| not_null.iter().any(|(name,)| name == row.columns()[*i]);
        readable.retain(|i| !asks(i) || is_not_null(i));
    }
    Ok(Columns::of(readable.into_iter()))
}

/// Whether a row that an UPDATE or a DELETE did not write is not there, because nothing can keep it from being written: no
/// version, trigger, rule or policy.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn is_plain(conn: &mut Conn<'_>, rows: &dyn Instances) -> Result<bool> {
    if conn.facts().plain(rows) {
        return Ok(true);
    }
    if rows.statements().has(Group::Version) {
        return Ok(false);
    }
    let (sql, name) = match conn.kind() {
        DatabaseKind::Sqlite => (SQLITE_PLAIN, rows.at(0).table().rsplit('.').next()),
        DatabaseKind::Postgres => (POSTGRES_PLAIN, Some(rows.statements().table)),
    };
    let (plain,): (bool,) = conn.query(sql).bind(name).fetch_one().await?;
    conn.facts().add(rows, Known { plain, ..Known::default() });
    Ok(plain)
}

const SQLITE_PLAIN: &str = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = $1 \
     COLLATE NOCASE)";

/// A table of its own, without triggers of the program, rules and policies.
const POSTGRES_PLAIN: &str = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r' AND NOT relhasrules AND NOT \
     relrowsecurity AND NOT relhassubclass AND NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = pg_class.oid AND NOT \
     tgisinternal))";

/// Whether an INSERT can name these columns in `ON CONFLICT`. It cannot if they are deferrable, or if there is no unique index
/// of them.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn is_arbiter(
    conn: &mut Conn<'_>,
    rows: &dyn Instances,
    on: &[usize],
) -> Result<bool> {
    if let Some(arbiter) = conn.facts().arbiter(rows, |columns| columns == on) {
        return Ok(arbiter);
    }
    let (model, row) = (rows.statements(), rows.at(0));
    let mut names: Vec<_> = on.iter().map(|i| row.columns()[*i]).collect();
    names.sort_unstable();
    let names = names.join("\u{1}");
    let query = match conn.kind() {
        DatabaseKind::Sqlite => {
            let (schema, name) = row.table().split_once('.').unwrap_or(("main", row.table()));
            conn.query(SQLITE_ARBITER).bind(names).bind(name).bind(schema)
        }
        DatabaseKind::Postgres => conn.query(POSTGRES_ARBITER).bind(names).bind(model.table),
    };
    let (arbiter,): (bool,) = query.fetch_one().await?;
    let arbiters = vec![(on.to_vec(), arbiter)];
    conn.facts().add(rows, Known { arbiters, ..Known::default() });
    Ok(arbiter)
}

const SQLITE_ARBITER: &str = "SELECT coalesce((SELECT group_concat(name, char(1)) FROM (SELECT name FROM pragma_table_info($2, $3) WHERE pk > 0 ORDER BY \
     name)) = $1, 0) OR EXISTS (SELECT 1 FROM pragma_index_list($2, $3) AS i WHERE i.\"unique\" AND NOT i.partial AND (SELECT \
     group_concat(name, char(1)) FROM (SELECT name FROM pragma_index_info(i.name, $3) ORDER BY name)) = $1)";

/// Each unique index of these columns is an arbiter, and none may be deferrable.
const POSTGRES_ARBITER: &str = "SELECT coalesce(bool_and(indimmediate), false) FROM pg_index WHERE indrelid = to_regclass($2) AND indisunique AND indisvalid \
     AND indpred IS NULL AND indexprs IS NULL AND (SELECT string_agg(attname::text, chr(1) ORDER BY attname::text COLLATE \"C\") \
     FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1])) = $1";
