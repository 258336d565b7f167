//! From a row to the row that it belongs to, and back.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use crate::database::backend::{AnyTake, Backend as _, DatabaseKind, on_kind};
use crate::error::Result;
use crate::model::Model;
use crate::model::executor::Executor;
use crate::model::lookup::{self, Keys, find, find_by_value};
use crate::model::read::{self, OneRow};
use crate::model::registered::KeyOf;
use crate::model::store::Route;
use crate::table::rows::integer;

/// A column with `#[model(belongs_to = P, …)]` of the model `C`: it contains the key of a row of `P`, the parent.
///
/// `#[derive(Model)]` declares a constant for each such column, named after the field without `_id`: `OF_AUTHOR` for a field
/// `author` or `author_id`. Each method runs one statement, and sends [`post_load`](crate::post_load) for the rows that it
/// returns. Nothing is loaded without a call.
///
/// | to get | call |
/// |---|---|
/// | the parent of a row | [`parent`](Self::parent) |
/// | the parents of many rows | [`parents`](Self::parents) |
/// | the children of a row | [`children`](Self::children) |
/// | the children of many rows | [`children_of_each`](Self::children_of_each) |
///
/// ```
/// # use sqlx_signals::prelude::*;
/// #[derive(Model)]
/// # #[model(table = "users")]
/// struct User { id: Option<i64>, name: String }
///
/// #[derive(Model)]
/// # #[model(table = "posts")]
/// struct Post {
///     id: Option<i64>,
///     #[model(belongs_to = User, on_delete = cascade)]
///     author_id: i64,
///     #[model(belongs_to = User, on_delete = set_null)]
///     editor_id: Option<i64>,
/// }
///
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
/// #     CREATE TABLE posts (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL REFERENCES users, editor_id INTEGER REFERENCES users)").await?;
/// # let ann = User { id: None, name: "Ann".into() }.save(&db).await?;
/// # Post { id: None, author_id: ann.pk, editor_id: None }.save(&db).await?;
/// let posts = Post::all(&db).await?;
/// let author: User = Post::OF_AUTHOR.parent(&db, &posts[0]).await?;
/// let editor: Option<User> = Post::OF_EDITOR.parent(&db, &posts[0]).await?;
///
/// let authors = Post::OF_AUTHOR.parents(&db, &posts).await?;
/// for (post, author) in posts.iter().zip(authors.iter()) {
///     println!("{:?} by {}", post.id, author.name);
/// }
///
/// let users = User::all(&db).await?;
/// let written = Post::OF_AUTHOR.children_of_each(&db, &users).await?;
/// for (user, posts) in users.iter().zip(&written) {
///     println!("{} wrote {} posts", user.name, posts.len());
/// }
/// # assert!(author.name == "Ann" && editor.is_none() && written[0].len() == 1);
/// # Ok(()) }
/// ```
pub struct BelongsTo<C, P, F> {
    column: usize,
    field: fn(&C) -> &F,
    parent: PhantomData<fn() -> P>,
}

impl<C, P, F> Clone for BelongsTo<C, P, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C, P, F> Copy for BelongsTo<C, P, F> {}

impl<C: Model, P: Model, F> fmt::Debug for BelongsTo<C, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} → {}", C::NAME, C::COLUMNS[self.column], P::NAME)
    }
}

