#[allow(dead_code, deprecated, unused_imports)]
const _: () = {
    use ::sqlx_signals::__private as __p;
    use __p::defaults::*;
    #[automatically_derived]
    impl User {
        ///The column `id`.
        const ID: __p::Column<Self> = __p::Column::new("id");
        ///The column `name`.
        const NAME: __p::Column<Self> = __p::Column::new("name");
        ///The column `email`.
        const EMAIL: __p::Column<Self> = __p::Column::new("email");
    }
    pub struct __Kept((Option<i64>,));
    #[automatically_derived]
    impl __p::Model for User {
        type Pk = i64;
        const NAME: &'static __p::str = "User";
        const TABLE: &'static __p::str = "users";
        const COLUMNS: &'static [&'static __p::str] = &["id", "name", "email"];
        const STATEMENTS: &'static __p::Statements = {
            static STATEMENTS: __p::Statements = __p::Statements {
                table: "\"users\"",
                insert: "INSERT INTO \"users\" (\"name\", \"email\") VALUES ($1, $2) RETURNING \"users\".\"id\"",
                insert_with_key: "INSERT INTO \"users\" (\"name\", \"email\", \"id\") VALUES ($1, $2, $3)",
                insert_or_nothing: "INSERT INTO \"users\" (\"name\", \"email\", \"id\") VALUES ($1, $2, $3) ON CONFLICT (\"id\") DO NOTHING",
                update: "UPDATE \"users\" SET \"name\" = $1, \"email\" = $2 WHERE \"users\".\"id\" = $3",
                save: "WITH _updated AS (UPDATE \"users\" SET \"name\" = $1, \"email\" = $2 WHERE \"users\".\"id\" = $3 RETURNING 1), _inserted AS (INSERT INTO \"users\" (\"name\", \"email\", \"id\") SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM _updated) ON CONFLICT (\"id\") DO NOTHING RETURNING 1) SELECT false FROM _updated UNION ALL SELECT true FROM _inserted",
                delete: "DELETE FROM \"users\" WHERE \"users\".\"id\" = $1",
                find: "SELECT \"users\".\"id\", \"users\".\"name\", \"users\".\"email\" FROM \"users\" WHERE \"users\".\"id\" = $1",
                select: "SELECT \"users\".\"id\", \"users\".\"name\", \"users\".\"email\" FROM \"users\"",
                count: "SELECT count(*) FROM (SELECT 1 FROM \"users\"",
                columns: &[
                    __p::ColumnSpec::new("\"id\"", __p::Role::GeneratedKey),
                    __p::ColumnSpec::new("\"name\"", __p::Role::Plain),
                    __p::ColumnSpec::new("\"email\"", __p::Role::Plain),
                ],
                roles: __p::RoleSet::of(&[__p::Role::GeneratedKey, __p::Role::Plain]),
                keys: 1usize,
            };
            &STATEMENTS
        };
        const COPY: __p::Copier<Self> = __p::CopyOf::<User>::COPY;
        fn pk(&self) -> __p::Option<Self::Pk> {
            __p::Clone::clone(&self.id)
        }
        fn __set_pk(&mut self, key: __p::Option<Self::Pk>) {
            self.id = key;
        }
        type Kept = __Kept;
        fn __keep(&self) -> __Kept {
            __Kept((__p::Clone::clone(&self.id),))
        }
        fn __restore(&mut self, kept: __Kept) {
            (self.id,) = kept.0;
        }
        fn __json(&self) -> __p::Option<__p::Value> {
            (&__p::Probe(self)).__signals_json()
        }
        fn __table() -> &'static __p::Table {
            static TABLE: __p::Table = __p::Table::new::<User>();
            &TABLE
        }
    }
    #[automatically_derived]
    impl<__DB: __p::Backend> __p::Store<__DB> for User
    where
        __p::Known: __p::Stores<i64, __DB>,
        __p::Known: __p::Stores<String, __DB>,
    {
        fn give(&self, column: __p::usize, take: __p::Take<'_, __DB>) -> __p::Given {
            match column {
                0usize => __p::give_key::<__DB, __p::Known, _>(&self.id, take),
                1usize => __p::give::<__DB, __p::Known, _>(&self.name, take),
                2usize => __p::give::<__DB, __p::Known, _>(&self.email, take),
                _ => __p::no_column(column),
            }
        }
        #[allow(clippy::single_match)]
        fn set(
            &mut self,
            column: __p::usize,
            row: &__DB::Row,
            at: __p::usize,
        ) -> __p::Loaded<()> {
            match column {
                0usize => self.id = __p::Some(__p::get::<__DB, __p::Known, _>(row, at)?),
                _ => {}
            }
            __p::Ok(())
        }
        fn key(key: &Self::Pk, _: __p::usize, take: __p::Take<'_, __DB>) -> __p::Given {
            __p::give::<__DB, __p::Known, _>(key, take)
        }
        fn asked(column: __p::usize, asked: __p::Asked<'_>) -> __p::bool {
            [
                __p::asked::<__DB, __p::Known, i64>,
                __p::asked::<__DB, __p::Known, String>,
                __p::asked::<__DB, __p::Known, String>,
            ][column](asked)
        }
        fn load(row: &__DB::Row, at: impl __p::Places) -> __p::Loaded<Self> {
            __p::Ok(Self {
                id: __p::Some(__p::get::<__DB, __p::Known, _>(row, at(0usize)?)?),
                name: __p::get::<__DB, __p::Known, _>(row, at(1usize)?)?,
                email: __p::get::<__DB, __p::Known, _>(row, at(2usize)?)?,
            })
        }
    }
    #[automatically_derived]
    impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for User
    where
        __R::Database: __p::Backend + __p::Database<Row = __R>,
        &'static __p::str: __p::ColumnIndex<__R>,
        Self: __p::Store<__R::Database>,
    {
        fn from_row(row: &'r __R) -> __p::Loaded<Self> {
            __p::by_name::<__R::Database, Self>(row)
        }
    }
    type __In = __p::StoredIn<User>;
    __p::inventory::submit! {
        __p::Linked::new:: < User > (& [], __In::SQLITE, __In::POSTGRES)
    }
};
