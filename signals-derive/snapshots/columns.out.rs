#[allow(dead_code, deprecated, unused_imports)]
const _: () = {
    use ::sqlx_signals::__private as __p;
    use __p::defaults::*;
    type __S3 = __p::Slot<
        {
            __p::Storable::<__p::JsonColumn<Vec<String>>>::SQLITE
                || __p::Storable::<__p::JsonColumn<Vec<String>>>::POSTGRES
        },
        true,
    >;
    type __S4 = __p::Slot<
        {
            __p::Storable::<DateTime<Utc>>::SQLITE
                || __p::Storable::<DateTime<Utc>>::POSTGRES
        },
    >;
    type __S5 = __p::Slot<
        {
            __p::Storable::<Option<DateTime<Utc>>>::SQLITE
                || __p::Storable::<Option<DateTime<Utc>>>::POSTGRES
        },
    >;
    const _: () = ::core::assert!(
        __S3::STORABLE,
        "`Vec<String>` cannot be stored as JSON: derive serde's `Serialize` and `Deserialize` for it, and turn on the feature `json`"
    );
    const _: () = ::core::assert!(
        __S4::STORABLE,
        "`DateTime<Utc>` cannot be a column: turn on sqlx-signals' feature `chrono`"
    );
    const _: () = ::core::assert!(
        ! __p::Storable:: < DateTime < Utc > > ::NESTED,
        "`DateTime<Utc>` cannot be a column: `Some(None)` and `None` are both NULL; use `Option<…>`"
    );
    const _: () = ::core::assert!(
        __S5::STORABLE,
        "`Option<DateTime<Utc>>` cannot be a column: turn on sqlx-signals' feature `chrono`"
    );
    const _: () = ::core::assert!(
        ! __p::Storable:: < Option < DateTime < Utc > > > ::NESTED,
        "`Option<DateTime<Utc>>` cannot be a column: `Some(None)` and `None` are both NULL; use `Option<…>`"
    );
    #[automatically_derived]
    impl LineItem {
        ///The column `orderId`.
        const ORDER_ID: __p::Column<Self> = __p::Column::new("orderId");
        ///The column `no`.
        const NUMBER: __p::Column<Self> = __p::Column::new("no");
        ///The column `barCode`.
        const BAR_CODE: __p::Column<Self> = __p::Column::new("barCode");
        ///The column `options`.
        const OPTIONS: __p::Column<Self> = __p::Column::new("options");
        ///The column `total`.
        const TOTAL: __p::Column<Self> = __p::Column::new("total");
        ///The column `createdAt`.
        const CREATED_AT: __p::Column<Self> = __p::Column::new("createdAt");
        ///The column `changedAt`.
        const CHANGED_AT: __p::Column<Self> = __p::Column::new("changedAt");
        ///The column `version`.
        const VERSION: __p::Column<Self> = __p::Column::new("version");
    }
    pub struct __Kept((i64, i32, i64, DateTime<Utc>, Option<DateTime<Utc>>, i32));
    #[automatically_derived]
    impl __p::Model for LineItem {
        type Pk = (i64, i32);
        const NAME: &'static __p::str = "LineItem";
        const TABLE: &'static __p::str = "shop.line items";
        const COLUMNS: &'static [&'static __p::str] = &[
            "orderId",
            "no",
            "barCode",
            "options",
            "total",
            "createdAt",
            "changedAt",
            "version",
        ];
        const STATEMENTS: &'static __p::Statements = {
            static STATEMENTS: __p::Statements = __p::Statements {
                table: "\"shop\".\"line items\"",
                insert: "INSERT INTO \"shop\".\"line items\" (\"barCode\", \"options\", \"changedAt\", \"orderId\", \"no\", \"version\", \"createdAt\") VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING \"line items\".\"total\"",
                insert_with_key: "INSERT INTO \"shop\".\"line items\" (\"barCode\", \"options\", \"changedAt\", \"orderId\", \"no\", \"version\", \"createdAt\") VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING \"line items\".\"total\"",
                insert_or_nothing: "INSERT INTO \"shop\".\"line items\" (\"barCode\", \"options\", \"changedAt\", \"orderId\", \"no\", \"version\", \"createdAt\") SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM \"shop\".\"line items\" WHERE \"line items\".\"orderId\" = $4 AND \"line items\".\"no\" = $5) ON CONFLICT (\"orderId\", \"no\") DO NOTHING RETURNING \"line items\".\"total\"",
                update: "UPDATE \"shop\".\"line items\" SET \"barCode\" = $1, \"options\" = $2, \"changedAt\" = $3, \"version\" = \"version\" + 1 WHERE \"line items\".\"orderId\" = $4 AND \"line items\".\"no\" = $5 AND \"version\" = $6 RETURNING \"line items\".\"total\", \"line items\".\"createdAt\"",
                save: "WITH _updated AS (UPDATE \"shop\".\"line items\" SET \"barCode\" = $1, \"options\" = $2, \"changedAt\" = $3, \"version\" = \"version\" + 1 WHERE \"line items\".\"orderId\" = $4 AND \"line items\".\"no\" = $5 AND \"version\" = $6 RETURNING \"total\", \"createdAt\"), _inserted AS (INSERT INTO \"shop\".\"line items\" (\"barCode\", \"options\", \"changedAt\", \"orderId\", \"no\", \"version\", \"createdAt\") SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM _updated) AND NOT EXISTS (SELECT 1 FROM \"shop\".\"line items\" WHERE \"line items\".\"orderId\" = $4 AND \"line items\".\"no\" = $5) ON CONFLICT (\"orderId\", \"no\") DO NOTHING RETURNING \"total\", \"createdAt\") SELECT false, \"total\", \"createdAt\" FROM _updated UNION ALL SELECT true, \"total\", \"createdAt\" FROM _inserted",
                delete: "DELETE FROM \"shop\".\"line items\" WHERE \"line items\".\"orderId\" = $1 AND \"line items\".\"no\" = $2 AND \"line items\".\"version\" = $3",
                find: "SELECT \"line items\".\"orderId\", \"line items\".\"no\", \"line items\".\"barCode\", \"line items\".\"options\", \"line items\".\"total\", \"line items\".\"createdAt\", \"line items\".\"changedAt\", \"line items\".\"version\" FROM \"shop\".\"line items\" WHERE \"line items\".\"orderId\" = $1 AND \"line items\".\"no\" = $2",
                select: "SELECT \"line items\".\"orderId\", \"line items\".\"no\", \"line items\".\"barCode\", \"line items\".\"options\", \"line items\".\"total\", \"line items\".\"createdAt\", \"line items\".\"changedAt\", \"line items\".\"version\" FROM \"shop\".\"line items\"",
                count: "SELECT count(*) FROM (SELECT 1 FROM \"shop\".\"line items\"",
                columns: &[
                    __p::ColumnSpec::new("\"orderId\"", __p::Role::Key),
                    __p::ColumnSpec::new("\"no\"", __p::Role::Key),
                    __p::ColumnSpec::new("\"barCode\"", __p::Role::Plain).unique(),
                    __p::ColumnSpec::new("\"options\"", __p::Role::Plain)
                        .optional(__p::Storable::<Vec<String>>::OPTION)
                        .json(),
                    __p::ColumnSpec::new("\"total\"", __p::Role::Generated),
                    __p::ColumnSpec::new("\"createdAt\"", __p::Role::AutoNowAdd)
                        .optional(__p::Storable::<DateTime<Utc>>::OPTION),
                    __p::ColumnSpec::new("\"changedAt\"", __p::Role::AutoNow)
                        .optional(true),
                    __p::ColumnSpec::new("\"version\"", __p::Role::Version),
                ],
                roles: __p::RoleSet::of(
                    &[
                        __p::Role::AutoNow,
                        __p::Role::AutoNowAdd,
                        __p::Role::Generated,
                        __p::Role::Key,
                        __p::Role::Plain,
                        __p::Role::Version,
                    ],
                ),
                keys: 2usize,
            };
            &STATEMENTS
        };
        const COPY: __p::Copier<Self> = __p::CopyOf::<LineItem>::COPY;
        fn pk(&self) -> __p::Option<Self::Pk> {
            __p::Some((
                __p::Clone::clone(&self.order_id),
                __p::Clone::clone(&self.number),
            ))
        }
        fn __set_pk(&mut self, key: __p::Option<Self::Pk>) {
            if let __p::Some(key) = key {
                self.order_id = key.0;
                self.number = key.1;
            }
        }
        type Kept = __Kept;
        fn __keep(&self) -> __Kept {
            __Kept((
                __p::Clone::clone(&self.order_id),
                __p::Clone::clone(&self.number),
                __p::Clone::clone(&self.total),
                __p::Clone::clone(&self.created_at),
                __p::Clone::clone(&self.changed_at),
                __p::Clone::clone(&self.version),
            ))
        }
        fn __restore(&mut self, kept: __Kept) {
            (
                self.order_id,
                self.number,
                self.total,
                self.created_at,
                self.changed_at,
                self.version,
            ) = kept.0;
        }
        #[allow(unused_variables)]
        fn __stamp(&mut self, now: __p::SystemTime, added: __p::bool) {
            if added {
                self.created_at = __p::AutoNow::at(now);
            }
            self.changed_at = __p::AutoNow::at(now);
        }
        fn __advance(&mut self) {
            self.version = <i32 as __p::Version>::next(self.version);
        }
        fn __version(&self) -> __p::Option<__p::i64> {
            __p::Some(<i32 as __p::Version>::number(self.version))
        }
        fn __json(&self) -> __p::Option<__p::Value> {
            (&__p::Probe(self)).__signals_json()
        }
        fn __table() -> &'static __p::Table {
            static TABLE: __p::Table = __p::Table::new::<LineItem>();
            &TABLE
        }
    }
    #[automatically_derived]
    impl<__DB: __p::Backend> __p::Store<__DB> for LineItem
    where
        __p::Known: __p::Stores<i64, __DB>,
        __p::Known: __p::Stores<i32, __DB>,
        __p::Known: __p::Stores<String, __DB>,
        __S3: __p::Stores<Vec<String>, __DB>,
        __S4: __p::Stores<DateTime<Utc>, __DB>,
        __S5: __p::Stores<Option<DateTime<Utc>>, __DB>,
    {
        fn give(&self, column: __p::usize, take: __p::Take<'_, __DB>) -> __p::Given {
            match column {
                0usize => __p::give::<__DB, __p::Known, _>(&self.order_id, take),
                1usize => __p::give::<__DB, __p::Known, _>(&self.number, take),
                2usize => __p::give::<__DB, __p::Known, _>(&self.bar_code, take),
                3usize => __p::give::<__DB, __S3, _>(&self.options, take),
                4usize => __p::give::<__DB, __p::Known, _>(&self.total, take),
                5usize => __p::give::<__DB, __S4, _>(&self.created_at, take),
                6usize => __p::give::<__DB, __S5, _>(&self.changed_at, take),
                7usize => __p::give::<__DB, __p::Known, _>(&self.version, take),
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
                0usize => self.order_id = __p::get::<__DB, __p::Known, _>(row, at)?,
                1usize => self.number = __p::get::<__DB, __p::Known, _>(row, at)?,
                4usize => self.total = __p::get::<__DB, __p::Known, _>(row, at)?,
                5usize => self.created_at = __p::get::<__DB, __S4, _>(row, at)?,
                6usize => self.changed_at = __p::get::<__DB, __S5, _>(row, at)?,
                7usize => self.version = __p::get::<__DB, __p::Known, _>(row, at)?,
                _ => {}
            }
            __p::Ok(())
        }
        fn give_time(
            column: usize,
            now: __p::SystemTime,
            take: __p::Take<'_, __DB>,
        ) -> __p::Given {
            match column {
                6usize => {
                    __p::give::<
                        __DB,
                        __S5,
                        _,
                    >(&<Option<DateTime<Utc>> as __p::AutoNow>::at(now), take)
                }
                _ => __p::no_column(column),
            }
        }
        fn key(
            key: &Self::Pk,
            part: __p::usize,
            take: __p::Take<'_, __DB>,
        ) -> __p::Given {
            match part {
                0usize => __p::give::<__DB, __p::Known, _>(&key.0, take),
                1usize => __p::give::<__DB, __p::Known, _>(&key.1, take),
                _ => __p::no_column(part),
            }
        }
        fn asked(column: __p::usize, asked: __p::Asked<'_>) -> __p::bool {
            [
                __p::asked::<__DB, __p::Known, i64>,
                __p::asked::<__DB, __p::Known, i32>,
                __p::asked::<__DB, __p::Known, String>,
                __p::asked::<__DB, __S3, Vec<String>>,
                __p::asked::<__DB, __p::Known, i64>,
                __p::asked::<__DB, __S4, DateTime<Utc>>,
                __p::asked::<__DB, __S5, Option<DateTime<Utc>>>,
                __p::asked::<__DB, __p::Known, i32>,
            ][column](asked)
        }
        fn load(row: &__DB::Row, at: impl __p::Places) -> __p::Loaded<Self> {
            __p::Ok(Self {
                order_id: __p::get::<__DB, __p::Known, _>(row, at(0usize)?)?,
                number: __p::get::<__DB, __p::Known, _>(row, at(1usize)?)?,
                bar_code: __p::get::<__DB, __p::Known, _>(row, at(2usize)?)?,
                options: __p::get::<__DB, __S3, _>(row, at(3usize)?)?,
                total: __p::get::<__DB, __p::Known, _>(row, at(4usize)?)?,
                created_at: __p::get::<__DB, __S4, _>(row, at(5usize)?)?,
                changed_at: __p::get::<__DB, __S5, _>(row, at(6usize)?)?,
                version: __p::get::<__DB, __p::Known, _>(row, at(7usize)?)?,
                cache: <Cache as ::core::default::Default>::default(),
            })
        }
    }
    #[automatically_derived]
    impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for LineItem
    where
        __R::Database: __p::Backend + __p::Database<Row = __R>,
        &'static __p::str: __p::ColumnIndex<__R>,
        Self: __p::Store<__R::Database>,
    {
        fn from_row(row: &'r __R) -> __p::Loaded<Self> {
            __p::by_name::<__R::Database, Self>(row)
        }
    }
    type __In = __p::StoredIn<LineItem>;
    __p::inventory::submit! {
        __p::Linked::new:: < LineItem > (& [], __In::SQLITE, __In::POSTGRES)
    }
};
