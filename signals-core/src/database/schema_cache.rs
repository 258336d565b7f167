//! Facts about the tables of a database, found by inspecting its schema: whether a statement that writes a row can run in
//! autocommit mode, and whether anything can prevent rows from being written.
//!
//! A statement runs in autocommit mode only if it never has to be undone. Two cases can require that:
//!
//! - The library cannot decode a column that the statement returns, and reports a failure. So the first write of a model inspects
//!   its table. If every value of the column's type can be decoded into the field, and the column cannot be NULL (or the field can
//!   be `None`), no transaction is needed for that column.
//! - A trigger or a rule drops the row, but keeps what else it has stored. On SQLite, a trigger can also reject the statement and keep
//!   its changes (`RAISE(FAIL)`).

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
#[cfg(feature = "postgres")]
use std::path::PathBuf;
#[cfg(feature = "sqlite")]
use std::sync::Weak;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;
#[cfg(feature = "sqlite")]
use crate::database::write_queues::QueueSlot;

/// The facts about the tables of one database, and the queue of its writers.
#[derive(Debug, Default)]
pub(crate) struct SchemaCache {
    pub(crate) tables: ArcSwap<Tables>,
    /// Whether connections to several databases may share the facts, because nothing identifies their database.
    pub(crate) is_shared: bool,
    #[cfg(feature = "sqlite")]
    pub(crate) queue: QueueSlot,
}

/// The facts by model, and whether they are still valid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    /// Incremented whenever all facts are discarded.
    pub(crate) epoch: u64,
    pub(crate) models: HashMap<TypeId, TableFacts, BuildHasherDefault<TypeIdHasher>>,
    /// Incremented whenever the schema may have changed.
    suspected: u64,
    /// The value of `suspected` for which the schema was last compared. The facts are valid only if both are equal.
    compared: u64,
    /// Whether COMMIT may check constraints, see `group.rs`; `None` if unknown.
    defers_constraints: Option<bool>,
    /// The schema at the last comparison; `None` if it was never compared.
    fingerprint: Option<Arc<str>>,
}

impl Tables {
    /// The facts about the table of a model, unless the schema may have changed in the meantime.
    pub(crate) fn get(&self, model: TypeId) -> Option<&TableFacts> {
        if self.suspected == self.compared { self.models.get(&model) } else { None }
    }
}

/// Uses a [`TypeId`] as its own hash, because it already is one.
#[derive(Default)]
pub(crate) struct TypeIdHasher(u64);

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

/// The facts about the table of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableFacts {
    /// The columns that were inspected.
    pub(crate) seen: Columns,
    /// The inspected columns that can always be decoded into their fields.
    pub(crate) readable: Columns,
    /// Whether a statement that the database rejects, or an INSERT that does not store its row, has no effect; `None` if unknown.
    pub(crate) atomic: Option<bool>,
    /// Nothing, such as a trigger, rule or policy, prevents rows from being written: if an UPDATE or a DELETE affects no row, the
    /// row does not exist.
    pub(crate) plain: bool,
    /// Whether a trigger or a rule may skip the UPDATE of a row, or write something else in its place; `None` if unknown.
    pub(crate) may_skip_updates: Option<bool>,
    /// Whether SQLite reports the number of rows written; `None` if unknown. It does not count the rows that triggers of a view
    /// write.
    pub(crate) counted: Option<bool>,
    /// Sets of columns, and for each set, whether an INSERT can name it in `ON CONFLICT`.
    pub(crate) arbiters: Vec<(Vec<usize>, bool)>,
    /// The columns that need a cast for comparisons; `None` if unknown.
    pub(crate) casts: Option<Casts>,
    /// Which writes can lock their rows before on PostgreSQL; `None` if unknown.
    pub(crate) row_locks: Option<RowLocks>,
}

/// Which writes can lock the rows of a table before they write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowLocks {
    All,
    Updates,
    None,
}

/// The columns whose types compare text differently than `text` does (such as `citext`), with the names of these types.
pub(crate) type Casts = Option<Arc<[(usize, Box<str>)]>>;

/// A set of columns of a model, as a bit set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Columns(pub(crate) u64);

impl Columns {
    pub(crate) const NONE: Self = Self(0);

    /// The bit that all columns from the 64th on share. No facts are recorded for it.
    pub(crate) const REST: usize = 63;

    pub(crate) fn of(columns: impl Iterator<Item = usize>) -> Self {
        Self(columns.fold(0, |all, column| all | Self::bit(column)))
    }

