//! The input of `#[derive(Model)]` as a typed model. Every mistake is found here, and all are reported at once.

use std::collections::HashSet;

use heck::ToSnakeCase;
use proc_macro2::Span;
use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitStr, Path, Result, Type, Visibility};

use super::attr::{Case, FieldAttrs, OnDelete, RoleOption, StructAttrs};
use super::types::{Role, option_of};
use super::unstorable;
use crate::options::{Mistakes, readable, ungrouped};

/// A model: a struct that is a row of a table.
pub(crate) struct Model<'i> {
    pub(crate) ident: &'i Ident,
    pub(crate) vis: &'i Visibility,
    pub(crate) krate: Option<Path>,
    pub(crate) table: String,
    pub(crate) columns: Vec<Column<'i>>,
    /// The fields with `skip`, which are not columns.
    pub(crate) skipped: Vec<(&'i Ident, &'i Type)>,
    /// The subject under which the events of the model are published.
    pub(crate) publish: Option<LitStr>,
}

pub(crate) struct Column<'i> {
    pub(crate) ident: &'i Ident,
    pub(crate) name: String,
    pub(crate) ty: &'i Type,
    pub(crate) role: Role<'i>,
    /// The option that decides the role, if there is one.
    role_option: Option<RoleOption>,
    pub(crate) unique: bool,
    pub(crate) belongs_to: Option<BelongsTo>,
}

/// A column that is the key of a row of another model.
pub(crate) struct BelongsTo {
    pub(crate) parent: Path,
    pub(crate) on_delete: OnDelete,
    on_delete_span: Span,
}

impl<'i> Model<'i> {
    /// Reads the model, as far as that is possible, and finds its mistakes.
    pub(crate) fn read(input: &'i DeriveInput) -> (Self, Option<Error>) {
        let mut mistakes = Mistakes::default();
        let attrs = StructAttrs::read(&input.attrs, &mut mistakes);
        if !input.generics.params.is_empty() {
            mistakes
                .at(input.generics.span(), "a model has no generic parameters: it is one table");
        }

        let (mut columns, mut skipped) = (Vec::new(), Vec::new());
        match fields(&input.data, &input.ident) {
            Ok(fields) => {
                for field in fields {
                    match Column::read(field, attrs.rename_all.get(), &mut mistakes) {
                        Some(FieldKind::Column(column)) => columns.push(column),
                        Some(FieldKind::Skipped(ident, ty)) => skipped.push((ident, ty)),
                        None => {}
                    }
                }
                if !fields.is_empty() || mistakes.is_empty() {
                    find_key(&mut columns, &input.ident, &mut mistakes);
                    check_set_null(&columns, &mut mistakes);
                }
            }
            Err(error) => mistakes.add(error),
        }
        unique_names(&columns, &mut mistakes);
        let versions = columns.iter().filter(|c| matches!(c.role, Role::Version));
        for second in versions.skip(1) {
            mistakes.at(second.ident.span(), "a model has one `version`");
        }

        let model = Self {
            ident: &input.ident,
            vis: &input.vis,
            krate: attrs.krate.get().cloned(),
            table: match attrs.table.get() {
                Some(name) => name.value(),
                None => input.ident.unraw().to_string().to_snake_case(),
            },
            columns,
            skipped,
            publish: attrs.publish.get().cloned(),
        };
        (model, mistakes.into_error())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Column<'i>> {
        self.columns.iter().filter(|column| column.role.is_key())
    }
}

enum FieldKind<'i> {
    Column(Column<'i>),
    Skipped(&'i Ident, &'i Type),
}

