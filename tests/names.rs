//! Unusual names, names that the library uses internally, and values that look like SQL.
#![allow(missing_docs)]

mod common;

use common::execute;
use sqlx_signals::prelude::*;
use sqlx_signals::sqlx::AssertSqlSafe;
use sqlx_signals::{Column, DatabaseKind};

const HOSTILE: &str = "'; DROP TABLE users; -- \" $1 ? ?1 :x @x \\ {} %s \u{1F980}";

/// A receiver whose types arrive in invisible groups.
macro_rules! received {
    ($sender:ident, $event:ty, $conn:ty) => {
        #[receiver(post_save, sender = $sender)]
        async fn received(saved: $event, conn: $conn) -> Result<()> {
            assert!(saved.pk() > 0 && conn.execute("SELECT 1").await.is_ok());
            Ok(())
        }
    };
}

/// Receivers that take the connection by a type that is not written as a reference.
macro_rules! connected {
    ($model:ident, $conn:ty) => {
        #[receiver(pre_save, sender = $model)]
        async fn before(_: PreSave<'_, $model>, conn: $conn) -> Result<()> {
            conn.execute("INSERT INTO notes (text) VALUES ('before')").await.map(drop)
        }

        #[receiver(post_save, sender = $model, robust)]
        async fn failing(_: PostSave<'_, $model>, conn: $conn) -> Result<()> {
            conn.execute("INSERT INTO notes (text) VALUES ('after')").await?;
            conn.execute("SELECT no_such_column FROM notes").await.map(drop)
        }
    };
}

#[derive(Debug, Clone, Model)]
#[model(table = "by_fragment")]
struct ByFragment {
    id: Option<i64>,
}

connected!(ByFragment, &mut Conn<'_>);

mod by_alias {
    use super::*;

    type Connection<'a, 'c> = &'a mut Conn<'c>;

    #[derive(Debug, Clone, Model)]
    #[model(table = "by_alias")]
    pub(super) struct ByAlias {
        pub(super) id: Option<i64>,
    }

    connected!(ByAlias, Connection<'_, '_>);
}

/// Saves a row whose `pre_save` receiver writes, and whose robust `post_save` receiver writes and then fails.
async fn connections_are_found<M: Portable + Model>(db: &Db, mut rows: [M; 2]) {
    common::table(db, M::TABLE, "unused BIGINT").await;
    common::table(db, "notes", "text TEXT NOT NULL").await;
    let [outside, inside] = &mut rows;
    outside.save(db).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    inside.save(&mut tx).await.unwrap();
    tx.execute("INSERT INTO notes (text) VALUES ('later')").await.unwrap();
    tx.commit().await.unwrap();
    let notes = db.query("SELECT text FROM notes ORDER BY id").fetch_all::<(String,)>().await;
    let notes: Vec<_> = notes.unwrap().into_iter().map(|(text,)| text).collect();
    assert_eq!(notes, ["before", "before", "later"]);
}

/// A public model with a private type in a column that the database computes.
#[allow(unreachable_pub)]
mod private_type {
    use super::*;

    #[derive(Debug, Clone, PartialEq, sqlx::Type)]
    #[sqlx(transparent)]
    struct Cents(i64);

    #[derive(Debug, Clone, Model)]
    #[model(table = "priced")]
    pub struct Priced {
        pub id: Option<i64>,
        pub euros: i64,
        #[model(generated)]
        cents: Cents,
    }

    impl Priced {
        pub fn new(euros: i64) -> Self {
            Self { id: None, euros, cents: Cents(0) }
        }

        pub fn cents(&self) -> i64 {
            self.cents.0
        }
    }
}

/// Deprecated types, whose derives cause no warning.
#[allow(dead_code)]
#[deny(deprecated)]
mod deprecated {
    use super::*;

    #[deprecated]
    #[derive(Clone, Model)]
    struct Old {
        id: Option<i64>,
        #[deprecated]
        name: String,
    }

    #[deprecated]
    #[derive(Signal)]
    struct OldSent;
}

/// A trait with a method for every type, whose name the expansion could use.
#[allow(dead_code)]
mod every_type_has_json {
    use super::*;

    trait Json {
        fn json(&self) -> Option<serde_json::Value> {
            Some(serde_json::Value::Null)
        }
    }

    impl<T: ?Sized> Json for T {}

    #[derive(Debug, Clone, Model)]
    #[model(table = "with_json")]
    pub(super) struct WithJson {
        pub(super) id: Option<i64>,
    }
}

/// A model that names itself as `Self`, in types that the expansion also uses outside of an `impl`.
mod itself {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Model)]
    #[model(table = "nodes")]
    pub(super) struct Node {
        pub(super) id: Option<i64>,
        pub(super) name: String,
        #[model(belongs_to = Self, on_delete = cascade)]
        pub(super) parent_id: Option<<Self as Keyed>::Key>,
        #[model(skip)]
        pub(super) path: std::sync::Arc<std::sync::OnceLock<Vec<Self>>>,
        #[model(skip)]
        pub(super) hash: [u8; Self::LENGTH],
    }

    pub(super) trait Keyed {
        type Key;
    }

    impl Keyed for Node {
        type Key = i64;
    }

    impl Node {
        const LENGTH: usize = 4;
    }
}

