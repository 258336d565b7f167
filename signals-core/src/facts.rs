//! What is known of the tables of a database: whether a statement that writes a row can commit itself, and whether rows can be
//! kept from being written.
//!
//! A statement that commits itself must not be judged a failure afterwards, and must do nothing if the database refuses it. It
//! would be judged a failure if a column that it returns cannot be read. So the first write looks at the table. If every value
//! of the column's type can be read into the field, and the column cannot be NULL (or the field can be `None`), writes need no
//! transaction for it. On SQLite a trigger can refuse a statement and keep what that has stored (`RAISE(FAIL)`).

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;

use crate::backend::{AnyType, DatabaseKind};
use crate::conn::Conn;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::link;
use crate::save::Verb;
use crate::statements::{Group, Role};

/// The tables of one database, by their models.
#[derive(Debug, Default)]
pub(crate) struct Facts(ArcSwap<Tables>);

#[derive(Debug, Clone, Default)]
struct Tables {
    /// How often all was forgotten.
    epoch: u64,
    models: HashMap<TypeId, Known, BuildHasherDefault<TypeIdHasher>>,
    /// How often the schema may have changed, and how often that was so when it was last compared.
    suspected: u64,
    compared: u64,
    /// The schema as it was then; none if it was never compared.
    fingerprint: Option<Arc<str>>,
}

impl Tables {
    /// What is known of a model, unless the schema may have changed since.
    fn get(&self, model: TypeId) -> Option<&Known> {
        if self.suspected == self.compared { self.models.get(&model) } else { None }
    }
}

/// The hash of a [`TypeId`] is its own.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// The columns that were looked at.
    seen: Columns,
    /// Those of them that can be read for certain.
    readable: Columns,
    /// Whether a statement that the database refuses does nothing.
    atomic: Option<bool>,
    /// Nothing keeps a row from being written: one that an UPDATE or a DELETE does not write is not there.
    plain: bool,
    /// Whether SQLite counts the rows that are written: it counts none that the triggers of a view write.
    counted: Option<bool>,
    /// Whether an INSERT can name these columns in `ON CONFLICT`.
    arbiters: Vec<(Vec<usize>, bool)>,
    /// The types of the columns of text, once they were looked up.
    casts: Option<Casts>,
}

