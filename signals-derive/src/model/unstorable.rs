//! The messages for fields whose type no database can store: each names the type to use instead.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Type;

use super::types::{Role, option_of};
use crate::options::readable;

/// Whether every database can store the type, so that no check is generated.
pub(super) fn is_known(text: &str, json: bool) -> bool {
    const KNOWN: [&str; 7] = ["bool", "i16", "i32", "i64", "f32", "f64", "String"];
    let inner = text.strip_prefix("Option < ").and_then(|text| text.strip_suffix(" >"));
    !json && KNOWN.contains(&inner.unwrap_or(text))
}

/// Whether the type contains borrowed text or bytes. A row owns its values, so no database can store such a type.
pub(super) fn is_borrowed(ty: &TokenStream) -> bool {
    let mut tokens = ty.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if is_borrowed(&group.stream()) => return true,
            TokenTree::Punct(punct) if punct.as_char() == '&' => {
                if matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if punct.as_char() == '\'')
                {
                    tokens.next();
                    tokens.next();
                }
                match tokens.peek() {
                    Some(TokenTree::Ident(ident)) if ident == "str" || ident == "Path" => {
                        return true;
                    }
                    Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
                        return true;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    false
}

/// The message for a type without a size, or a reference without a lifetime. The compiler's own message would be less helpful.
pub(super) fn without_size_or_lifetime(ty: &Type) -> Option<String> {
    let is_text = matches!(ty, Type::Path(path) if path.path.is_ident("str"));
    let is_elided = matches!(ty, Type::Reference(reference) if reference.lifetime.is_none());
    let is_unsized = is_text || matches!(ty, Type::Slice(_) | Type::TraitObject(_));
    // The message must suggest neither JSON nor `skip`: with the field, the struct has no size.
    let role = if is_unsized { Role::Generated } else { Role::Plain };
    (is_unsized || is_elided).then(|| message(&ty.to_token_stream(), role))
}

/// Whether the type may lack `Send`, `Sync` or a trait that the role requires, judging by the names in it. Types of the program can have
/// the same names, so the compiler decides, with checks that are generated only for such types. A field with `skip` has no role.
pub(super) fn may_lack_traits(ty: &Type, role: Option<Role<'_>>) -> bool {
    const USUAL: [&str; 14] = [
        "Uuid", "DateTime", "NaiveDateTime", "NaiveDate", "NaiveTime", "OffsetDateTime",
        "PrimitiveDateTime", "Date", "Time", "Decimal", "BigDecimal", "IpNetwork", "Vec", "Json",
    ];
    let tokens = ty.to_token_stream();
    if has_suspicious_name(tokens.clone()) {
        return true;
    }
    let inner = match ty {
        Type::Path(_) => option_of(ty).unwrap_or(ty),
        _ => ty,
    };
    let name = match inner {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    };
    let text = inner.to_token_stream().to_string();
    let is_usual = name.is_some_and(|name| USUAL.contains(&&*name))
        || is_known(&text, false)
        || is_primitive(&text);
    match role {
        Some(Role::Plain | Role::Json | Role::Version) | None => false,
        Some(_) => !is_usual,
    }
}

fn has_suspicious_name(tokens: TokenStream) -> bool {
    const NAMES: [&str; 20] = [
        "dyn", "Rc", "UniqueRc", "Weak", "Cell", "RefCell", "OnceCell", "LazyCell", "UnsafeCell",
        "SyncUnsafeCell", "NonNull", "Ref", "RefMut", "Mutex", "RwLock", "OnceLock", "LazyLock",
        "MutexGuard", "Receiver", "Args",
    ];
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => has_suspicious_name(group.stream()),
        TokenTree::Ident(ident) => NAMES.iter().any(|name| ident == name),
        // A raw pointer.
        TokenTree::Punct(punct) => punct.as_char() == '*',
        TokenTree::Literal(_) => false,
    })
}

/// Whether the type is defined outside the program, so that the program cannot derive `sqlx::Type` for it.
fn is_foreign(text: &str, name: &str) -> bool {
    const NAMES: [&str; 24] = [
        "Box", "Rc", "Arc", "Weak", "Pin", "Cell", "RefCell", "OnceCell", "UnsafeCell", "Mutex",
        "RwLock", "OnceLock", "LazyLock", "Result", "Range", "RangeInclusive", "RangeFrom",
        "RangeTo", "RangeFull", "Bound", "PhantomData", "Wrapping", "Cow", "Option",
    ];
    const STARTS: [&str; 11] = [
        "std::", "core::", "alloc::", "::std::", "::core::", "::alloc::", "fn(", "fn (", "unsafe ",
        "extern ", "dyn ",
    ];
    NAMES.contains(&name)
        || STARTS.iter().any(|start| text.starts_with(start))
        || text.starts_with(['*', '!'])
        || text.starts_with("for<")
}

