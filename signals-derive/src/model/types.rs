//! What a field is to its table, and what its type shows.

use syn::{GenericArgument, PathArguments, Type};

#[derive(Clone, Copy)]
pub(crate) enum Role<'i> {
    Plain,
    Json,
    /// Part of the key, which the program gives.
    Key,
    /// The key, which the database gives: the `T` of its `Option<T>`.
    GeneratedKey(&'i Type),
    /// Computed by the database.
    Generated,
    /// Set at the INSERT.
    AutoNowAdd,
    /// Set at every write.
    AutoNow,
    /// One more at every write.
    Version,
}

impl Role<'_> {
    pub(crate) fn is_key(self) -> bool {
        matches!(self, Role::Key | Role::GeneratedKey(_))
    }

    /// Whether an UPDATE sets it to what the instance has.
    pub(crate) fn is_set(self) -> bool {
        matches!(self, Role::Plain | Role::Json | Role::AutoNow)
    }

    /// Whether a write can change the field of the instance.
    pub(crate) fn is_automatic(self) -> bool {
        !matches!(self, Role::Plain | Role::Json)
    }
}

/// The `T` of a type that is written as an `Option<T>`.
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
