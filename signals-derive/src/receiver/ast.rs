//! The input of `#[receiver]` as a typed receiver. Every mistake that does not depend on types is found here.

use heck::{ToSnakeCase, ToUpperCamelCase};
use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::ReturnType;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericParam, Ident, Lit, Meta, Path, PathSegment,
    Result, Signature, Type, Visibility,
};

use super::attr::{Args, Options};
use crate::options::{Mistakes, each_once, readable, ungrouped};

/// A checked receiver. The compiler checks the rest when it knows the types.
pub(crate) struct Receiver {
    pub(crate) signal: Path,
    pub(crate) options: Options,
    pub(crate) function: Function,
}

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
        let nothing = matches!(self.sig.output, ReturnType::Default);
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
        docs.map(|line| line.trim().to_owned()).find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// The `cfg` attributes, which are repeated on every item that the expansion adds.
    pub(crate) fn cfgs(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attr| attr.path().is_ident("cfg"))
    }
}

impl Receiver {
    pub(crate) fn read(args: TokenStream, item: TokenStream) -> Result<Self> {
        let function: Function = syn::parse2(item)?;
        let Args { signal, options, mut mistakes } = syn::parse2(args)?;
        check_function(&function, options.sender.list().len(), &mut mistakes);
        check_signal(&signal, &function, &mut mistakes);
        check_event(&signal, &options, &function, &mut mistakes);
        check_lists(&options, &mut mistakes);
        check_options(&options, &mut mistakes);
        check_once(&options, &mut mistakes);
        check_durable(&options, &mut mistakes);
        mistakes.into_error().map_or(Ok(Self { signal, options, function }), Err)
    }

    /// The name of the signal in the expansion, with the span of the signal.
    pub(crate) fn signal_alias(&self) -> Ident {
        let name = self.signal.segments.last().map(|segment| &segment.ident);
        format_ident!("__Signal", span = name.span())
    }

    /// The variant of `Phase`.
    pub(crate) fn phase(&self) -> &'static str {
        match () {
            () if self.options.on_commit.is_set() => "OnCommit",
            () if self.options.on_rollback.is_set() => "OnRollback",
            () if self.options.durable.is_set() => "Durable",
            () => "InTransaction",
        }
    }

    /// Whether a copy of the event is kept until the end of the transaction.
    pub(crate) fn is_deferred(&self) -> bool {
        matches!(self.phase(), "OnCommit" | "OnRollback")
    }

    pub(crate) fn created(&self) -> Option<bool> {
        let Options { created, updated, .. } = &self.options;
        created.get().map(|()| true).or(updated.get().map(|()| false))
    }
}

/// Checks that no list contains a value twice.
fn check_lists(options: &Options, mistakes: &mut Mistakes) {
    each_once(options.sender.list(), mistakes);
    each_once(options.changed.list(), mistakes);
    each_once(options.after.list(), mistakes);
}

/// Checks that the options can be combined.
fn check_options(options: &Options, mistakes: &mut Mistakes) {
    let Options { sender, on_commit, on_rollback, created, updated, changed, .. } = options;
    let excluded = [
        (
            on_commit.is_set(),
            on_rollback.span(),
            "a receiver runs `on_commit` or `on_rollback`, not both: make it two receivers",
        ),
        (
            created.is_set(),
            updated.span(),
            "`created` and `updated` together are every save: leave both out",
        ),
        (
            created.is_set(),
            changed.span(),
            "of a row that was created every column has changed: leave one of them out",
        ),
        (
            !sender.is_set(),
            changed.span(),
            "`changed(…)` names fields of a model, and so needs `sender = Model`",
        ),
    ];
    for (is_excluded, span, message) in excluded {
        if let (true, Some(span)) = (is_excluded, span) {
            mistakes.at(span, message);
        }
    }
}