/// Receivers with parameters that a `cfg` removes or keeps.
mod conditional {
    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "conditional")]
    pub(super) struct Conditional {
        pub(super) id: Option<i64>,
        pub(super) n: i64,
    }

    #[receiver(pre_save, sender = Conditional)]
    pub(super) fn without(save: PreSave<'_, Conditional>, #[cfg(any())] _: State<String>) {
        save.instance.n += 1;
    }

    #[receiver(pre_save, sender = Conditional)]
    pub(super) fn with(
        save: PreSave<'_, Conditional>,
        #[cfg(any())] _: State<String>,
        #[cfg(not(any()))] State(more): State<i64>,
    ) {
        save.instance.n += more;
    }
}

/// Receivers whose parameters have lifetimes of their own, with the names that an expansion could use.
#[allow(clippy::type_complexity)]
mod higher_ranked {
    use std::sync::Arc;

    use super::*;

    #[derive(Debug, Clone, Model)]
    #[model(table = "hooked")]
    pub(super) struct Hooked {
        pub(super) id: Option<i64>,
    }

    #[receiver(post_save, sender = Hooked)]
    async fn call<'e, 'conn>(
        saved: PostSave<'e, Hooked>,
        State(hook): State<Arc<dyn for<'a> Fn(&'a Hooked) + Send + Sync>>,
        State(_): State<for<'c, 'r> fn(&'c Hooked, &'r Hooked)>,
        _conn: &'e mut Conn<'conn>,
    ) {
        hook(saved.instance);
    }
}

/// Durable receivers whose parameters and keys come from a macro of the program.
#[cfg(feature = "durable")]
mod durable_fragments {
    use super::*;

    #[derive(Debug, Clone, Model, serde::Serialize, serde::Deserialize)]
    #[model(table = "queued")]
    pub(super) struct Queued {
        pub(super) id: Option<i64>,
        pub(super) owner: i64,
    }

    fn owner_of(queued: &Queued) -> i64 {
        queued.owner
    }

    #[derive(Signal, Clone, serde::Serialize, serde::Deserialize)]
    pub(super) struct Happened {
        pub(super) owner: i64,
    }

    macro_rules! queued {
        ($model:ident, $field:ident, $function:path, $conn:ty, $delivery:ty) => {
            #[receiver(post_save, sender = $model, durable(ordering_key = $field, coalesce = $field))]
            pub(crate) async fn by_field(_: PostSave<'_, $model>, conn: $conn) -> Result<()> {
                conn.execute("INSERT INTO notes (text) VALUES ('connection')").await.map(drop)
            }

            #[receiver(post_save, sender = $model, durable(ordering_key = $function))]
            pub(crate) async fn by_function(
                saved: PostSave<'_, $model>,
                delivery: $delivery,
            ) -> Result<()> {
                assert!(delivery.attempt() == 1 && saved.pk() > 0);
                Ok(())
            }

            #[receiver(Happened, durable(at_least_once, ordering_key = $field))]
            pub(crate) async fn of_signal(_: &Happened) {}
        };
    }

    queued!(Queued, owner, self::owner_of, &mut Conn<'_>, Delivery<'_>);

    /// Their types are aliases.
    pub(super) mod aliases {
        use super::*;

        type Connection<'a, 'c> = &'a mut Conn<'c>;
        type Delivered<'a> = Delivery<'a>;

