//! The option `durable` of `#[receiver(…)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Ident, LitInt, LitStr, Path, Result, token};

use crate::options::{Mistakes, Once, each_once, read_options, string, string_as, unknown, value};

/// The options in `durable(…)`.
pub(crate) struct Durable {
    queue: String,
    max_attempts: u32,
    /// In milliseconds, like all durations here.
    backoff: (u64, u64),
    backoff_text: String,
    timeout: u64,
    concurrency: u32,
    delay: u64,
    /// 0 without `keep`.
    keep: u64,
    keep_text: String,
    pub(crate) ordering_key: Option<OrderingKey>,
    pub(crate) coalesce: Option<OrderingKey>,
    skips_dead: bool,
    /// Whether only the key of the row is stored.
    pub(crate) stores_key: Option<Span>,
    was: Vec<String>,
    pub(crate) at_least_once: bool,
}

/// What follows `ordering_key =` or `coalesce =`.
#[derive(Clone)]
pub(crate) enum OrderingKey {
    /// The key of the row.
    Pk(Ident),
    Field(Ident),
    /// A function of the row.
    Function(Path),
}

/// What a key is for.
#[derive(Clone, Copy)]
pub(crate) enum KeyPurpose {
    Order,
    Coalesce,
}

impl Parse for OrderingKey {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let path: Path = input.call(Path::parse_mod_style)?;
        Ok(match path.get_ident() {
            Some(ident) if ident == "pk" => Self::Pk(ident.clone()),
            Some(ident) => Self::Field(ident.clone()),
            None => Self::Function(path),
        })
    }
}

const KNOWN: &[&str] = &[
    "queue", "max_attempts", "backoff", "timeout", "concurrency", "delay", "ordering_key",
    "on_dead", "coalesce", "payload", "keep", "was", "at_least_once",
];

impl Default for Durable {
    fn default() -> Self {
        Self {
            queue: "default".to_owned(),
            max_attempts: 20,
            backoff: (1000, 3_600_000),
            backoff_text: "1s..1h".to_owned(),
            timeout: 60_000,
            concurrency: 0,
            delay: 0,
            keep: 0,
            keep_text: String::new(),
            ordering_key: None,
            coalesce: None,
            skips_dead: false,
            stores_key: None,
            was: Vec::new(),
            at_least_once: false,
        }
    }
}

#[derive(Default)]
struct Given {
    queue: Once<LitStr>,
    max_attempts: Once<u32>,
    backoff: Once<LitStr>,
    timeout: Once<u64>,
    concurrency: Once<u32>,
    delay: Once<u64>,
    keep: Once<(u64, String)>,
    ordering_key: Once<OrderingKey>,
    coalesce: Once<OrderingKey>,
    on_dead: Once<()>,
    payload: Once<()>,
    was: Vec<LitStr>,
    at_least_once: Once<()>,
}

impl Durable {
    /// Reads what follows `durable`.
    pub(crate) fn read(
        name: &Ident,
        input: ParseStream<'_>,
        mistakes: &mut Mistakes,
    ) -> Result<Self> {
        let content;
        let mut given = Given::default();
        if input.peek(token::Paren) {
            syn::parenthesized!(content in input);
            read_options(&content, mistakes, |name, content, mistakes| {
                given.read(name, content, mistakes)
            })?;
        }
        if cfg!(not(feature = "durable")) {
            let message =
                "`durable` needs the feature `durable` of sqlx-signals: add it in Cargo.toml";
            return Err(Error::new(name.span(), message));
        }
        given.checked(mistakes)
    }

