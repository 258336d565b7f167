//! On PostgreSQL, adds deliveries to the statement that writes their row, so that both are one statement.

use std::sync::Arc;

use sqlx::{Arguments as _, Postgres};

use crate::database::backend::{Backend, Statement};
use crate::database::db::Db;
use crate::durable::event_form::{EventForm, EventKey};
use crate::durable::insert::COALESCE;
use crate::durable::outbox::{NewDelivery, form_of, new_deliveries, of_sender};
use crate::durable::schema::explained;
use crate::durable::{wake, warnings};
use crate::error::{Error, Result};
use crate::signal::event_store::{EventToStore, RowDeliveries, StoringTexts, WrittenRow};

/// The deliveries of a row that is not written yet.
struct Deliveries {
    new: Vec<Delivery>,
    /// The quoted name of the key, if only the database knows the key.
    key: Option<&'static str>,
    tells_created: bool,
    texts: Arc<StoringTexts>,
}

struct Delivery {
    new: NewDelivery,
    /// Whether it is stored if the row is new, or if it is not. `None`: in both cases.
    created: Option<bool>,
    /// Whether its ordering key is the key of the row.
    ordered_by_pk: bool,
    /// Whether its coalesce key is.
    coalesced_by_pk: bool,
}

/// Returns `None` if the deliveries depend on a key that only the statement returns, in another way than by its JSON.
///
/// # Errors
///
/// If the event cannot be encoded.
pub(super) fn deliveries(
    event: &EventToStore<'_>,
    written: &WrittenRow,
) -> Result<Option<Box<dyn RowDeliveries>>> {
    let forms = || event.receivers.iter().filter_map(|receiver| form_of(receiver));
    if written.key.is_some() && !forms().all(takes_returned_key) {
        return Ok(None);
    }
    let new = match new_deliveries(event) {
        Ok(new) => new,
        // The row may be encodable as soon as it has its key.
        Err(_) if written.key.is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    if !new.iter().all(|new| is_literal(new.receiver) && is_literal(new.sender)) {
        return Ok(None);
    }
    let parts = new.into_iter().zip(event.receivers.iter().zip(forms()));
    let new = parts.map(|(new, (receiver, form))| {
        let created = receiver.info.created;
        let is_pk = |key| matches!(key, Some(EventKey::Pk));
        let (ordered_by_pk, coalesced_by_pk) = (is_pk(form.ordering), is_pk(form.coalescing));
        Delivery { new, created, ordered_by_pk, coalesced_by_pk }
    });
    let new = new.collect();
    let (key, tells_created, texts) = (written.key, written.tells_created, written.texts.clone());
    Ok(Some(Box::new(Deliveries { new, key, tells_created, texts })))
}

fn takes_returned_key(form: &EventForm) -> bool {
    let is_function = |key| matches!(key, Some(EventKey::Function(_)));
    (form.has_plain_key)() && !is_function(form.ordering) && !is_function(form.coalescing)
}

/// Whether a text is the same in a string literal, whatever `standard_conforming_strings` is.
fn is_literal(text: &str) -> bool {
    !text.contains(['\\', '\0'])
}

fn literal(text: &str) -> String {
    format!("'{}'::text", text.replace('\'', "''"))
}

impl RowDeliveries for Deliveries {
    fn add_to(&self, statement: Statement) -> Result<Statement, sqlx::Error> {
        let Statement { sql, mut args, persistent, is_single } = statement;
        let arguments = self.bind(Postgres::arguments(&mut args)).map_err(sqlx::Error::Encode)?;
        let sql = self.texts.get(sql.as_str(), || self.compose(sql.as_str(), &arguments));
        Ok(Statement { sql, args, persistent, is_single })
    }

    fn explained(&self, error: Error) -> Error {
        explained(error)
    }

    fn stored(&self, db: Option<&Db>) {
        wake::wake(db);
        if let Some(db) = db {
            let receivers = self.new.iter().map(|delivery| delivery.new.receiver).collect();
            warnings::watch(db.clone(), receivers);
        }
    }
}

/// The numbers of the arguments.
struct Arguments {
    event: usize,
    context: usize,
    each: Vec<Places>,
}

/// The numbers of the arguments of one delivery.
struct Places {
    payload: usize,
    key: Option<usize>,
    ordering_key: Option<usize>,
    coalesce_key: Option<usize>,
}

impl Deliveries {
    /// Adds the arguments of the deliveries to those of the row. An argument that several deliveries have in common is sent once.
    fn bind(
        &self,
        args: &mut sqlx::postgres::PgArguments,
    ) -> Result<Arguments, sqlx::error::BoxDynError> {
        // All of them are of one event.
        let first = self.new.first().map(|delivery| &delivery.new);
        args.add(first.map(|new| new.event))?;
        let event = args.len();
        let mut add = |text: Option<&str>| {
            args.add(text)?;
            Ok::<_, sqlx::error::BoxDynError>(args.len())
        };
        let context = add(first.and_then(|new| new.context.as_deref()))?;
        let mut each: Vec<Places> = Vec::with_capacity(self.new.len());
        for (n, delivery) in self.new.iter().enumerate() {
            let Delivery { new, ordered_by_pk, coalesced_by_pk, .. } = delivery;
            let has_same =
                |other: &Delivery| Arc::ptr_eq(&other.new.part.payload, &new.part.payload);
            let (payload, key) = match self.new[..n].iter().position(has_same) {
                Some(same) => (each[same].payload, each[same].key),
                None => {
                    let payload = add(Some(&new.part.payload))?;
                    let key =
                        if self.key.is_some() { None } else { Some(add(new.part.key.as_deref())?) };
                    (payload, key)
                }
            };
            let mut add_key = |key: &Option<String>, is_pk: bool| match key {
                Some(_) if is_pk && self.key.is_some() => Ok(None),
                Some(key) => add(Some(key)).map(Some),
                None => Ok(None),
            };
            let ordering_key = add_key(&new.ordering_key, *ordered_by_pk)?;
            let coalesce_key = add_key(&new.coalesce_key, *coalesced_by_pk)?;
            each.push(Places { payload, key, ordering_key, coalesce_key });
        }
        Ok(Arguments { event, context, each })
    }

    /// The statement that writes the row and the deliveries. All receivers of a statement are always the same, so their names are part of
    /// the text.
    fn compose(&self, row: &str, arguments: &Arguments) -> String {
        let (written, columns) = self.written(row);
        let Arguments { event, context, each } = arguments;
        let mut each =
            Each { deliveries: self.new.iter().zip(each).collect(), columns: Vec::new() };
        let argument = |place: usize| format!("${place}::text");
        let returned = self.key.map(|key| format!("to_json(_written.{key})::text"));
        let key = |places: &Places| match (&returned, places.key) {
            (Some(key), _) => key.clone(),
            (None, place) => place.map_or("NULL::text".to_owned(), argument),
        };
        let receiver = each.column("receiver", |delivery, _| literal(delivery.new.receiver));
        let signal = each.column("signal", |delivery, _| literal(delivery.new.signal));
        let sender = each.column("sender", |delivery, _| literal(delivery.new.sender));
        let row_key = each.column("key", |_, places| key(places));
        let payload = each.column("payload", |_, places| argument(places.payload));
        let is_new = each.column("created", |delivery, _| self.is_new(delivery).to_owned());
        let run_at = each.column("run_at", |delivery, _| match delivery.new.delay {
            0 => "clock_timestamp()".to_owned(),
            delay => format!("clock_timestamp() + {delay} * interval '1 millisecond'"),
        });
        let ordering_key =
            each.column("ordering_key", |delivery, places| match places.ordering_key {
                None if delivery.ordered_by_pk => key(places),
                place => place.map_or("NULL::text".to_owned(), argument),
            });
        let coalesce_key =
            each.column("coalesce_key", |delivery, places| match places.coalesce_key {
                None if delivery.coalesced_by_pk => {
                    format!("{} || {}", literal(&of_sender(delivery.new.sender)), key(places))
                }
                place => place.map_or("NULL::text".to_owned(), argument),
            });
        let is_selected = each.column("is_selected", |delivery, _| {
            match delivery.created.filter(|_| self.tells_created) {
                Some(true) => "_created".to_owned(),
                Some(false) => "NOT _created".to_owned(),
                None => "true".to_owned(),
            }
        });
        let coalesce = match self.new.iter().any(|delivery| delivery.new.coalesce_key.is_some()) {
            true => COALESCE,
            false => "",
        };
        format!(
            "{written}, _deliveries AS (INSERT INTO signals_delivery \
             (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key, coalesce_key) \
             SELECT ${event}::uuid, {receiver}, {signal}, {sender}, {row_key}, {is_new}, {payload}::json, ${context}::text::json, \
             {run_at}, {ordering_key}, {coalesce_key} FROM _written{} WHERE {is_selected}{coalesce}) SELECT {columns} FROM _written",
            each.values()
        )
    }

    /// The row as the table `_written` of the statement, and the columns that the statement returns.
    fn written(&self, row: &str) -> (String, String) {
        if self.tells_created {
            // The statement is itself a query of two tables, which cannot be nested.
            let list = self.key.map_or(String::new(), |key| format!(", {key}"));
            let query = format!(
                " SELECT false{list} FROM _updated UNION ALL SELECT true{list} FROM _inserted"
            );
            let tables = row.strip_suffix(&query).unwrap_or(row);
            let written = format!(
                "{tables}, _written AS (SELECT false AS _created{list} FROM _updated UNION ALL SELECT true{list} FROM _inserted)"
            );
            return (written, format!("_created{list}"));
        }
        match self.key {
            Some(key) => (format!("WITH _written AS ({row})"), key.to_owned()),
            None => (format!("WITH _written AS ({row} RETURNING 1)"), "1".to_owned()),
        }
    }

    /// Whether the row is new.
    fn is_new(&self, delivery: &Delivery) -> &'static str {
        match (self.tells_created, delivery.new.created) {
            (true, _) => "_created",
            (false, Some(true)) => "true",
            (false, Some(false)) => "false",
            (false, None) => "NULL::boolean",
        }
    }
}

/// The columns in which the deliveries of a statement differ.
struct Each<'d> {
    deliveries: Vec<(&'d Delivery, &'d Places)>,
    columns: Vec<(&'static str, Vec<String>)>,
}

impl Each<'_> {
    /// The value of a column: the same for all deliveries, or the column of a table with a row for each of them.
    fn column(
        &mut self,
        name: &'static str,
        value: impl Fn(&Delivery, &Places) -> String,
    ) -> String {
        let values: Vec<_> =
            self.deliveries.iter().map(|(delivery, places)| value(delivery, places)).collect();
        match values.first() {
            Some(first) if values.iter().all(|value| value == first) => first.clone(),
            _ => {
                self.columns.push((name, values));
                format!("_delivery.{name}")
            }
        }
    }

    /// The table `_delivery`, joined to the row.
    fn values(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let row = |n: usize| {
            let values: Vec<_> = self.columns.iter().map(|(_, values)| &*values[n]).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<_> = (0..self.deliveries.len()).map(row).collect();
        let names: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        let (rows, names) = (rows.join(", "), names.join(", "));
        format!(" CROSS JOIN LATERAL (VALUES {rows}) AS _delivery ({names})")
    }
}