        queued!(Queued, owner, super::owner_of, Connection<'_, '_>, Delivered<'_>);
    }
}

/// A model whose first columns are its key and a unique name.
trait Named: Portable + Clone + PartialEq + std::fmt::Debug + Model<Pk = i64> {
    const NAME: Column<Self>;
    fn of(name: &str) -> Self;
    fn id_mut(&mut self) -> &mut Option<i64>;
    fn name_mut(&mut self) -> &mut String;
}

macro_rules! named {
    ($model:ident { $($rest:ident: $value:expr),* }) => {
        impl Named for $model {
            const NAME: Column<Self> = $model::NAME;

            fn of(name: &str) -> Self {
                $model { id: None, name: name.to_owned() $(, $rest: $value)* }
            }

            fn id_mut(&mut self) -> &mut Option<i64> {
                &mut self.id
            }

            fn name_mut(&mut self) -> &mut String {
                &mut self.name
            }
        }
    };
}

/// Every way to write and read a row.
async fn writes<M: Named>(db: &Db) {
    execute(db, &format!("DROP TABLE IF EXISTS {}", quoted(M::TABLE))).await;
    let columns = M::COLUMNS.iter().skip(2).map(|c| format!(", {} BIGINT NOT NULL", quoted(c)));
    let id = match db.kind() {
        DatabaseKind::Sqlite => "INTEGER PRIMARY KEY",
        DatabaseKind::Postgres => "BIGSERIAL PRIMARY KEY",
    };
    let [table, key, name] = [M::TABLE, M::COLUMNS[0], M::COLUMNS[1]].map(quoted);
    let columns = columns.collect::<String>();
    execute(
        db,
        &format!("CREATE TABLE {table} ({key} {id}, {name} TEXT NOT NULL UNIQUE{columns})"),
    )
    .await;

    let mut one = M::of(HOSTILE);
    assert!(one.save(db).await.unwrap().created);
    assert!(!one.save(db).await.unwrap().created);
    one.save_fields(db, &[<M as Named>::NAME]).await.unwrap();
    assert!(!M::of(HOSTILE).upsert(db, &[<M as Named>::NAME]).await.unwrap().created);
    assert!(M::of("new").upsert(db, &[<M as Named>::NAME]).await.unwrap().created);
    let found = M::get_or_create(db, M::of(HOSTILE), &[<M as Named>::NAME]).await.unwrap();
    assert_eq!(found, (one.clone(), false));
    let mut many = [M::of("a"), M::of("b'"), M::of("c\"")];
    M::insert_many(db, &mut many).await.unwrap();
    many[1].name_mut().push('\'');
    M::update_many(db, &mut many).await.unwrap();
    assert_eq!(M::get(db, many[1].pk().unwrap()).await.unwrap(), many[1]);
    let keys = [many[1].pk().unwrap(), many[0].pk().unwrap()];
    assert_eq!(M::get_many(db, &keys).await.unwrap(), [many[1].clone(), many[0].clone()]);
    let mut gone = M::of("x");
    assert!(M::update_many(db, std::slice::from_mut(&mut gone)).await.unwrap_err().is_not_found());
    *gone.id_mut() = Some(999);
    assert!(M::update_many(db, &mut [gone]).await.unwrap_err().is_not_found());
    assert_eq!(M::delete_many(db, &mut many[..2]).await.unwrap(), 2);
    assert!(one.delete(db).await.unwrap());
    let left = M::query(AssertSqlSafe(format!("ORDER BY {name}"))).fetch_all(db).await.unwrap();
    let names: Vec<_> = left.into_iter().map(|mut row| std::mem::take(row.name_mut())).collect();
    assert_eq!(names, ["c\"", "new"]);
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Receivers that take the previous row, so that the statements that read it are tested too.
macro_rules! hear {
    ($($model:ident)*) => { $(
        const _: () = {
            #[receiver(post_save, sender = $model)]
            fn saved(saved: PostSave<'_, $model>, previous: Previous<'_, $model>) {
                assert_eq!(previous.row().is_none(), saved.created);
                if let Some(was) = previous.row() {
                    assert_eq!(previous.changed($model::NAME), was.name != saved.instance.name);
                }
            }

            #[receiver(post_delete, sender = $model)]
            fn deleted(deleted: PostDelete<'_, $model>, previous: Previous<'_, $model>) {
                assert_eq!(previous.row(), Some(deleted.instance));
            }
        };
    )* };
}

/// Models of tables that the library's own statements might mistake for something else.
macro_rules! tables {
    ($($model:ident $heard:ident $table:literal)*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Model)]
            #[model(table = $table)]
            struct $model { id: Option<i64>, name: String }
            #[derive(Debug, Clone, PartialEq, Model)]
            #[model(table = $table)]
            struct $heard { id: Option<i64>, name: String }
            named!($model {});
            named!($heard {});
            hear!($heard);
        )*

