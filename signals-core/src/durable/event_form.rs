//! How the events of durable receivers are stored: which signals, models and values can be, and what follows from the options.

use std::any::TypeId;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::database::conn::Conn;
use crate::durable::payload::{
    data_of_row, data_of_signal, decode_any_rows, decode_key, decode_rows, decode_signal,
    encode_any_rows, encode_key, encode_rows, encode_signal, key_of_row, key_of_signal, no_data,
};
use crate::error::Result;
use crate::model::Model;
use crate::model::store::Portable;
use crate::signal::custom::CustomSignal;
use crate::signal::erased::KeptEvent;
use crate::signal::event_store::EventContent;
use crate::signal::no_signal::NoSignal;
use crate::signal::{Signal, post_delete, post_delete_batch, post_save, post_save_batch};
use crate::table::any::AnyModel;
use crate::table::previous_row::PreviousRow;

pub(super) type Coded<T> = Result<T, serde_json::Error>;

/// How the events of a receiver are stored.
pub struct EventForm {
    pub(crate) encode: fn(&ToEncode<'_>) -> Coded<Vec<Encoded>>,
    pub(crate) decode: fn(&ToDecode<'_>) -> Coded<Decoded>,
    /// The table of the model. Empty for a custom signal, `None` for receivers of every model.
    pub(crate) table: Option<&'static str>,
    pub(crate) columns: &'static [&'static str],
    pub(crate) ordering: Option<EventKey>,
    /// Deliveries with the same key are combined before they run.
    pub(crate) coalescing: Option<EventKey>,
    /// Whether only the key of the row is stored.
    pub(crate) is_key: bool,
    /// Whether PostgreSQL converts the key of a row to the same JSON as serde.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) has_plain_key: fn() -> bool,
    /// Under which subject a relay publishes the events. `None` if a receiver of the program runs for them.
    pub(crate) subject: Option<&'static str>,
    /// The row or the value of an event, for the message that a relay publishes.
    pub(crate) data: fn(&ToDecode<'_>) -> Coded<Box<RawValue>>,
}

/// Whether the key is an integer, a text or a UUID.
fn has_plain_key<M: Model>() -> bool {
    let plain = [
        TypeId::of::<i16>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
        TypeId::of::<String>(),
        TypeId::of::<uuid::Uuid>(),
    ];
    plain.contains(&TypeId::of::<M::Pk>())
}

/// How a key of an event is found: by which its deliveries are ordered, or by which they are combined.
#[derive(Clone, Copy)]
pub(crate) enum EventKey {
    /// It is the key of the row.
    Pk,
    /// It is a field, which is not the key of the row.
    Field(fn(&ToEncode<'_>) -> Coded<String>),
    /// It may depend on the whole row.
    Function(fn(&ToEncode<'_>) -> Coded<String>),
}

impl EventKey {
    const fn of(key: fn(&ToEncode<'_>) -> Coded<String>, is_field: bool) -> Self {
        if is_field { Self::Field(key) } else { Self::Function(key) }
    }
}

/// How a key of an event is computed. `#[receiver]` implements it for a type of its own.
pub trait OrderingKey<T: ?Sized> {
    /// Whether it is a field of the row. The key of a row that the database assigns is an `Option`, and thus not such a field.
    const IS_FIELD: bool;

    /// The key as text.
    fn of(event: &T) -> String;
}

/// A signal whose row can be read again when the delivery runs.
#[diagnostic::on_unimplemented(
    message = "the deliveries of `{Self}` cannot have `payload = key`",
    label = "has no single stored row",
    note = "only the row of `post_save` can be read again when the delivery runs"
)]
#[allow(unreachable_pub)]
pub trait SavedRow: Signal {}

impl SavedRow for post_save {}

#[diagnostic::do_not_recommend]
impl SavedRow for NoSignal {}

/// A signal of one row or value, whose deliveries can have an ordering key.
#[diagnostic::on_unimplemented(
    message = "the deliveries of `{Self}` have no ordering key",
    label = "its event has several rows",
    note = "use `post_save`, `post_delete` or a signal of your own"
)]
#[allow(unreachable_pub)]
pub trait OrderedSignal: Signal {}

impl OrderedSignal for post_save {}
impl OrderedSignal for post_delete {}
impl<T: CustomSignal> OrderedSignal for T {}

#[diagnostic::do_not_recommend]
impl OrderedSignal for NoSignal {}

/// A signal of one row or value, whose deliveries can be combined.
#[diagnostic::on_unimplemented(
    message = "the deliveries of `{Self}` cannot have `coalesce`",
    label = "its event has several rows",
    note = "use `post_save`, `post_delete` or a signal of your own"
)]
#[allow(unreachable_pub)]
pub trait CoalescedSignal: Signal {}

impl CoalescedSignal for post_save {}
impl CoalescedSignal for post_delete {}
impl<T: CustomSignal> CoalescedSignal for T {}

#[diagnostic::do_not_recommend]
impl CoalescedSignal for NoSignal {}

/// An event to be encoded.
pub(crate) struct ToEncode<'e> {
    pub(crate) content: EventContent<'e>,
    /// The row before the write, if the receiver asks for it.
    pub(crate) previous: Option<&'e PreviousRow>,
    /// The size in bytes at which a batch is split.
    pub(crate) split_at: usize,
}

