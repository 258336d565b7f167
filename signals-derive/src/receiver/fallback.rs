//! The expansion of a receiver with mistakes.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Error, LitStr, Path};

use super::function::{Function, is_receiver};
use crate::options::private;

/// The error for a function in an `impl` or a `trait`, and the function.
pub(super) fn in_block(item: &TokenStream, block: &str) -> TokenStream {
    let span = match syn::parse2::<Function>(item.clone()) {
        Ok(function) => function.sig.ident.span(),
        Err(_) => Span::call_site(),
    };
    let message = format_args!(
        "receivers are free functions: move this one out of the `{block}`, and take what it needs as parameters"
    );
    let error = Error::new(span, message).to_compile_error();
    let item = no_receiver(item);
    quote! { #error #item }
}

/// The errors, the function, and the type that names the receiver, so that its uses do not cause further errors.
pub(super) fn expand(args: TokenStream, item: &TokenStream, error: &Error) -> TokenStream {
    let (errors, p) = (error.to_compile_error(), private(krate(args).as_ref()));
    let function = syn::parse2::<Function>(item.clone()).ok();
    let cfgs: Vec<_> = function.iter().flat_map(Function::cfgs).collect();
    let errors = match cfgs[..] {
        [] => errors,
        _ => quote!(#(#cfgs)* const _: () = { #errors };),
    };
    let named = function.as_ref().filter(|f| f.sig.receiver().is_none()).map(|f| {
        let (vis, ident) = (&f.vis, &f.sig.ident);
        quote! {
            #(#cfgs)*
            #[allow(non_camel_case_types, dead_code)]
            #[doc(hidden)]
            #vis struct #ident {}
            #(#cfgs)*
            #[allow(unused_qualifications)]
            impl #p::Receiver for #ident {}
        }
    });
    let item = no_receiver(item);
    quote! { #errors #item #named }
}

/// The path after `crate =`, also if other options are invalid.
fn krate(args: TokenStream) -> Option<Path> {
    let args: Vec<_> = args.into_iter().collect();
    let is = |token: &TokenTree, char: char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == char);
    let at = args.windows(2).position(|pair| {
        matches!(&pair[0], TokenTree::Ident(name) if name == "crate") && is(&pair[1], '=')
    })?;
    let value = args.into_iter().skip(at + 2).take_while(|token| !is(token, ','));
    let value: TokenStream = value.collect();
    match syn::parse2::<LitStr>(value.clone()) {
        Ok(text) => text.parse().ok(),
        Err(_) => Path::parse_mod_style.parse2(value).ok(),
    }
}

/// The item without further `#[receiver]` attributes, each of which would cause an error of its own.
fn no_receiver(item: &TokenStream) -> TokenStream {
    let strip = |input: ParseStream<'_>| {
        let attrs = input.call(Attribute::parse_outer)?;
        let attrs = attrs.iter().filter(|attr| !is_receiver(attr));
        let rest: TokenStream = input.parse()?;
        Ok(quote!(#(#attrs)* #rest))
    };
    strip.parse2(item.clone()).unwrap_or_else(|_| item.clone())
}