        on_every_database! {
            async fn tables_with_the_librarys_internal_names(db: Db) {
                $(
                    Box::pin(writes::<$model>(&db)).await;
                    Box::pin(writes::<$heard>(&db)).await;
                )*
            }
        }
    };
}

tables! {
    Given GivenHeard "given"
    UGiven UGivenHeard "_given"
    GivenU GivenUHeard "_GIVEN_"
    Updated UpdatedHeard "_updated"
    UpdatedPlain UpdatedPlainHeard "updated"
    Inserted InsertedHeard "_inserted"
    InsertedPlain InsertedPlainHeard "inserted"
    Before BeforeHeard "_before"
    Stored StoredHeard "_stored"
    Matching MatchingHeard "matching"
    Excluded ExcludedHeard "excluded"
    New NewHeard "new"
    Select SelectHeard "select"
    Quoted QuotedHeard "a \"table\"; DROP TABLE x --"
    Unicode UnicodeHeard "Größe 🦀 'of' ? $1"
    // 63 bytes, the longest that Postgres has.
    Long LongHeard "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "columns")]
struct Columns {
    #[model(column = "_n")]
    id: Option<i64>,
    #[model(column = "größe \"'`$1?")]
    name: String,
    c0: i64,
    c1: i64,
    #[model(column = "_given")]
    given: i64,
    #[model(column = "_stored")]
    stored: i64,
    #[model(column = "_before")]
    before: i64,
    #[model(column = "old")]
    old: i64,
    #[model(column = "excluded")]
    excluded: i64,
    r#type: i64,
    #[model(column = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")]
    long: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "columns_heard")]
struct ColumnsHeard {
    #[model(column = "_n")]
    id: Option<i64>,
    #[model(column = "select")]
    name: String,
    #[model(column = "c2")]
    c0: i64,
    #[model(column = "c1")]
    c1: i64,
    #[model(column = "_given")]
    given: i64,
    #[model(column = "_stored")]
    stored: i64,
    #[model(column = "_before")]
    before: i64,
}

hear!(ColumnsHeard);

named!(Columns {
    c0: 1,
    c1: 2,
    given: 3,
    stored: 4,
    before: 5,
    old: 6,
    excluded: 7,
    r#type: 8,
    long: 9
});
named!(ColumnsHeard { c0: 1, c1: 2, given: 3, stored: 4, before: 5 });

/// Fields whose columns hide the constants that every model has.
#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "hiding")]
struct Hiding {
    id: Option<i64>,
    name: String,
    table: i64,
    columns: i64,
    statements: i64,
    copy: i64,
    pk: i64,
    kept: i64,
    r#struct: i64,
}

#[derive(Debug, Clone, PartialEq, Model)]
#[model(table = "hiding_heard")]
struct HidingHeard {
    id: Option<i64>,
    name: String,
    table: i64,
    columns: i64,
    statements: i64,
    copy: i64,
    pk: i64,
    kept: i64,
    r#struct: i64,
}

