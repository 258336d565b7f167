//! PostgreSQL: types, arrays and pools.

use futures_util::future::BoxFuture;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgQueryResult, PgRow, PgTypeInfo};
use sqlx::{Decode, Encode, PgConnection, PgPool, Postgres, Row, SqlSafeStr, Type, TypeInfo};

use super::{
    AnyRow, AnyTake, AnyType, Arguments, Backend, Bindable, DatabaseKind, Give, Take,
    statement_cache, variants,
};
use crate::database::lease::{AnyLease, Lease};
use crate::database::raw::RawConn;
use crate::task::intern::interned;

impl Backend for Postgres {
    const KIND: DatabaseKind = DatabaseKind::Postgres;
    // The socket is registered with the I/O driver of that runtime.
    const NEEDS_RUNTIME: bool = true;
    const ASK: &'static str = "SHOW transaction_isolation";

    fn simple(
        conn: &mut PgConnection,
        sql: impl SqlSafeStr,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        let sql = sqlx::raw_sql(sql);
        Box::pin(async move { sql.execute(conn).await.map(drop) })
    }

    // `now()` returns the start time of the transaction. SQL without arguments is sent as a single message. If no transaction is
    // open, that message begins one, and both times are equal.
    fn is_in_transaction(conn: &mut PgConnection) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
        Box::pin(async move {
            let open = sqlx::raw_sql("SELECT pg_catalog.now() <> pg_catalog.statement_timestamp()");
            open.fetch_one(conn).await?.try_get(0)
        })
    }

    #[cfg(feature = "metrics")]
    fn pool_name(pool: &PgPool) -> String {
        let options = pool.connect_options();
        options.get_database().unwrap_or(options.get_username()).to_owned()
    }

    fn keeps_statements(pool: &PgPool) -> bool {
        statement_cache::of_pool(pool)
    }

    fn connection_keeps_statements(conn: &PgConnection) -> bool {
        statement_cache::of_connection(conn)
    }

    fn clear_statements(
        conn: &mut PgConnection,
        epoch: u64,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(statement_cache::clear(conn, epoch))
    }

    variants!(Postgres);

    fn affected(done: &PgQueryResult) -> u64 {
        done.rows_affected()
    }

    fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Self> + Type<Self> + for<'q> Encode<'q, Self>,
    {
        row.try_get(column)
    }

    fn encoded(value: &dyn Bindable<Self>, all: &mut Vec<u8>) -> Result<(), BoxDynError> {
        let mut buffer = PgArgumentBuffer::default();
        if let IsNull::No = value.encode(&mut buffer)? {
            all.extend(u64::try_from(buffer.len())?.to_be_bytes());
            all.extend_from_slice(&buffer);
        } else {
            all.extend(u64::MAX.to_be_bytes());
        }
        Ok(())
    }

    // True if the server casts the value in an assignment and at most digits are lost. The server would cast every type to text,
    // but only types of text are accepted for text here.
    fn takes(field: &PgTypeInfo, value: &PgTypeInfo) -> Option<bool> {
        let (mut field, mut value) = (field.name(), value.name());
        if let (Some(of_field), Some(of_value)) =
            (field.strip_suffix("[]"), value.strip_suffix("[]"))
        {
            (field, value) = (of_field, of_value);
        }
        match (Family::of(field)?, Family::of(value)?) {
            (Family::Float, Family::Integer) | (Family::Time, Family::Date) => Some(true),
            (field, value) => Some(field == value),
        }
    }

    fn add_compared<'t, T>(args: &mut PgArguments, value: T) -> Result<(), BoxDynError>
    where
        T: Encode<'t, Self> + Type<Self>,
    {
        // If the argument is declared as text, the server compares a column of type `citext` or `char` as text. If the argument
        // has no declared type, the server takes the column's type. The encoding of the value is the same.
        match Self::is_text(&T::type_info()) {
            true => sqlx::Arguments::add(args, Untyped(value)),
            false => sqlx::Arguments::add(args, value),
        }
    }

    // `text` and `varchar`.
    fn is_text(ty: &PgTypeInfo) -> bool {
        matches!(ty.oid(), Some(Oid(25 | 1043)))
    }

    fn fits_array(element: &PgTypeInfo) -> bool {
        array_of(element).is_some()
    }

    fn start_array<T>(buffer: &mut PgArgumentBuffer) -> Result<(), BoxDynError>
    where
        T: Type<Self> + for<'q> Encode<'q, Self>,
    {
        // Let sqlx write the header of an empty array: only sqlx can leave room for the OID of a type of which only the name is
        // known so far.
        let empty: &[T] = &[];
        empty.encode_by_ref(buffer).map(drop)
    }

    fn bind_each(
        args: &mut PgArguments,
        rows: usize,
        give: Give<'_, Self>,
    ) -> Result<(), BoxDynError> {
        let mut array = None;
        give(0, &mut |first| {
            array = array_of(&first.type_info());
            Ok(())
        })?;
        let array = array.ok_or("values of this type cannot be the elements of an array")?;
        sqlx::Arguments::add(args, ColumnArray { rows, give, array })
    }
}