impl<'i> Column<'i> {
    fn read(
        field: &'i syn::Field,
        rename_all: Option<&Case>,
        mistakes: &mut Mistakes,
    ) -> Option<FieldKind<'i>> {
        let (ident, ty) = (field.ident.as_ref()?, ungrouped(&field.ty));
        let mut own = Mistakes::default();
        let attrs = FieldAttrs::read(&field.attrs, &mut own);
        // A field with an invalid option is not checked further, or the option would also be reported as missing.
        if own.is_empty() {
            check(&attrs, ty, &mut own);
            check_belongs_to(&attrs, &mut own);
        }
        let belongs_to = BelongsTo::of(&attrs);
        if let Some(message) = unstorable::without_size_or_lifetime(ty) {
            own.add(Error::new_spanned(&field.ty, message));
        }
        own.into_error().into_iter().for_each(|error| mistakes.add(error));
        if attrs.skip.is_set() {
            return Some(FieldKind::Skipped(ident, ty));
        }
        let plain = ident.unraw().to_string();
        let name = match (attrs.column.get(), rename_all) {
            (Some(name), _) => name.value(),
            (None, Some(case)) => case.apply(&plain),
            (None, None) => plain,
        };
        let role_option = attrs.roles().next();
        let role = role_option.map_or(Role::Plain, |option| option.role);
        let unique = attrs.unique.is_set();
        Some(FieldKind::Column(Column { ident, name, ty, role, role_option, unique, belongs_to }))
    }
}

fn fields<'i>(
    data: &'i Data,
    ident: &Ident,
) -> Result<&'i syn::punctuated::Punctuated<syn::Field, syn::Token![,]>> {
    match data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(&fields.named),
            _ => Err(Error::new(ident.span(), "a model has named fields, each a column")),
        },
        _ => Err(Error::new(ident.span(), "a model is a struct, each field a column")),
    }
}

/// Checks that the options of a field can be combined.
fn check(attrs: &FieldAttrs, ty: &Type, mistakes: &mut Mistakes) {
    let others = [
        ("column", attrs.column.span()),
        ("unique", attrs.unique.span()),
        ("belongs_to", attrs.belongs_to.span()),
        ("on_delete", attrs.on_delete.span()),
    ];
    if attrs.skip.is_set() {
        let others = others.into_iter().filter_map(|(name, span)| Some((name, span?)));
        for (name, span) in attrs.roles().map(|option| (option.name, option.span)).chain(others) {
            mistakes
                .at(span, format_args!("a field with `skip` is no column, and has no `{name}`"));
        }
        return;
    }
    let mut roles = attrs.roles();
    if let Some(first) = roles.next() {
        for second in roles {
            let (first, name) = (first.name, second.name);
            let instead = match (first, name) {
                ("primary_key", "generated") => format!(": {}", assigned_key(ty)),
                _ => String::new(),
            };
            let message = format!("a column is `{first}` or `{name}`, not both{instead}");
            mistakes.at(second.span, message);
        }
    }
}

impl BelongsTo {
    /// What `belongs_to` says. If `on_delete` is missing, which is a mistake, any value stands for it.
    fn of(attrs: &FieldAttrs) -> Option<Self> {
        let (parent, span) = (attrs.belongs_to.get()?.clone(), attrs.belongs_to.span()?);
        let on_delete = attrs.on_delete.get().copied().unwrap_or(OnDelete::Cascade);
        Some(Self { parent, on_delete, on_delete_span: attrs.on_delete.span().unwrap_or(span) })
    }
}

fn check_belongs_to(attrs: &FieldAttrs, mistakes: &mut Mistakes) {
    let Some(span) = attrs.belongs_to.span() else {
        if let Some(span) = attrs.on_delete.span() {
            mistakes.at(span, "`on_delete` goes with `belongs_to = Model`");
        }
        return;
    };
    if !attrs.on_delete.is_set() {
        mistakes.at(span, "`belongs_to` needs `on_delete = cascade`, `restrict` or `set_null`");
    }
    for RoleOption { name, role, span } in attrs.roles() {
        if !matches!(role, Role::Key | Role::Generated) {
            let message = format!(
                "a column with `belongs_to` contains the key of another row, so it cannot be `{name}`: leave one of them out"
            );
            mistakes.at(span, message);
        }
    }
}