hear!(HidingHeard);
named!(Hiding { table: 1, columns: 2, statements: 3, copy: 4, pk: 5, kept: 6, r#struct: 7 });
named!(HidingHeard { table: 1, columns: 2, statements: 3, copy: 4, pk: 5, kept: 6, r#struct: 7 });

#[receiver(post_save, sender = HidingHeard, changed(table, name, r#struct))]
fn hidden_ones_changed(_: PostSave<'_, HidingHeard>) {}

/// A module in which the names that expansions could rely on are something else.
#[allow(non_camel_case_types, non_snake_case, dead_code)]
mod shadowed {
    pub(super) struct Result;
    pub(super) struct Ok;
    pub(super) struct Err;
    pub(super) struct Option;
    pub(super) struct Some;
    pub(super) struct None;
    pub(super) struct String;
    pub(super) struct Vec;
    pub(super) struct Box;
    pub(super) struct Default;
    pub(super) struct Clone;
    pub(super) struct Send;
    pub(super) struct Sync;
    pub(super) struct Sized;
    pub(super) struct Fn;
    pub(super) struct From;
    pub(super) struct Into;
    pub(super) struct Iterator;
    pub(super) struct Column;
    pub(super) struct Error;
    pub(super) struct Receiver;
    pub(super) struct Signal;
    pub(super) struct bool;
    pub(super) struct str;
    pub(super) struct usize;
    pub(super) struct i64;
    pub(super) struct u8;
    pub(super) mod std {}
    pub(super) mod core {}
    pub(super) mod sqlx {}
    pub(super) mod sqlx_signals {}

    type Int = ::std::primitive::i64;

    #[derive(
        ::std::fmt::Debug, ::std::clone::Clone, ::std::cmp::PartialEq, ::sqlx_signals::Model,
    )]
    #[model(table = "shadowed")]
    pub(super) struct Model {
        pub(super) id: ::std::option::Option<Int>,
        pub(super) name: ::std::string::String,
        #[model(version)]
        pub(super) version: Int,
        pub(super) note: ::std::option::Option<::std::string::String>,
    }

    #[::sqlx_signals::receiver(::sqlx_signals::post_save, sender = Model, changed(name))]
    async fn r#async<'event, 'conn>(
        saved: ::sqlx_signals::PostSave<'event, Model>,
        previous: ::sqlx_signals::Previous<'event, Model>,
        conn: &'event mut ::sqlx_signals::Conn<'conn>,
    ) -> ::std::result::Result<(), ::sqlx_signals::Error> {
        ::std::assert_eq!(previous.row().is_none(), saved.created);
        conn.execute("SELECT 1").await.map(::std::mem::drop)
    }

    // The lifetime has the name of a module.
    pub(super) mod db {
        pub(in super::super) use ::sqlx_signals::Conn;
    }

    #[::sqlx_signals::receiver(::sqlx_signals::pre_save, sender = Model)]
    #[expect(clippy::needless_lifetimes, reason = "the lifetime has the name of a module")]
    async fn borrowing<'db>(_: ::sqlx_signals::PreSave<'_, Model>, _: &'db mut db::Conn<'_>) {}

    #[derive(::sqlx_signals::Signal)]
    pub(super) struct Sent;

    #[::sqlx_signals::receiver(Sent, on_commit)]
    fn r#fn(_: &Sent) {}

    #[derive(::std::clone::Clone, ::sqlx_signals::Model)]
    pub(super) struct Other {
        pub(super) id: ::std::option::Option<Int>,
    }

    // Its parameter has the name of a sender.
    #[::sqlx_signals::receiver(::sqlx_signals::pre_save, sender = [Other, Model])]
    fn both<Model: ::sqlx_signals::Model>(_: ::sqlx_signals::PreSave<'_, Model>) {}
}

on_every_database! {
    async fn columns_with_the_librarys_internal_names(db: Db) {
        writes::<Columns>(&db).await;
        writes::<ColumnsHeard>(&db).await;
        Box::pin(writes::<Hiding>(&db)).await;
        Box::pin(writes::<HidingHeard>(&db)).await;
        assert_eq!(Hiding::TABLE.name(), "table");
        assert_eq!((<Hiding as Model>::TABLE, <Hiding as Model>::NAME), ("hiding", "Hiding"));
        Hiding::check_table(&db).await.unwrap();
    }

    async fn models_that_a_macro_of_the_program_declares(db: Db) {
        common::table(&db, "owners", "n BIGINT NOT NULL").await;
        common::table(&db, "notes", "owner BIGINT REFERENCES owners").await;
        common::table(&db, "counted", "version BIGINT NOT NULL").await;
        let mut counted = Counted { id: None, version: 1 };
        counted.save(&db).await.unwrap();
        received!(Counted, PostSave<'_, Counted>, &mut Conn<'_>);
        counted.save(&db).await.unwrap();
        assert_eq!(counted.version, 2);
        let mut owner = Owner { id: None, n: 1 };
        owner.save(&db).await.unwrap();
        let mut note = Note { id: None, owner: owner.id };
        note.save(&db).await.unwrap();
        assert!(owner.delete(&db).await.unwrap());
        assert_eq!(Note::get(&db, note.id.unwrap()).await.unwrap().owner, None);
    }

    async fn the_connection_is_found_if_its_type_is_a_fragment_of_a_macro(db: Db) {
        connections_are_found(&db, [ByFragment { id: None }, ByFragment { id: None }]).await;
    }

    async fn the_connection_is_found_if_its_type_is_an_alias(db: Db) {
        use by_alias::ByAlias;

        connections_are_found(&db, [ByAlias { id: None }, ByAlias { id: None }]).await;
    }

    async fn a_public_model_can_have_a_private_type_in_a_generated_column(db: Db) {
        let columns = "euros BIGINT NOT NULL, cents BIGINT GENERATED ALWAYS AS (euros * 100) STORED";
        common::table(&db, "priced", columns).await;
        let mut priced = private_type::Priced::new(3);
        priced.save(&db).await.unwrap();
        assert_eq!(priced.cents(), 300);
    }

    async fn a_model_can_name_itself_as_self(db: Db) {
        use itself::Node;

        common::table(&db, "nodes", "name TEXT NOT NULL, parent_id BIGINT REFERENCES nodes").await;
        let node = |name: &str, parent_id| Node {
            id: None,
            name: name.to_owned(),
            parent_id,
            path: std::sync::Arc::default(),
            hash: [0; 4],
        };
        let mut root = node("root", None);
        let key = root.save(&db).await.unwrap().pk;
        node("leaf", Some(key)).save(&db).await.unwrap();
        let leaves = Node::OF_PARENT.children(&db, &root).await.unwrap();
        assert_eq!(leaves.len(), 1);
        let parent = Node::OF_PARENT.parent(&db, &leaves[0]).await.unwrap();
        assert_eq!(parent.as_ref(), Some(&root));
        assert!(root.delete(&db).await.unwrap());
        assert!(Node::all(&db).await.unwrap().is_empty());
    }

    async fn a_parameter_of_a_receiver_can_have_a_cfg(db: Db) {
        use conditional::{Conditional, with, without};

        registry().require::<with>().unwrap();
        registry().require::<without>().unwrap();
        common::table(&db, "conditional", "n BIGINT NOT NULL").await;
        let mut row = Conditional { id: None, n: 0 };
        row.save(&db.with(10_i64)).await.unwrap();
        assert_eq!(row.n, 11);
    }

    async fn a_model_is_no_json_because_of_a_trait_of_every_type(db: Db) {
        common::table(&db, "with_json", "unused BIGINT").await;
        let mut row = every_type_has_json::WithJson { id: None };
        row.save(&db).await.unwrap();
        let row: &dyn sqlx_signals::AnyModel = &row;
        assert_eq!(row.to_json(), None);
    }

    async fn a_parameter_can_have_lifetimes_of_its_own(db: Db) {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicI64, Ordering};

        use higher_ranked::Hooked;

        common::table(&db, "hooked", "unused BIGINT").await;
        let saved = Arc::new(AtomicI64::new(0));
        let seen = Arc::clone(&saved);
        let hook: Arc<dyn for<'a> Fn(&'a Hooked) + Send + Sync> =
            Arc::new(move |hooked| seen.store(hooked.id.unwrap(), Ordering::Relaxed));
        let nothing: for<'c, 'r> fn(&'c Hooked, &'r Hooked) = |_, _| {};
        let db = db.with(hook).with(nothing);
        Hooked { id: None }.save(&db).await.unwrap();
        assert_eq!(saved.load(Ordering::Relaxed), 1);
    }

    #[cfg(feature = "durable")]
    async fn a_durable_receiver_can_be_declared_by_a_macro(db: Db) {
        use durable_fragments::{Happened, Queued, aliases, by_field, by_function, of_signal};
        use sqlx_signals::testing;

        db.deliveries().setup().await.unwrap();
        common::table(&db, "queued", "owner BIGINT NOT NULL").await;
        common::table(&db, "notes", "text TEXT NOT NULL").await;
        Queued { id: None, owner: 7 }.save(&db).await.unwrap();
        Happened { owner: 7 }.send(&db).await.unwrap();
        let delivered = testing::deliver(&db).await.unwrap();
        delivered.assert_ran::<by_field>(1);
        delivered.assert_failed::<by_field>(0);
        delivered.assert_ran::<by_function>(1);
        delivered.assert_failed::<by_function>(0);
        delivered.assert_ran::<of_signal>(1);
        delivered.assert_failed::<of_signal>(0);
        delivered.assert_ran::<aliases::by_field>(1);
        delivered.assert_failed::<aliases::by_field>(0);
        delivered.assert_ran::<aliases::by_function>(1);
        delivered.assert_failed::<aliases::by_function>(0);
        delivered.assert_ran::<aliases::of_signal>(1);
        delivered.assert_failed::<aliases::of_signal>(0);
        // The receivers that take the connection have used it.
        assert_eq!(common::count(&db, "notes").await, 2);
    }

    async fn models_and_receivers_among_shadowed_names(db: Db) {
        let columns = "name TEXT NOT NULL, version BIGINT NOT NULL, note TEXT";
        common::table(&db, "shadowed", columns).await;
        let mut row = shadowed::Model { id: None, name: "a".into(), version: 1, note: None };
        assert!(row.save(&db).await.unwrap().created);
        row.name = "b".into();
        row.save(&db).await.unwrap();
        shadowed::Sent.send(&db).await.unwrap();
        assert_eq!(shadowed::Model::get(&db, row.id.unwrap()).await.unwrap(), row);
        assert_eq!(row.version, 2);
    }
}

