//! The expansion of a model with mistakes.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, parse_quote};

use super::ast::{Model, constant};
use super::expand::parents;
use super::slots::decoded;
use super::types::Role;
use super::unstorable;
use crate::options::{assumed, private};

/// The errors, and stub implementations, so that uses of the model do not cause further errors.
pub(super) fn expand(input: &DeriveInput, model: &Model<'_>, error: &Error) -> TokenStream {
    let errors = error.to_compile_error();
    let p = private(model.krate.as_ref());
    let ident = &input.ident;
    let (key, columns, parents) = (key(model), columns(input), parents(model));
    let generics = assumed(input);
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    let mut of_database = generics.clone();
    of_database.params.push(parse_quote!(__DB: __p::Backend));
    let (impl_of_database, ..) = of_database.split_for_impl();
    let mut of_row = generics.clone();
    of_row.params.push(parse_quote!('__r));
    of_row.params.push(parse_quote!(__R: __p::Row));
    let (impl_of_row, ..) = of_row.split_for_impl();
    quote! {
        #errors
        const _: () = {
            use #p as __p;
            #[allow(dead_code)]
            impl #impl_generics #ident #type_generics #bounds { #(#columns)* #(#parents)* }
            impl #impl_generics __p::Model for #ident #type_generics #bounds {
                type Pk = #key;
                const NAME: &'static __p::str = "";
                const TABLE: &'static __p::str = "";
                const COLUMNS: &'static [&'static __p::str] = &[];
                const COPY: __p::Copier<Self> = __p::Option::None;
                const STATEMENTS: &'static __p::Statements = ::core::panic!();
                fn pk(&self) -> ::core::option::Option<Self::Pk> { ::core::option::Option::None }
                fn __set_pk(&mut self, _: ::core::option::Option<Self::Pk>) {}
                type Kept = ();
                fn __keep(&self) {}
                fn __restore(&mut self, _: ()) {}
                fn __json(&self) -> ::core::option::Option<__p::Value> { ::core::option::Option::None }
                fn __table() -> &'static __p::Table { ::core::panic!() }
            }
            impl #impl_of_database __p::Store<__DB> for #ident #type_generics #bounds {
                fn give(&self, _: __p::usize, _: __p::Take<'_, __DB>) -> ::core::result::Result<(), __p::BoxDynError> { ::core::panic!() }
                fn set(&mut self, _: __p::usize, _: &__DB::Row, _: __p::usize) -> ::core::result::Result<(), __p::Error> { ::core::panic!() }
                fn key(_: &Self::Pk, _: __p::usize, _: __p::Take<'_, __DB>) -> ::core::result::Result<(), __p::BoxDynError> { ::core::panic!() }
                fn asked(_: __p::usize, _: __p::Asked<'_>) -> __p::bool { ::core::panic!() }
                fn load(_: &__DB::Row, _: impl __p::Places) -> __p::Loaded<Self> { ::core::panic!() }
            }
            impl #impl_of_row __p::FromRow<'__r, __R> for #ident #type_generics #bounds {
                fn from_row(_: &'__r __R) -> __p::Loaded<Self> { ::core::panic!() }
            }
        };
    }
}

/// The type of the key. A type that may be the mistake is not used.
fn key(model: &Model<'_>) -> TokenStream {
    let types: Vec<_> = model.keys().map(decoded).collect();
    let is_usual =
        model.keys().all(|column| !unstorable::may_lack_traits(column.ty, Some(Role::Key)));
    match &types[..] {
        [one] if is_usual => one.clone(),
        [_, _, ..] if is_usual => quote!((#(#types),*)),
        _ => quote!(()),
    }
}

/// The constants of the columns, for uses in the rest of the program.
fn columns(input: &DeriveInput) -> impl Iterator<Item = TokenStream> {
    let fields = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        _ => Vec::new(),
    };
    let vis = &input.vis;
    let constants: BTreeMap<_, _> = fields
        .into_iter()
        .filter_map(|field| field.ident.as_ref())
        .map(|ident| (constant(ident).to_string(), constant(ident)))
        .collect();
    constants
        .into_values()
        .map(move |ident| quote!(#vis const #ident: __p::Column<Self> = __p::Column::new("");))
}
