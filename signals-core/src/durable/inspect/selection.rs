//! The SQL of a list of deliveries: its conditions, its order, and the index by which it is read.

use super::Table;
use crate::database::backend::DatabaseKind;
use crate::durable::sql::Sql;

/// An index that has the order of a list.
#[derive(Clone, Copy)]
pub(super) struct Index {
    /// `None` for the primary key.
    name: Option<&'static str>,
    /// Which deliveries it contains. `None` for all.
    condition: Option<&'static str>,
    columns: &'static [&'static str],
}

impl Index {
    pub(super) fn is_primary_key(self) -> bool {
        self.name.is_none()
    }
}

pub(super) const PRIMARY_KEY: Index = Index { name: None, condition: None, columns: &["id"] };
pub(super) const DEAD: Index = Index {
    name: Some("signals_delivery_all_dead"),
    condition: Some("dead_at IS NOT NULL"),
    ..PRIMARY_KEY
};
pub(super) const FAILING: Index = Index {
    name: Some("signals_delivery_all_failing"),
    condition: Some("dead_at IS NULL AND error IS NOT NULL"),
    ..PRIMARY_KEY
};
/// On SQLite only.
pub(super) const CLAIMED: Index = Index {
    name: Some("signals_delivery_claimed"),
    condition: Some("worker IS NOT NULL"),
    ..PRIMARY_KEY
};
pub(super) const DEAD_OF_RECEIVER: Index =
    Index { name: Some("signals_delivery_dead"), columns: &["receiver", "id"], ..DEAD };
pub(super) const KEPT_OF_RECEIVER: Index =
    Index { name: Some("signals_done_of_receiver"), condition: None, columns: &["receiver", "id"] };

/// The conditions of a filter as SQL, with their arguments. `$1` is the id that the first delivery of the list follows, `$2` is a limit, and
/// [`arguments`](Self::arguments) are the others.
pub(super) struct Selection {
    pub(super) table: Table,
    index: Index,
    /// The conditions of the index, and of the receiver whose part of it is read.
    pub(super) entries: Vec<String>,
    /// The conditions that only the rows tell.
    pub(super) others: Vec<String>,
    pub(super) after_id: i64,
    pub(super) direction: Direction,
    /// The first ones are for `entries`.
    arguments: Vec<Argument>,
    /// The number of arguments for `entries`.
    pub(super) of_entries: usize,
    /// Whether the index contains dead deliveries, and the selection does not.
    pub(super) passes_dead: bool,
}

pub(super) enum Argument {
    Text(String),
    Integer(i64),
}

/// The order of the ids in a list.
#[derive(Clone, Copy)]
pub(super) struct Direction {
    pub(super) order: &'static str,
    /// How an id compares to one that it follows in the list.
    pub(super) follows: &'static str,
    /// How an id compares to the last one of a range.
    pub(super) until: &'static str,
    /// 1 if the ids ascend, or else -1.
    pub(super) step: i64,
    /// Every id follows it.
    start: i64,
}

impl Direction {
    pub(super) const ASCENDING: Self =
        Self { order: "ASC", follows: ">", until: "<=", step: 1, start: 0 };
    pub(super) const DESCENDING: Self =
        Self { order: "DESC", follows: "<", until: ">=", step: -1, start: i64::MAX };

    /// It ascends in the order of the list.
    pub(super) fn rank(self, id: i64) -> i64 {
        if self.step > 0 { id } else { !id }
    }
}

impl Selection {
    /// Every delivery of the index that may be listed next.
    pub(super) fn of_index(
        table: Table,
        index: Index,
        direction: Direction,
        after_id: Option<i64>,
    ) -> Self {
        Self {
            table,
            index,
            entries: index.condition.map(str::to_owned).into_iter().collect(),
            others: Vec::new(),
            after_id: after_id.unwrap_or(direction.start),
            direction,
            arguments: Vec::new(),
            of_entries: 0,
            passes_dead: false,
        }
    }

    /// The statement that reads columns of the selected deliveries that also satisfy a condition, which is empty or ends with `AND`.
    pub(super) fn rows(&self, kind: DatabaseKind, columns: &str, condition: &str) -> String {
        format!("{} {condition} {}", self.select(kind, columns), self.conditions())
    }

    /// The statement that reads the id of the entry of the index that comes after `$2` others.
    pub(super) fn nth_entry(&self, kind: DatabaseKind) -> String {
        format!("{} {} LIMIT 1 OFFSET $2", self.select(kind, "id"), self.index_conditions())
    }

    /// On SQLite, `INDEXED BY` forces the index. Without statistics, SQLite may use an index of receivers and sort the rows.
    fn select(&self, kind: DatabaseKind, columns: &str) -> String {
        let indexed = match (kind, self.index.name) {
            (DatabaseKind::Postgres, _) => String::new(),
            (DatabaseKind::Sqlite, None) => "NOT INDEXED".to_owned(),
            (DatabaseKind::Sqlite, Some(name)) => format!("INDEXED BY {name}"),
        };
        format!("SELECT {columns} FROM {} {indexed} WHERE", self.table.name())
    }

    /// Adds an argument, and returns how the statement names it.
    pub(super) fn argument(&mut self, value: Argument) -> String {
        let argument = self.next_argument();
        self.arguments.push(value);
        argument
    }

    /// The conditions, with the order and the limit.
    pub(super) fn conditions(&self) -> String {
        let conditions = self.entries.iter().chain(&self.others).cloned();
        self.in_order(conditions.collect()) + " LIMIT $2"
    }

    /// The conditions of the index alone, with the order.
    fn index_conditions(&self) -> String {
        self.in_order(self.entries.clone())
    }

    fn in_order(&self, mut conditions: Vec<String>) -> String {
        let Direction { follows, order, .. } = self.direction;
        conditions.push(format!("id {follows} $1"));
        let columns: Vec<_> =
            self.index.columns.iter().map(|column| format!("{column} {order}")).collect();
        format!("{} ORDER BY {}", conditions.join(" AND "), columns.join(", "))
    }

    /// Whether the index contains only deliveries of the selection.
    pub(super) fn is_index(&self) -> bool {
        self.others.is_empty()
    }

    /// Binds the arguments of the conditions.
    pub(super) fn bind(&self, sql: Sql, limit: usize) -> Sql {
        self.bind_some(sql, limit, self.arguments.len())
    }

    /// Binds the arguments of the index.
    pub(super) fn bind_index(&self, sql: Sql, limit: usize) -> Sql {
        self.bind_some(sql, limit, self.of_entries)
    }

    fn bind_some(&self, sql: Sql, limit: usize, count: usize) -> Sql {
        let sql = sql.bind(self.after_id).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.arguments[..count].iter().fold(sql, |sql, argument| match argument {
            Argument::Text(text) => sql.bind(text.as_str()),
            Argument::Integer(number) => sql.bind(*number),
        })
    }

    /// The argument that is bound after those of the selection.
    pub(super) fn next_argument(&self) -> String {
        format!("${}", self.arguments.len() + 3)
    }

    /// Makes the selection start after these deliveries, which are its first ones.
    pub(super) fn continue_after(&mut self, ids: &[(i64,)]) {
        let last = ids.iter().map(|(id,)| *id).max_by_key(|id| self.direction.rank(*id));
        self.after_id = last.unwrap_or(self.after_id);
    }
}
