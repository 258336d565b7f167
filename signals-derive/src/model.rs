//! `#[derive(Model)]`: reads the attributes, checks the model, and expands it.

mod ast;
mod attr;
mod expand;
mod fallback;
mod registration;
mod slots;
mod sql;
mod trait_checks;
mod types;
mod unstorable;

use proc_macro2::TokenStream;
use syn::DeriveInput;

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    match ast::Model::read(&input) {
        Ok(model) => expand::expand(&model),
        Err(error) => fallback::expand(&input, &error),
    }
}
