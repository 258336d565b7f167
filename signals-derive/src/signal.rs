//! `#[derive(Signal)]`: implements `CustomSignal`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Ident};

use crate::options::{Mistakes, Once, each_option, path, private, unknown};
use crate::publish::{self, subject};

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    expand(&input).unwrap_or_else(Error::into_compile_error)
}

fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let mut mistakes = Mistakes::default();
    let (mut krate, mut publish, mut subscribe) =
        (Once::default(), Once::default(), Once::default());
    each_option("signal", &input.attrs, &mut mistakes, |name: &Ident, value, mistakes| {
        match name.to_string().as_str() {
            "publish" => publish.set(name, subject(name, value)?, mistakes),
            "subscribe" => subscribe.set(name, subject(name, value)?, mistakes),
            "crate" => krate.set(name, path(name, value)?, mistakes),
            _ => return Err(unknown(name, &["publish", "subscribe", "crate"])),
        }
        Ok(())
    });
    if !input.generics.params.is_empty() {
        mistakes.at(
            input.generics.span(),
            "a signal has no generic parameters: receivers name one type",
        );
    }
    if let (true, Some(span)) = (publish.is_set(), subscribe.span()) {
        mistakes.at(
            span,
            "a signal is either published or subscribed to: a received one would be published again",
        );
    }
    if let Some(error) = mistakes.into_error() {
        return Err(error);
    }
    let p = private(krate.get());
    let (ident, name) = (&input.ident, input.ident.unraw().to_string());
    let publish = publish.get();
    let publish = publish.map(|subject| publish::signal(subject, ident));
    let subscribe = subscribe.get().map(|subject| publish::subscription(subject, ident));
    Ok(quote! {
        const _: () = {
            use #p as __p;

            #[automatically_derived]
            impl __p::CustomSignal for #ident {
                const SIGNAL: &'static __p::str = #name;
                fn __table() -> &'static __p::SignalTable {
                    static TABLE: __p::SignalTable = __p::SignalTable::new::<#ident>();
                    &TABLE
                }
            }

            #publish
            #subscribe
        };
    })
}
