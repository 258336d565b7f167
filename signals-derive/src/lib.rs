//! The macros of [`sqlx-signals`](https://docs.rs/sqlx-signals), which re-exports and documents them.

use proc_macro::TokenStream;

mod model;
mod options;
mod publish;
mod receiver;
mod signal;
#[cfg(test)]
mod tests;

#[proc_macro_derive(Model, attributes(model))]
#[allow(missing_docs)]
pub fn derive_model(input: TokenStream) -> TokenStream {
    model::derive(input.into()).into()
}

#[proc_macro_derive(Signal, attributes(signal))]
#[allow(missing_docs)]
pub fn derive_signal(input: TokenStream) -> TokenStream {
    signal::derive(input.into()).into()
}

#[proc_macro_attribute]
#[allow(missing_docs)]
pub fn receiver(args: TokenStream, item: TokenStream) -> TokenStream {
    receiver::attribute(args.into(), item.into()).into()
}
