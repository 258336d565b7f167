//! `#[receiver]`: its options, the function that it stands on, the expansion.

mod ast;
mod attr;
mod expand;
mod fallback;

use proc_macro2::TokenStream;

pub(crate) fn attribute(args: TokenStream, item: TokenStream) -> TokenStream {
    match ast::Receiver::read(args, item.clone()) {
        Ok(receiver) => expand::expand(&receiver, &item),
        Err(error) => fallback::expand(&item, &error),
    }
}