/// Checks that each column with `on_delete = set_null` can be NULL.
fn check_set_null(columns: &[Column<'_>], mistakes: &mut Mistakes) {
    for column in columns {
        let Some(BelongsTo { on_delete: OnDelete::SetNull, on_delete_span: span, .. }) =
            column.belongs_to
        else {
            continue;
        };
        match column.role {
            Role::Key | Role::GeneratedKey(_) => mistakes.at(
                span,
                "a key is never NULL: write `on_delete = cascade` or `on_delete = restrict`",
            ),
            Role::Generated => mistakes.at(
                span,
                "only the database sets a `generated` column: write `on_delete = cascade` or `on_delete = restrict`",
            ),
            Role::Plain if option_of(column.ty).is_none() => mistakes
                .at(column.ty.span(), "`on_delete = set_null` needs a field of type `Option<…>`"),
            _ => {}
        }
    }
}

fn find_key(columns: &mut [Column<'_>], ident: &Ident, mistakes: &mut Mistakes) {
    let mut keys: Vec<&mut Column<'_>> = columns.iter_mut().filter(|c| c.role.is_key()).collect();
    if keys.is_empty() {
        keys = columns.iter_mut().filter(|c| c.ident.unraw() == "id").collect();
        for key in &keys {
            if let Some(option) = key.role_option {
                mistakes.at(option.span, key_with(option, key.ty));
            }
        }
    }
    let composite = keys.len() > 1;
    if keys.is_empty() {
        let message = "a model needs a key: a field `id`, or `#[model(primary_key)]` on another";
        mistakes.at(ident.span(), message);
    }
    for key in keys {
        key.role = match option_of(key.ty) {
            Some(_) if composite => {
                let message = "a composite key is the program's own, and no part of it an `Option`";
                mistakes.at(key.ty.span(), message);
                Role::Key
            }
            Some(inner) => Role::GeneratedKey(inner),
            None => Role::Key,
        };
    }
}

/// The message for a field `id` that is the key because no field has `primary_key`, and that has another role.
fn key_with(RoleOption { name, role, .. }: RoleOption, ty: &Type) -> String {
    let instead = match role {
        Role::Generated => assigned_key(ty),
        _ => "leave this option out, or put `#[model(primary_key)]` on the field that is the key"
            .to_owned(),
    };
    format!("`id` is the key, so it cannot be `{name}`: {instead}")
}

/// How a key that the database assigns is written.
fn assigned_key(ty: &Type) -> String {
    let ty = readable(&option_of(ty).unwrap_or(ty).to_token_stream());
    format!("a key that the database assigns is an `Option<{ty}>` without this option")
}

fn unique_names(columns: &[Column<'_>], mistakes: &mut Mistakes) {
    let (mut names, mut constants) = (HashSet::new(), HashSet::new());
    for Column { ident, name, .. } in columns {
        let constant = constant(ident).to_string();
        let is_new = names.insert(name);
        if !is_new {
            mistakes.at(ident.span(), format_args!("a second field for the column `{name}`"));
        }
        let message = format!("a second field with the constant `{constant}`");
        if !constants.insert(constant) && is_new {
            mistakes.at(ident.span(), message);
        }
    }
}

/// The name of the constant for the column of a field.
pub(super) fn constant(field: &Ident) -> Ident {
    format_ident!("{}", field.unraw().to_string().to_uppercase(), span = field.span())
}

/// For each column with `belongs_to`, the name of the constant that leads to the parent: `OF_USER` for a field `user` or `user_id`.
/// A name that another constant has is not used.
pub(super) fn parent_constants(columns: &[Column<'_>]) -> Vec<Option<Ident>> {
    let mut used: HashSet<String> =
        columns.iter().map(|column| constant(column.ident).to_string()).collect();
    let name = |column: &Column<'_>| {
        column.belongs_to.as_ref()?;
        let field = constant(column.ident).to_string();
        let short = field.strip_suffix("_ID").filter(|short| !short.is_empty()).unwrap_or(&field);
        let names = [format!("OF_{short}"), format!("OF_{field}")];
        let name = names.into_iter().find(|name| used.insert(name.clone()))?;
        Some(Ident::new(&name, column.ident.span()))
    };
    columns.iter().map(name).collect()
}
