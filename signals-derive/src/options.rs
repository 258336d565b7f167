//! Parsing of options that the macros share: `name` or `name = value`, in any order, each at most once.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{
    Attribute, DeriveInput, Error, Generics, Ident, LitStr, Path, Result, Token, Type, parse_quote,
};

/// The mistakes found so far. All are reported together.
#[derive(Default)]
pub(crate) struct Mistakes(Option<Error>);

impl Mistakes {
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn at(&mut self, span: Span, message: impl std::fmt::Display) {
        self.add(Error::new(span, message));
    }

    pub(crate) fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn into_error(self) -> Option<Error> {
        self.0
    }
}

/// An option that may be given once, with its span.
pub(crate) struct Once<T>(Option<(Span, T)>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Once<T> {
    pub(crate) fn set(&mut self, name: &Ident, value: T, mistakes: &mut Mistakes) {
        if self.0.is_some() {
            mistakes.at(name.span(), format_args!("`{name}` is given twice"));
        } else {
            self.0 = Some((name.span(), value));
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref().map(|(_, value)| value)
    }

    pub(crate) fn span(&self) -> Option<Span> {
        self.0.as_ref().map(|(span, _)| *span)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl<T> Once<Vec<T>> {
    /// The values; none if the option is not given.
    pub(crate) fn list(&self) -> &[T] {
        self.get().map_or(&[], Vec::as_slice)
    }
}

/// The string of `name = "…"`.
pub(crate) fn string(name: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    string_as(name, "…", input)
}

/// The string of `name = "example"`.
pub(crate) fn string_as(name: &Ident, example: &str, input: ParseStream<'_>) -> Result<LitStr> {
    let text: LitStr = value(name, &format!("\"{example}\""), input)?;
    if text.value().is_empty() {
        return Err(Error::new(text.span(), format_args!("`{name}` is empty")));
    }
    Ok(text)
}

/// The value of `name = value`.
pub(crate) fn value<T: Parse>(name: &Ident, example: &str, input: ParseStream<'_>) -> Result<T> {
    let form = format!("expected `{name} = {example}`");
    if !input.peek(Token![=]) {
        return Err(Error::new(name.span(), form));
    }
    input.parse::<Token![=]>()?;
    input.parse().map_err(|error| Error::new(error.span(), form))
}

/// The path in `crate = "path"` or `crate = path`. Only the latter can begin with the `$crate` of a `macro_rules!`.
pub(crate) fn path(name: &Ident, input: ParseStream<'_>) -> Result<Path> {
    if input.peek(Token![=]) && !input.peek2(LitStr) {
        let ModStyle(path) = value(name, "\"my_crate::signals\"", input)?;
        return Ok(path);
    }
    let text = string(name, input)?;
    text.parse().map_err(|_| {
        Error::new(text.span(), "expected the path of a crate, as `crate = \"my_crate::signals\"`")
    })
}

/// A path without generic arguments.
struct ModStyle(Path);

impl Parse for ModStyle {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        input.call(Path::parse_mod_style).map(Self)
    }
}

/// Reads options that are separated by commas, and continues after invalid ones.
pub(crate) fn read_options(
    input: ParseStream<'_>,
    mistakes: &mut Mistakes,
    mut read: impl FnMut(&Ident, ParseStream<'_>, &mut Mistakes) -> Result<()>,
) -> Result<()> {
    while !input.is_empty() {
        read_option(input, mistakes, &mut read)?;
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

/// Reads the name of an option, and the rest of it with `read`. If the option is invalid, its mistake is recorded, and it is skipped.
pub(crate) fn read_option(
    input: ParseStream<'_>,
    mistakes: &mut Mistakes,
    read: impl FnOnce(&Ident, ParseStream<'_>, &mut Mistakes) -> Result<()>,
) -> Result<()> {
    let form = "expected an option, as `name` or `name = value`";
    let name = input.call(Ident::parse_any).map_err(|error| Error::new(error.span(), form))?;
    if let Err(error) = read(&name, input, mistakes).and_then(|()| no_value(&name, input)) {
        mistakes.add(error);
        skip(input)?;
    }
    Ok(())
}

/// Checks that an option is not followed by a value that it does not take.
fn no_value(name: &Ident, input: ParseStream<'_>) -> Result<()> {
    if input.peek(Token![=]) {
        return Err(Error::new(name.span(), format_args!("`{name}` has no value")));
    }
    Ok(())
}

/// Skips the rest of an invalid option, up to the next comma.
fn skip(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}

pub(crate) fn unknown(name: &Ident, known: &[&str]) -> Error {
    let known = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    Error::new(name.span(), format_args!("unknown option `{name}`, expected one of {known}"))
}

/// The type or value as a programmer writes it, without spaces between the tokens.
pub(crate) fn readable(tokens: &TokenStream) -> String {
    let text = tokens.to_string();
    let text = text.replace(" :: ", "::").replace(" < ", "<").replace(" >", ">");
    text.replace(" ,", ",")
        .replace("& ", "&")
        .replace(" ;", ";")
        .replace("> ,", ">,")
        .replace("* const", "*const")
        .replace("* mut", "*mut")
}

/// The type without the invisible group that `macro_rules!` puts around a `$ty:ty`.
pub(crate) fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        _ => ty,
    }
}

/// Reports each value that is in the list already.
pub(crate) fn each_once<T: ToTokens>(list: &[T], mistakes: &mut Mistakes) {
    let mut texts = HashSet::new();
    for value in list {
        let text = readable(&value.to_token_stream());
        let message = format!("`{text}` is given twice");
        if !texts.insert(text) {
            mistakes.add(Error::new_spanned(value, message));
        }
    }
}

/// The path of the module that contains the names in expansions.
pub(crate) fn private(krate: Option<&Path>) -> TokenStream {
    match krate {
        Some(path) => quote!(#path::__private),
        None => quote!(::sqlx_signals::__private),
    }
}

/// The generics of a type with a mistake, for its stub implementations: with the bounds that models and signals must satisfy.
///
/// The mistake may be a field that is not `Send`. With a lifetime, the compiler assumes the bound inside the implementation instead of
/// reporting it.
pub(crate) fn assumed(input: &DeriveInput) -> Generics {
    let ident = &input.ident;
    let (_, type_generics, _) = input.generics.split_for_impl();
    let bound = parse_quote! {
        for<'__a> #ident #type_generics:
            ::core::marker::Sized + ::core::marker::Send + ::core::marker::Sync + 'static
    };
    let mut generics = input.generics.clone();
    generics.make_where_clause().predicates.push(bound);
    generics
}

/// Reads every option of every attribute of this name, and continues after invalid ones.
pub(crate) fn each_option(
    attribute: &str,
    attrs: &[Attribute],
    mistakes: &mut Mistakes,
    mut read: impl FnMut(&Ident, ParseStream<'_>, &mut Mistakes) -> syn::Result<()>,
) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(attribute)) {
        let parsed =
            attr.parse_args_with(|input: ParseStream<'_>| read_options(input, mistakes, &mut read));
        mistakes.take(parsed);
    }
}
