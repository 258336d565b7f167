//! The registration of a model, by which the program finds it without its type.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use super::ast::{BelongsTo, Model};
use super::attr::OnDelete;
use super::slots::Slots;
use super::unstorable;

/// The registration of the model: a description without its type, and the models that its rows belong to. With `is_conditional`, the
/// implementation of `Model` has the bounds of `TraitChecks`, and the compiler decides whether the struct is a model.
pub(super) fn registration(
    model: &Model<'_>,
    slots: &Slots<'_>,
    is_conditional: bool,
) -> TokenStream {
    let ident = model.ident;
    let mut checks = TokenStream::new();
    let relations: Vec<_> = model
        .columns
        .iter()
        .enumerate()
        .filter_map(|(i, column)| {
            let BelongsTo { parent, on_delete, .. } = column.belongs_to.as_ref()?;
            let on_delete = match on_delete {
                OnDelete::Cascade => quote!(Cascade),
                OnDelete::Restrict => quote!(Restrict),
                OnDelete::SetNull => quote!(SetNull),
            };
            let ty = column.ty;
            // A type that no database can store is reported elsewhere.
            let key = match unstorable::is_known(&ty.to_token_stream().to_string(), false) {
                true => ty.to_token_stream(),
                false => {
                    let slot = slots.name(column);
                    quote_spanned!(ty.span()=> <#slot as __p::KeyColumn<#ty, #parent>>::Type)
                }
            };
            checks.extend(quote_spanned!(ty.span()=> const _: () = __p::is_key_of::<#parent, #key>();));
            let new = quote_spanned!(parent.span()=> __p::Relation::new::<#parent>);
            Some(quote!(#new(#i, __p::OnDelete::#on_delete, __In::SQLITE_CHILDREN, __In::POSTGRES_CHILDREN)))
        })
        .collect();
    let new = match is_conditional {
        true => {
            quote!(described(__In::DESCRIBED, &[#(#relations),*], __In::SQLITE, __In::POSTGRES))
        }
        false => {
            quote!(new::<#ident>(&[#(#relations),*], __In::SQLITE, __In::POSTGRES))
        }
    };
    quote! {
        #checks
        type __In = __p::StoredIn<#ident>;
        __p::inventory::submit! {
            __p::Linked::#new
        }
    }
}
