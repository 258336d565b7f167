//! The expansion of a receiver with mistakes.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Error};

use super::ast::{Function, is_receiver};

/// The error for a function in an `impl` or a `trait`, and the function.
pub(super) fn in_block(item: &TokenStream, block: &str) -> TokenStream {
    let span = match syn::parse2::<Function>(item.clone()) {
        Ok(function) => function.sig.ident.span(),
        Err(_) => Span::call_site(),
    };
    let message = format_args!(
        "receivers are free functions: move this one out of the `{block}`, and take what it needs as parameters"
    );
    let error = Error::new(span, message).to_compile_error();
    let item = no_receiver(item);
    quote! { #error #item }
}

/// The errors, the function, and the type that names the receiver, so that its uses do not cause further errors.
pub(super) fn expand(item: &TokenStream, error: &Error) -> TokenStream {
    let errors = error.to_compile_error();
    let function = syn::parse2::<Function>(item.clone()).ok();
    let named =
        function.filter(|f| f.sig.receiver().is_none()).map(|Function { vis, sig, .. }| {
            let ident = sig.ident;
            quote! {
                #[allow(non_camel_case_types, dead_code)]
                #[doc(hidden)]
                #vis struct #ident {}
            }
        });
    let item = no_receiver(item);
    quote! { #errors #item #named }
}

/// The item without further `#[receiver]` attributes, each of which would cause an error of its own.
fn no_receiver(item: &TokenStream) -> TokenStream {
    let strip = |input: ParseStream<'_>| {
        let attrs = input.call(Attribute::parse_outer)?;
        let attrs = attrs.iter().filter(|attr| !is_receiver(attr));
        let rest: TokenStream = input.parse()?;
        Ok(quote!(#(#attrs)* #rest))
    };
    strip.parse2(item.clone()).unwrap_or_else(|_| item.clone())
}