    fn bit(column: usize) -> u64 {
        1 << column.min(Self::REST)
    }

    pub(crate) fn has(self, column: usize) -> bool {
        self.0 & Self::bit(column) != 0
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

impl SchemaCache {
    /// The facts about the SQLite database of a pool that the program has opened itself. Pools do not share them: the name of a file does
    /// not identify a database, because it may be in memory, or replaced by another one.
    #[cfg(feature = "sqlite")]
    pub(crate) fn of_sqlite(pool: &sqlx::SqlitePool) -> Arc<Self> {
        let options = pool.connect_options();
        let mut all = of_sqlite_pools();
        // No other options have this address as long as the map refers to these.
        let address = Arc::as_ptr(&options) as usize;
        if let Some((_, facts)) = all.get(&address) {
            return facts.clone();
        }
        all.retain(|_, (pool, _)| pool.strong_count() > 0);
        let facts = Arc::<Self>::default();
        all.insert(address, (Arc::downgrade(&options), facts.clone()));
        facts
    }

    /// The facts about the PostgreSQL database of a pool that the program has opened itself.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_server(pool: &sqlx::PgPool) -> Arc<Self> {
        let options = pool.connect_options();
        let mut all = of_servers();
        let known = all.iter().find(|(of, _)| of.is_of(&options));
        match known {
            Some((_, facts)) => facts.clone(),
            None => {
                let facts = Arc::<Self>::default();
                all.push((PgIdentity::of(&options), facts.clone()));
                facts
            }
        }
    }

    /// The facts for connections that are used without a [`Db`](crate::Db) and without a pool. All such connections share them, because
    /// nothing identifies the database of such a connection.
    pub(crate) fn without_db(kind: DatabaseKind) -> &'static Self {
        static WITHOUT_DB: LazyLock<[SchemaCache; 2]> = LazyLock::new(|| {
            let shared = || SchemaCache { is_shared: true, ..SchemaCache::default() };
            [shared(), shared()]
        });
        &WITHOUT_DB[usize::from(kind == DatabaseKind::Postgres)]
    }

    /// Discards all facts, because the schema has changed. The new `epoch` makes sure that the results of inspections that are
    /// still running are not added.
    fn clear(&self) {
        self.tables.rcu(|all| Tables {
            epoch: all.epoch + 1,
            models: HashMap::default(),
            defers_constraints: None,
            ..Tables::clone(all)
        });
    }

    /// Records that the schema may have changed: the facts are not used until [`compare`](Self::compare).
    fn suspect(&self) {
        self.tables.rcu(|all| Tables { suspected: all.suspected + 1, ..Tables::clone(all) });
    }

    /// The current value of `suspected`, or `None` if the schema does not have to be compared.
    pub(crate) fn suspected(&self) -> Option<u64> {
        let all = self.tables.load();
        (all.suspected != all.compared).then_some(all.suspected)
    }

    /// Discards all facts if the schema differs from the last comparison. `suspected` is its value before `fingerprint` was read:
    /// if the schema may have changed again since then, it has to be compared again.
    pub(crate) fn compare(&self, suspected: u64, fingerprint: &Arc<str>) {
        self.tables.rcu(|all| {
            let mut all = Tables::clone(all);
            if all.fingerprint.as_ref() != Some(fingerprint) {
                (all.epoch, all.models) = (all.epoch + 1, HashMap::default());
                all.fingerprint = Some(Arc::clone(fingerprint));
                all.defers_constraints = None;
            }
            all.compared = suspected;
            all
        });
    }

    /// Whether COMMIT may check constraints, if this is known.
    pub(crate) fn defers_constraints(&self) -> Option<bool> {
        let all = self.tables.load();
        if all.suspected == all.compared { all.defers_constraints } else { None }
    }

    /// Records whether COMMIT may check constraints, unless the cache was cleared since `epoch`.
    pub(crate) fn set_defers_constraints(&self, epoch: u64, defers: bool) {
        self.tables.rcu(|all| {
            let mut all = Tables::clone(all);
            if all.epoch == epoch && all.suspected == all.compared {
                all.defers_constraints = Some(defers);
            }
            all
        });
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.tables.load().epoch
    }
}

/// What identifies a PostgreSQL database, and the schemas in which its tables are looked up.
#[cfg(feature = "postgres")]
#[derive(Debug)]
struct PgIdentity {
    host: String,
    port: u16,
    socket: Option<PathBuf>,
    database: Option<String>,
    username: String,
    options: Option<String>,
}

