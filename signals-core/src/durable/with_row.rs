//! On PostgreSQL, adds deliveries to the statement that writes their row, so that both are one statement.

use std::fmt::Write;
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
        let places = self.bind(Postgres::arguments(&mut args)).map_err(sqlx::Error::Encode)?;
        let sql = self.texts.get(sql.as_str(), || self.compose(sql.as_str(), &places));
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

/// The numbers of the arguments of one delivery.
struct Places {
    event: usize,
    context: usize,
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
    ) -> Result<Vec<Places>, sqlx::error::BoxDynError> {
        let event = self.new.first().map(|delivery| delivery.new.event);
        args.add(event)?;
        let event = args.len();
        let mut add = |text: Option<&str>| {
            args.add(text)?;
            Ok::<_, sqlx::error::BoxDynError>(args.len())
        };
        let mut all: Vec<Places> = Vec::with_capacity(self.new.len());
        for (n, delivery) in self.new.iter().enumerate() {
            let Delivery { new, ordered_by_pk, coalesced_by_pk, .. } = delivery;
            let context = match all.first() {
                Some(first) => first.context,
                None => add(new.context.as_deref())?,
            };
            let has_same =
                |other: &Delivery| Arc::ptr_eq(&other.new.part.payload, &new.part.payload);
            let (payload, key) = match self.new[..n].iter().position(has_same) {
                Some(same) => (all[same].payload, all[same].key),
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
            all.push(Places { event, context, payload, key, ordering_key, coalesce_key });
        }
        Ok(all)
    }

    /// The statement that writes the row and the deliveries. All receivers of a statement are always the same, so their names are part of
    /// the text.
    fn compose(&self, row: &str, places: &[Places]) -> String {
        let (written, columns) = self.written(row);
        let coalesces = self.new.iter().any(|delivery| delivery.new.coalesce_key.is_some());
        let (coalesce_key, coalesce) =
            if coalesces { (", coalesce_key", COALESCE) } else { ("", "") };
        let mut text = format!(
            "{written}, _deliveries AS (INSERT INTO signals_delivery \
             (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key{coalesce_key})"
        );
        for (n, (delivery, places)) in self.new.iter().zip(places).enumerate() {
            let _ = write!(text, "{} ", if n == 0 { "" } else { " UNION ALL" });
            self.compose_one(&mut text, delivery, places, coalesces);
        }
        let _ = write!(text, "{coalesce}) SELECT {columns} FROM _written");
        text
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

    /// The SELECT of one delivery. `coalesces` is whether it has a coalesce key, which may be NULL.
    fn compose_one(
        &self,
        text: &mut String,
        delivery: &Delivery,
        places: &Places,
        coalesces: bool,
    ) {
        let Delivery { new, created, ordered_by_pk, coalesced_by_pk } = delivery;
        let argument = |place: usize| format!("${place}::text");
        let key = match (self.key, places.key) {
            (Some(key), _) => format!("to_json(_written.{key})::text"),
            (None, place) => place.map_or("NULL::text".to_owned(), argument),
        };
        let ordering_key = match places.ordering_key {
            Some(place) => argument(place),
            None if *ordered_by_pk => key.clone(),
            None => "NULL::text".to_owned(),
        };
        let coalesce_key = match places.coalesce_key {
            _ if !coalesces => String::new(),
            Some(place) => format!(", {}", argument(place)),
            None if *coalesced_by_pk => {
                format!(", {} || {key}", literal(&of_sender(new.sender)))
            }
            None => ", NULL::text".to_owned(),
        };
        let is_new = match (self.tells_created, new.created) {
            (true, _) => "_created",
            (false, Some(true)) => "true",
            (false, Some(false)) => "false",
            (false, None) => "NULL::boolean",
        };
        let delay = match new.delay {
            0 => String::new(),
            delay => format!(" + {delay} * interval '1 millisecond'"),
        };
        let (receiver, signal, sender) =
            (literal(new.receiver), literal(new.signal), literal(new.sender));
        let (event, payload, context) =
            (places.event, argument(places.payload), argument(places.context));
        let _ = write!(
            text,
            "SELECT ${event}::uuid, {receiver}, {signal}, {sender}, {key}, {is_new}, {payload}::json, {context}::json, \
             clock_timestamp(){delay}, {ordering_key}{coalesce_key} FROM _written"
        );
        let _ = match (self.tells_created, created) {
            (true, Some(true)) => write!(text, " WHERE _created"),
            (true, Some(false)) => write!(text, " WHERE NOT _created"),
            _ => Ok(()),
        };
    }
}
