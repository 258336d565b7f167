//! The function of a receiver, and the checks of its signature.

use std::collections::HashSet;

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericParam, Ident, Lifetime, Lit, Meta, Result,
    ReturnType, Safety, Signature, Type, Visibility,
};

use crate::options::{Mistakes, readable, ungrouped};

/// A function without its body, which the macro does not parse.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let read = Self {
            attrs: input.call(Attribute::parse_outer)?,
            vis: input.parse()?,
            sig: input.parse()?,
        };
        input.parse::<TokenStream>()?;
        Ok(read)
    }
}

impl Function {
    /// The types of the parameters after the event.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Type> {
        self.types().skip(1)
    }

    /// The type of the first parameter.
    pub(crate) fn event(&self) -> Option<&Type> {
        self.types().next()
    }

    fn types(&self) -> impl Iterator<Item = &Type> {
        self.sig.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(ungrouped(&typed.ty)),
            FnArg::Receiver(_) => None,
        })
    }

    /// The type of a parameter with the function's lifetimes replaced by `'_`, because they are not in scope outside the function.
    pub(crate) fn elided(&self, ty: &Type) -> TokenStream {
        let names: Vec<_> = self.sig.generics.lifetimes().map(|l| &l.lifetime.ident).collect();
        if names.is_empty() { ty.to_token_stream() } else { elided(ty.to_token_stream(), &names) }
    }

    /// Whether the receiver can fail only by a panic: it returns nothing, and takes no parameter that may be unavailable.
    pub(crate) fn is_infallible(&self) -> bool {
        let nothing = match &self.sig.output {
            ReturnType::Default => true,
            ReturnType::Type(_, ty) => {
                matches!(ungrouped(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
            }
        };
        self.sig.asyncness.is_none() && nothing && self.parameters().next().is_none()
    }

    /// The first line of the doc comment.
    pub(crate) fn doc(&self) -> String {
        let docs = self.attrs.iter().filter_map(|attr| match &attr.meta {
            Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        });
        // A block comment is one attribute of several lines, each of which may begin with a star.
        let text = docs.collect::<Vec<_>>().join("\n");
        let lines = text.lines().map(|line| {
            let line = line.trim();
            line.strip_prefix("* ").unwrap_or(line)
        });
        lines.map(str::trim).find(|line| !matches!(*line, "" | "*")).unwrap_or_default().to_owned()
    }

    /// The `cfg` attributes, which are repeated on every item that the expansion adds.
    pub(crate) fn cfgs(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"))
    }
}

/// Whether the last part of the path of a type is this name.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(ty) => ty.path.segments.last().is_some_and(|last| last.ident == name),
        _ => false,
    }
}

/// Whether the attribute is `#[receiver]`, by its usual paths.
pub(super) fn is_receiver(attr: &Attribute) -> bool {
    let segments: Vec<_> = attr.path().segments.iter().map(|segment| &segment.ident).collect();
    match segments[..] {
        [name] => name == "receiver",
        [krate, name] => krate == "sqlx_signals" && name == "receiver",
        _ => false,
    }
}

/// Checks the attributes and the signature of the function, except its parameters.
pub(super) fn check_function(function: &Function, mistakes: &mut Mistakes) {
    let sig = &function.sig;
    for second in function.attrs.iter().filter(|attr| is_receiver(attr)) {
        let message = "a function is a receiver once: call it from a second receiver, or name several senders, as `sender = [User, Order]`";
        mistakes.add(Error::new_spanned(second, message));
    }
    if let Some(FnArg::Receiver(this)) = sig.inputs.first() {
        mistakes.at(this.span(), "receivers are free functions: this one has a `self`");
    } else if sig.inputs.is_empty() {
        let message = "a receiver takes its event first, as `saved: PostSave<'_, User>`";
        mistakes.at(sig.paren_token.span.join(), message);
    }
    if let Safety::Unsafe(token) = &sig.safety {
        mistakes.at(
            token.span(),
            "the library calls a receiver, so it is a safe function: leave `unsafe` out",
        );
    }
    if let (None, ReturnType::Type(_, ty)) = (&sig.asyncness, &sig.output)
        && ["Future", "BoxFuture"].iter().any(|name| contains(ty.to_token_stream(), name))
    {
        let message = "a receiver that awaits something is an `async fn`: write `async`, and the type that the future returns";
        mistakes.at(ty.span(), message);
    }
    if let Some(token) = &sig.variadic {
        mistakes.at(token.span(), "a receiver has no variadic parameters");
    }
}

