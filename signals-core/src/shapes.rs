//! The statements that were composed so far.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::backend::DatabaseKind;
use crate::compose::Shape;
use crate::statements::Statements;

/// The statements of a model that were composed so far: each is written once, and stays prepared.
#[derive(Default)]
pub(crate) struct Shapes {
    sqlite: Known,
    postgres: Known,
}

type Known = RwLock<BTreeMap<Shape, Arc<str>>>;

impl Shapes {
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
    pub(crate) fn composed(&self, kind: DatabaseKind) -> Vec<Shape> {
        self.of(kind).read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn sql(&self, shape: &Shape, model: &Statements, kind: DatabaseKind) -> SqlStr {
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