/// A part of an event: one row, up to a thousand rows of a batch, or a custom signal.
#[derive(Clone)]
pub(crate) struct Encoded {
    pub(crate) payload: Arc<str>,
    /// The key of a single row.
    pub(crate) key: Option<Arc<str>>,
}

/// A stored event.
pub(crate) struct ToDecode<'e> {
    pub(crate) payload: &'e str,
    pub(crate) key: Option<&'e str>,
    pub(crate) created: Option<bool>,
    pub(crate) asks_previous: bool,
}

/// An event that was stored.
pub(crate) struct Decoded {
    pub(crate) event: DecodedEvent,
    pub(crate) previous: Option<Arc<PreviousRow>>,
}

/// The content of a stored event.
pub(crate) enum DecodedEvent {
    Complete(Box<dyn KeptEvent>),
    /// Only the key of the row was stored.
    ByKey(Box<dyn LoadEvent>),
}

/// An event of which only the key of the row was stored.
pub(crate) trait LoadEvent: Send + Sync {
    /// Reads the row. `None` if it is gone.
    fn load<'l>(
        &'l self,
        conn: &'l mut Conn<'_>,
    ) -> BoxFuture<'l, Result<Option<Box<dyn KeptEvent>>>>;
}

/// A sender whose events of the signal `S` can be stored: a model that is `Serialize` and `DeserializeOwned`, every model, or a custom
/// signal that is both.
#[diagnostic::on_unimplemented(
    message = "the events of this receiver cannot be stored as JSON",
    label = "a durable receiver needs `serde::Serialize` and `serde::Deserialize`",
    note = "derive both on the model or on the signal"
)]
#[allow(unreachable_pub)]
pub trait Storable<S: Signal> {
    #[doc(hidden)]
    const FORM: EventForm;
}

impl EventForm {
    /// The form of the events of the signal `S` of the sender `M`.
    pub const fn of<S: Signal, M: Storable<S> + ?Sized>() -> Self {
        M::FORM
    }

    /// The form of the events of a receiver with `payload = key`: only the key of the row is stored.
    pub const fn by_key<S: SavedRow, M: Model<Pk: Json> + Portable>() -> Self {
        Self {
            encode: encode_key::<M>,
            decode: decode_key::<M>,
            table: Some(M::TABLE),
            columns: &["key"],
            ordering: None,
            coalescing: None,
            is_key: true,
            has_plain_key: has_plain_key::<M>,
            subject: None,
            data: no_data,
        }
    }

    /// The forms of the saves and deletes of a model that a relay publishes.
    pub const fn published_rows<M: Model<Pk: Json> + Published>(
        subject: &'static str,
    ) -> [Self; 2] {
        [
            Self::of::<post_save, M>().published(subject).ordered_by_pk::<post_save>(),
            Self::of::<post_delete, M>().published(subject).ordered_by_pk::<post_delete>(),
        ]
    }

    /// The form of a custom signal that a relay publishes.
    pub const fn published_signal<T: CustomSignal + Published>(subject: &'static str) -> Self {
        Self::of::<T, ()>().published(subject)
    }

