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

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;

/// The tables of one database, by their models.
#[derive(Debug, Default)]
pub(crate) struct SchemaCache(pub(crate) ArcSwap<Tables>);

#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    /// How often all was forgotten.
    pub(crate) epoch: u64,
    pub(crate) models: HashMap<TypeId, TableFacts, BuildHasherDefault<TypeIdHasher>>,
    /// How often the schema may have changed, and how often that was so when it was last compared.
    suspected: u64,
    compared: u64,
    /// The schema as it was then; none if it was never compared.
    fingerprint: Option<Arc<str>>,
}

impl Tables {
    /// What is known of a model, unless the schema may have changed since.
    pub(crate) fn get(&self, model: TypeId) -> Option<&TableFacts> {
        if self.suspected == self.compared { self.models.get(&model) } else { None }
    }
}

/// The hash of a [`TypeId`] is its own.
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

#[derive(Debug, Clone, Default)]
pub(crate) struct TableFacts {
    /// The columns that were looked at.
    pub(crate) seen: Columns,
    /// Those of them that can be read for certain.
    pub(crate) readable: Columns,
    /// Whether a statement that the database refuses does nothing.
    pub(crate) atomic: Option<bool>,
    /// Nothing keeps a row from being written: one that an UPDATE or a DELETE does not write is not there.
    pub(crate) plain: bool,
    /// Whether SQLite counts the rows that are written: it counts none that the triggers of a view write.
    pub(crate) counted: Option<bool>,
    /// Whether an INSERT can name these columns in `ON CONFLICT`.
    pub(crate) arbiters: Vec<(Vec<usize>, bool)>,
    /// The types of the columns of text, once they were looked up.
    pub(crate) casts: Option<Casts>,
}

/// The columns of a model whose types compare text in their own way, and these types.
pub(crate) type Casts = Option<Arc<[(usize, Box<str>)]>>;

/// Some columns of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Columns(pub(crate) u64);

impl Columns {
    pub(crate) const NONE: Self = Self(0);

    /// Columns behind the 63rd share one bit, and nothing is ever known of them.
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
        static ELSEWHERE: LazyLock<[SchemaCache; 2]> = LazyLock::new(Default::default);
        &ELSEWHERE[usize::from(kind == DatabaseKind::Postgres)]
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
    pub(crate) fn suspected(&self) -> Option<u64> {
        let all = self.0.load();
        (all.suspected != all.compared).then_some(all.suspected)
    }

    /// Forgets all if the schema is not what it was when it was last compared. It was looked at when it was `suspected` so often.
    pub(crate) fn compare(&self, suspected: u64, fingerprint: &Arc<str>) {
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

    pub(crate) fn epoch(&self) -> u64 {
        self.0.load().epoch
    }
}

type OfFiles = HashMap<PathBuf, Arc<SchemaCache>>;

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
        let forget =
            |facts: &SchemaCache| if self.is_certain { facts.clear() } else { facts.suspect() };
        if let Some(db) = &self.db {
            forget(db.facts());
            if self.is_certain {
                db.prepare_again();
            }
        }
        forget(SchemaCache::elsewhere(self.kind));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_counts_again_if_the_schema_is_still_the_same() {
        let (facts, model) = (SchemaCache::default(), TypeId::of::<u8>());
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
        let facts = SchemaCache::default();
        facts.suspect();
        let suspected = facts.suspected().unwrap();
        facts.suspect();
        facts.compare(suspected, &"1".into());
        assert!(facts.suspected().is_some());
    }
}
