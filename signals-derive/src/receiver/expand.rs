//! The expansion of a receiver without mistakes.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, ReturnType, Type};

use super::ast::Receiver;
use super::durable::{KeyPurpose, OrderingKey};
use super::function::{contains_impl, is_named};
use crate::options::private;

pub(super) fn expand(receiver: &Receiver, item: &TokenStream) -> TokenStream {
    let Receiver { options, function, .. } = receiver;
    let (signal, named) = (receiver.signal_alias(), &receiver.signal);
    let p = private(options.krate.get());
    let (ident, vis) = (&function.sig.ident, &function.vis);
    let cfgs: Vec<_> = function.cfgs().collect();
    let (has_sender, checked) = checked_signal(receiver);
    let about = format!("Names the receiver [`{0}`](fn@{0}).", ident.unraw());
    let registrations = match options.sender.list() {
        // Without `sender`, the signal defines which type stands for any sender.
        [] => {
            let sender = quote_spanned!(signal.span()=> <#signal as __p::Signal>::AnySender);
            let entry = quote_spanned!(signal.span()=> <#signal as __p::Signal>::AnyEntry);
            vec![registration(receiver, &sender, &entry, signal.span())]
        }
        senders => senders
            .iter()
            .map(|sender| {
                let entry = |sender: &TokenStream| quote!(__p::Entry<#signal, #sender>);
                if function.sig.generics.type_params().next().is_none() {
                    let of = sender.to_token_stream();
                    return registration(receiver, &of, &entry(&of), sender.span());
                }
                // An alias, because a type parameter of the function may have the same name as a sender.
                let of = quote_spanned!(sender.span()=> __Sender);
                let registration = registration(receiver, &of, &entry(&of), sender.span());
                quote!(type __Sender = #sender; const _: () = { #registration };)
            })
            .collect(),
    };
    quote! {
        // A receiver takes its event by value even if it does not consume it.
        #[allow(clippy::needless_pass_by_value)]
        #item

        #(#cfgs)*
        #[doc = #about]
        #[allow(non_camel_case_types, dead_code)]
        #vis struct #ident {}

        #(#cfgs)*
        #[allow(deprecated, unused_qualifications)]
        const _: () = {
            use #p as __p;
            #[allow(unused_imports)]
            use __p::defaults::*;

            // The only error for a type that is not a signal: the rest of the expansion then uses a signal without errors.
            const _: () = __p::is_signal::<#named>();
            type __Named = #named;
            #has_sender
            type #signal = #checked;

            impl __p::Receiver for #ident {}

            #(const _: () = { #registrations };)*
        };
    }
}

/// The check that the signal has senders if the receiver names one, and the signal of the rest of the expansion: the named one, or if
/// that fails a check, a signal without errors.
fn checked_signal(receiver: &Receiver) -> (Option<TokenStream>, TokenStream) {
    let signal_if = |check: &str, span: Span| {
        let check = Ident::new(check, span);
        quote_spanned! {span=>
            <__p::SignalOf<{ __p::SignalCheck::<__Named>::#check }> as __p::SelectSignal<__Named>>::Signal
        }
    };
    match receiver.options.sender.span() {
        None => (None, signal_if("IS_SIGNAL", Span::call_site())),
        Some(span) => {
            let signal = signal_if("IS_SIGNAL", span);
            let check = quote_spanned!(span=> const _: () = __p::has_sender::<#signal>(););
            (Some(check), signal_if("HAS_SENDER", Span::call_site()))
        }
    }
}

/// Registers the function for one sender.
fn registration(
    receiver: &Receiver,
    sender: &TokenStream,
    entry: &TokenStream,
    sender_span: Span,
) -> TokenStream {
    let Receiver { options, function, .. } = receiver;
    let signal = receiver.signal_alias();
    let ident = &function.sig.ident;
    let name = ident.unraw().to_string();
    let doc = function.doc();
    let event = event(receiver);
    let phase = format_ident!("{}", receiver.phase());
    let deferred = receiver.is_deferred().then(|| quote_spanned!(sender_span=> .deferred()));
    let order = options.order.get().copied().unwrap_or(0);
    let Parameters { declared, asks, phase: parameter_phase } = Parameters::of(receiver, sender);
    let settings = settings(receiver, sender);
    let (constructor, returns, body) = call(receiver, &parameter_phase);
    let durable = options.durable.get().map(|durable| {
        let values = durable.tokens();
        let is_of_model = options.sender.is_set();
        let key = |purpose, key: &Option<OrderingKey>| {
            let (signal, sender) = ((&receiver.signal, &signal), is_of_model.then_some(sender));
            let tokens = |key: &OrderingKey| key.tokens(purpose, signal, sender);
            key.as_ref().map(tokens).unwrap_or_default()
        };
        let (coalesce_key, coalesced) = key(KeyPurpose::Coalesce, &durable.coalesce);
        let (key, ordered) = key(KeyPurpose::Order, &durable.ordering_key);
        let form = match durable.stores_key {
            Some(span) => quote_spanned!(span=> by_key),
            None => quote!(of),
        };
        quote_spanned! {sender_span=>
            #key
            #coalesce_key
            static __DURABLE: __p::DurableOptions = #values;
            static __FORM: __p::EventForm = __p::EventForm::#form::<#signal, #sender>() #ordered #coalesced;
        }
    });
    let (durable_info, durable_entry) = match &durable {
        Some(_) => (
            Some(quote!(.durable(&__DURABLE))),
            Some(quote_spanned!(signal.span()=> .durable(&__FORM))),
        ),
        None => (None, None),
    };
    let carried = carried(receiver);
    // The types of the parameters may name the function's type parameter: an alias for the sender.
    let names = function.sig.generics.type_params().map(|param| &param.ident);
    quote! {
        #(#[allow(dead_code)] type #names = #sender;)*

        #declared

        #durable

        static __INFO: __p::Info = __p::Info::new::<#ident, #signal, #sender>(
            ::core::concat!(::core::module_path!(), "::", #name),
            ::core::file!(),
            ::core::line!(),
            #doc,
        ).phase(__p::Phase::#phase).order(#order) #settings #asks #durable_info;

        #[allow(unreachable_code, unused_mut, unused_variables)]
        fn __call<'__a, '__c>(
            #event: <#signal as __p::Signal>::Event<'__a, #sender>,
            mut __cx: __p::Cx<'__a, '__c>,
        ) -> #returns {
            #body
        }

        static __ENTRY: #entry = <#entry>::#constructor(__call)#deferred #durable_entry;

        __p::inventory::submit! { __p::Registration::new::<#signal, #sender>(&__INFO, &__ENTRY) }
        #carried
    }
}

/// Registers the parameters that may be the `State` of a carried value. With the feature `durable`, a worker has to decode such values, also for
/// the receivers of what a durable receiver saves.
fn carried(receiver: &Receiver) -> TokenStream {
    if cfg!(not(feature = "durable")) {
        return TokenStream::new();
    }
    let function = &receiver.function;
    let states = function.parameters().filter(|ty| is_named(ty, "State"));
    states
        .map(|ty| {
            let elided = function.elided(ty);
            let parameter = quote_spanned!(ty.span()=> __p::CarriedBy::<#elided>::PARAMETER);
            quote!(__p::inventory::submit! { #parameter })
        })
        .collect()
}

/// The calls that set the options of this receiver.
fn settings(receiver: &Receiver, sender: &TokenStream) -> TokenStream {
    let Receiver { options, function, .. } = receiver;
    let signal = receiver.signal_alias();
    let created = receiver
        .created()
        .map(|created| quote_spanned!(signal.span()=> .created::<#signal>(#created)));
    let changed = options.changed.get().map(|changed| {
        let columns = changed.iter().map(|field| {
            let column =
                format_ident!("{}", field.unraw().to_string().to_uppercase(), span = field.span());
            quote_spanned!(field.span()=> __p::column::<#sender>(<#sender>::#column))
        });
        quote_spanned!(signal.span()=> .changed::<#signal>(&[#(#columns),*]))
    });
    let once = options.once_per_transaction.span();
    let once = once.map(|_| quote_spanned!(signal.span()=> .once_per_transaction::<#signal>()));
    let detached = options.on_commit.get() == Some(&true);
    let detached = detached.then(|| quote!(.detached()));
    let robust = options.robust.get().map(|()| quote!(.robust()));
    let infallible = function.is_infallible().then(|| quote!(.infallible()));
    let uid = options.uid.get().map(|uid| quote!(.uid(#uid)));
    let after = options.after.get().map(|after| {
        let ids = after.iter().map(|r| quote_spanned!(r.span()=> __p::receiver::<#r>()));
        quote!(.after(&[#(#ids),*]))
    });
    quote!(#detached #once #created #changed #after #robust #infallible #uid)
}

/// The parameters after the event.
struct Parameters {
    /// The constant with what they ask for, and the assertions that they must satisfy.
    declared: TokenStream,
    /// The call that sets what they ask for.
    asks: Option<TokenStream>,
    /// The type of the phase in which they are taken.
    phase: TokenStream,
}

impl Parameters {
    fn of(receiver: &Receiver, sender: &TokenStream) -> Self {
        let Receiver { options, function, .. } = receiver;
        let signal = receiver.signal_alias();
        // What a parameter of a durable receiver asks for is known before it is known whether another one is the connection.
        let (ask_phase, phase) = match receiver.phase() {
            "Durable" => (format_ident!("DurableWithConnection"), quote!(__Phase)),
            name => {
                let name = format_ident!("{name}");
                (name.clone(), quote!(__p::phase::#name<#signal>))
            }
        };
        let asks: Vec<_> = function
            .parameters()
            .map(|ty| {
                let elided = function.elided(ty);
                quote_spanned!(ty.span()=> __p::ParameterAsks::<__p::phase::#ask_phase<#signal>, #elided>::ASKS)
            })
            .collect();
        let previous = previous(receiver, sender, &asks);
        let durable = options.durable.get().zip(options.durable.span()).map(|(durable, span)| {
            let previous = durable.without_previous().map(|message| {
                let checks = function.parameters().zip(&asks).map(|(ty, asks)| {
                    quote_spanned!(ty.span()=> const _: () = ::core::assert!(!#asks.is_previous(), #message);)
                });
                quote!(#(#checks)*)
            });
            let choice = (!durable.at_least_once).then(|| {
                let message = "this receiver may run more than once: take `conn: &mut Conn<'_>` to write and be acknowledged in one \
                               transaction, take `delivery: Delivery<'_>` for an idempotency key, or say `durable(at_least_once)`";
                quote_spanned! {span=>
                    const _: () = ::core::assert!(__p::Asks::connection_or_delivery(__ASKS), #message);
                }
            });
            quote! {
                type __Phase = <__p::DurablePhase<{ __p::Asks::connection(__ASKS) }> as __p::SelectPhase<#signal>>::Phase;
                #previous
                #choice
            }
        });
        let is_needed = durable.is_some() || !asks.is_empty();
        let list = is_needed.then(|| quote!(const __ASKS: &[__p::Asks] = &[#(#asks),*];));
        Self {
            asks: (!asks.is_empty()).then(|| quote!(.asks(__ASKS))),
            declared: quote!(#list #previous #durable),
            phase,
        }
    }
}

/// The assertions that the previous row is of the model whose events the receiver gets. If it is of the model of an event of a wrong type,
/// only that type is reported. A receiver of several models may take the previous row of one of them: it has none for the others.
fn previous(receiver: &Receiver, sender: &TokenStream, asks: &[TokenStream]) -> TokenStream {
    let Receiver { options, function, .. } = receiver;
    if options.sender.list().len() != 1 {
        return TokenStream::new();
    }
    let message = format!(
        "this receiver gets the rows of another model: take `Previous<'_, {}>`",
        receiver.subject()
    );
    let event = function.event().filter(|ty| !contains_impl(ty));
    let checks = function.parameters().zip(asks).filter_map(|(ty, asks)| {
        if matches!(ty, Type::Reference(_)) {
            return None;
        }
        let ty_of = function.elided(ty);
        let of_event = event.map(|event| {
            let event = function.elided(event);
            quote!(|| __p::PreviousOf::<#ty_of, #event>::IS_OF_EVENT)
        });
        Some(quote_spanned! {ty.span()=>
            const _: () = ::core::assert!(
                !#asks.is_previous()
                    || __p::PreviousOf::<#ty_of, #sender>::IS_OF_SENDER
                    || __p::PreviousOf::<#ty_of, #sender>::IS_OF_ANY
                    #of_event,
                #message
            );
        })
    });
    checks.collect()
}

/// The variable of the event. It has the span of the function's first parameter, so that a wrong type is reported there.
fn event(receiver: &Receiver) -> Ident {
    format_ident!("__event", span = receiver.function.sig.inputs.first().span())
}

/// The call of the function: the constructor of the entry, the return type of the call, and its code.
fn call(receiver: &Receiver, phase: &TokenStream) -> (TokenStream, TokenStream, TokenStream) {
    let function = &receiver.function;
    let ident = &function.sig.ident;
    let (event, cx) = (event(receiver), quote!(__cx));
    let takes = function
        .parameters()
        .map(|ty| function.elided(ty))
        .map(|ty| quote_spanned!(ty.span()=> __p::take::<#phase, #ty>(&mut #cx)?));
    let returned = match &function.sig.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let called = quote_spanned!(function.sig.inputs.first().span()=> #ident(#event #(, #takes)*));
    if function.sig.asyncness.is_some() {
        let body = quote_spanned!(returned=> __p::returned(#called.await));
        let body = quote_spanned!(ident.span()=> __p::Box::pin(async move { #body }));
        (quote!(future), quote!(__p::Called<'__a>), body)
    } else {
        (quote!(sync), quote!(__p::Returned), quote_spanned!(returned=> __p::returned(#called)))
    }
}
