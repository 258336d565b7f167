use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::ast::{Column, Model, Role};
use super::sql::{self, Sql};
use crate::options::private;

pub(super) fn expand(model: &Model<'_>) -> TokenStream {
    let Model { ident, vis, table, columns, skipped, .. } = model;
    let p = private(model.krate.as_ref());
    let name = ident.unraw().to_string();
    let names = columns.iter().map(|c| &c.name);
    let Sql {
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

    let consts = columns.iter().map(|column| {
        let name = &column.name;
        let ident = format_ident!("{}", column.ident.unraw().to_string().to_uppercase(), span = column.ident.span());
        let doc = format!("The column `{name}`.");
        quote!(#[doc = #doc] #[allow(dead_code)] #vis const #ident: __p::Column<Self> = __p::Column::new(#name);)
    });
    let key = Key::of(model);
    let (pk, get_pk, set_pk) = (&key.ty, &key.get, &key.set);

    let bind = model.plain().map(|column| {
        let value = bound(column);
        quote!(__p::add::<__DB, _>(args, #value)?;)
    });
    let bind_key = key.parts.iter().map(|part| quote!(__p::add::<__DB, _>(args, #part)?;));
    let load = columns.iter().enumerate().map(|(i, c)| {
        let ty = stored_as(c);
        field(c, &quote!(<__DB as __p::Backend>::get::<#ty>(row, #i)?))
    });
    let parts = key
        .types
        .iter()
        .enumerate()
        .map(|(i, ty)| quote!(<__DB as __p::Backend>::get::<#ty>(row, #i)));
    let load_key = match key.types.len() {
        1 => quote!(#(#parts)*),
        _ => quote!(::core::result::Result::Ok((#(#parts?),*))),
    };
    let from_row = columns.iter().map(|c| {
        let (ty, name) = (stored_as(c), &c.name);
        field(c, &quote!(__p::Row::try_get::<#ty, _>(row, #name)?))
    });
    let rest: TokenStream =
        skipped.iter().map(|f| quote!(#f: ::core::default::Default::default(),)).collect();
    let in_db = bounds(columns, &quote!(__DB), true);
    let in_row = bounds(columns, &quote!(__R::Database), false);

    quote! {
        const _: () = {
            use #p as __p;

            #[automatically_derived]
            impl #ident { #(#consts)* }

            #[automatically_derived]
            impl __p::Model for #ident {
                type Pk = #pk;
                const NAME: &'static str = #name;
                const TABLE: &'static str = #table;
                const COLUMNS: &'static [&'static str] = &[#(#names),*];
                const STATEMENTS: &'static __p::Statements = &__p::Statements {
                    insert: #insert,
                    insert_with_key: #insert_with_key,
                    insert_or_nothing: #insert_or_nothing,
                    update: #update,
                    save: #save,
                    delete: #delete,
                    select: #select,
                    find: #find,
                    count: #count,
                };
                fn pk(&self) -> ::core::option::Option<Self::Pk> { #get_pk }
                fn __set_pk(&mut self, key: ::core::option::Option<Self::Pk>) { #set_pk }
                fn __json(&self) -> ::core::option::Option<__p::Value> {
                    #[allow(unused_imports)]
                    use __p::{Serialized as _, Unserialized as _};
                    (&__p::Probe(self)).json()
                }
                fn __table() -> &'static __p::Table<Self> {
                    static TABLE: __p::Table<#ident> = __p::Table::new();
                    &TABLE
                }
            }

            #[automatically_derived]
            impl<__DB: __p::Backend> __p::Store<__DB> for #ident where #in_db {
                fn bind(&self, args: &mut __DB::Arguments) -> ::core::result::Result<(), __p::BoxDynError> {
                    #(#bind)*
                    ::core::result::Result::Ok(())
                }
                fn bind_key(key: &Self::Pk, args: &mut __DB::Arguments) -> ::core::result::Result<(), __p::BoxDynError> {
                    #(#bind_key)*
                    ::core::result::Result::Ok(())
                }
                fn load(row: &__DB::Row) -> ::core::result::Result<Self, __p::Error> {
                    ::core::result::Result::Ok(Self { #(#load)* #rest })
                }
                fn load_key(row: &__DB::Row) -> ::core::result::Result<Self::Pk, __p::Error> {
                    #load_key
                }
            }

            #[automatically_derived]
            impl<'r, __R: __p::Row> __p::FromRow<'r, __R> for #ident
            where
                __R::Database: __p::Backend,
                &'static str: __p::ColumnIndex<__R>,
                #in_row
            {
                fn from_row(row: &'r __R) -> ::core::result::Result<Self, __p::Error> {
                    ::core::result::Result::Ok(Self { #(#from_row)* #rest })
                }
            }
        };
    }
}

/// The key as a type and as code.
struct Key {
    ty: TokenStream,
    types: Vec<TokenStream>,
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
                types,
                get: quote!(::core::clone::Clone::clone(&self.#ident)),
                set: quote!(self.#ident = key;),
                parts: vec![quote!(key)],
            },
            [Column { ident, .. }] => Self {
                ty: quote!(#(#types)*),
                types,
                get: quote!(::core::option::Option::Some(::core::clone::Clone::clone(&self.#ident))),
                set: quote!(if let ::core::option::Option::Some(key) = key { self.#ident = key; }),
                parts: vec![quote!(key)],
            },
            _ => {
                let idents: Vec<_> = keys.iter().map(|c| c.ident).collect();
                let n: Vec<_> = (0..keys.len()).map(syn::Index::from).collect();
                Self {
                    ty: quote!((#(#types),*)),
                    types,
                    get: quote!(::core::option::Option::Some((#(::core::clone::Clone::clone(&self.#idents)),*))),
                    set: quote!(if let ::core::option::Option::Some(key) = key { #(self.#idents = key.#n;)* }),
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

fn stored_as(column: &Column<'_>) -> TokenStream {
    let ty = decoded(column);
    match column.role {
        Role::Json => quote!(__p::Json<#ty>),
        _ => ty,
    }
}

fn field(column: &Column<'_>, value: &TokenStream) -> TokenStream {
    let ident = column.ident;
    match column.role {
        Role::GeneratedKey(_) => quote!(#ident: ::core::option::Option::Some(#value),),
        Role::Json => quote!(#ident: #value.0,),
        _ => quote!(#ident: #value,),
    }
}

fn bound(column: &Column<'_>) -> TokenStream {
    let ident = column.ident;
    match column.role {
        Role::Json => quote!(__p::Json(&self.#ident)),
        _ => quote!(&self.#ident),
    }
}

/// That the database can store each of the types, once for each.
fn bounds(columns: &[Column<'_>], db: &TokenStream, writes: bool) -> TokenStream {
    let mut seen = std::collections::HashSet::new();
    let mut bounds = TokenStream::new();
    for column in columns {
        let ty = stored_as(column);
        if !seen.insert(ty.to_string()) {
            continue;
        }
        let span = column.ty.span();
        bounds.extend(quote_spanned!(span=> #ty: __p::Field<#db>,));
        if let (Role::Json, true) = (column.role, writes) {
            let inner = column.ty;
            bounds.extend(
                quote_spanned!(span=> for<'__j> __p::Json<&'__j #inner>: __p::Encodes<'__j, #db>,),
            );
        }
    }
    bounds
}
