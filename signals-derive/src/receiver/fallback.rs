use proc_macro2::TokenStream;
use quote::quote;
use syn::Error;

use super::ast::Function;

/// The mistakes, the function as it is, and a type of its name for who names it.
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
