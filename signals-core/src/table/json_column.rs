//! JSON as the type of a column.

/// The value of a field with `#[model(json)]`: stored as JSON, or as NULL if it is `None`.
#[derive(Debug)]
pub struct JsonColumn<T>(pub T);

#[cfg(feature = "json")]
mod json {
    use std::fmt::Error as Present;

    use serde::de::value::Error as NotNull;
    use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
    use serde::ser::{Impossible, Serialize, Serializer};
    use sqlx::encode::IsNull;
    use sqlx::error::{BoxDynError, UnexpectedNullError};
    use sqlx::types::Json;
    use sqlx::{Database, Decode, Encode, Type, ValueRef};

    use super::JsonColumn;

    impl<T, DB: Database> Type<DB> for JsonColumn<T>
    where
        Json<T>: Type<DB>,
    {
        fn type_info() -> DB::TypeInfo {
            Json::<T>::type_info()
        }

        fn compatible(ty: &DB::TypeInfo) -> bool {
            Json::<T>::compatible(ty)
        }
    }

    impl<'q, T: Serialize, DB: Database> Encode<'q, DB> for JsonColumn<T>
    where
        for<'j> Json<&'j T>: Encode<'q, DB>,
    {
        fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
            match self.0.serialize(IsNone) {
                Ok(()) => Ok(IsNull::Yes),
                Err(_) => Json(&self.0).encode_by_ref(buffer),
            }
        }
    }

    impl<'r, T: DeserializeOwned, DB: Database> Decode<'r, DB> for JsonColumn<T>
    where
        Json<T>: Decode<'r, DB>,
    {
        fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
            if value.is_null() {
                return T::deserialize(Null).map(Self).map_err(|_| UnexpectedNullError.into());
            }
            Json::decode(value).map(|json| Self(json.0))
        }
    }

    /// Deserializes only `None`, also inside a newtype.
    struct Null;

    impl<'de> Deserializer<'de> for Null {
        type Error = NotNull;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(NotNull::custom("NULL"))
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.visit_none()
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            visitor.visit_newtype_struct(self)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
            tuple_struct map struct enum identifier ignored_any
        }
    }

    /// Succeeds only for `None`, also inside a newtype. For any other value it returns an error, which does not allocate.
    struct IsNone;

    macro_rules! present {
        ($($name:ident($($arg:ty),*) $(-> $returns:ty)?;)*) => { $(
            fn $name(self, $(_: $arg),*) -> Result<present!(@ $($returns)?), Present> {
                Err(Present)
            }
        )* };
        (@) => { () };
        (@ $returns:ty) => { $returns };
    }

    type Nothing = Impossible<(), Present>;

    impl Serializer for IsNone {
        type Ok = ();
        type Error = Present;
        type SerializeSeq = Nothing;
        type SerializeTuple = Nothing;
        type SerializeTupleStruct = Nothing;
        type SerializeTupleVariant = Nothing;
        type SerializeMap = Nothing;
        type SerializeStruct = Nothing;
        type SerializeStructVariant = Nothing;

        fn serialize_none(self) -> Result<(), Present> {
            Ok(())
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<(), Present> {
            value.serialize(self)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Present> {
            Err(Present)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), Present> {
            Err(Present)
        }

        fn collect_str<T: std::fmt::Display + ?Sized>(self, _: &T) -> Result<(), Present> {
            Err(Present)
        }

        present! {
            serialize_bool(bool);
            serialize_i8(i8);
            serialize_i16(i16);
            serialize_i32(i32);
            serialize_i64(i64);
            serialize_u8(u8);
            serialize_u16(u16);
            serialize_u32(u32);
            serialize_u64(u64);
            serialize_f32(f32);
            serialize_f64(f64);
            serialize_char(char);
            serialize_str(&str);
            serialize_bytes(&[u8]);
            serialize_unit();
            serialize_unit_struct(&'static str);
            serialize_unit_variant(&'static str, u32, &'static str);
            serialize_seq(Option<usize>) -> Nothing;
            serialize_tuple(usize) -> Nothing;
            serialize_tuple_struct(&'static str, usize) -> Nothing;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Nothing;
            serialize_map(Option<usize>) -> Nothing;
            serialize_struct(&'static str, usize) -> Nothing;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Nothing;
        }
    }
}
