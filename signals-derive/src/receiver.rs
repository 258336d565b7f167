//! `#[receiver]`: reads the options and the function, checks them, and expands them.

mod ast;
mod attr;
mod conditional;
mod durable;
mod expand;
mod fallback;
mod function;
mod place;

#[cfg(test)]
pub(crate) use place::enclosing;
use proc_macro2::TokenStream;
use quote::quote;

pub(crate) fn attribute(args: TokenStream, item: TokenStream) -> TokenStream {
    // First of all: nothing that the expansion adds to the function is allowed in an `impl`.
    if let Some(block) = place::block() {
        return fallback::in_block(&item, block);
    }
    expanded(args, item)
}

fn expanded(args: TokenStream, item: TokenStream) -> TokenStream {
    if let Some([with, without]) = conditional::variants(&item) {
        let (with, without) = (expanded(args.clone(), with), expanded(args, without));
        return quote!(#with #without);
    }
    match ast::Receiver::read(args.clone(), item.clone()) {
        Ok(receiver) => expand::expand(&receiver, &item),
        Err(error) => fallback::expand(args, &item, &error),
    }
}
