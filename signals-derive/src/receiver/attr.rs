//! The options of `#[receiver(…)]`.

use heck::ToSnakeCase;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Token, Type, token};

use super::durable::Durable;
use crate::options::{Mistakes, Once, path, read_option, string, unknown, value};

/// The arguments of the attribute: `SIGNAL, sender = User, …`.
pub(crate) struct Args {
    pub(crate) signal: Path,
    pub(crate) options: Options,
    pub(crate) mistakes: Mistakes,
}

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) sender: Once<Vec<Type>>,
    /// Whether it is `on_commit(detached)`.
    pub(crate) on_commit: Once<bool>,
    pub(crate) on_rollback: Once<()>,
    pub(crate) durable: Once<Durable>,
    pub(crate) once_per_transaction: Once<()>,
    pub(crate) created: Once<()>,
    pub(crate) updated: Once<()>,
    pub(crate) changed: Once<Vec<Ident>>,
    pub(crate) order: Once<i32>,
    pub(crate) after: Once<Vec<Path>>,
    pub(crate) robust: Once<()>,
    pub(crate) uid: Once<LitStr>,
    pub(crate) krate: Once<Path>,
}

const KNOWN: &[&str] = &[
    "sender", "on_commit", "on_rollback", "durable", "once_per_transaction", "created", "updated",
    "changed", "order", "after", "robust", "uid", "crate",
];
/// The signals of a model.
pub(crate) const SIGNALS: [&str; 7] = [
    "pre_save", "post_save", "pre_delete", "post_delete", "post_save_batch", "post_delete_batch",
    "post_load",
];
const ONE_SIGNAL: &str =
    "a receiver has one signal: declare a receiver for each, and call one function from both";
const FORM: &str = "expected a signal, as `#[receiver(post_save, sender = User)]`";

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Err(input.error(FORM));
        }
        if input.peek(token::Bracket) {
            return Err(Error::new(input.span(), ONE_SIGNAL));
        }
        let signal: Path =
            input.call(Path::parse_mod_style).map_err(|e| Error::new(e.span(), FORM))?;
        if !input.is_empty() && !input.peek(Token![,]) {
            return Err(Error::new_spanned(&signal, FORM));
        }
        let (mut options, mut mistakes) = (Options::default(), Mistakes::default());
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            read_option(input, &mut mistakes, |name, input, mistakes| {
                options.read(name, input, mistakes)
            })?;
        }
        Ok(Self { signal, options, mistakes })
    }
}

impl Options {
    fn read(
        &mut self,
        name: &Ident,
        input: ParseStream<'_>,
        mistakes: &mut Mistakes,
    ) -> Result<()> {
        match name.to_string().as_str() {
            "sender" => {
                let List(senders) = value(name, "User", input)?;
                self.sender.set(name, senders, mistakes);
            }
            "on_commit" => {
                let is_detached = detached(input)?;
                self.on_commit.set(name, is_detached, mistakes);
            }
            "on_rollback" if input.peek(token::Paren) => {
                let message =
                    "`on_rollback` takes no option in parentheses: only `on_commit(detached)` does";
                return Err(Error::new(name.span(), message));
            }
            "on_rollback" => self.on_rollback.set(name, (), mistakes),
            "detached" => {
                let message = "`detached` is an option of `on_commit`: write `on_commit(detached)`";
                return Err(Error::new(name.span(), message));
            }
            "durable" => {
                let durable = Durable::read(name, input, mistakes)?;
                self.durable.set(name, durable, mistakes);
            }
            "once_per_transaction" => self.once_per_transaction.set(name, (), mistakes),
            "created" => self.created.set(name, (), mistakes),
            "updated" => self.updated.set(name, (), mistakes),
            "changed" => {
                let columns = fields(name, input)?;
                self.changed.set(name, columns, mistakes);
            }
            "order" => {
                let order: Signed = value(name, "-10", input)?;
                self.order.set(name, order.number()?, mistakes);
            }
            "after" => {
                let List(after) = value(name, "other::receiver", input)?;
                self.after.set(name, after, mistakes);
            }
            "robust" => self.robust.set(name, (), mistakes),
            "uid" => self.uid.set(name, string(name, input)?, mistakes),
            "crate" => self.krate.set(name, path(name, input)?, mistakes),
            signal if SIGNALS.contains(&signal) => {
                return Err(Error::new(name.span(), ONE_SIGNAL));
            }
            option if KNOWN.contains(&&*option.to_snake_case()) && !input.peek(Token![::]) => {
                if input.peek(Token![=]) || input.peek(token::Paren) || self.sender.is_set() {
                    return Err(unknown(name, KNOWN));
                }
                let option = option.to_snake_case();
                let message = format!(
                    "`{name}` is not an option: write `{option}`, or if it is a model, `sender = {name}`"
                );
                return Err(Error::new(name.span(), message));
            }
            model if model.starts_with(char::is_uppercase) || input.peek(Token![::]) => {
                let rest = rest_of_path(input)?;
                let message =
                    format!("`{name}{rest}` is not an option: write `sender = {name}{rest}`");
                return Err(Error::new(name.span(), message));
            }
            _ => return Err(unknown(name, KNOWN)),
        }
        Ok(())
    }
}