/// The columns of a model whose types compare text in their own way, and these types.
pub(crate) type Casts = Option<Arc<[(usize, Box<str>)]>>;

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
    /// What is known of the SQLite database of a pool of the program's own.
    #[cfg(feature = "sqlite")]
    pub(crate) fn of_file(pool: &sqlx::SqlitePool) -> Arc<Self> {
        let options = pool.connect_options();
        let file = options.get_filename();
        let mut all = of_files();
        match all.get(file) {
            Some(facts) => facts.clone(),
            None => all.entry(file.to_owned()).or_default().clone(),
        }
    }

    /// What is known where a connection comes without its [`Db`](crate::Db). All such connections share it, because nothing tells
    /// the database of one from that of another.
    pub(crate) fn elsewhere(kind: DatabaseKind) -> &'static Self {
        static ELSEWHERE: LazyLock<[Facts; 2]> = LazyLock::new(Default::default);
        &ELSEWHERE[usize::from(kind == DatabaseKind::Postgres)]
    }

    /// Whether a statement that saves the first row, or deletes it without a `verb`, can commit itself: it does all or nothing,
    /// and what it returns can be read. None if that is not known yet.
    pub(crate) fn commits_itself(
        &self,
        kind: DatabaseKind,
        rows: &dyn Instances,
        verb: Option<&Verb>,
    ) -> Option<bool> {
        let returned = verb.map_or(Columns::NONE, |verb| returned(rows, verb));
        // An UPDATE of a row without a key is refused before anything is sent.
        let is_sent = rows.has_key(0) || !matches!(verb, Some(Verb::Update | Verb::Fields(_)));
        if !is_sent || (kind == DatabaseKind::Postgres && returned.is_empty()) {
            return Some(true);
        }
        let all = self.0.load();
        let known = all.get(rows.id())?;
        let atomic = kind == DatabaseKind::Postgres || known.atomic?;
        let all_seen = returned.without(known.seen).is_empty();
        (!atomic || all_seen).then(|| atomic && returned.without(known.readable).is_empty())
    }

    /// Forgets all, because the schema may be another from now on. What is being looked up meanwhile is not added.
    fn clear(&self) {
        self.0.rcu(|all| Tables {
            epoch: all.epoch + 1,
            models: HashMap::default(),
            ..Tables::clone(all)
        });
    }

    /// The schema may have changed: nothing that is known counts before [`compare`](Self::compare).
    fn suspect(&self) {
        self.0.rcu(|all| Tables { suspected: all.suspected + 1, ..Tables::clone(all) });
    }

    /// How often the schema may have changed, unless it was compared since.
    fn suspected(&self) -> Option<u64> {
        let all = self.0.load();
        (all.suspected != all.compared).then_some(all.suspected)
    }

    /// Forgets all if the schema is not what it was when it was last compared. It was looked at when it was `suspected` so often.
    fn compare(&self, suspected: u64, fingerprint: &Arc<str>) {
        self.0.rcu(|all| {
            let mut all = Tables::clone(all);
            if all.fingerprint.as_ref() != Some(fingerprint) {
                (all.epoch, all.models) = (all.epoch + 1, HashMap::default());
                all.fingerprint = Some(Arc::clone(fingerprint));
            }
            all.compared = suspected;
            all
        });
    }

    fn epoch(&self) -> u64 {
        self.0.load().epoch
    }

    /// Whether a row that an UPDATE or a DELETE did not write is not there.
    pub(crate) fn plain(&self, rows: &dyn Instances) -> bool {
        self.keeps_no_row(rows) && !rows.statements().has(Group::Version)
    }

    fn keeps_no_row(&self, rows: &dyn Instances) -> bool {
        self.0.load().get(rows.id()).is_some_and(|known| known.plain)
    }

    /// Whether an INSERT can name the columns that are asked for in `ON CONFLICT`, if that is known.
    pub(crate) fn arbiter(
        &self,
        rows: &dyn Instances,
        are: impl Fn(&[usize]) -> bool,
    ) -> Option<bool> {
        let all = self.0.load();
        let mut arbiters = all.get(rows.id())?.arbiters.iter();
        arbiters.find(|(columns, _)| are(columns)).map(|(_, arbiter)| *arbiter)
    }

    /// Whether the database counts the rows that are written, if that is known. This counts although the schema may have changed:
    /// else every delete in a transaction would have to compare the schema first.
    fn counted(&self, kind: DatabaseKind, rows: &dyn Instances) -> Option<bool> {
        if kind == DatabaseKind::Postgres {
            return Some(true);
        }
        self.0.load().models.get(&rows.id())?.counted
    }

    /// The columns whose types compare text in their own way, if that is known.
    fn casts(&self, rows: &dyn Instances) -> Option<Casts> {
        self.0.load().get(rows.id())?.casts.clone()
    }

    /// Adds what was looked up from an `epoch` on.
    fn add(&self, rows: &dyn Instances, epoch: u64, new: Known) {
        self.0.rcu(|all| {
            let mut all = Tables::clone(all);
            if all.epoch == epoch {
                let known = all.models.entry(rows.id()).or_default();
                known.seen.0 |= new.seen.0;
                known.readable.0 |= new.readable.0;
                known.atomic = new.atomic.or(known.atomic);
                known.plain |= new.plain;
                known.counted = new.counted.or(known.counted);
                known.arbiters.extend(new.arbiters.clone());
                if let Some(casts) = &new.casts {
                    known.casts = Some(casts.clone());
                }
            }
            all
        });
    }
}

type OfFiles = HashMap<PathBuf, Arc<Facts>>;