/// The types arrive in invisible groups.
macro_rules! declared {
    ($model:ident, $table:literal, $($(#[$meta:meta])* $field:ident: $ty:ty),*) => {
        #[derive(Debug, Clone, Model)]
        #[model(table = $table)]
        struct $model { $($(#[$meta])* $field: $ty),* }
    };
}

declared!(Owner, "owners", id: Option<i64>, n: i64);
declared!(Counted, "counted", id: Option<i64>, #[model(version)] version: i64);
declared!(
    Note, "notes", id: Option<i64>,
    #[model(belongs_to = Owner, on_delete = set_null)] owner: Option<i64>
);

/// Types of the program with names of types that no model can have, and a key of its own.
mod own {
    use std::sync::{Arc, Mutex, Weak};

    use super::*;

    #[derive(Debug, Clone, PartialEq, sqlx::Type)]
    #[sqlx(transparent)]
    pub(crate) struct Cell(pub(crate) i64);

    #[derive(Debug, Clone, PartialEq, sqlx::Type)]
    #[sqlx(transparent)]
    pub(crate) struct Ref(pub(crate) i64);

    #[derive(Debug, Clone, Model)]
    #[model(table = "sheets")]
    pub(crate) struct Sheet {
        pub(crate) id: Ref,
        pub(crate) total: Option<Cell>,
    }

    #[derive(Debug, Clone, Model)]
    #[model(table = "entries")]
    pub(crate) struct Entry {
        pub(crate) id: Option<Ref>,
        #[model(belongs_to = Sheet, on_delete = cascade)]
        pub(crate) sheet: Ref,
        pub(crate) cell: Cell,
        #[model(skip)]
        pub(crate) cache: Arc<Mutex<i64>>,
        #[model(skip)]
        pub(crate) of: Weak<String>,
        #[model(skip)]
        pub(crate) debug: Option<Arc<dyn std::fmt::Debug + Send + Sync>>,
    }

    #[receiver(post_save, sender = Entry, on_commit)]
    async fn heard(saved: PostSave<'_, Entry>, _db: Db) {
        *saved.instance.cache.lock().unwrap() += saved.instance.cell.0;
    }
}

on_every_database! {
    async fn types_of_the_program_with_the_names_of_unsupported_types(db: Db) {
        use own::*;

        execute(&db, "CREATE TABLE sheets (id BIGINT PRIMARY KEY, total BIGINT)").await;
        common::table(&db, "entries", "sheet BIGINT NOT NULL REFERENCES sheets, cell BIGINT NOT NULL").await;
        let mut sheet = Sheet { id: Ref(7), total: None };
        sheet.save(&db).await.unwrap();
        let (cache, of) = (std::sync::Arc::default(), std::sync::Arc::new("text".to_owned()));
        let mut entry = Entry {
            id: None,
            sheet: Ref(7),
            cell: Cell(3),
            cache: std::sync::Arc::clone(&cache),
            of: std::sync::Arc::downgrade(&of),
            debug: None,
        };
        assert!(entry.save(&db).await.unwrap().created);
        assert_eq!(*cache.lock().unwrap(), 3);
        assert!(entry.of.upgrade().is_some() && entry.debug.is_none());
        assert_eq!(Entry::get(&db, entry.id.clone().unwrap()).await.unwrap().cell, Cell(3));
        Entry::check_table(&db).await.unwrap();
        assert!(sheet.delete(&db).await.unwrap());
        assert!(Entry::all(&db).await.unwrap().is_empty());
    }
}
