//! The role of a column, and what can be seen in the type of a field.

use syn::{GenericArgument, PathArguments, Type};

#[derive(Clone, Copy)]
pub(crate) enum Role<'i> {
    Plain,
    Json,
    /// The key or a part of it; assigned by the program.
    Key,
    /// The key; assigned by the database. Contains the `T` of its `Option<T>`.
    GeneratedKey(&'i Type),
    /// Computed by the database.
    Generated,
    /// Set to the current time by an INSERT.
    AutoNowAdd,
    /// Set to the current time by every write.
    AutoNow,
    /// Incremented by every write.
    Version,
}

impl Role<'_> {
    pub(crate) fn is_key(self) -> bool {
        matches!(self, Role::Key | Role::GeneratedKey(_))
    }

    /// Whether an UPDATE sets the column to the value in the instance.
    pub(crate) fn is_set(self) -> bool {
        matches!(self, Role::Plain | Role::Json | Role::AutoNow)
    }

    /// Whether a write can change the field in the instance.
    pub(crate) fn is_automatic(self) -> bool {
        !matches!(self, Role::Plain | Role::Json)
    }
}

/// The `T` of a type that is written as `Option<T>`.
pub(super) fn option_of(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(args) = &last.arguments else {
        return None;
    };
    match args.args.first()? {
        GenericArgument::Type(inner) if last.ident == "Option" => Some(inner),
        _ => None,
    }
}