/// What is known of SQLite databases by their files. That of a database in memory has a name of its own.
fn of_files() -> MutexGuard<'static, OfFiles> {
    static OF_FILES: LazyLock<Mutex<OfFiles>> = LazyLock::new(Mutex::default);
    OF_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQL runs, or may run, that changes the schema of a database: what is known of it is forgotten at the latest when this is
/// dropped.
pub(crate) struct Altering {
    kind: DatabaseKind,
    db: Option<Db>,
    /// The SQL says that it changes the schema. If not, the schema is compared before what is known is forgotten.
    is_certain: bool,
}

impl Altering {
    pub(crate) fn new(kind: DatabaseKind, db: Option<Db>, is_certain: bool) -> Self {
        Self { kind, db, is_certain }
    }

    /// The SQL says that it changes the schema.
    pub(crate) fn set_certain(&mut self) {
        self.is_certain = true;
    }

    /// Forgets what is known so far.
    pub(crate) fn forget(&self) {
        let forget = |facts: &Facts| if self.is_certain { facts.clear() } else { facts.suspect() };
        if let Some(db) = &self.db {
            forget(db.facts());
            if self.is_certain {
                db.prepare_again();
            }
        }
        forget(Facts::elsewhere(self.kind));
        if self.kind == DatabaseKind::Sqlite {
            of_files().values().for_each(|facts| forget(facts));
        }
    }
}

impl Drop for Altering {
    fn drop(&mut self) {
        self.forget();
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

/// Whether a statement that saves the first row, or deletes it without a `verb`, can commit itself. If not, it may have to be
/// undone, and so needs a transaction. The table is looked at if this is not known yet.
///
/// # Errors
///
/// What the database refuses.
pub(crate) fn commits_itself<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Instances,
    verb: Option<&'s Verb>,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        let kind = conn.kind();
        compare(conn).await?;
        if let Some(known) = conn.facts().commits_itself(kind, rows, verb) {
            return Ok(known);
        }
        let epoch = conn.facts().epoch();
        let seen = verb.map_or(Columns::NONE, |verb| returned(rows, verb));
        let found = match kind {
            DatabaseKind::Sqlite => in_sqlite(conn, rows, seen).await,
            DatabaseKind::Postgres => in_postgres(conn, rows, seen).await,
        };
        match unless_lost(found)? {
            Some(found) => {
                let all_read = seen.without(found.readable).is_empty();
                let commits_itself = found.atomic == Some(true) && all_read;
                conn.facts().add(rows, epoch, Known { seen, ..found });
                Ok(commits_itself)
            }
            None => Ok(false),
        }
    })
}

/// Compares the schema if it may have changed, so that what is known of it counts again, or is forgotten.
async fn compare(conn: &mut Conn<'_>) -> Result<()> {
    if let Some(suspected) = conn.facts().suspected() {
        let found = Box::pin(conn.query(SQLITE_FINGERPRINT).fetch_one::<(String,)>()).await;
        if let Some((fingerprint,)) = unless_lost(found)? {
            conn.facts().compare(suspected, &fingerprint.into());
        }
    }
    Ok(())
}

/// Differs if the schema does. What is temporary is in no version.
const SQLITE_FINGERPRINT: &str = "SELECT schema_version || coalesce((SELECT group_concat(sql) FROM sqlite_temp_schema), '') FROM \
     pragma_schema_version";

/// What was found; none if the connection is lost, and the write itself may find another one.
fn unless_lost<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Database(sqlx::Error::Database(error))) if !link::has_hung_up(&*error) => {
            Err(sqlx::Error::Database(error).into())
        }
        Err(_) => Ok(None),
    }
}

