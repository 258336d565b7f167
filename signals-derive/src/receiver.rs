//! `#[receiver]`: reads the options and the function, checks them, and expands them.

mod ast;
mod attr;
mod durable;
mod expand;
mod fallback;
mod place;

#[cfg(test)]
pub(crate) use place::enclosing;
use proc_macro2::TokenStream;

pub(crate) fn attribute(args: TokenStream, item: TokenStream) -> TokenStream {
    // First of all: nothing that the expansion adds to the function is allowed in an `impl`.
    if let Some(block) = place::block() {
        return fallback::in_block(&item, block);
    }
    match ast::Receiver::read(args, item.clone()) {
        Ok(receiver) => expand::expand(&receiver, &item),
        Err(error) => fallback::expand(&item, &error),
    }
}