    /// Why the row before the write cannot be taken, if it cannot.
    pub(crate) fn without_previous(&self) -> Option<&'static str> {
        match () {
            () if self.stores_key.is_some() => Some(
                "with `payload = key`, the row before the write is not stored: leave `payload = key` or `Previous` out",
            ),
            () if self.coalesce.is_some() => Some(
                "with `coalesce`, the rows before earlier writes are lost: leave `coalesce` or `Previous` out",
            ),
            () => None,
        }
    }

    /// The constant of the options.
    pub(crate) fn tokens(&self) -> TokenStream {
        let Self {
            queue, max_attempts, backoff, backoff_text, timeout, concurrency, delay, ..
        } = self;
        let (first, longest) = backoff;
        let text =
            |key: &Option<OrderingKey>| key.as_ref().map_or(String::new(), OrderingKey::text);
        let (ordering_key, coalesce) = (text(&self.ordering_key), text(&self.coalesce));
        let Self { skips_dead, keep, keep_text, was, .. } = self;
        quote! {
            __p::DurableOptions {
                queue: #queue,
                max_attempts: #max_attempts,
                backoff: (#first, #longest),
                backoff_text: #backoff_text,
                timeout: #timeout,
                concurrency: #concurrency,
                delay: #delay,
                ordering_key: #ordering_key,
                skips_dead: #skips_dead,
                coalesce: #coalesce,
                keep: #keep,
                keep_text: #keep_text,
                was: &[#(#was),*],
            }
        }
    }
}

impl OrderingKey {
    /// The key as reports print it.
    fn text(&self) -> String {
        match self {
            Self::Pk(ident) | Self::Field(ident) => ident.to_string(),
            Self::Function(path) => path.to_token_stream().to_string().replace(' ', ""),
        }
    }

    /// The calls that add the key to the form of the events, and the type that computes it. `signal` is given with its name in the expansion.
    /// `sender` is `None` for a custom signal.
    pub(crate) fn tokens(
        &self,
        purpose: KeyPurpose,
        (signal_path, signal): (&Path, &Ident),
        sender: Option<&TokenStream>,
    ) -> (TokenStream, TokenStream) {
        let (option, verb, ty) = match purpose {
            KeyPurpose::Order => ("ordering_key", "ordered", "__Key"),
            KeyPurpose::Coalesce => ("coalesce", "coalesced", "__CoalesceKey"),
        };
        let method = |by: &str, span: Span| format_ident!("{verb}_by_{by}", span = span);
        let ty = format_ident!("{ty}");
        // The parameter keeps the hygiene of this macro. The span of a field may come from a `macro_rules!` of the program, where it would
        // not be visible.
        let value = quote!(__event);
        let of = match self {
            Self::Pk(pk) if sender.is_none() => {
                let message =
                    format!("a signal has no key: name one of its fields, as `{option} = order`");
                let error = Error::new(pk.span(), message).into_compile_error();
                return (quote!(#error;), quote!());
            }
            Self::Pk(pk) => {
                let method = method("pk", pk.span());
                return (quote!(), quote_spanned!(pk.span()=> .#method::<#signal>()));
            }
            Self::Field(field) => {
                quote_spanned!(field.span()=> ::std::string::ToString::to_string(&#value.#field))
            }
            Self::Function(path) => {
                quote_spanned!(path.span()=> ::std::string::ToString::to_string(&#path(#value)))
            }
        };
        let event = sender.map_or_else(|| signal_path.to_token_stream(), Clone::clone);
        let is_field = matches!(self, Self::Field(_));
        let key = quote! {
            struct #ty;
            impl __p::OrderingKey<#event> for #ty {
                const IS_FIELD: bool = #is_field;

                fn of(#value: &#event) -> ::std::string::String {
                    #of
                }
            }
        };
        let call = match sender {
            Some(sender) => {
                let method = method("row", signal.span());
                quote_spanned!(signal.span()=> .#method::<#signal, #sender, #ty>())
            }
            None => {
                let method = method("signal", signal.span());
                quote_spanned!(signal.span()=> .#method::<#event, #ty>())
            }
        };
        (key, call)
    }
}

impl Given {
    fn read(
        &mut self,
        name: &Ident,
        input: ParseStream<'_>,
        mistakes: &mut Mistakes,
    ) -> Result<()> {
        match name.to_string().as_str() {
            "queue" => self.queue.set(name, string(name, input)?, mistakes),
            "max_attempts" => self.max_attempts.set(name, count(name, "20", input)?, mistakes),
            "concurrency" => self.concurrency.set(name, count(name, "4", input)?, mistakes),
            "backoff" => self.backoff.set(name, string_as(name, "1s..1h", input)?, mistakes),
            "timeout" => {
                let timeout = time(&string_as(name, "30s", input)?)?;
                self.timeout.set(name, timeout, mistakes);
            }
            "delay" => {
                let delay = time(&string_as(name, "10m", input)?)?;
                self.delay.set(name, delay, mistakes);
            }
            "keep" => {
                let text = string_as(name, "7d", input)?;
                self.keep.set(name, (time(&text)?, text.value()), mistakes);
            }
            "ordering_key" => {
                let key = value(name, "user_id", input)?;
                self.ordering_key.set(name, key, mistakes);
            }
            "coalesce" => {
                let key = value(name, "pk", input)?;
                self.coalesce.set(name, key, mistakes);
            }
            "on_dead" => {
                let what: Ident = value(name, "skip", input)?;
                if what != "skip" {
                    return Err(Error::new(what.span(), "expected `on_dead = skip`"));
                }
                self.on_dead.set(name, (), mistakes);
            }
            "payload" => {
                let what: Ident = value(name, "key", input)?;
                if what != "key" {
                    return Err(Error::new(what.span(), "expected `payload = key`"));
                }
                self.payload.set(name, (), mistakes);
            }
            "was" => self.was.push(string(name, input)?),
            "once_per_transaction" => {
                let message = "`once_per_transaction` is an option of the receiver: write `durable(…), once_per_transaction`";
                return Err(Error::new(name.span(), message));
            }
            "at_least_once" => self.at_least_once.set(name, (), mistakes),
            _ => return Err(unknown(name, KNOWN)),
        }
        Ok(())
    }

    fn checked(self, mistakes: &mut Mistakes) -> Result<Durable> {
        let mut durable = Durable::default();
        if let Some(queue) = self.queue.get() {
            durable.queue = queue.value();
        }
        if let Some(text) = self.backoff.get()
            && let Some(backoff) = mistakes.take(backoff(text))
        {
            (durable.backoff, durable.backoff_text) = (backoff, text.value());
        }
        durable.max_attempts = self.max_attempts.get().copied().unwrap_or(durable.max_attempts);
        durable.timeout = self.timeout.get().copied().unwrap_or(durable.timeout);
        durable.concurrency = self.concurrency.get().copied().unwrap_or_default();
        durable.delay = self.delay.get().copied().unwrap_or_default();
        (durable.keep, durable.keep_text) = self.keep.get().cloned().unwrap_or_default();
        if let (Some(span), false) = (self.on_dead.span(), self.ordering_key.is_set()) {
            mistakes.at(
                span,
                "`on_dead` says what follows in the order of a key, and so needs `ordering_key`",
            );
        }
        each_once(&self.was, mistakes);
        durable.stores_key = self.payload.span();
        durable.was = self.was.iter().map(LitStr::value).collect();
        durable.skips_dead = self.on_dead.is_set();
        durable.ordering_key = self.ordering_key.get().cloned();
        durable.coalesce = self.coalesce.get().cloned();
        durable.at_least_once = self.at_least_once.is_set();
        Ok(durable)
    }
}

/// A number that is not 0.
fn count(name: &Ident, example: &str, input: ParseStream<'_>) -> Result<u32> {
    let number: LitInt = value(name, example, input)?;
    match number.base10_parse() {
        Ok(0) => Err(Error::new(number.span(), format_args!("`{name}` is at least 1"))),
        Ok(count) => Ok(count),
        Err(_) => Err(Error::new(number.span(), "expected a number that fits a `u32`")),
    }
}

/// The delays in `"1s..1h"` or `"30s"`.
fn backoff(text: &LitStr) -> Result<(u64, u64)> {
    let value = text.value();
    let (first, longest) = value.split_once("..").unwrap_or((&value, &value));
    let delays = (duration(first, text.span())?, duration(longest, text.span())?);
    if delays.0 == 0 || delays.0 > delays.1 {
        let message =
            "the first delay is at least 1ms and at most the longest one, as `\"1s..1h\"`";
        return Err(Error::new(text.span(), message));
    }
    Ok(delays)
}

/// A duration that is not 0.
fn time(text: &LitStr) -> Result<u64> {
    match duration(&text.value(), text.span())? {
        0 => Err(Error::new(text.span(), "the duration is at least 1ms")),
        time => Ok(time),
    }
}

/// A duration in milliseconds.
#[cfg(feature = "durable")]
fn duration(text: &str, span: Span) -> Result<u64> {
    let message = || {
        format!(
            "`{text}` is not a duration: expected one as `\"500ms\"`, `\"10s\"` or `\"1h 30m\"`"
        )
    };
    let duration =
        humantime::parse_duration(text.trim()).map_err(|_| Error::new(span, message()))?;
    u64::try_from(duration.as_millis()).map_err(|_| Error::new(span, message()))
}

#[cfg(not(feature = "durable"))]
fn duration(_: &str, _: Span) -> Result<u64> {
    Ok(1)
}
