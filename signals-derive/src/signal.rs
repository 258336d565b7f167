//! `#[derive(Signal)]`: implements `CustomSignal`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Ident, LitStr, Path};

use crate::options::{Mistakes, Once, assumed, each_option, path, private, unknown};
use crate::publish::{self, subject};

/// `#[signal(…)]`.
#[derive(Default)]
struct Attrs {
    krate: Once<Path>,
    publish: Once<LitStr>,
    subscribe: Once<LitStr>,
}

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut mistakes = Mistakes::default();
    let attrs = Attrs::read(&input, &mut mistakes);
    check(&input, &attrs, &mut mistakes);
    match mistakes.into_error() {
        Some(error) => fallback(&input, &attrs, &error),
        None => expand(&input, &attrs),
    }
}

impl Attrs {
    fn read(input: &DeriveInput, mistakes: &mut Mistakes) -> Self {
        let mut read = Self::default();
        each_option("signal", &input.attrs, mistakes, |name: &Ident, value, mistakes| {
            match name.to_string().as_str() {
                "publish" => read.publish.set(name, subject(name, value)?, mistakes),
                "subscribe" => read.subscribe.set(name, subject(name, value)?, mistakes),
                "crate" => read.krate.set(name, path(name, value)?, mistakes),
                _ => return Err(unknown(name, &["publish", "subscribe", "crate"])),
            }
            Ok(())
        });
        read
    }
}

fn check(input: &DeriveInput, attrs: &Attrs, mistakes: &mut Mistakes) {
    if !input.generics.params.is_empty() {
        mistakes.at(
            input.generics.span(),
            "a signal has no generic parameters: receivers name one type",
        );
    }
    if let (true, Some(span)) = (attrs.publish.is_set(), attrs.subscribe.span()) {
        mistakes.at(
            span,
            "a signal is either published or subscribed to: a received one would be published again",
        );
    }
}

fn expand(input: &DeriveInput, attrs: &Attrs) -> TokenStream {
    let p = private(attrs.krate.get());
    let (ident, name) = (&input.ident, input.ident.unraw().to_string());
    let publish = attrs.publish.get().map(|subject| publish::signal(subject, ident));
    let subscribe = attrs.subscribe.get().map(|subject| publish::subscription(subject, ident));
    quote! {
        #[allow(deprecated)]
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
    }
}

/// The errors, and a stub implementation, so that the receivers of the signal and its uses do not cause further errors.
fn fallback(input: &DeriveInput, attrs: &Attrs, error: &Error) -> TokenStream {
    let (errors, p, ident) = (error.to_compile_error(), private(attrs.krate.get()), &input.ident);
    let generics = assumed(input);
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    quote! {
        #errors
        const _: () = {
            use #p as __p;
            impl #impl_generics __p::CustomSignal for #ident #type_generics #bounds {
                const SIGNAL: &'static __p::str = "";
                fn __table() -> &'static __p::SignalTable { ::core::panic!() }
            }
        };
    }
}
