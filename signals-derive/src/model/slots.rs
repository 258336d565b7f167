//! How the columns of a model are stored: a slot for each of their types.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::ast::Column;
use super::types::Role;
use super::unstorable;

/// The type that a column is decoded as: without the `Option` of a key that the database assigns.
pub(super) fn decoded(column: &Column<'_>) -> TokenStream {
    match column.role {
        Role::GeneratedKey(inner) => inner.to_token_stream(),
        _ => column.ty.to_token_stream(),
    }
}

/// The slots of a model: for each type of its columns, the type that implements how it is stored.
pub(super) struct Slots<'i> {
    types: Vec<(String, bool, TokenStream, &'i Type)>,
}

impl<'i> Slots<'i> {
    pub(super) fn of(columns: &[Column<'i>]) -> Self {
        let mut types: Vec<(String, bool, TokenStream, &Type)> = Vec::new();
        for column in columns {
            let (text, json) = Self::key(column);
            if !types.iter().any(|(other, as_json, ..)| (other, *as_json) == (&text, json)) {
                types.push((text, json, decoded(column), column.ty));
            }
        }
        Self { types }
    }

    fn key(column: &Column<'_>) -> (String, bool) {
        (decoded(column).to_string(), matches!(column.role, Role::Json))
    }

    /// The slot of a column.
    pub(super) fn name(&self, column: &Column<'_>) -> TokenStream {
        let (text, json) = Self::key(column);
        let place = self.types.iter().position(|(t, j, ..)| (t, *j) == (&text, json));
        self.at(place.unwrap_or_default())
    }

    fn at(&self, place: usize) -> TokenStream {
        let (text, json, ..) = &self.types[place];
        if unstorable::is_known(text, *json) {
            return quote!(__p::Known);
        }
        format_ident!("__S{place}").into_token_stream()
    }

    /// Declares the slots, and asserts for each column that a database can store it.
    pub(super) fn declare(&self, columns: &[Column<'_>]) -> TokenStream {
        let mut declared = TokenStream::new();
        for (i, (text, json, ty, _)) in self.types.iter().enumerate() {
            if unstorable::is_known(text, *json) {
                continue;
            }
            let name = self.at(i);
            let stored = match json {
                true => quote!(__p::Storable::<__p::JsonColumn<#ty>>),
                false => quote!(__p::Storable::<#ty>),
            };
            let storable = match unstorable::is_borrowed(ty) {
                true => quote!(false),
                false => quote!({ #stored::SQLITE || #stored::POSTGRES }),
            };
            let json = json.then(|| quote!(, true));
            declared.extend(quote!(type #name = __p::Slot<#storable #json>;));
        }
        for column in columns {
            // A type that cannot be a version or a time is reported elsewhere.
            let reported = match column.role {
                Role::Version => true,
                Role::AutoNow | Role::AutoNowAdd => {
                    unstorable::is_primitive(&decoded(column).to_string())
                }
                _ => false,
            };
            if reported || unstorable::may_lack_traits(column.ty, Some(column.role)) {
                continue;
            }
            for check in self.checks(column) {
                declared.extend(quote_spanned!(column.ty.span()=> const _: () = #check;));
            }
        }
        declared
    }

    /// The assertions that the type of a column must satisfy.
    pub(super) fn checks(&self, column: &Column<'_>) -> Vec<TokenStream> {
        let (name, ty, field) = (self.name(column), decoded(column), column.ty);
        let json = matches!(column.role, Role::Json);
        let is_known = |ty: &TokenStream| unstorable::is_known(&ty.to_string(), json);
        if is_known(&ty) && is_known(&field.to_token_stream()) {
            return Vec::new();
        }
        let message = unstorable::message(&ty, column.role);
        // The name of an alias does not tell which type it is.
        let message = match unstorable::is_of_program(&message) {
            true => quote!("{}", __p::first_message(__p::Storable::<#field>::INSTEAD, #message)),
            false => quote!(#message),
        };
        let mut checks =
            vec![quote_spanned!(field.span()=> ::core::assert!(#name::STORABLE, #message))];
        if !json {
            let message = unstorable::nested(&field.to_token_stream());
            checks.push(quote_spanned! {field.span()=>
                ::core::assert!(!__p::Storable::<#field>::NESTED, #message)
            });
        }
        if matches!(column.role, Role::Key) {
            let message = unstorable::alias_of_option(&field.to_token_stream());
            checks.push(quote_spanned! {field.span()=>
                ::core::assert!(!__p::Storable::<#field>::OPTION, #message)
            });
        }
        checks
    }

    /// Bounds that require the database to store each of the types.
    pub(super) fn bounds(&self) -> TokenStream {
        let bounds = self.types.iter().enumerate().map(|(i, (_, _, ty, field))| {
            let name = self.at(i);
            quote_spanned!(field.span()=> #name: __p::Stores<#ty, __DB>,)
        });
        bounds.collect()
    }
}
