use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ReturnType;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::ast::{Phase, Receiver};
use crate::options::private;

pub(super) fn expand(receiver: &Receiver, item: &TokenStream) -> TokenStream {
    let Receiver { signal, sender, function, order, .. } = receiver;
    let p = private(receiver.krate.as_ref());
    let (ident, vis) = (&function.sig.ident, &function.vis);
    let cfgs: Vec<_> = function.cfgs().collect();
    let name = ident.unraw().to_string();
    let doc = function.doc();
    let about = format!("Names the receiver [`{name}`](fn@{name}).");
    let phase = match receiver.phase {
        Phase::InTransaction => quote!(InTransaction),
        Phase::OnCommit => quote!(OnCommit),
        Phase::OnRollback => quote!(OnRollback),
    };
    let created = receiver
        .created
        .map(|created| quote_spanned!(signal.span()=> .created::<#signal>(#created)));
    let robust = receiver.robust.then(|| quote!(.robust()));
    let uid = receiver.uid.as_ref().map(|uid| quote!(.uid(#uid)));
    let after = match &receiver.after[..] {
        [] => None,
        after => {
            let ids = after.iter().map(|r| quote_spanned!(r.span()=> __p::receiver::<#r>()));
            Some(quote!(.after(&[#(#ids),*])))
        }
    };
    let parameters: Vec<_> = function.parameters().collect();
    let ask = (!parameters.is_empty()).then(|| {
        let asks = parameters.iter().map(
            |ty| quote_spanned!(ty.span()=> let _ = __p::take::<__p::phase::#phase, #ty>(__cx);),
        );
        quote!(.ask(|__cx| { #(#asks)* }))
    });
    let deferred = match receiver.phase {
        Phase::InTransaction => None,
        _ => Some(quote_spanned!(sender.span()=> .deferred())),
    };

    let takes = function
        .parameters()
        .map(|ty| quote_spanned!(ty.span()=> __p::take::<__p::phase::#phase, #ty>(&mut __cx)?));
    let connection = function.connections().next().is_some();
    let returned = match &function.sig.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let called = quote_spanned!(function.sig.inputs.first().span()=> #ident(__event #(, #takes)*));
    let (constructor, returns, body) = if function.sig.asyncness.is_some() {
        let body = quote_spanned!(returned=> __p::returned(#called.await));
        (
            quote!(future),
            quote!(__p::Called<'a>),
            quote_spanned!(ident.span()=> __p::Box::pin(async move { #body })),
        )
    } else {
        let body = quote_spanned!(returned=> __p::returned(#called));
        (quote!(sync), quote!(__p::Returned), body)
    };

    quote! {
        #item

        #(#cfgs)*
        #[doc = #about]
        #[allow(non_camel_case_types, dead_code)]
        #vis struct #ident {}

        #(#cfgs)*
        const _: () = {
            use #p as __p;

            impl __p::Receiver for #ident {}

            static __INFO: __p::Info = __p::Info::new::<#ident, #signal, #sender>(
                ::core::concat!(::core::module_path!(), "::", #name),
                ::core::file!(),
                ::core::line!(),
                #doc,
                #connection,
            ).phase(__p::Phase::#phase).order(#order) #created #after #robust #uid #ask;

            #[allow(unused_mut, unused_variables)]
            fn __call<'a, 'c>(
                __event: <#signal as __p::Signal>::Event<'a, #sender>,
                mut __cx: __p::Cx<'a, 'c>,
            ) -> #returns {
                #body
            }

            static __ENTRY: __p::Entry<#signal, #sender> = __p::Entry::<#signal, #sender>::#constructor(&__INFO, __call)#deferred;

            __p::inventory::submit! { __p::Registration::new(&__ENTRY) }
        };
    }
}