/// Checks that a receiver that runs once per transaction runs after its commit.
fn check_once(options: &Options, mistakes: &mut Mistakes) {
    let Some(span) = options.once_per_transaction.span() else { return };
    let Options { on_commit, on_rollback, durable, .. } = options;
    if on_rollback.is_set() {
        let message = "what was rolled back has changed no row: `once_per_transaction` needs `on_commit` or `durable`";
        mistakes.at(span, message);
    } else if !on_commit.is_set() && !durable.is_set() {
        let message = "what a transaction has changed is known when it commits: `once_per_transaction` needs `on_commit` or `durable`";
        mistakes.at(span, message);
    }
}

/// Checks what a durable receiver can be combined with.
fn check_durable(options: &Options, mistakes: &mut Mistakes) {
    if !options.durable.is_set() {
        return;
    }
    let excluded = [
        (
            options.on_commit.span(),
            "a receiver is `durable` or `on_commit`, not both: make it two receivers",
        ),
        (
            options.on_rollback.span(),
            "a receiver is `durable` or `on_rollback`, not both: make it two receivers",
        ),
        (
            options.order.span(),
            "the deliveries of durable receivers have no order among each other: leave `order` out",
        ),
        (
            options.after.span(),
            "the deliveries of durable receivers have no order among each other: leave `after` out",
        ),
        (
            options.robust.span(),
            "a durable receiver never fails the save, and is tried again: leave `robust` out",
        ),
    ];
    for (span, message) in excluded {
        if let Some(span) = span {
            mistakes.at(span, message);
        }
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

/// Checks the attributes and the parameters of the function.
fn check_function(function: &Function, senders: usize, mistakes: &mut Mistakes) {
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
    for param in &sig.generics.params {
        if senders < 2 && !matches!(param, GenericParam::Lifetime(_)) {
            mistakes.at(
                param.span(),
                "a receiver is generic where it has several senders, as `sender = [User, Order]`",
            );
        }
    }
    if let Some(token) = &sig.variadic {
        mistakes.at(token.span(), "a receiver has no variadic parameters");
    }
    // No other parameter is a reference.
    let mut connections = function.parameters().filter(|ty| matches!(ty, Type::Reference(_)));
    if let Some(second) = connections.nth(1) {
        mistakes.at(second.span(), "a receiver has one connection, and takes it once");
    }
}

/// Checks that the signal is not the event, and that the receiver does not hide it.
fn check_signal(signal: &Path, function: &Function, mistakes: &mut Mistakes) {
    let name = &function.sig.ident;
    if signal.is_ident(name) {
        let message = format!(
            "the name of a receiver is also a type, which hides the signal `{name}`: give the function another name"
        );
        mistakes.at(name.span(), message);
    }
    let (Some(last), Some(Type::Path(event))) = (signal.segments.last(), function.types().next())
    else {
        return;
    };
    let is_event =
        |segment: &PathSegment| segment.ident == last.ident && !segment.arguments.is_none();
    if event.path.segments.last().is_some_and(is_event) {
        let (event, signal_of) = (&last.ident, last.ident.to_string().to_snake_case());
        let message =
            format!("`{event}` is the event: name its signal, as `#[receiver({signal_of}, …)]`");
        mistakes.add(Error::new_spanned(signal, message));
    }
}

/// Checks that the first parameter is not a reference, which is no event of these signals.
fn check_event(signal: &Path, options: &Options, function: &Function, mistakes: &mut Mistakes) {
    const SIGNALS: [&str; 7] = [
        "pre_save", "post_save", "pre_delete", "post_delete", "post_save_batch",
        "post_delete_batch", "post_load",
    ];
    let Some(signal) = signal.segments.last().map(|last| last.ident.to_string()) else { return };
    if let (true, Some(first @ Type::Reference(_))) =
        (SIGNALS.contains(&&*signal), function.types().next())
    {
        let sender = match options.sender.list() {
            [sender] => readable(&sender.to_token_stream()),
            [] => "dyn AnyModel".to_owned(),
            _ => "M".to_owned(),
        };
        let event = signal.to_upper_camel_case();
        let message = format!(
            "the first parameter of a receiver of `{signal}` is the event by value: `{event}<'_, {sender}>`"
        );
        mistakes.at(first.span(), message);
    }
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
