//! The statements that were composed so far.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::DatabaseKind;
use crate::table::compose::StatementSpec;
use crate::table::schema::Schema;

/// The statements of a model that were composed so far: each is written once, and stays prepared.
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct StatementCache {
    sqlite: Known,
    postgres: Known,
}

type Known = RwLock<BTreeMap<StatementSpec, Arc<str>>>;

impl StatementCache {
    pub(crate) const fn new() -> Self {
        Self { sqlite: RwLock::new(BTreeMap::new()), postgres: RwLock::new(BTreeMap::new()) }
    }

    fn of(&self, kind: DatabaseKind) -> &Known {
        match kind {
            DatabaseKind::Sqlite => &self.sqlite,
            DatabaseKind::Postgres => &self.postgres,
        }
    }

    /// What was composed so far.
    pub(crate) fn composed(&self, kind: DatabaseKind) -> Vec<StatementSpec> {
        self.of(kind).read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn sql(&self, shape: &StatementSpec, model: &Schema, kind: DatabaseKind) -> SqlStr {
        let all = self.of(kind);
        let known = all.read().unwrap_or_else(PoisonError::into_inner).get(shape).cloned();
        let sql = known.unwrap_or_else(|| {
            let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
            let sql = all.entry(shape.clone()).or_insert_with(|| shape.sql(model, kind).into());
            Arc::clone(sql)
        });
        AssertSqlSafe(sql).into_sql_str()
    }
}