/// A group of types whose values can be assigned to each other.
#[derive(PartialEq)]
enum Family {
    Integer,
    /// Any other number.
    Float,
    Text,
    /// A date with the time of day.
    Time,
    Date,
    Json,
    Bool,
    Bytes,
    Uuid,
}

impl Family {
    fn of(name: &str) -> Option<Self> {
        Some(match &*name.to_ascii_uppercase() {
            "INT2" | "INT4" | "INT8" => Self::Integer,
            "FLOAT4" | "FLOAT8" | "NUMERIC" => Self::Float,
            "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "CITEXT" => Self::Text,
            "TIMESTAMP" | "TIMESTAMPTZ" => Self::Time,
            "DATE" => Self::Date,
            "JSON" | "JSONB" => Self::Json,
            "BOOL" => Self::Bool,
            "BYTEA" => Self::Bytes,
            "UUID" => Self::Uuid,
            _ => return None,
        })
    }
}

/// An argument without a declared type: the server takes the type of the column that it is compared with.
struct Untyped<T>(T);

impl<T> Type<Postgres> for Untyped<T> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl<'t, T: Encode<'t, Postgres>> Encode<'t, Postgres> for Untyped<T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.encode_by_ref(buffer)
    }
}

/// The values of one column of several rows, as an array.
struct ColumnArray<'g> {
    rows: usize,
    give: Give<'g, Postgres>,
    array: PgTypeInfo,
}

impl Type<Postgres> for ColumnArray<'_> {
    fn type_info() -> PgTypeInfo {
        // The type depends on the values, see `produces`.
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for ColumnArray<'_> {
    /// The [binary format](https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/adt/arrayfuncs.c)
    /// of an array: dimensions, flags, the element's type, length, lower bound, and each element preceded by its length.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let length = buffer.len() + 12;
        (self.give)(0, &mut |first| first.start_array(buffer))?;
        buffer[length..length + 4].copy_from_slice(&i32::try_from(self.rows)?.to_be_bytes());
        for row in 0..self.rows {
            (self.give)(row, &mut |value| {
                let start = buffer.len();
                buffer.extend_from_slice(&[0; 4]);
                let length = match value.encode(buffer)? {
                    IsNull::Yes => -1,
                    IsNull::No => i32::try_from(buffer.len() - start - 4)?,
                };
                buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
                Ok(())
            })?;
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.array.clone())
    }
}

/// The array type of an element type, or `None` for an array type: `UNNEST` flattens nested arrays.
fn array_of(element: &PgTypeInfo) -> Option<PgTypeInfo> {
    let Some(Oid(element_id)) = element.oid() else {
        // If only the name of a type is known, sqlx looks up its OID once per connection. It does not look up whether the type is
        // an array, so the name has to show that.
        let name = element.name();
        let is_array = name.starts_with('_') || name.ends_with("[]");
        return (!is_array).then(|| PgTypeInfo::array_of(interned(name)));
    };
    let known = ARRAYS.iter().find(|(element, _)| *element == element_id);
    known.map(|(_, array)| PgTypeInfo::with_oid(Oid(*array)))
}

/// The OIDs of the built-in types that columns commonly have, and of their array types: `SELECT oid, typarray FROM pg_type`.
/// They are the same on every server.
const ARRAYS: &[(u32, u32)] = &[
    (16, 1000),   // bool
    (17, 1001),   // bytea
    (18, 1002),   // "char"
    (20, 1016),   // int8
    (21, 1005),   // int2
    (23, 1007),   // int4
    (25, 1009),   // text
    (114, 199),   // json
    (650, 651),   // cidr
    (700, 1021),  // float4
    (701, 1022),  // float8
    (790, 791),   // money
    (829, 1040),  // macaddr
    (869, 1041),  // inet
    (1042, 1014), // bpchar
    (1043, 1015), // varchar
    (1082, 1182), // date
    (1083, 1183), // time
    (1114, 1115), // timestamp
    (1184, 1185), // timestamptz
    (1186, 1187), // interval
    (1266, 1270), // timetz
    (1700, 1231), // numeric
    (2950, 2951), // uuid
    (3802, 3807), // jsonb
];