/// The rest of a path after its first name.
fn rest_of_path(input: ParseStream<'_>) -> Result<String> {
    let mut rest = String::new();
    while input.parse::<Option<Token![::]>>()?.is_some() {
        rest += &format!("::{}", input.call(Ident::parse_any)?);
    }
    Ok(rest)
}

/// Whether `(detached)` follows `on_commit`.
fn detached(input: ParseStream<'_>) -> Result<bool> {
    const FORM: &str = "expected `on_commit` or `on_commit(detached)`";
    if !input.peek(token::Paren) {
        return Ok(false);
    }
    let content;
    let parentheses = syn::parenthesized!(content in input);
    match content.parse::<Ident>() {
        Ok(option) if option == "detached" && content.is_empty() => Ok(true),
        Ok(option) => Err(Error::new(option.span(), FORM)),
        Err(_) => Err(Error::new(parentheses.span.join(), FORM)),
    }
}

/// The fields in `changed(email, name)`.
fn fields(name: &Ident, input: ParseStream<'_>) -> Result<Vec<Ident>> {
    const FORM: &str = "expected fields, as `changed(email, name)`";
    if !input.peek(token::Paren) {
        return Err(Error::new(name.span(), FORM));
    }
    let content;
    syn::parenthesized!(content in input);
    let fields = content
        .parse_terminated(Ident::parse_any, Token![,])
        .map_err(|error| Error::new(error.span(), FORM))?;
    if fields.is_empty() {
        return Err(Error::new(name.span(), FORM));
    }
    Ok(fields.into_iter().collect())
}

/// One value, or several in brackets.
struct List<T>(Vec<T>);

impl<T: Parse> Parse for List<T> {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if !input.peek(token::Bracket) {
            return Ok(Self(vec![input.parse()?]));
        }
        let content;
        syn::bracketed!(content in input);
        let list = content.parse_terminated(T::parse, Token![,])?;
        if list.is_empty() {
            return Err(content.error("expected at least one"));
        }
        Ok(Self(list.into_iter().collect()))
    }
}

struct Signed {
    minus: Option<Token![-]>,
    digits: LitInt,
}

impl Parse for Signed {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Ok(Self { minus: input.parse()?, digits: input.parse()? })
    }
}

impl Signed {
    fn number(&self) -> Result<i32> {
        let sign = if self.minus.is_some() { "-" } else { "" };
        let number = format!("{sign}{}", self.digits.base10_digits());
        let message = "expected a number that fits an `i32`";
        number.parse().map_err(|_| Error::new(self.digits.span(), message))
    }
}
