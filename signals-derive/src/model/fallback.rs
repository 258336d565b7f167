//! The expansion of a model with mistakes.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, parse_quote};

use super::ast::constant;
use super::attr::StructAttrs;
use crate::options::{Mistakes, assumed, private};

/// The errors, and stub implementations, so that uses of the model do not cause further errors.
pub(super) fn expand(input: &DeriveInput, error: &Error) -> TokenStream {
    let errors = error.to_compile_error();
    let attrs = StructAttrs::read(&input.attrs, &mut Mistakes::default());
    let p = private(attrs.krate.get());
    let ident = &input.ident;
    let columns = columns(input);
    let generics = assumed(input);
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    let mut of_database = generics.clone();
    of_database.params.push(parse_quote!(__DB: __p::Backend));
    let (impl_of_database, ..) = of_database.split_for_impl();
    quote! {
        #errors
        const _: () = {
            use #p as __p;
            #[allow(dead_code)]
            impl #impl_generics #ident #type_generics #bounds { #(#columns)* }
            impl #impl_generics __p::Model for #ident #type_generics #bounds {
                type Pk = ();
                const NAME: &'static __p::str = "";
                const TABLE: &'static __p::str = "";
                const COLUMNS: &'static [&'static __p::str] = &[];
                const COPY: __p::Copier<Self> = __p::Option::None;
                const STATEMENTS: &'static __p::Statements = ::core::panic!();
                fn pk(&self) -> ::core::option::Option<()> { ::core::option::Option::None }
                fn __set_pk(&mut self, _: ::core::option::Option<()>) {}
                type Kept = ();
                fn __keep(&self) {}
                fn __restore(&mut self, _: ()) {}
                fn __json(&self) -> ::core::option::Option<__p::Value> { ::core::option::Option::None }
                fn __table() -> &'static __p::Table { ::core::panic!() }
            }
            impl #impl_of_database __p::Store<__DB> for #ident #type_generics #bounds {
                fn give(&self, _: __p::usize, _: __p::Take<'_, __DB>) -> ::core::result::Result<(), __p::BoxDynError> { ::core::panic!() }
                fn set(&mut self, _: __p::usize, _: &__DB::Row, _: __p::usize) -> ::core::result::Result<(), __p::Error> { ::core::panic!() }
                fn key(_: &(), _: __p::usize, _: __p::Take<'_, __DB>) -> ::core::result::Result<(), __p::BoxDynError> { ::core::panic!() }
                fn asked(_: __p::usize, _: __p::Asked<'_>) -> __p::bool { ::core::panic!() }
                fn load(_: &__DB::Row, _: impl __p::Places) -> __p::Loaded<Self> { ::core::panic!() }
            }
        };
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
