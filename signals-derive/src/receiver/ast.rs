//! The input of `#[receiver]` as a typed receiver. Every mistake that does not depend on types is found here.

use heck::{ToSnakeCase, ToUpperCamelCase};
use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned;
use syn::{Error, Ident, Path, PathSegment, Result, Type};

use super::attr::{Args, Options, SIGNALS};
use super::function::{Function, check_function, check_generics, check_parameters};
use crate::options::{Mistakes, each_once, readable, ungrouped};

/// A checked receiver. The compiler checks the rest when it knows the types.
pub(crate) struct Receiver {
    pub(crate) signal: Path,
    pub(crate) options: Options,
    pub(crate) function: Function,
}

impl Receiver {
    pub(crate) fn read(args: TokenStream, item: TokenStream) -> Result<Self> {
        let function: Function = syn::parse2(item)?;
        let Args { signal, options, mut mistakes } = syn::parse2(args)?;
        check_function(&function, &mut mistakes);
        check_parameters(&function, &mut mistakes);
        check_generics(&function, options.sender.list(), &mut mistakes);
        check_senders(&options, &mut mistakes);
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

    /// The type that the events are about, as a programmer writes it.
    pub(crate) fn subject(&self) -> String {
        subject(&self.options, &self.function)
    }

    pub(crate) fn created(&self) -> Option<bool> {
        let Options { created, updated, .. } = &self.options;
        created.get().map(|()| true).or(updated.get().map(|()| false))
    }
}

fn subject(options: &Options, function: &Function) -> String {
    match options.sender.list() {
        [sender] => readable(&sender.to_token_stream()),
        [] => "dyn AnyModel".to_owned(),
        _ => function
            .sig
            .generics
            .type_params()
            .next()
            .map_or_else(|| "M".to_owned(), |param| param.ident.to_string()),
    }
}

/// Checks that each sender can be a model.
fn check_senders(options: &Options, mistakes: &mut Mistakes) {
    for sender in options.sender.list() {
        let message = match ungrouped(sender) {
            Type::TraitObject(_) => "a receiver of every model has no sender: leave `sender` out",
            Type::Reference(_) | Type::Tuple(_) | Type::ImplTrait(_) | Type::Infer(_) => {
                "a sender is a model, as `sender = User`, or several, as `sender = [User, Order]`"
            }
            _ => continue,
        };
        mistakes.add(Error::new_spanned(sender, message));
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

/// Checks that the signal is not the event, and that the receiver does not hide it.
fn check_signal(signal: &Path, function: &Function, mistakes: &mut Mistakes) {
    let name = &function.sig.ident;
    if signal.is_ident(name) {
        let message = format!(
            "the name of a receiver is also a type, which hides the signal `{name}`: give the function another name"
        );
        mistakes.at(name.span(), message);
    }
    let (Some(last), Some(Type::Path(event))) = (signal.segments.last(), function.event()) else {
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
    let Some(signal) = signal.segments.last().map(|last| last.ident.to_string()) else { return };
    if let (true, Some(first @ Type::Reference(_))) =
        (SIGNALS.contains(&&*signal), function.event())
    {
        let (event, sender) = (signal.to_upper_camel_case(), subject(options, function));
        let message = format!(
            "the first parameter of a receiver of `{signal}` is the event by value: `{event}<'_, {sender}>`"
        );
        mistakes.at(first.span(), message);
    }
}