    const fn published(mut self, subject: &'static str) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Orders the deliveries by the key of the row.
    pub const fn ordered_by_pk<S: OrderedSignal>(mut self) -> Self {
        self.ordering = Some(EventKey::Pk);
        self
    }

    /// Orders the deliveries by a key that `K` computes from the row.
    pub const fn ordered_by_row<S: OrderedSignal, M: Model, K: OrderingKey<M>>(mut self) -> Self {
        self.ordering = Some(EventKey::of(key_of_row::<M, K>, K::IS_FIELD));
        self
    }

    /// Orders the deliveries by a key that `K` computes from the value of a custom signal.
    pub const fn ordered_by_signal<T: CustomSignal, K: OrderingKey<T>>(mut self) -> Self {
        self.ordering = Some(EventKey::of(key_of_signal::<T, K>, K::IS_FIELD));
        self
    }

    /// Combines the deliveries of one row.
    pub const fn coalesced_by_pk<S: CoalescedSignal>(mut self) -> Self {
        self.coalescing = Some(EventKey::Pk);
        self
    }

    /// Combines the deliveries of one key, which `K` computes from the row.
    pub const fn coalesced_by_row<S: CoalescedSignal, M: Model, K: OrderingKey<M>>(
        mut self,
    ) -> Self {
        self.coalescing = Some(EventKey::of(key_of_row::<M, K>, K::IS_FIELD));
        self
    }

    /// Combines the deliveries of one key, which `K` computes from the value of a custom signal.
    pub const fn coalesced_by_signal<T: CustomSignal, K: OrderingKey<T>>(mut self) -> Self {
        self.coalescing = Some(EventKey::of(key_of_signal::<T, K>, K::IS_FIELD));
        self
    }
}

/// A type that can be stored as JSON: one trait, so that a type without serde causes one message.
#[allow(unreachable_pub)]
pub trait Json: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Json for T {}

/// A type whose events can be published or received.
#[diagnostic::on_unimplemented(
    message = "the events of `{Self}` cannot be messages of a broker",
    label = "`{Self}` is not JSON",
    note = "derive `serde::Serialize` and `serde::Deserialize` on `{Self}`"
)]
#[allow(unreachable_pub)]
pub trait Published: Json {}

#[diagnostic::do_not_recommend]
impl<T: Json> Published for T {}

/// The signals of a model that can be durable.
#[diagnostic::on_unimplemented(
    message = "receivers of `{Self}` cannot be durable",
    label = "has no durable receivers",
    note = "a durable receiver runs after the commit, so it can neither change nor veto what is written: use `post_save`, \
            `post_delete`, `post_save_batch`, `post_delete_batch` or a signal of your own"
)]
#[allow(unreachable_pub)]
pub trait RowSignal: Signal {}

impl RowSignal for post_save {}
impl RowSignal for post_delete {}
impl RowSignal for post_save_batch {}
impl RowSignal for post_delete_batch {}

#[diagnostic::do_not_recommend]
impl RowSignal for NoSignal {}

impl<S: RowSignal, M> Storable<S> for M
where
    M: Model<Pk: Json> + Json,
{
    const FORM: EventForm = EventForm {
        encode: encode_rows::<M>,
        decode: decode_rows::<M>,
        table: Some(M::TABLE),
        columns: M::COLUMNS,
        ordering: None,
        coalescing: None,
        is_key: false,
        has_plain_key: has_plain_key::<M>,
        subject: None,
        data: data_of_row::<M>,
    };
}

impl<S: RowSignal> Storable<S> for dyn AnyModel {
    const FORM: EventForm = EventForm {
        encode: encode_any_rows,
        decode: decode_any_rows,
        table: None,
        columns: &["*"],
        ordering: None,
        coalescing: None,
        is_key: false,
        has_plain_key: || false,
        subject: None,
        data: no_data,
    };
}

impl<T: CustomSignal + Json> Storable<T> for () {
    const FORM: EventForm = EventForm {
        encode: encode_signal::<T>,
        decode: decode_signal::<T>,
        table: Some(""),
        columns: &[],
        ordering: None,
        coalescing: None,
        is_key: false,
        has_plain_key: || false,
        subject: None,
        data: data_of_signal,
    };
}
