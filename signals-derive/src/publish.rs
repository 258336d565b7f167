//! The option `publish = "…"` of models and signals: a registration whose events a relay publishes. And `subscribe = "…"` of signals.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::ParseStream;
use syn::{Error, LitStr, Result};

use crate::options::string;

/// Reads the subject of `publish = "…"`, or of another option of this form.
pub(crate) fn subject(name: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    let text = string(name, input)?;
    if cfg!(not(feature = "durable")) {
        let message =
            format!("`{name}` needs the feature `durable` of sqlx-signals: add it in Cargo.toml");
        return Err(Error::new(name.span(), message));
    }
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    if !text.value().split('.').all(is_word) {
        let message = format!(
            "expected words of letters, digits, `_` and `-` with dots between them, as `{name} = \"shop.order_paid\"`"
        );
        return Err(Error::new(text.span(), message));
    }
    Ok(text)
}

/// The registrations of a model: its saves and its deletes are published under one name, so that they stay in order.
pub(crate) fn model(subject: &LitStr, model: &Ident) -> TokenStream {
    // At the subject, because a model that cannot be published is otherwise a valid model.
    let sender = at(model, subject);
    let forms =
        quote_spanned!(subject.span()=> __p::EventForm::published_rows::<#sender>(#subject));
    let sender = quote!(#model);
    let of = |signal, form| registration(subject, &signal, &sender, &form, "pk");
    let saves = of(quote!(__p::post_save), quote!(__FORMS[0]));
    let deletes = of(quote!(__p::post_delete), quote!(__FORMS[1]));
    quote! {
        const _: () = {
            static __FORMS: [__p::EventForm; 2] = #forms;
            #saves
            #deletes
        };
    }
}

/// The registration of a signal.
pub(crate) fn signal(subject: &LitStr, signal: &Ident) -> TokenStream {
    let payload = at(signal, subject);
    let form =
        quote_spanned!(subject.span()=> __p::EventForm::published_signal::<#payload>(#subject));
    let registration = registration(subject, &quote!(#signal), &quote!(()), &quote!(__FORM), "");
    quote! {
        const _: () = {
            static __FORM: __p::EventForm = #form;
            #registration
        };
    }
}

/// The registrations of a signal that is received from other services: the signal, and a durable receiver of the messages that could not be
/// taken at once.
pub(crate) fn subscription(subject: &LitStr, signal: &Ident) -> TokenStream {
    let payload = at(signal, subject);
    let subscription = quote_spanned!(subject.span()=> __p::Subscription::of::<#payload>(#subject));
    let receiver = Receiver {
        name: format!("subscribe {}", subject.value()),
        signal: &quote!(__p::KeptMessage),
        sender: &quote!(()),
        asks: quote!(.asks(&[__p::Asks::Connection])),
        options: quote!(__p::DurableOptions::subscribed()),
        entry: quote!(__p::Entry::<__p::KeptMessage, ()>::future(__p::take_kept).durable(&__FORM)),
    };
    let registration = receiver.registration();
    quote! {
        const _: () = {
            static __FORM: __p::EventForm = __p::EventForm::of::<__p::KeptMessage, ()>();
            __p::inventory::submit! { #subscription }
            #registration
        };
    }
}

/// The name of a type, with the span of the subject.
fn at(ty: &Ident, subject: &LitStr) -> Ident {
    let mut ty = ty.clone();
    ty.set_span(subject.span());
    ty
}

/// The registration for the events of the signal of a sender.
fn registration(
    subject: &LitStr,
    signal: &TokenStream,
    sender: &TokenStream,
    form: &TokenStream,
    ordering_key: &str,
) -> TokenStream {
    let receiver = Receiver {
        name: format!("publish {}", subject.value()),
        signal,
        sender,
        asks: TokenStream::new(),
        options: quote!(__p::DurableOptions::published(#ordering_key)),
        entry: quote!(__p::Entry::published(&#form)),
    };
    receiver.registration()
}

/// A durable receiver that is no function of the program.
struct Receiver<'r> {
    name: String,
    signal: &'r TokenStream,
    sender: &'r TokenStream,
    asks: TokenStream,
    options: TokenStream,
    entry: TokenStream,
}

impl Receiver<'_> {
    fn registration(&self) -> TokenStream {
        let Self { name, signal, sender, asks, options, entry } = self;
        quote! {
            const _: () = {
                struct __Receiver {}
                #[automatically_derived]
                impl __p::Receiver for __Receiver {}

                static __DURABLE: __p::DurableOptions = #options;
                static __INFO: __p::Info = __p::Info::new::<__Receiver, #signal, #sender>(
                    #name,
                    ::core::file!(),
                    ::core::line!(),
                    "",
                ).phase(__p::Phase::Durable) #asks .durable(&__DURABLE);
                static __ENTRY: __p::Entry<#signal, #sender> = #entry;

                __p::inventory::submit! {
                    __p::Registration::new::<#signal, #sender>(&__INFO, &__ENTRY)
                }
            };
        }
    }
}
