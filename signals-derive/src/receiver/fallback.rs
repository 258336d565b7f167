//! The expansion of a receiver with mistakes.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::Error;

use super::ast::Function;

/// The error for a function in an `impl` or a `trait`, and the unchanged function.
pub(super) fn in_block(item: &TokenStream, block: &str) -> TokenStream {
    let span = match syn::parse2::<Function>(item.clone()) {
        Ok(function) => function.sig.ident.span(),
        Err(_) => Span::call_site(),
    };
    let message = format_args!(
        "receivers are free functions: move this one out of the `{block}`, and take what it needs as parameters"
    );
    let error = Error::new(span, message).to_compile_error();
    quote! { #error #item }
}

/// The errors, the unchanged function, and the type that names the receiver, so that its uses do not cause further errors.
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
    quote! { #errors #item #named }
}
