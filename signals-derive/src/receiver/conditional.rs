//! Parameters with a `cfg` attribute, which an attribute macro sees even if the compiler removes them from the function.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, FnArg, Result, Signature, Visibility};

use super::function::contains;

/// The function with its body.
struct Item {
    attrs: Vec<Attribute>,
    vis: Visibility,
    sig: Signature,
    rest: TokenStream,
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Ok(Self {
            attrs: input.call(Attribute::parse_outer)?,
            vis: input.parse()?,
            sig: input.parse()?,
            rest: input.parse()?,
        })
    }
}

/// If a parameter has a `cfg`, the function with and without this parameter, each with the `cfg` under which the compiler keeps it.
pub(super) fn variants(item: &TokenStream) -> Option<[TokenStream; 2]> {
    // Most functions have no such parameter, and are not parsed here.
    let has_cfg = |token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => {
            contains(group.stream(), "cfg")
        }
        _ => false,
    };
    if !item.clone().into_iter().any(has_cfg) {
        return None;
    }
    let Item { attrs, vis, sig, rest } = syn::parse2(item.clone()).ok()?;
    let is_cfg = |attr: &Attribute| attr.path().is_ident("cfg");
    let conditional = |input: &FnArg| match input {
        FnArg::Typed(typed) => typed.attrs.iter().position(is_cfg),
        FnArg::Receiver(_) => None,
    };
    let at = sig.inputs.iter().position(|input| conditional(input).is_some())?;
    let (mut with, mut without) = (sig.clone(), sig);
    let FnArg::Typed(parameter) = &mut with.inputs[at] else { return None };
    let cfg = parameter.attrs.iter().position(is_cfg)?;
    let condition = parameter.attrs.remove(cfg).meta.require_list().ok()?.tokens.clone();
    let others = without.inputs.into_iter().enumerate().filter(|(index, _)| *index != at);
    without.inputs = others.map(|(_, input)| input).collect::<Punctuated<_, _>>();
    Some([
        quote!(#[cfg(#condition)] #(#attrs)* #vis #with #rest),
        quote!(#[cfg(not(#condition))] #(#attrs)* #vis #without #rest),
    ])
}
