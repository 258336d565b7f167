//! The expansion of a model without mistakes.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::ast::{Column, Model, constant, parent_constants};
use super::registration::registration;
use super::slots::{Slots, decoded};
use super::sql;
use super::trait_checks::TraitChecks;
use super::types::{Role, option_of};
use super::unstorable;
use crate::options::private;
use crate::publish;

pub(super) fn expand(model: &Model<'_>) -> TokenStream {
    let Model { ident, vis, columns, .. } = model;
    let p = private(model.krate.as_ref());
    let consts = columns.iter().map(|column| {
        let name = &column.name;
        let ident = constant(column.ident);
        let doc = format!("The column `{name}`.");
        quote!(#[doc = #doc] #vis const #ident: __p::Column<Self> = __p::Column::new(#name);)
    });
    let parents = parents(model);
    let (key, slots) = (Key::of(model), Slots::of(columns));
    let checks = TraitChecks::of(model, &slots);
    let is_conditional = !checks.bounds.is_empty();
    let lifetime = is_conditional.then(|| quote!(for<'__a>));
    let of_model = of_model(model, &key, &checks);
    let store = store(model, &key, &slots, &checks);
    let registration = registration(model, &slots, is_conditional);
    let (slots, errors, kept) = (slots.declare(columns), checks.errors, kept(columns));
    let publish = model.publish.as_ref().map(|subject| publish::model(subject, ident));
    quote! {
        #[allow(dead_code, deprecated, unused_imports)]
        const _: () = {
            use #p as __p;
            use __p::defaults::*;

            #slots
            #errors

            #[automatically_derived]
            impl #ident { #(#consts)* #(#parents)* }

            #kept

            #of_model

            #store

            #[automatically_derived]
            impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for #ident
            where
                __R::Database: __p::Backend + __p::Database<Row = __R>,
                &'static __p::str: __p::ColumnIndex<__R>,
                #lifetime Self: __p::Store<__R::Database>,
            {
                fn from_row(row: &'r __R) -> __p::Loaded<Self> {
                    __p::by_name::<__R::Database, Self>(row)
                }
            }

            #registration

            #publish
        };
    }
}

/// The implementation of `Model`.
fn of_model(model: &Model<'_>, key: &Key, checks: &TraitChecks) -> TokenStream {
    let Model { ident, table, columns, .. } = model;
    let name = ident.unraw().to_string();
    let names = columns.iter().map(|c| &c.name);
    let Key { ty, get, set, .. } = key;
    let (statements, automatic) = (statements(model), automatic(columns));
    let bounds = &checks.bounds;
    // Most models have no such fields, and need no `where` clause.
    let (clause, receivers) = match bounds.is_empty() {
        true => (None, quote!(new::<#ident>())),
        false => {
            let is_clone = quote!(__p::CopyOf::<#ident>::COPY.is_some());
            (Some(quote!(where #bounds)), quote!(of_type::<#ident>(#is_clone)))
        }
    };
    quote! {
        #[automatically_derived]
        impl __p::Model for #ident #clause {
            type Pk = #ty;
            const NAME: &'static __p::str = #name;
            const TABLE: &'static __p::str = #table;
            const COLUMNS: &'static [&'static __p::str] = &[#(#names),*];
            // A static exists once. A constant would be copied into each object file that uses it.
            const STATEMENTS: &'static __p::Statements = {
                static STATEMENTS: __p::Statements = #statements;
                &STATEMENTS
            };
            const COPY: __p::Copier<Self> = __p::CopyOf::<#ident>::COPY;
            fn pk(&self) -> __p::Option<Self::Pk> { #get }
            fn __set_pk(&mut self, key: __p::Option<Self::Pk>) { #set }
            #automatic
            fn __json(&self) -> __p::Option<__p::Value> {
                (&__p::Probe(self)).__signals_json()
            }
            fn __table() -> &'static __p::Table {
                static TABLE: __p::Table = __p::Table::#receivers;
                &TABLE
            }
        }
    }
}

/// The implementation of `Store` for every database that can store the columns.
fn store(model: &Model<'_>, key: &Key, slots: &Slots<'_>, checks: &TraitChecks) -> TokenStream {
    let Model { ident, columns, skipped, .. } = model;
    let indexed = || columns.iter().enumerate();
    let give = indexed().map(|(i, column)| {
        let (ident, slot) = (column.ident, slots.name(column));
        let give = match column.role {
            Role::GeneratedKey(_) => quote!(give_key),
            _ => quote!(give),
        };
        quote!(#i => __p::#give::<__DB, #slot, _>(&self.#ident, take),)
    });
    let read = |column: &Column<'_>, at: TokenStream| {
        let slot = slots.name(column);
        let value = quote!(__p::get::<__DB, #slot, _>(row, #at)?);
        match column.role {
            Role::GeneratedKey(_) => quote!(__p::Some(#value)),
            _ => value,
        }
    };
    let set = indexed().filter(|(_, c)| c.role.is_automatic()).map(|(i, c)| {
        let (ident, value) = (c.ident, read(c, quote!(at)));
        quote!(#i => self.#ident = #value,)
    });
    let times: Vec<_> = indexed()
        .filter(|(_, c)| matches!(c.role, Role::AutoNow))
        .map(|(i, c)| {
            let (slot, ty) = (slots.name(c), c.ty);
            quote!(#i => __p::give::<__DB, #slot, _>(&<#ty as __p::AutoNow>::at(now), take),)
        })
        .collect();
    let give_time = (!times.is_empty()).then(|| {
        quote! {
            fn give_time(column: usize, now: __p::SystemTime, take: __p::Take<'_, __DB>) -> __p::Given {
                match column {
                    #(#times)*
                    _ => __p::no_column(column),
                }
            }
        }
    });
    let parts = model.keys().zip(&key.parts).enumerate().map(|(i, (column, part))| {
        let slot = slots.name(column);
        quote!(#i => __p::give::<__DB, #slot, _>(#part, take),)
    });
    let (part, give_key) = match model.keys().count() {
        1 => {
            let slot = model.keys().map(|column| slots.name(column));
            (quote!(_), quote!(#(__p::give::<__DB, #slot, _>(key, take))*))
        }
        _ => (quote!(part), quote!(match part { #(#parts)* _ => __p::no_column(part), })),
    };
    let asked = columns.iter().map(|c| {
        let (slot, ty) = (slots.name(c), decoded(c));
        quote!(__p::asked::<__DB, #slot, #ty>)
    });
    let load = indexed().map(|(i, c)| {
        let (ident, value) = (c.ident, read(c, quote!(at(#i)?)));
        quote!(#ident: #value,)
    });
    let rest = skipped.iter().map(|(field, ty)| {
        let value = quote_spanned!(ty.span()=> <#ty as ::core::default::Default>::default());
        quote!(#field: #value,)
    });
    let (stores, bounds) = (slots.bounds(), &checks.bounds);
    quote! {
        #[automatically_derived]
        impl<__DB: __p::Backend> __p::Store<__DB> for #ident where #stores #bounds {
            fn give(&self, column: __p::usize, take: __p::Take<'_, __DB>) -> __p::Given {
                match column {
                    #(#give)*
                    _ => __p::no_column(column),
                }
            }
            #[allow(clippy::single_match)]
            fn set(&mut self, column: __p::usize, row: &__DB::Row, at: __p::usize) -> __p::Loaded<()> {
                match column {
                    #(#set)*
                    _ => {}
                }
                __p::Ok(())
            }
            #give_time
            fn key(key: &Self::Pk, #part: __p::usize, take: __p::Take<'_, __DB>) -> __p::Given {
                #give_key
            }
            fn asked(column: __p::usize, asked: __p::Asked<'_>) -> __p::bool {
                [#(#asked),*][column](asked)
            }
            fn load(row: &__DB::Row, at: impl __p::Places) -> __p::Loaded<Self> {
                __p::Ok(Self { #(#load)* #(#rest)* })
            }
        }
    }
}

/// The constants that lead from a row to its parents.
pub(super) fn parents<'m>(model: &'m Model<'_>) -> impl Iterator<Item = TokenStream> + 'm {
    let names = parent_constants(&model.columns);
    model.columns.iter().enumerate().zip(names).filter_map(move |((i, column), name)| {
        let (name, vis, ty) = (name?, model.vis, column.ty);
        let parent = &column.belongs_to.as_ref()?.parent;
        let (field, column) = (column.ident, &column.name);
        let doc = format!("From a row to its parent by the column `{column}`, and back.");
        Some(quote! {
            #[doc = #doc]
            #[allow(private_interfaces)]
            #vis const #name: __p::BelongsTo<Self, #parent, #ty> =
                __p::BelongsTo::new(#i, |row| &row.#field);
        })
    })
}

/// The `Schema` of the model: its columns and literal statements.
fn statements(model: &Model<'_>) -> TokenStream {
    let texts = sql::statements(model).map(|(field, text)| {
        let field = format_ident!("{field}");
        quote!(#field: #text)
    });
    let keys = model.keys().count();
    let role_of = |column: &Column<'_>| match column.role {
        Role::Plain | Role::Json => "Plain",
        Role::Key => "Key",
        Role::GeneratedKey(_) => "GeneratedKey",
        Role::Generated => "Generated",
        Role::AutoNowAdd => "AutoNowAdd",
        Role::AutoNow => "AutoNow",
        Role::Version => "Version",
    };
    let roles: BTreeSet<_> = model.columns.iter().map(role_of).collect();
    let roles = roles.into_iter().map(|role| format_ident!("{role}"));
    let columns = model.columns.iter().map(|column| {
        let name = sql::name(column);
        let role = format_ident!("{}", role_of(column));
        let unique = column.unique.then(|| quote!(.unique()));
        let ty = column.ty;
        let is_known = unstorable::is_known(&ty.to_token_stream().to_string(), false);
        let optional = match option_of(ty) {
            _ if column.role.is_key() => None,
            Some(_) => Some(quote!(.optional(true))),
            None => (!is_known).then(|| quote!(.optional(__p::Storable::<#ty>::OPTION))),
        };
        let json = matches!(column.role, Role::Json).then(|| quote!(.json()));
        quote!(__p::ColumnSpec::new(#name, __p::Role::#role)#unique #optional #json)
    });
    quote! {
        __p::Statements {
            #(#texts,)*
            columns: &[#(#columns),*],
            roles: __p::RoleSet::of(&[#(__p::Role::#roles),*]),
            keys: #keys,
        }
    }
}

/// The type that contains the automatic columns of an instance during a write. Its field is private, so that a public model can have private
/// types in these columns.
fn kept(columns: &[Column<'_>]) -> TokenStream {
    let types = columns.iter().filter(|c| c.role.is_automatic()).map(|c| c.ty);
    quote!(pub struct __Kept((#(#types,)*));)
}

/// Code that sets the automatic columns of an instance, and restores them after a failed write.
fn automatic(columns: &[Column<'_>]) -> TokenStream {
    let fields: Vec<_> = columns.iter().filter(|c| c.role.is_automatic()).collect();
    let idents: Vec<_> = fields.iter().map(|c| c.ident).collect();
    let clones = idents.iter().map(|ident| quote!(__p::Clone::clone(&self.#ident)));
    // These variables keep the hygiene of this macro. The span of the type may come from a `macro_rules!` of the program, where they
    // would not be visible.
    let (this, now) = (quote!(self), quote!(now));
    let stamps: Vec<_> = columns
        .iter()
        .filter_map(|Column { ident, ty, role, .. }| {
            let stamp = quote_spanned!(ty.span()=> #this.#ident = __p::AutoNow::at(#now););
            match role {
                Role::AutoNow => Some(stamp),
                Role::AutoNowAdd => Some(quote!(if added { #stamp })),
                _ => None,
            }
        })
        .collect();
    let stamp = (!stamps.is_empty()).then(|| {
        quote!(#[allow(unused_variables)] fn __stamp(&mut self, now: __p::SystemTime, added: __p::bool) { #(#stamps)* })
    });
    let advance = columns.iter().find(|c| matches!(c.role, Role::Version)).map(|column| {
        let (ident, ty) = (column.ident, column.ty);
        let version = quote_spanned!(ty.span()=> <#ty as __p::Version>);
        quote! {
            fn __advance(&mut self) { self.#ident = #version::next(self.#ident); }
            fn __version(&self) -> __p::Option<__p::i64> {
                __p::Some(#version::number(self.#ident))
            }
        }
    });
    quote! {
        type Kept = __Kept;
        fn __keep(&self) -> __Kept { __Kept((#(#clones,)*)) }
        fn __restore(&mut self, kept: __Kept) { (#(self.#idents,)*) = kept.0; }
        #stamp
        #advance
    }
}

/// The key: its type, and the code that reads and sets it.
struct Key {
    ty: TokenStream,
    get: TokenStream,
    set: TokenStream,
    /// References to its parts, in terms of `key: &Self::Pk`.
    parts: Vec<TokenStream>,
}

impl Key {
    fn of(model: &Model<'_>) -> Self {
        let keys: Vec<_> = model.keys().collect();
        let types: Vec<_> = keys.iter().map(|c| decoded(c)).collect();
        match keys[..] {
            [Column { ident, role: Role::GeneratedKey(_), .. }] => Self {
                ty: quote!(#(#types)*),
                get: quote!(__p::Clone::clone(&self.#ident)),
                set: quote!(self.#ident = key;),
                parts: vec![quote!(key)],
            },
            [Column { ident, .. }] => Self {
                ty: quote!(#(#types)*),
                get: quote!(__p::Some(__p::Clone::clone(&self.#ident))),
                set: quote!(if let __p::Some(key) = key { self.#ident = key; }),
                parts: vec![quote!(key)],
            },
            _ => {
                let idents: Vec<_> = keys.iter().map(|c| c.ident).collect();
                let n: Vec<_> = (0..keys.len()).map(syn::Index::from).collect();
                Self {
                    ty: quote!((#(#types),*)),
                    get: quote!(__p::Some((#(__p::Clone::clone(&self.#idents)),*))),
                    set: quote!(if let __p::Some(key) = key { #(self.#idents = key.#n;)* }),
                    parts: n.iter().map(|n| quote!(&key.#n)).collect(),
                }
            }
        }
    }
}