#[cfg(feature = "postgres")]
impl PgIdentity {
    fn of(options: &sqlx::postgres::PgConnectOptions) -> Self {
        Self {
            host: options.get_host().to_owned(),
            port: options.get_port(),
            socket: options.get_socket().cloned(),
            database: options.get_database().map(str::to_owned),
            username: options.get_username().to_owned(),
            options: options.get_options().map(str::to_owned),
        }
    }

    fn is_of(&self, options: &sqlx::postgres::PgConnectOptions) -> bool {
        let Self { host, port, socket, database, username, options: parameters } = self;
        *port == options.get_port()
            && host == options.get_host()
            && socket.as_ref() == options.get_socket()
            && database.as_deref() == options.get_database()
            && username == options.get_username()
            && parameters.as_deref() == options.get_options()
    }
}

/// The facts about PostgreSQL databases. A program has few of them.
#[cfg(feature = "postgres")]
fn of_servers() -> MutexGuard<'static, Vec<(PgIdentity, Arc<SchemaCache>)>> {
    static OF_SERVERS: Mutex<Vec<(PgIdentity, Arc<SchemaCache>)>> = Mutex::new(Vec::new());
    OF_SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool of SQLite, which is alive as long as its options, and the facts about its database.
#[cfg(feature = "sqlite")]
type OfSqlitePool = (Weak<sqlx::sqlite::SqliteConnectOptions>, Arc<SchemaCache>);

/// The facts about the databases of pools of SQLite, by the address of their options.
#[cfg(feature = "sqlite")]
fn of_sqlite_pools() -> MutexGuard<'static, HashMap<usize, OfSqlitePool>> {
    static OF_POOLS: LazyLock<Mutex<HashMap<usize, OfSqlitePool>>> = LazyLock::new(Mutex::default);
    OF_POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guard for SQL that changes, or may change, the schema of a database. The facts about the database are discarded, or marked for
/// a comparison, at the latest when the guard is dropped.
pub(crate) struct SchemaChangeGuard {
    kind: DatabaseKind,
    db: Option<Db>,
    /// Whether the SQL certainly changes the schema, so that the facts are discarded. If not, the schema is compared first.
    is_certain: bool,
}

impl SchemaChangeGuard {
    pub(crate) fn new(kind: DatabaseKind, db: Option<Db>, is_certain: bool) -> Self {
        Self { kind, db, is_certain }
    }

    /// Records that the SQL certainly changes the schema.
    pub(crate) fn set_certain(&mut self) {
        self.is_certain = true;
    }

    /// Discards the facts, or marks them for a comparison.
    pub(crate) fn forget(&self) {
        let forget =
            |facts: &SchemaCache| if self.is_certain { facts.clear() } else { facts.suspect() };
        if let Some(db) = &self.db {
            forget(db.facts());
            if self.is_certain {
                db.prepare_again();
            }
        }
        forget(SchemaCache::without_db(self.kind));
        match self.kind {
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => of_sqlite_pools().values().for_each(|(_, facts)| forget(facts)),
            #[cfg(not(feature = "sqlite"))]
            DatabaseKind::Sqlite => {}
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => of_servers().iter().for_each(|(_, facts)| forget(facts)),
            #[cfg(not(feature = "postgres"))]
            DatabaseKind::Postgres => {}
        }
    }
}

impl Drop for SchemaChangeGuard {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_valid_again_if_the_schema_is_unchanged() {
        let (facts, model) = (SchemaCache::default(), TypeId::of::<u8>());
        let learn = || {
            facts.tables.rcu(|all| {
                let mut all = Tables::clone(all);
                all.models.entry(model).or_default().plain = true;
                all
            });
        };
        let compare = |schema: &str| {
            facts.suspect();
            assert!(facts.tables.load().get(model).is_none());
            facts.compare(facts.suspected().unwrap(), &schema.into());
            facts.tables.load().get(model).is_some()
        };
        learn();
        assert!(!compare("1"), "the schema was never compared before");
        learn();
        assert!(compare("1"));
        assert!(!compare("2"));
        assert!(facts.suspected().is_none());
    }

    #[test]
    fn a_schema_change_during_a_comparison_requires_another_comparison() {
        let facts = SchemaCache::default();
        facts.suspect();
        let suspected = facts.suspected().unwrap();
        facts.suspect();
        facts.compare(suspected, &"1".into());
        assert!(facts.suspected().is_some());
    }
}