impl<C, P, F> BelongsTo<C, P, F> {
    /// The column with this index, whose field is `field`.
    #[doc(hidden)]
    pub const fn new(column: usize, field: fn(&C) -> &F) -> Self {
        Self { column, field, parent: PhantomData }
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` does not promise that its future is `Send`"
)]
impl<C: Model, P: Model, F: KeyOf<P::Pk> + 'static> BelongsTo<C, P, F> {
    /// Returns the row that this row belongs to. If the field is an `Option`, the result is an `Option` too: `None` if the
    /// field is `None`.
    ///
    /// # Errors
    ///
    /// The errors of [`Model::get`]: if the parent does not exist, [`Error::NotFound`](crate::Error::NotFound).
    pub fn parent<E>(
        self,
        db: E,
        child: &C,
    ) -> impl Future<Output = Result<F::Parent<P>>> + Send + use<C, P, F, E>
    where
        E: Executor<P>,
    {
        let key = (self.field)(child).key().cloned();
        async move {
            let Some(key) = key else { return Ok(F::no_parent()) };
            let mut found = OneRow::<P, E::Route>::default();
            found.by_key(db.into_source(), &key).await?;
            found.row.map(F::parent).ok_or_else(|| read::not_found::<P>(Some(&key)))
        }
    }

    /// Returns the rows that these rows belong to. Each parent is read once, whatever number of rows belongs to it.
    ///
    /// # Errors
    ///
    /// As [`parent`](Self::parent).
    pub fn parents<E>(
        self,
        db: E,
        children: &[C],
    ) -> impl Future<Output = Result<Parents<P, F>>> + Send
    where
        E: Executor<P>,
    {
        async move {
            let source = db.into_source();
            let kind = source.kind();
            let (mut keys, mut numbers) = (Vec::new(), HashMap::new());
            let mut of = Vec::with_capacity(children.len());
            for child in children {
                let Some(key) = (self.field)(child).key() else {
                    of.push(None);
                    continue;
                };
                let number =
                    *numbers.entry(encoded::<P, E::Route>(kind, key)?).or_insert_with(|| {
                        keys.push(key.clone());
                        keys.len() - 1
                    });
                of.push(Some(number));
            }
            let rows = lookup::get_many::<P, E::Route>(source, &keys).await?;
            Ok(Parents { rows, of, field: PhantomData })
        }
    }

    /// Returns the rows that belong to this row, in no particular order. To sort, limit or count them, use
    /// `query("WHERE author_id = $1 …")`.
    ///
    /// # Errors
    ///
    /// The database's error, or an error if a row cannot be decoded.
    pub fn children<E>(self, db: E, parent: &P) -> impl Future<Output = Result<Vec<C>>> + Send
    where
        E: Executor<C, Route: Route<P>>,
    {
        async move {
            let parents = std::slice::from_ref(parent);
            let children = self.children_of_each(db, parents).await?;
            Ok(children.into_iter().flatten().collect())
        }
    }

    /// Returns the rows that belong to each of these rows: one `Vec` for each parent, in the order of the parents. A parent
    /// that is not stored has no children.
    ///
    /// # Errors
    ///
    /// As [`children`](Self::children).
    pub fn children_of_each<E>(
        self,
        db: E,
        parents: &[P],
    ) -> impl Future<Output = Result<Vec<Vec<C>>>> + Send
    where
        E: Executor<C, Route: Route<P>>,
    {
        async move {
            let keys: Vec<_> = parents.iter().map(Model::pk).collect();
            let stored: Vec<_> = (0..keys.len()).filter(|n| keys[*n].is_some()).collect();
            let give = |n: usize, part, take: AnyTake<'_>| match &keys[stored[n]] {
                Some(key) => <E::Route as Route<P>>::give_key(key, part, take),
                None => Ok(()),
            };
            let given = Keys { on: &[self.column], count: stored.len(), give: &give };
            let mut conn = db.into_source().acquire().await?;
            let integers = match conn.kind() {
                DatabaseKind::Sqlite => numbers(stored.iter().filter_map(|n| keys[*n].as_ref())),
                DatabaseKind::Postgres => None,
            };
            let (numbers, rows): (Vec<_>, Vec<_>) = match integers {
                Some(integers) => {
                    let number = |child: &C| {
                        let key = integer((self.field)(child).key()?)?;
                        integers.get(&key).copied()
                    };
                    find_by_value::<C, E::Route>(&mut conn, given, number).await?
                }
                None => find::<C, E::Route>(&mut conn, given).await?.into_iter().unzip(),
            };
            let rows = lookup::loaded::<C, E::Route>(rows, &mut conn).await?;
            let mut children: Vec<_> = parents.iter().map(|_| Vec::new()).collect();
            for (number, row) in numbers.into_iter().zip(rows) {
                children[stored[number]].push(row);
            }
            Ok(children)
        }
    }
}

/// The indexes of integer keys. `None` if the keys are of another type, which SQLite may compare by a collation, or if two are equal.
fn numbers<'k, K: Any>(keys: impl Iterator<Item = &'k K>) -> Option<HashMap<i64, usize>> {
    let mut numbers = HashMap::with_capacity(keys.size_hint().1.unwrap_or_default());
    for (number, key) in keys.enumerate() {
        if numbers.insert(integer(key)?, number).is_some() {
            return None;
        }
    }
    Some(numbers)
}

/// The encoded key. Equal keys have equal encodings.
fn encoded<P: Model, R: Route<P>>(kind: DatabaseKind, key: &P::Pk) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for part in 0..P::STATEMENTS.keys {
        let given = on_kind!(kind, DB => {
            R::give_key(key, part, DB::any_take(&mut |value| DB::encoded(value, &mut all)))
        });
        given.map_err(sqlx::Error::Encode)?;
    }
    Ok(all)
}

/// The parents of several rows, as [`BelongsTo::parents`] returns them.
pub struct Parents<P, F> {
    rows: Vec<P>,
    /// For each child, the index of its parent.
    of: Vec<Option<usize>>,
    field: PhantomData<fn() -> F>,
}

impl<P: Model, F: KeyOf<P::Pk>> Parents<P, F> {
    /// The parent of each child, in the order of the children. If the field is an `Option`, each item is an `Option` too.
    pub fn iter(&self) -> impl Iterator<Item = F::Parent<&P>> {
        self.of.iter().map(|of| match of {
            Some(row) => F::parent(&self.rows[*row]),
            None => F::no_parent(),
        })
    }

    /// The different parents, each of them once.
    pub fn into_rows(self) -> Vec<P> {
        self.rows
    }
}

impl<P: fmt::Debug, F> fmt::Debug for Parents<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parents").field("rows", &self.rows).field("of", &self.of).finish()
    }
}
