//! The options of `#[model(…)]`.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Ident, LitStr, Path};

use super::types::Role;
use crate::options::{Mistakes, Once, each_option, path, string, unknown, value};
use crate::publish::subject;

/// `#[model(…)]` on the struct.
#[derive(Default)]
pub(crate) struct StructAttrs {
    pub(crate) table: Once<LitStr>,
    pub(crate) rename_all: Once<Case>,
    pub(crate) publish: Once<LitStr>,
    pub(crate) krate: Once<Path>,
}

/// `#[model(…)]` on a field.
#[derive(Default)]
pub(crate) struct FieldAttrs {
    pub(crate) primary_key: Once<()>,
    pub(crate) column: Once<LitStr>,
    pub(crate) skip: Once<()>,
    pub(crate) json: Once<()>,
    pub(crate) generated: Once<()>,
    pub(crate) auto_now_add: Once<()>,
    pub(crate) auto_now: Once<()>,
    pub(crate) version: Once<()>,
    pub(crate) unique: Once<()>,
    pub(crate) belongs_to: Once<Path>,
    pub(crate) on_delete: Once<OnDelete>,
}

/// An option that decides the role of its column.
#[derive(Clone, Copy)]
pub(crate) struct RoleOption {
    pub(crate) name: &'static str,
    pub(crate) role: Role<'static>,
    pub(crate) span: Span,
}

/// How field names are converted to column names, with the names that serde and sqlx use.
#[derive(Clone, Copy)]
pub(crate) enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
}

const CASES: &[(&str, Case)] = &[
    ("lowercase", Case::Lower),
    ("UPPERCASE", Case::Upper),
    ("PascalCase", Case::Pascal),
    ("camelCase", Case::Camel),
    ("snake_case", Case::Snake),
    ("SCREAMING_SNAKE_CASE", Case::ScreamingSnake),
    ("kebab-case", Case::Kebab),
];

impl Case {
    pub(crate) fn apply(self, name: &str) -> String {
        use heck::{
            ToKebabCase, ToLowerCamelCase, ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase,
        };
        match self {
            Case::Lower => name.to_lowercase(),
            Case::Upper => name.to_uppercase(),
            Case::Pascal => name.to_upper_camel_case(),
            Case::Camel => name.to_lower_camel_case(),
            Case::Snake => name.to_snake_case(),
            Case::ScreamingSnake => name.to_shouty_snake_case(),
            Case::Kebab => name.to_kebab_case(),
        }
    }

    fn read(text: &LitStr) -> syn::Result<Self> {
        let found = CASES.iter().find(|(name, _)| *name == text.value());
        found.map(|(_, case)| *case).ok_or_else(|| {
            let names: Vec<_> = CASES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            syn::Error::new(text.span(), format_args!("expected one of {}", names.join(", ")))
        })
    }
}

impl StructAttrs {
    pub(crate) fn read(attrs: &[Attribute], mistakes: &mut Mistakes) -> Self {
        let mut read = Self::default();
        each_option("model", attrs, mistakes, |name, input, mistakes| {
            match name.to_string().as_str() {
                "table" => read.table.set(name, table(name, input)?, mistakes),
                "rename_all" => {
                    let case = Case::read(&string(name, input)?)?;
                    read.rename_all.set(name, case, mistakes);
                }
                "publish" => read.publish.set(name, subject(name, input)?, mistakes),
                "crate" => read.krate.set(name, path(name, input)?, mistakes),
                option if FIELD_OPTIONS.contains(&option) => {
                    let message = format!("`{name}` is an option of a field: put it on the field");
                    return Err(syn::Error::new(name.span(), message));
                }
                _ => return Err(unknown(name, STRUCT_OPTIONS)),
            }
            Ok(())
        });
        read
    }
}

/// The name of a table, which may have a schema.
fn table(name: &Ident, input: ParseStream<'_>) -> syn::Result<LitStr> {
    let text = string(name, input)?;
    if text.value().split('.').any(str::is_empty) {
        let form = "expected a table, as `table = \"users\"` or `table = \"shop.users\"`";
        return Err(syn::Error::new(text.span(), form));
    }
    Ok(text)
}

impl FieldAttrs {
    pub(crate) fn read(attrs: &[Attribute], mistakes: &mut Mistakes) -> Self {
        let mut read = Self::default();
        each_option("model", attrs, mistakes, |name, input, mistakes| {
            match name.to_string().as_str() {
                "primary_key" => read.primary_key.set(name, (), mistakes),
                "column" => read.column.set(name, string(name, input)?, mistakes),
                "skip" => read.skip.set(name, (), mistakes),
                "json" => read.json.set(name, (), mistakes),
                "generated" => read.generated.set(name, (), mistakes),
                "auto_now_add" => read.auto_now_add.set(name, (), mistakes),
                "auto_now" => read.auto_now.set(name, (), mistakes),
                "version" => read.version.set(name, (), mistakes),
                "unique" => read.unique.set(name, (), mistakes),
                "belongs_to" => {
                    let parent = value(name, "User", input)?;
                    read.belongs_to.set(name, parent, mistakes);
                }
                "on_delete" => {
                    let what = value(name, ON_DELETE, input)?;
                    read.on_delete.set(name, what, mistakes);
                }
                option if STRUCT_OPTIONS.contains(&option) => {
                    let message =
                        format!("`{name}` is an option of the struct: put it on the struct");
                    return Err(syn::Error::new(name.span(), message));
                }
                _ => return Err(unknown(name, FIELD_OPTIONS)),
            }
            Ok(())
        });
        read
    }

    /// The options that decide the role of the column. A column has at most one.
    pub(crate) fn roles(&self) -> impl Iterator<Item = RoleOption> {
        let options = [
            ("primary_key", Role::Key, &self.primary_key),
            ("json", Role::Json, &self.json),
            ("generated", Role::Generated, &self.generated),
            ("auto_now_add", Role::AutoNowAdd, &self.auto_now_add),
            ("auto_now", Role::AutoNow, &self.auto_now),
            ("version", Role::Version, &self.version),
        ];
        options.into_iter().filter_map(|(name, role, option)| {
            Some(RoleOption { name, role, span: option.span()? })
        })
    }
}

const STRUCT_OPTIONS: &[&str] = &["table", "rename_all", "publish", "crate"];
const FIELD_OPTIONS: &[&str] = &[
    "primary_key", "column", "skip", "json", "generated", "auto_now_add", "auto_now", "version",
    "unique", "belongs_to", "on_delete",
];
const ON_DELETE: &str = "cascade`, `restrict` or `set_null";

/// What happens to a row if the row that it belongs to is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDelete {
    Cascade,
    Restrict,
    SetNull,
}

impl Parse for OnDelete {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let what: Ident = input.parse()?;
        match what.to_string().as_str() {
            "cascade" => Ok(OnDelete::Cascade),
            "restrict" => Ok(OnDelete::Restrict),
            "set_null" => Ok(OnDelete::SetNull),
            _ => Err(syn::Error::new(what.span(), "not one of these")),
        }
    }
}
