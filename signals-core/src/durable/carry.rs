//! Values of a request that travel with the deliveries of its events.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::signal::state::State;

/// A value that [`Db::carry`](crate::Db::carry) stores with deliveries.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use sqlx_signals::durable::Carried;
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct CurrentUser(i64);
///
/// impl Carried for CurrentUser {
///     const NAME: &'static str = "current_user";
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be carried to the runs of deliveries",
    label = "has no name in stored deliveries",
    note = "implement `sqlx_signals::durable::Carried` for it: `const NAME: &'static str = \"current_user\";`",
    note = "a value that receivers in the same process take as `State` is added with `Db::with`"
)]
pub trait Carried: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name of the value in stored deliveries. It must be different for every type, and stay the same if the type is renamed or moved,
    /// because deliveries of an older version of the program have it.
    const NAME: &'static str;
}

impl Db {
    /// Returns a `Db` with this value, as [`with`](Self::with) does. The value is also stored with the deliveries of durable receivers. When a
    /// delivery runs, its receiver takes the value as [`State`](crate::State), in any process.
    ///
    /// The value is stored as JSON in the column `context`. Events that a run causes carry it too. A newer value of the same type, which was added
    /// by `with` or `carry`, replaces it.
    ///
    /// If the write of a delivery carries no value, its receiver takes the value of the worker's `Db`. A worker refuses to start if its `Db`
    /// has no value for a `State`.
    ///
    /// ```standalone_crate
    /// use serde::{Deserialize, Serialize};
    /// use sqlx_signals::durable::Carried;
    /// use sqlx_signals::prelude::*;
    /// # use sqlx_signals::testing;
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct CurrentUser(i64);
    ///
    /// impl Carried for CurrentUser {
    ///     const NAME: &'static str = "current_user";
    /// }
    ///
    /// # #[derive(Model, Serialize, Deserialize)]
    /// # #[model(table = "cities")]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City, durable(at_least_once))]
    /// fn audit(saved: PostSave<'_, City>, State(user): State<CurrentUser>) {
    ///     println!("user {} has saved {}", user.0, saved.instance.name);
    ///     # assert_eq!(user.0, 7);
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?.with(CurrentUser(0));
    /// # db.execute("CREATE TABLE cities (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// # db.deliveries().setup().await?;
    /// let db_of_request = db.carry(CurrentUser(7));
    /// City { id: None, name: "Ulm".into() }.save(&db_of_request).await?; // the worker prints "user 7 has saved Ulm"
    /// # testing::deliver(&db).await?.assert_failed::<audit>(0);
    /// # Ok(()) }
    /// ```
    #[must_use = "only the returned `Db` has the value"]
    pub fn carry<T: Carried>(&self, value: T) -> Self {
        let mut carried = self.state::<CarriedTypes>().cloned().unwrap_or_default();
        if carried.0.iter().all(|known| known.name != T::NAME) {
            carried.0.push(CarriedType { name: T::NAME, to_json: to_json::<T> });
        }
        self.with(value).with(carried)
    }
}

/// The types of the values that a `Db` carries, as a value of the `Db`.
#[derive(Clone, Default)]
struct CarriedTypes(Vec<CarriedType>);

#[derive(Clone)]
struct CarriedType {
    name: &'static str,
    to_json: fn(&Db) -> Option<serde_json::Result<Value>>,
}

fn to_json<T: Carried>(db: &Db) -> Option<serde_json::Result<Value>> {
    db.state::<T>().map(serde_json::to_value)
}

/// Carried values as they are stored, by their names.
pub(super) type CarriedValues = BTreeMap<String, Value>;

/// Adds the values that the `Db` carries to those that the running delivery has inherited.
///
/// # Errors
///
/// The name of a value that is not JSON, and the error of serde.
pub(super) fn add_values(
    db: Option<&Db>,
    values: &mut CarriedValues,
) -> Result<(), (&'static str, serde_json::Error)> {
    let Some((db, types)) = db.and_then(|db| Some((db, db.state::<CarriedTypes>()?))) else {
        return Ok(());
    };
    for CarriedType { name, to_json } in &types.0 {
        if let Some(value) = to_json(db) {
            values.insert((*name).to_owned(), value.map_err(|error| (*name, error))?);
        }
    }
    Ok(())
}

/// A value that a delivery has carried: adds it to a `Db`.
pub(super) type Arrived = Arc<dyn Fn(&Db) -> Db + Send + Sync>;

/// How a carried value becomes a value of a `Db` again.
#[derive(Clone, Copy)]
struct CarriedForm {
    name: &'static str,
    ty: TypeId,
    decode: fn(&Value) -> serde_json::Result<Arrived>,
}

/// The type of a receiver's parameter, if it is the `State` of a carried value. `#[receiver]` registers it, because a worker finds in a delivery
/// only the names of the values.
#[allow(missing_debug_implementations, unreachable_pub)]
pub struct CarriedParameter(Option<CarriedForm>);

inventory::collect!(CarriedParameter);

/// The question whether a parameter of the type `P` is the `State` of a carried value.
#[allow(missing_debug_implementations, unreachable_pub)]
pub struct CarriedBy<P>(PhantomData<P>);

/// The default for every other type.
#[allow(unreachable_pub)]
pub trait NotCarried {
    /// Nothing to register.
    const PARAMETER: CarriedParameter = CarriedParameter(None);
}

impl<P> NotCarried for CarriedBy<P> {}

impl<T: Carried> CarriedBy<State<T>> {
    /// How the value is decoded.
    pub const PARAMETER: CarriedParameter = CarriedParameter(Some(CarriedForm {
        name: T::NAME,
        ty: TypeId::of::<T>(),
        decode: decode::<T>,
    }));
}

fn decode<T: Carried>(value: &Value) -> serde_json::Result<Arrived> {
    let value = T::deserialize(value)?;
    Ok(Arc::new(move |db| db.carry(value.clone())))
}

/// Decodes those of the values that receivers of this program take.
///
/// # Errors
///
/// The name of a value that cannot be decoded, and the error of serde.
pub(super) fn decoded(values: &CarriedValues) -> Result<Vec<Arrived>, String> {
    let mut arrived = Vec::new();
    if values.is_empty() {
        return Ok(arrived);
    }
    let mut known: Vec<TypeId> = Vec::new();
    for form in inventory::iter::<CarriedParameter>().filter_map(|parameter| parameter.0) {
        if let Some(value) = values.get(form.name)
            && !known.contains(&form.ty)
        {
            known.push(form.ty);
            let decoded = (form.decode)(value);
            arrived.push(decoded.map_err(|error| format!("`{}`: {error}", form.name))?);
        }
    }
    Ok(arrived)
}

/// Adds the values to a `Db`.
pub(super) fn with_arrived(arrived: &[Arrived], db: Db) -> Db {
    arrived.iter().fold(db, |db, add| add(&db))
}

/// Adds the values to the `Db` of the connection, for what the receiver writes through it. Returns the `Db` to restore.
pub(super) fn give_to(arrived: &[Arrived], conn: &mut Conn<'_>) -> Option<Db> {
    let before = conn.state.db.clone().filter(|_| !arrived.is_empty())?;
    conn.state.db = Some(with_arrived(arrived, before.clone()));
    Some(before)
}