/// The message for a field of this type, in this role.
pub(super) fn message(ty: &TokenStream, role: Role<'_>) -> String {
    let text = readable(ty);
    if matches!(role, Role::Json) && !is_borrowed(ty) {
        return format!(
            "`{text}` cannot be stored as JSON: derive serde's `Serialize` and `Deserialize` for it, and turn on the feature `json`"
        );
    }
    let owned = text.replace("&'static str", "String");
    let mut instead = match text.starts_with('&') || owned == text || owned == "Option<String>" {
        true => instead(&text),
        false => format!("use `{owned}`"),
    };
    // Only a plain column can be stored as JSON or skipped instead.
    if !matches!(role, Role::Plain) && instead.contains("#[model(") {
        instead = match instead.split_once("; ").map_or(&*instead, |(first, _)| first) {
            derive if derive.starts_with("`#[derive") => derive.to_owned(),
            _ if role.is_key() => "use a type such as `i64` or `String`".to_owned(),
            _ => "use another type".to_owned(),
        };
    }
    match role {
        Role::Json => format!("`{text}` cannot be stored as JSON: {instead}"),
        _ => format!("`{text}` cannot be a column: {instead}"),
    }
}

/// Whether the message is about a type that the program may have defined.
pub(super) fn is_of_program(message: &str) -> bool {
    message.contains("`#[derive(sqlx::Type)]`")
}

/// The message for a field of this type, which is not `Send` and `Sync`.
pub(super) fn unshared(ty: &TokenStream, skipped: bool) -> String {
    let text = readable(ty);
    let (inner, optional) = match generic(&text, &["Option"]) {
        Some(inner) => (inner, true),
        None => (&*text, false),
    };
    let other = match skipped {
        true => sendable(inner),
        false => {
            generic(inner, &["Rc", "Cell", "RefCell", "OnceCell", "UnsafeCell"]).and_then(owned)
        }
    };
    let other = match other {
        Some(other) if optional => format!("`Option<{other}>`"),
        Some(other) => format!("`{other}`"),
        None => "another type".to_owned(),
    };
    format!("`{text}` cannot be in a model, which is `Send` and `Sync`: use {other}")
}

/// The message for a field whose type lacks a trait that its role requires.
pub(super) fn lacks_trait(role: &str, ty: &TokenStream) -> String {
    let text = readable(ty);
    match role {
        "VERSION" => format!("`{text}` cannot be a `version`: use `i16`, `i32` or `i64`"),
        "TIME" => {
            format!("`{text}` is not a time that can be set to now: use a type of chrono or time")
        }
        "KEY" => format!("`{text}` cannot be a key: derive `Clone` and `Debug` for it"),
        _ => format!("`{text}` cannot be put back after a write that fails: derive `Clone` for it"),
    }
}

/// The type to use instead of a wrapper of this type, such as `Rc`.
fn owned(inner: &str) -> Option<String> {
    match inner {
        "str" => return Some("String".to_owned()),
        "u64" | "usize" | "isize" => return Some("i64".to_owned()),
        _ if inner.parse().map_or(true, has_suspicious_name) => return None,
        _ => {}
    }
    let items = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    match items.filter(|items| !items.contains(';')) {
        Some(item) => Some(format!("Vec<{item}>")),
        None => Some(inner.to_owned()),
    }
}

/// The thread-safe equivalent of the type.
fn sendable(text: &str) -> Option<String> {
    let (name, to) = if generic(text, &["Rc"]).is_some() {
        ("Rc", "Arc")
    } else if generic(text, &["Cell", "RefCell"]).is_some() {
        let name = if generic(text, &["Cell"]).is_some() { "Cell" } else { "RefCell" };
        (name, "Mutex")
    } else if let Some(object) = generic(text, &["Box"]).filter(|inner| inner.starts_with("dyn ")) {
        return Some(format!("Box<{object} + Send + Sync>"));
    } else {
        return None;
    };
    let inner = generic(text, &[name])?;
    let is_plain = !inner.contains(['*', '<']) && !inner.starts_with("dyn ");
    is_plain.then(|| format!("{to}<{inner}>"))
}

/// The `T` of `Name<T>`, if the name is one of these.
fn generic<'t>(text: &'t str, names: &[&str]) -> Option<&'t str> {
    let (path, inner) = text.strip_suffix('>')?.split_once('<')?;
    let name = path.rsplit("::").next().unwrap_or(path);
    names.contains(&name).then_some(inner)
}

/// Whether the type is a primitive type. None of them is a time.
pub(super) fn is_primitive(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// The message for a key whose type is an `Option` that is not written as one.
pub(super) fn alias_of_option(ty: &TokenStream) -> String {
    let text = readable(ty);
    format!(
        "`{text}` is an `Option`: write the key as `Option<…>`, so that the database assigns it"
    )
}

/// The message for a field of type `Option<Option<…>>`.
pub(super) fn nested(ty: &TokenStream) -> String {
    let text = readable(ty);
    let inner = generic(&text, &["Option"]);
    let instead =
        inner.filter(|inner| generic(inner, &["Option"]).is_some()).unwrap_or("Option<…>");
    format!("`{text}` cannot be a column: `Some(None)` and `None` are both NULL; use `{instead}`")
}

/// The type, feature or attribute to use instead of a type, as the second half of a message.
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
        "Json" if text.contains('<') => {
            "derive serde's `Serialize` and `Deserialize` for the type in it, and turn on the feature `json`".to_owned()
        }
        "()" => "`#[model(skip)]` leaves it out".to_owned(),
        "str" => with("String"),
        "[u8]" => with("Vec<u8>"),
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