/// A value of any type can be in any column, but for the rowid. Of the others we take those for certain that the library
/// writes itself and that cannot be NULL.
async fn in_sqlite(conn: &mut Conn<'_>, rows: &dyn Instances, seen: Columns) -> Result<Known> {
    let (model, row) = (rows.statements(), rows.at(0));
    let (schema, name) = row.table().split_once('.').unwrap_or(("main", row.table()));
    let sql = SQLITE_TABLE.replace("{schema}", &schema.replace('"', "\"\""));
    let found: Vec<(String, bool, bool, bool, bool)> =
        conn.query(AssertSqlSafe(sql)).bind(name).bind(schema).fetch_all().await?;
    let is_certain = |i: &usize| {
        let column = &model.columns[*i];
        let of_table = found.iter().find(|(name, ..)| name == row.columns()[*i]);
        let Some((_, not_null, is_rowid, ..)) = of_table else { return false };
        match column.role.group() {
            Group::Key => *is_rowid && rows.fits_rowid(*i),
            Group::Version | Group::Added => column.optional || *not_null,
            Group::Set | Group::Computed => false,
        }
    };
    let readable = (0..Columns::REST).filter(|i| seen.has(*i)).filter(is_certain);
    let atomic = found.first().is_some_and(|(.., atomic, _)| *atomic);
    let counted = found.first().map(|(.., counted)| *counted);
    let readable = Columns::of(readable);
    Ok(Known { readable, atomic: Some(atomic), plain: atomic, counted, ..Known::default() })
}

/// The columns of a table: whether each can be NULL, and is the rowid, which is the one key that has no index. Besides, whether
/// a statement that is refused does nothing: no trigger and no constraint of the table keeps what was done before
/// (`RAISE(FAIL)`, `ON CONFLICT FAIL`), nor one of another table that is written by a foreign key; and whether it is no view.
const SQLITE_TABLE: &str = "WITH schemas AS MATERIALIZED (SELECT type, name, tbl_name, sql FROM \"{schema}\".sqlite_schema UNION ALL SELECT type, name, \
     tbl_name, sql FROM sqlite_temp_schema), unsafe AS MATERIALIZED (SELECT tbl_name FROM schemas WHERE type = 'trigger' OR sql LIKE \
     '%CONFLICT%') SELECT name, \"notnull\", pk = 1 AND upper(type) = 'INTEGER' AND NOT EXISTS (SELECT 1 FROM \
     pragma_index_list($1, $2) AS i WHERE i.origin = 'pk'), NOT EXISTS (SELECT 1 FROM unsafe WHERE tbl_name = $1 COLLATE NOCASE) AND \
     NOT (EXISTS (SELECT 1 FROM unsafe) AND EXISTS (SELECT 1 FROM schemas AS s, pragma_foreign_key_list(s.name, $2) AS f WHERE \
     s.type = 'table' AND f.\"table\" = $1 COLLATE NOCASE AND (f.on_delete NOT IN ('NO ACTION', 'RESTRICT') OR f.on_update NOT IN \
     ('NO ACTION', 'RESTRICT')))), NOT EXISTS (SELECT 1 FROM schemas WHERE type = 'view' AND name = $1 COLLATE NOCASE) FROM \
     pragma_table_xinfo($1, $2)";

/// A value is of the type of its column; whether that can be NULL, the table says.
async fn in_postgres(conn: &mut Conn<'_>, rows: &dyn Instances, seen: Columns) -> Result<Known> {
    let (model, row) = (rows.statements(), rows.at(0));
    let columns: Vec<usize> = (0..Columns::REST).filter(|i| seen.has(*i)).collect();
    // No plain columns: sqlx would ask the server for the tables that those are of.
    let names = columns.iter().map(|i| format!("CASE WHEN true THEN {} END", model.name(*i)));
    let names = names.collect::<Vec<_>>().join(", ");
    let types = conn.types_of(format!("SELECT {names} FROM {}", model.table)).await?;
    let columns = columns.into_iter().zip(types);
    let is_read = |(i, ty): &(usize, AnyType)| match model.columns[*i].role {
        // A time that the program has written itself makes no write a failure, see `Text::take`.
        Role::GeneratedKey | Role::Version | Role::AutoNowAdd => rows.fits(*i, ty),
        _ => rows.fits_all(*i, ty),
    };
    let columns = columns.filter(is_read).map(|(i, _)| i);
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
    let readable = Columns::of(readable.into_iter());
    Ok(Known { readable, atomic: Some(true), ..Known::default() })
}

