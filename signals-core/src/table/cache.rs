//! A cache of the SQL text of composed statements.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::DatabaseKind;
use crate::table::compose;
use crate::table::schema::Schema;
use crate::table::statement_spec::StatementSpec;

/// The SQL text of the statements of one model that were composed so far. Each statement is composed once and always has the
/// same text, so that it stays prepared on its connections.
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct StatementCache {
    sqlite: Texts,
    postgres: Texts,
}

type Texts = RwLock<BTreeMap<StatementSpec, Arc<str>>>;

impl StatementCache {
    pub(crate) const fn new() -> Self {
        Self { sqlite: RwLock::new(BTreeMap::new()), postgres: RwLock::new(BTreeMap::new()) }
    }

    fn of(&self, kind: DatabaseKind) -> &Texts {
        match kind {
            DatabaseKind::Sqlite => &self.sqlite,
            DatabaseKind::Postgres => &self.postgres,
        }
    }

    /// The statements that were composed so far.
    pub(crate) fn composed(&self, kind: DatabaseKind) -> Vec<StatementSpec> {
        self.of(kind).read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn sql(&self, spec: &StatementSpec, model: &Schema, kind: DatabaseKind) -> SqlStr {
        let all = self.of(kind);
        let known = all.read().unwrap_or_else(PoisonError::into_inner).get(spec).cloned();
        let sql = known.unwrap_or_else(|| {
            let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
            let sql =
                all.entry(spec.clone()).or_insert_with(|| compose::sql(spec, model, kind).into());
            Arc::clone(sql)
        });
        AssertSqlSafe(sql).into_sql_str()
    }
}
