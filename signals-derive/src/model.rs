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

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use syn::DeriveInput;

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input = match syn::parse2(input.clone()).and_then(|parsed| without_self(parsed, input)) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    match ast::Model::read(&input) {
        (model, None) => expand::expand(&model),
        (model, Some(error)) => fallback::expand(&input, &model, &error),
    }
}

/// The struct with its name in place of `Self`, because most of the expansion is outside of an `impl` of the struct.
fn without_self(parsed: DeriveInput, input: TokenStream) -> syn::Result<DeriveInput> {
    if !has_self(input.clone()) {
        return Ok(parsed);
    }
    syn::parse2(named(input, &parsed.ident))
}

fn has_self(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => has_self(group.stream()),
        TokenTree::Ident(ident) => ident == "Self",
        _ => false,
    })
}

fn named(tokens: TokenStream, name: &Ident) -> TokenStream {
    let token = |token| match token {
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), named(group.stream(), name));
            inner.set_span(group.span());
            inner.into()
        }
        TokenTree::Ident(ident) if ident == "Self" => {
            let mut name = name.clone();
            name.set_span(ident.span());
            name.into()
        }
        token => token,
    };
    tokens.into_iter().map(token).collect()
}
