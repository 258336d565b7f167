const _: () = {
    use ::sqlx_signals::__private as __p;
    #[automatically_derived]
    impl User {
        ///The column `id`.
        #[allow(dead_code)]
        const ID: __p::Column<Self> = __p::Column::new("id");
        ///The column `name`.
        #[allow(dead_code)]
        const NAME: __p::Column<Self> = __p::Column::new("name");
        ///The column `email`.
        #[allow(dead_code)]
        const EMAIL: __p::Column<Self> = __p::Column::new("email");
    }
    #[automatically_derived]
    impl __p::Model for User {
        type Pk = i64;
        const NAME: &'static str = "User";
        const TABLE: &'static str = "users";
        const COLUMNS: &'static [&'static str] = &["id", "name", "email"];
        const STATEMENTS: &'static __p::Statements = &__p::Statements {
            insert: "INSERT INTO \"users\" (\"name\", \"email\") VALUES ($1, $2) RETURNING \"id\"",
            insert_with_key: "INSERT INTO \"users\" (\"name\", \"email\", \"id\") VALUES ($1, $2, $3)",
            insert_or_nothing: "INSERT INTO \"users\" (\"name\", \"email\", \"id\") VALUES ($1, $2, $3) ON CONFLICT (\"id\") DO NOTHING",
            update: "UPDATE \"users\" SET \"name\" = $1, \"email\" = $2 WHERE \"id\" = $3",
            save: "WITH updated AS (UPDATE \"users\" SET \"name\" = $1, \"email\" = $2 WHERE \"id\" = $3 RETURNING 1), inserted AS (INSERT INTO \"users\" (\"name\", \"email\", \"id\") SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM updated) ON CONFLICT (\"id\") DO NOTHING RETURNING 1) SELECT false FROM updated UNION ALL SELECT true FROM inserted",
            delete: "DELETE FROM \"users\" WHERE \"id\" = $1",
            select: "SELECT \"id\", \"name\", \"email\" FROM \"users\"",
            find: "SELECT \"id\", \"name\", \"email\" FROM \"users\" WHERE \"id\" = $1",
            count: "SELECT count(*) FROM (SELECT 1 FROM \"users\"",
        };
        fn pk(&self) -> ::core::option::Option<Self::Pk> {
            ::core::clone::Clone::clone(&self.id)
        }
        fn __set_pk(&mut self, key: ::core::option::Option<Self::Pk>) {
            self.id = key;
        }
        fn __json(&self) -> ::core::option::Option<__p::Value> {
            #[allow(unused_imports)]
            use __p::{Serialized as _, Unserialized as _};
            (&__p::Probe(self)).json()
        }
        fn __table() -> &'static __p::Table<Self> {
            static TABLE: __p::Table<User> = __p::Table::new();
            &TABLE
        }
    }
    #[automatically_derived]
    impl<__DB: __p::Backend> __p::Store<__DB> for User
    where
        i64: __p::Field<__DB>,
        String: __p::Field<__DB>,
    {
        fn bind(
            &self,
            args: &mut __DB::Arguments,
        ) -> ::core::result::Result<(), __p::BoxDynError> {
            __p::add::<__DB, _>(args, &self.name)?;
            __p::add::<__DB, _>(args, &self.email)?;
            ::core::result::Result::Ok(())
        }
        fn bind_key(
            key: &Self::Pk,
            args: &mut __DB::Arguments,
        ) -> ::core::result::Result<(), __p::BoxDynError> {
            __p::add::<__DB, _>(args, key)?;
            ::core::result::Result::Ok(())
        }
        fn load(row: &__DB::Row) -> ::core::result::Result<Self, __p::Error> {
            ::core::result::Result::Ok(Self {
                id: ::core::option::Option::Some(
                    <__DB as __p::Backend>::get::<i64>(row, 0usize)?,
                ),
                name: <__DB as __p::Backend>::get::<String>(row, 1usize)?,
                email: <__DB as __p::Backend>::get::<String>(row, 2usize)?,
            })
        }
        fn load_key(row: &__DB::Row) -> ::core::result::Result<Self::Pk, __p::Error> {
            <__DB as __p::Backend>::get::<i64>(row, 0usize)
        }
    }
    #[automatically_derived]
    impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for User
    where
        __R::Database: __p::Backend,
        &'static str: __p::ColumnIndex<__R>,
        i64: __p::Field<__R::Database>,
        String: __p::Field<__R::Database>,
    {
        fn from_row(row: &'r __R) -> ::core::result::Result<Self, __p::Error> {
            ::core::result::Result::Ok(Self {
                id: ::core::option::Option::Some(
                    __p::Row::try_get::<i64, _>(row, "id")?,
                ),
                name: __p::Row::try_get::<String, _>(row, "name")?,
                email: __p::Row::try_get::<String, _>(row, "email")?,
            })
        }
    }
};
