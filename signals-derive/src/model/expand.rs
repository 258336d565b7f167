use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::ast::{BelongsTo, Column, Model, OnDelete, Role};
use super::sql::{self, Sql};
use crate::options::private;

pub(super) fn expand(model: &Model<'_>) -> TokenStream {
    let Model { ident, vis, table, columns, skipped, .. } = model;
    let p = private(model.krate.as_ref());
    let name = ident.unraw().to_string();
    let names = columns.iter().map(|c| &c.name);
    let statements = statements(model);

    let consts = columns.iter().map(|column| {
        let name = &column.name;
        let ident = format_ident!(
            "{}",
            column.ident.unraw().to_string().to_uppercase(),
            span = column.ident.span()
        );
        let doc = format!("The column `{name}`.");
        quote!(#[doc = #doc] #vis const #ident: __p::Column<Self> = __p::Column::new(#name);)
    });
    let key = Key::of(model);
    let (pk, get_pk, set_pk) = (&key.ty, &key.get, &key.set);
    let automatic = automatic(columns);

    let give = columns.iter().enumerate().map(|(i, column)| {
        let ident = column.ident;
        match column.role {
            Role::GeneratedKey(_) => quote!(#i => __p::give_key(&self.#ident, take),),
            Role::Json => quote!(#i => take(&__p::Json(&self.#ident)),),
            _ => quote!(#i => take(&self.#ident),),
        }
    });
    let set = columns.iter().enumerate().filter(|(_, c)| c.role.is_automatic()).map(|(i, c)| {
        let (ident, value) = (c.ident, read(c, &quote!(__p::Ok(at))));
        quote!(#i => self.#ident = #value,)
    });
    let bind_key = key.parts.iter().map(|part| quote!(__p::add::<__DB, _>(args, #part)?;));
    let load = columns.iter().enumerate().map(|(i, c)| {
        let (ident, value) = (c.ident, read(c, &quote!(at(#i))));
        quote!(#ident: #value,)
    });
    let fits = columns.iter().map(|c| {
        let ty = match c.role {
            Role::Json => {
                let ty = c.ty;
                quote!(__p::Json<#ty>)
            }
            _ => decoded(c),
        };
        quote!(__p::fits::<__DB, #ty>)
    });
    let rest: TokenStream =
        skipped.iter().map(|f| quote!(#f: ::core::default::Default::default(),)).collect();
    let bounds = bounds(columns);
    let linked = linked(model);

    quote! {
        const _: () = {
            use #p as __p;
            #[allow(unused_imports)]
            use __p::{NotCloned as _, NotStored as _, Serialized as _, Unserialized as _};

            #[automatically_derived]
            #[allow(dead_code)]
            impl #ident { #(#consts)* }

            #[automatically_derived]
            impl __p::Model for #ident {
                type Pk = #pk;
                const NAME: &'static str = #name;
                const TABLE: &'static str = #table;
                const COLUMNS: &'static [&'static str] = &[#(#names),*];
                // A static, of which there is one: a constant is in each object file that uses it.
                const STATEMENTS: &'static __p::Statements = {
                    static STATEMENTS: __p::Statements = #statements;
                    &STATEMENTS
                };
                const COPY: __p::Copier<Self> = __p::CopyOf::<#ident>::COPY;
                fn pk(&self) -> __p::Option<Self::Pk> { #get_pk }
                fn __set_pk(&mut self, key: __p::Option<Self::Pk>) { #set_pk }
                #automatic
                fn __json(&self) -> __p::Option<__p::Value> {
                    (&__p::Probe(self)).json()
                }
                fn __table() -> &'static __p::Table {
                    static TABLE: __p::Table = __p::Table::new::<#ident>();
                    &TABLE
                }
            }

            #[automatically_derived]
            impl<__DB: __p::Backend> __p::Store<__DB> for #ident where #bounds {
                fn give(&self, column: usize, take: __p::Take<'_, __DB>) -> __p::Given {
                    match column {
                        #(#give)*
                        _ => __p::no_column(column),
                    }
                }
                #[allow(clippy::single_match)]
                fn set(&mut self, column: usize, row: &__DB::Row, at: usize) -> __p::Loaded<()> {
                    match column {
                        #(#set)*
                        _ => {}
                    }
                    __p::Ok(())
                }
                fn bind_key(key: &Self::Pk, args: &mut __DB::Arguments) -> __p::Given {
                    #(#bind_key)*
                    __p::Ok(())
                }
                fn fits(column: usize, ty: &__DB::TypeInfo) -> bool {
                    [#(#fits),*][column](ty)
                }
                fn load(row: &__DB::Row, at: impl __p::Places) -> __p::Loaded<Self> {
                    __p::Ok(Self { #(#load)* #rest })
                }
            }

            #[automatically_derived]
            impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for #ident
            where
                __R::Database: __p::Backend + __p::Database<Row = __R>,
                &'static str: __p::ColumnIndex<__R>,
                Self: __p::Store<__R::Database>,
            {
                fn from_row(row: &'r __R) -> __p::Loaded<Self> {
                    __p::by_name::<__R::Database, Self>(row)
                }
            }

            #linked
        };
    }
}

/// What the library knows of the table.
fn statements(model: &Model<'_>) -> TokenStream {
    let Sql {
        table,
        insert,
        insert_with_key,
        insert_or_nothing,
        update,
        save,
        delete,
        select,
        find,
        count,
    } = sql::statements(model);
    let columns = model.columns.iter().map(|column| {
        let name = sql::name(column);
        let role = match column.role {
            Role::Plain | Role::Json => quote!(Plain),
            Role::Key => quote!(Key),
            Role::GeneratedKey(_) => quote!(GeneratedKey),
            Role::Generated => quote!(Generated),
            Role::AutoNowAdd => quote!(AutoNowAdd),
            Role::AutoNow => quote!(AutoNow),
            Role::Version => quote!(Version),
        };
        let unique = column.unique.then(|| quote!(.unique()));
        let optional = column.is_optional().then(|| quote!(.optional()));
        quote!(__p::ColumnSpec::new(#name, __p::Role::#role)#unique #optional)
    });
    quote! {
        __p::Statements {
            table: #table,
            columns: &[#(#columns),*],
            insert: #insert,
            insert_with_key: #insert_with_key,
            insert_or_nothing: #insert_or_nothing,
            update: #update,
            save: #save,
            delete: #delete,
            select: #select,
            find: #find,
            count: #count,
        }
    }
}

/// What a write changes in the instance, and what a failed one must put back.
fn automatic(columns: &[Column<'_>]) -> TokenStream {
    let fields: Vec<_> = columns.iter().filter(|c| c.role.is_automatic()).collect();
    let (types, idents): (Vec<_>, Vec<_>) = fields.iter().map(|c| (c.ty, c.ident)).unzip();
    let clones = idents.iter().map(|ident| quote!(__p::Clone::clone(&self.#ident)));
    let stamps: Vec<_> = columns
        .iter()
        .filter_map(|Column { ident, ty, role, .. }| {
            let stamp = quote_spanned!(ty.span()=> self.#ident = __p::AutoNow::at(now););
            match role {
                Role::AutoNow => Some(stamp),
                Role::AutoNowAdd => Some(quote!(if added { #stamp })),
                _ => None,
            }
        })
        .collect();
    let stamp = (!stamps.is_empty()).then(|| {
        quote!(#[allow(unused_variables)] fn __stamp(&mut self, now: __p::SystemTime, added: bool) { #(#stamps)* })
    });
    let advance = columns.iter().find(|c| matches!(c.role, Role::Version)).map(|column| {
        let (ident, ty) = (column.ident, column.ty);
        let version = quote_spanned!(ty.span()=> <#ty as __p::Version>);
        quote! {
            fn __advance(&mut self) { self.#ident = #version::next(self.#ident); }
            fn __version(&self) -> __p::Option<i64> {
                __p::Some(#version::number(self.#ident))
            }
        }
    });
    quote! {
        type Kept = (#(#types,)*);
        fn __keep(&self) -> Self::Kept { (#(#clones,)*) }
        fn __restore(&mut self, kept: Self::Kept) { (#(self.#idents,)*) = kept; }
        #stamp
        #advance
    }
}

/// What is known of the model without its type, and what its rows belong to.
fn linked(model: &Model<'_>) -> TokenStream {
    let ident = model.ident;
    let mut checks = TokenStream::new();
    let relations: Vec<_> = model
        .columns
        .iter()
        .enumerate()
        .filter_map(|(i, column)| {
            let BelongsTo { parent, on_delete } = column.belongs_to.as_ref()?;
            let on_delete = match on_delete {
                OnDelete::Cascade => quote!(Cascade),
                OnDelete::Restrict => quote!(Restrict),
                OnDelete::SetNull => quote!(SetNull),
            };
            let ty = column.ty;
            checks.extend(
                quote_spanned!(ty.span()=> const _: () = __p::is_key_of::<#parent, #ty>();),
            );
            let new = quote_spanned!(parent.span()=> __p::Relation::new::<#parent>);
            Some(quote!(#new(#i, __p::OnDelete::#on_delete, __In::SQLITE_CHILDREN, __In::POSTGRES_CHILDREN)))
        })
        .collect();
    quote! {
        #checks
        type __In = __p::StoredIn<#ident>;
        __p::inventory::submit! {
            __p::Linked::new::<#ident>(&[#(#relations),*], __In::SQLITE, __In::POSTGRES)
        }
    }
}

/// The key as a type and as code.
struct Key {
    ty: TokenStream,
    get: TokenStream,
    set: TokenStream,
    /// References to its parts, from a `key: &Self::Pk`.
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

/// The type as which the column is read: without the `Option` of a key that the database gives.
fn decoded(column: &Column<'_>) -> TokenStream {
    match column.role {
        Role::GeneratedKey(inner) => inner.to_token_stream(),
        _ => column.ty.to_token_stream(),
    }
}

/// The value of the field, from a place in a row.
fn read(column: &Column<'_>, at: &TokenStream) -> TokenStream {
    match column.role {
        Role::GeneratedKey(_) => quote!(__p::Some(__p::get::<__DB, _>(row, #at)?)),
        Role::Json => {
            let ty = column.ty;
            quote!(__p::get::<__DB, __p::Json<#ty>>(row, #at)?.0)
        }
        _ => quote!(__p::get::<__DB, _>(row, #at)?),
    }
}

/// That the database can store each of the types, once for each.
fn bounds(columns: &[Column<'_>]) -> TokenStream {
    let mut seen = HashSet::new();
    let mut bounds = TokenStream::new();
    for column in columns {
        let (ty, span) = (decoded(column), column.ty.span());
        let json = matches!(column.role, Role::Json);
        if !seen.insert((ty.to_string(), json)) {
            continue;
        }
        bounds.extend(match json {
            true => quote_spanned! {span=>
                __p::Json<#ty>: __p::Field<__DB>,
                for<'__j> __p::Json<&'__j #ty>: __p::Bindable<__DB>,
            },
            false => quote_spanned!(span=> #ty: __p::Field<__DB>,),
        });
    }
    bounds
}