/// Checks the parameters after the event.
pub(super) fn check_parameters(function: &Function, mistakes: &mut Mistakes) {
    for ty in function.parameters().filter(|ty| contains_impl(ty)) {
        let message =
            "a receiver's parameter has no `impl Trait`: name its type, such as `&mut Conn<'_>`";
        mistakes.at(ty.span(), message);
    }
    for ty in function.parameters().filter(|ty| is_connection(ty)) {
        if let Type::Reference(reference) = ty
            && let Some(lifetime) = &reference.lifetime
            && contains_lifetime(reference.elem.to_token_stream(), lifetime)
        {
            let message = "the connection outlives the reference to it: give them two lifetimes, as `&mut Conn<'_>`";
            mistakes.add(Error::new_spanned(lifetime, message));
        }
    }
    let mut connections = function.parameters().filter(|ty| is_connection(ty));
    if let Some(second) = connections.nth(1) {
        mistakes.at(second.span(), "a receiver has one connection, and takes it once");
    }
}

/// Checks that the function has a type parameter if it has several senders, and no other parameter.
pub(super) fn check_generics(function: &Function, senders: &[Type], mistakes: &mut Mistakes) {
    let generics = &function.sig.generics;
    let mut has_model = false;
    for param in &generics.params {
        match param {
            GenericParam::Lifetime(_) => {}
            _ if senders.len() < 2 => mistakes.at(
                param.span(),
                "a receiver is generic where it has several senders, as `sender = [User, Order]`",
            ),
            GenericParam::Type(_) if !has_model => has_model = true,
            _ => mistakes.at(
                param.span(),
                "the only type that a receiver is generic over is its model: leave this parameter out",
            ),
        }
    }
    let models: HashSet<_> =
        senders.iter().map(|sender| readable(&sender.to_token_stream())).collect();
    if let (2.., false, Some(event @ Type::Path(_))) = (models.len(), has_model, function.event())
        && !contains_impl(event)
    {
        mistakes.at(
            event.span(),
            "a receiver of several senders is generic over the model, as `fn f<M: Model>(saved: PostSave<'_, M>)`",
        );
    }
}

/// Whether the type is a reference to a connection, judging by its name.
fn is_connection(ty: &Type) -> bool {
    const NAMES: [&str; 3] = ["Conn", "PgConnection", "SqliteConnection"];
    match ty {
        Type::Reference(reference) => {
            NAMES.iter().any(|name| is_named(ungrouped(&reference.elem), name))
        }
        _ => false,
    }
}

/// Whether the type is or contains an `impl Trait`.
pub(crate) fn contains_impl(ty: &Type) -> bool {
    contains(ty.to_token_stream(), "impl")
}

/// Whether this name is among the tokens, also in groups.
pub(super) fn contains(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => contains(group.stream(), name),
        TokenTree::Ident(ident) => ident == name,
        _ => false,
    })
}

/// Whether this lifetime is among the tokens, also in groups.
fn contains_lifetime(tokens: TokenStream, lifetime: &Lifetime) -> bool {
    let mut after_quote = false;
    tokens.into_iter().any(|token| {
        let is_name = std::mem::take(&mut after_quote);
        match token {
            TokenTree::Group(group) => contains_lifetime(group.stream(), lifetime),
            TokenTree::Ident(ident) => is_name && ident == lifetime.ident,
            TokenTree::Punct(punct) => {
                after_quote = punct.as_char() == '\'';
                false
            }
            TokenTree::Literal(_) => false,
        }
    })
}

fn elided(tokens: TokenStream, names: &[&Ident]) -> TokenStream {
    let mut after_quote = false;
    let token = |token: TokenTree| {
        let is_name = std::mem::take(&mut after_quote);
        match token {
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), elided(group.stream(), names));
                inner.set_span(group.span());
                inner.into()
            }
            TokenTree::Ident(ident) if is_name && names.contains(&&ident) => {
                Ident::new("_", ident.span()).into()
            }
            TokenTree::Punct(punct) => {
                after_quote = punct.as_char() == '\'';
                punct.into()
            }
            token => token,
        }
    };
    tokens.into_iter().map(token).collect()
}
