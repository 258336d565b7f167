//! What the text of a value represents, as the name of its type tells.

use std::any::type_name;

use crate::table::json_column::JsonColumn;

/// What the text of a value represents. SQLite has a single text type for both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    String,
    Json,
}

impl Notation {
    /// The notation of a Rust type with this name, or `None` if it is not a well-known type.
    pub(crate) fn of(type_name: &str) -> Option<Self> {
        const JSON: [&str; 3] =
            ["sqlx_core::types::json::Json<", "serde_json::", "alloc::boxed::Box<serde_json::"];
        let name = type_name.trim_start_matches('&').trim_start_matches("core::option::Option<");
        let name = name.trim_start_matches('&');
        if name.starts_with(json_column()) || JSON.iter().any(|json| name.starts_with(json)) {
            return Some(Self::Json);
        }
        let is_string = matches!(
            name.trim_end_matches('>'),
            "str"
                | "alloc::string::String"
                | "alloc::boxed::Box<str"
                | "alloc::borrow::Cow<str"
                | "alloc::sync::Arc<str"
                | "alloc::rc::Rc<str"
        );
        is_string.then_some(Self::String)
    }
}

/// The name of [`JsonColumn`] up to its type parameter.
pub(crate) fn json_column() -> &'static str {
    type_name::<JsonColumn<()>>().trim_end_matches("()>")
}
