//! Bounds and assertions for the types of the fields.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::ast::Model;
use super::slots::{Slots, decoded};
use super::types::Role;
use super::unstorable;

/// Checks for fields whose type may lack a required trait, such as `Send`: bounds on the implementations, and an assertion for each field.
///
/// The bounds have a lifetime parameter, so the compiler assumes them inside the implementations instead of reporting them. If they do
/// not hold, the struct is not a model, and the assertion of the field is the only error.
pub(super) struct TraitChecks {
    pub(super) bounds: TokenStream,
    pub(super) errors: TokenStream,
}

impl TraitChecks {
    pub(super) fn of(model: &Model<'_>, slots: &Slots<'_>) -> Self {
        let ident = model.ident;
        let (mut bounds, mut errors) = (TokenStream::new(), TokenStream::new());
        let mut check = |ty: &Type, skipped: bool, also: Vec<TokenStream>| {
            let message = unstorable::unshared(&ty.to_token_stream(), skipped);
            errors.extend(quote_spanned! {ty.span()=>
                const _: () = {
                    ::core::assert!(__p::Storable::<#ty>::SHARED, #message);
                    #(#also;)*
                };
            });
        };
        for column in
            model.columns.iter().filter(|c| unstorable::may_lack_traits(c.ty, Some(c.role)))
        {
            let mut checks = slots.checks(column);
            let ty = decoded(column);
            let (is, bound) = match column.role {
                Role::Plain | Role::Json => (None, quote!()),
                Role::Key | Role::GeneratedKey(_) => {
                    (Some("KEY"), quote!(+ __p::Clone + ::core::fmt::Debug))
                }
                Role::Generated => (Some("CLONED"), quote!(+ __p::Clone)),
                Role::AutoNowAdd | Role::AutoNow => {
                    (Some("TIME"), quote!(+ __p::Clone + __p::AutoNow))
                }
                Role::Version => (Some("VERSION"), quote!(+ __p::Version)),
            };
            if let Some(is) = is {
                let message = unstorable::lacks_trait(is, &ty);
                let is = format_ident!("{is}");
                checks.push(quote!(::core::assert!(__p::Storable::<#ty>::#is, #message)));
            }
            bounds
                .extend(quote!(for<'__a> #ty: ::core::marker::Send + ::core::marker::Sync #bound,));
            check(column.ty, false, checks);
        }
        for (_, ty) in model.skipped.iter().filter(|(_, ty)| unstorable::may_lack_traits(ty, None))
        {
            check(ty, true, Vec::new());
        }
        if !errors.is_empty() {
            bounds.extend(quote!(for<'__a> #ident: ::core::marker::Send + ::core::marker::Sync,));
        }
        Self { bounds, errors }
    }
}
