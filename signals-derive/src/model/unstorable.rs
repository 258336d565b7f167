//! What a field is to be instead, if no database can store its type.

use proc_macro2::TokenStream;

/// Whether every database can store the type, which needs no check.
pub(super) fn is_known(text: &str, json: bool) -> bool {
    const KNOWN: [&str; 7] = ["bool", "i16", "i32", "i64", "f32", "f64", "String"];
    let inner = text.strip_prefix("Option < ").and_then(|text| text.strip_suffix(" >"));
    !json && KNOWN.contains(&inner.unwrap_or(text))
}

/// Whether the type is one of the language's own that no database can store.
pub(super) fn is_never_stored(text: &str) -> bool {
    const NEVER: [&str; 6] = ["u64", "usize", "isize", "u128", "i128", "char"];
    let inner = text.strip_prefix("Option < ").and_then(|text| text.strip_suffix(" >"));
    NEVER.contains(&inner.unwrap_or(text))
}

/// Whether the program cannot derive `sqlx::Type` for the type, because it is not the program's.
fn is_foreign(text: &str, name: &str) -> bool {
    const NAMES: [&str; 24] = [
        "Box",
        "Rc",
        "Arc",
        "Weak",
        "Pin",
        "Cell",
        "RefCell",
        "OnceCell",
        "UnsafeCell",
        "Mutex",
        "RwLock",
        "OnceLock",
        "LazyLock",
        "Result",
        "Range",
        "RangeInclusive",
        "RangeFrom",
        "RangeTo",
        "RangeFull",
        "Bound",
        "PhantomData",
        "Wrapping",
        "Cow",
        "Option",
    ];
    const STARTS: [&str; 11] = [
        "std::",
        "core::",
        "alloc::",
        "::std::",
        "::core::",
        "::alloc::",
        "fn(",
        "fn (",
        "unsafe ",
        "extern ",
        "dyn ",
    ];
    NAMES.contains(&name)
        || STARTS.iter().any(|start| text.starts_with(start))
        || text.starts_with(['*', '!'])
        || text.starts_with("for<")
}

/// The message for a field of this type.
pub(super) fn message(ty: &TokenStream, json: bool) -> String {
    let text = readable(ty);
    if json {
        return format!(
            "`{text}` cannot be stored as JSON: derive serde's `Serialize` and `Deserialize` for it, and turn on the feature `json`"
        );
    }
    format!("`{text}` cannot be a column: {}", instead(&text))
}

/// Whether the type is one of the language's own, of which none is a time.
pub(super) fn is_primitive(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// Whether the type may be an `Option`: it is written as one, or has a name that may be one's.
pub(super) fn is_option(text: &str) -> bool {
    text.starts_with("Option <") || !text.contains('<')
}

/// The message for a field of this type, which is an `Option` of an `Option`.
pub(super) fn nested(ty: &TokenStream) -> String {
    let text = readable(ty);
    let inner = text.strip_prefix("Option<").and_then(|text| text.strip_suffix('>'));
    let instead = inner.filter(|inner| inner.starts_with("Option<")).unwrap_or("Option<…>");
    format!("`{text}` cannot be a column: `Some(None)` and `None` are both NULL; use `{instead}`")
}

/// A type as the program writes it, without the spaces between tokens.
fn readable(ty: &TokenStream) -> String {
    let text = ty.to_string();
    let text = text.replace(" :: ", "::").replace(" < ", "<").replace(" >", ">");
    text.replace(" ,", ",").replace("& ", "&").replace(" ;", ";").replace("> ,", ">,")
}

fn instead(text: &str) -> String {
    let inner = text.strip_prefix("Option<").and_then(|text| text.strip_suffix('>'));
    let inner = inner.unwrap_or(text);
    let name = inner.split('<').next().unwrap_or(inner).rsplit("::").next().unwrap_or(inner);
    let with = |name: &str| match inner == text {
        true => format!("use `{name}`"),
        false => format!("use `Option<{name}>`"),
    };
    let feature = |feature: &str| format!("turn on sqlx-signals' feature `{feature}`");
    match name {
        "u64" | "usize" | "isize" | "NonZeroU64" | "NonZeroUsize" | "NonZeroIsize" => with("i64"),
        "u32" | "NonZeroU32" => with("i64"),
        "u16" | "NonZeroU16" => with("i32"),
        "u8" | "i8" | "NonZeroU8" => with("i16"),
        "u128" | "i128" => format!("{}, or `Decimal` on PostgreSQL", with("String")),
        "char" => with("String"),
        "PathBuf" | "OsString" => with("String"),
        "Duration" | "Instant" => format!("{} of milliseconds, say", with("i64")),
        "SystemTime" => format!("{} of chrono", with("DateTime<Utc>")),
        "DateTime" | "NaiveDateTime" | "NaiveDate" | "NaiveTime" => feature("chrono"),
        "OffsetDateTime" | "PrimitiveDateTime" | "Date" | "Time" => feature("time"),
        "Uuid" => feature("uuid"),
        "Decimal" => format!("{}, for PostgreSQL", feature("rust_decimal")),
        "BigDecimal" => format!("{}, for PostgreSQL", feature("bigdecimal")),
        "IpNetwork" | "IpAddr" => format!("{}, for PostgreSQL", feature("ipnetwork")),
        "Value" => feature("json"),
        "HashMap" | "BTreeMap" | "HashSet" | "BTreeSet" | "Vec" | "VecDeque" => {
            "put `#[model(json)]` on the field to store it as JSON".to_owned()
        }
        _ if inner.starts_with('&') && inner.ends_with("str") => with("String"),
        _ if inner.starts_with('&') && inner.ends_with("[u8]") => with("Vec<u8>"),
        _ if inner.starts_with('&') => {
            "a column owns its value: use the type without `&`".to_owned()
        }
        _ if inner.starts_with('(') || inner.starts_with('[') => {
            "put `#[model(json)]` on the field to store it as JSON".to_owned()
        }
        _ if is_foreign(inner, name) => {
            "use another type; `#[model(json)]` on the field stores it as JSON, `#[model(skip)]` leaves it out"
                .to_owned()
        }
        _ => format!(
            "`#[derive(sqlx::Type)]` on `{inner}` makes it one; `#[model(json)]` on the field stores it as JSON, \
             `#[model(skip)]` leaves it out"
        ),
    }
}