/// Whether a row that an UPDATE or a DELETE did not write is not there, because nothing can keep it from being written: no
/// version, trigger, rule or policy.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn is_plain(conn: &mut Conn<'_>, rows: &dyn Instances) -> Result<bool> {
    Ok(!rows.statements().has(Group::Version) && stores_every_row(conn, rows).await?)
}

/// Whether nothing keeps a row from being written, and so none of several rows from being inserted: no trigger, rule or policy,
/// and on SQLite no conflict clause.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn stores_every_row(conn: &mut Conn<'_>, rows: &dyn Instances) -> Result<bool> {
    compare(conn).await?;
    if conn.facts().keeps_no_row(rows) {
        return Ok(true);
    }
    let (sql, name) = match conn.kind() {
        DatabaseKind::Sqlite => (SQLITE_PLAIN, rows.at(0).table().rsplit('.').next()),
        DatabaseKind::Postgres => (POSTGRES_PLAIN, Some(rows.statements().table)),
    };
    let epoch = conn.facts().epoch();
    let Some((plain,)) = unless_lost(conn.query(sql).bind(name).fetch_one::<(bool,)>().await)?
    else {
        return Ok(false);
    };
    conn.facts().add(rows, epoch, Known { plain, ..Known::default() });
    Ok(plain)
}

const SQLITE_PLAIN: &str = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE (type = 'trigger' OR sql LIKE '%CONFLICT%') AND \
     tbl_name = $1 COLLATE NOCASE)";

/// A table of its own, without triggers of the program, rules and policies.
const POSTGRES_PLAIN: &str = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r' AND NOT relhasrules AND NOT \
     relrowsecurity AND NOT relhassubclass AND NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = pg_class.oid AND NOT \
     tgisinternal))";

/// Whether the database says how many rows a statement has written: SQLite does not if the triggers of a view write them.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn counts_rows(conn: &mut Conn<'_>, rows: &dyn Instances) -> Result<bool> {
    let kind = conn.kind();
    match conn.facts().counted(kind, rows) {
        Some(counted) => Ok(counted),
        None => look_up_counted(conn, rows).await,
    }
}

/// On the heap: a model is looked up once.
fn look_up_counted<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Instances,
) -> BoxFuture<'s, Result<bool>> {
    Box::pin(async move {
        let epoch = conn.facts().epoch();
        let row = rows.at(0);
        let (schema, name) = row.table().split_once('.').unwrap_or(("main", row.table()));
        let query = conn.query(SQLITE_COUNTS).bind(name).bind(schema);
        let (counted,): (bool,) = query.fetch_one().await?;
        conn.facts().add(rows, epoch, Known { counted: Some(counted), ..Known::default() });
        Ok(counted)
    })
}

const SQLITE_COUNTS: &str = "SELECT NOT EXISTS (SELECT 1 FROM pragma_table_list WHERE name = $1 COLLATE NOCASE AND schema IN ($2, 'temp') \
     AND type = 'view')";

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
    compare(conn).await?;
    if let Some(arbiter) = conn.facts().arbiter(rows, |columns| columns == on) {
        return Ok(arbiter);
    }
    let epoch = conn.facts().epoch();
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
    conn.facts().add(rows, epoch, Known { arbiters, ..Known::default() });
    Ok(arbiter)
}

const SQLITE_ARBITER: &str = "SELECT coalesce((SELECT group_concat(name, char(1)) FROM (SELECT name FROM pragma_table_info($2, $3) WHERE pk > 0 ORDER BY \
     name)) = $1, 0) OR EXISTS (SELECT 1 FROM pragma_index_list($2, $3) AS i WHERE i.\"unique\" AND NOT i.partial AND (SELECT \
     group_concat(name, char(1)) FROM (SELECT name FROM pragma_index_info(i.name, $3) ORDER BY name)) = $1)";

/// Each unique index of these columns is an arbiter, and none may be deferrable. A table with rules has no ON CONFLICT.
const POSTGRES_ARBITER: &str = "SELECT coalesce(bool_and(indimmediate), false) AND NOT EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass($2) \
     AND relhasrules) FROM pg_index WHERE indrelid = to_regclass($2) AND indisunique AND indisvalid \
     AND indpred IS NULL AND indexprs IS NULL AND (SELECT string_agg(attname::text, chr(1) ORDER BY attname::text COLLATE \"C\") \
     FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY((indkey::int2[])[0:indnkeyatts - 1])) = $1";

/// The columns of a PostgreSQL table, which are named in this order, whose types compare text in their own way: values that are
/// sent as `text` must be cast to these types, or the columns would be compared as text.
///
/// # Errors
///
/// What the database refuses.
pub(crate) async fn casts(
    conn: &mut Conn<'_>,
    rows: &dyn Instances,
    columns: &[&str],
) -> Result<Casts> {
    match conn.facts().casts(rows) {
        Some(casts) => Ok(casts),
        None => look_up_casts(conn, rows, columns).await,
    }
}

/// On the heap: a model is looked up once.
fn look_up_casts<'s>(
    conn: &'s mut Conn<'_>,
    rows: &'s dyn Instances,
    columns: &'s [&'s str],
) -> BoxFuture<'s, Result<Casts>> {
    Box::pin(async move {
        let epoch = conn.facts().epoch();
        let query = conn.query(POSTGRES_TEXT_TYPES).bind(rows.statements().table);
        let found: Vec<(String, Option<String>)> = query.fetch_all().await?;
        let cast = |(name, ty): &(String, Option<String>)| {
            let column = columns.iter().position(|column| column == name)?;
            Some((column, ty.as_deref()?.into()))
        };
        let casts: Vec<_> = found.iter().filter_map(cast).collect();
        let casts: Casts = (!casts.is_empty()).then(|| casts.into());
        // Without a column there is no such table yet.
        if !found.is_empty() {
            conn.facts().add(rows, epoch, Known { casts: Some(casts.clone()), ..Known::default() });
        }
        Ok(casts)
    })
}

/// The columns of a table, each with its type if that is one of text and compares otherwise than `text`, `varchar` and `name`
/// do. A domain compares as the type that it is of. The schema is named so that the search path does not matter, and no
/// length, because a cast to a length truncates.
const POSTGRES_TEXT_TYPES: &str = "WITH RECURSIVE _types AS (SELECT attname, atttypid AS type FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND \
     NOT attisdropped UNION ALL SELECT attname, typbasetype FROM _types JOIN pg_type ON oid = type WHERE typtype = 'd') SELECT \
     attname::text, CASE WHEN typcategory = 'S' AND type NOT IN ('text'::regtype, 'varchar'::regtype, 'name'::regtype) THEN \
     quote_ident(nspname) || '.' || quote_ident(typname) END FROM _types JOIN pg_type ON pg_type.oid = type JOIN pg_namespace ON \
     pg_namespace.oid = typnamespace WHERE typtype <> 'd'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_counts_again_if_the_schema_is_still_the_same() {
        let (facts, model) = (Facts::default(), TypeId::of::<u8>());
        let learn = || {
            facts.0.rcu(|all| {
                let mut all = Tables::clone(all);
                all.models.entry(model).or_default().plain = true;
                all
            });
        };
        let compare = |schema: &str| {
            facts.suspect();
            assert!(facts.0.load().get(model).is_none());
            facts.compare(facts.suspected().unwrap(), &schema.into());
            facts.0.load().get(model).is_some()
        };
        learn();
        assert!(!compare("1"), "it was not compared before");
        learn();
        assert!(compare("1"));
        assert!(!compare("2"));
        assert!(facts.suspected().is_none());
    }

    #[test]
    fn a_change_during_the_comparison_is_compared_too() {
        let facts = Facts::default();
        facts.suspect();
        let suspected = facts.suspected().unwrap();
        facts.suspect();
        facts.compare(suspected, &"1".into());
        assert!(facts.suspected().is_some());
    }
}
