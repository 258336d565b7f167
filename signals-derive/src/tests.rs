//! The expansions, each beside what it is of: `snapshots/NAME.in.rs` and `NAME.out.rs`. Run with `UPDATE=1` to write
//! them anew.

use std::path::Path;

use proc_macro2::TokenStream;
use syn::{Attribute, Item};

#[test]
fn model() {
    let lines = snapshot("model", |item| crate::model::derive(quote::quote!(#item)));
    assert!(lines <= 120, "a model of three fields fits on two screens, not {lines} lines");
}

/// With a column of each role.
#[test]
fn columns() {
    snapshot("columns", |item| crate::model::derive(quote::quote!(#item)));
}

#[test]
fn receiver() {
    snapshot("receiver", |item| {
        let Item::Fn(mut function) = item else { panic!("a receiver is a function") };
        let at =
            function.attrs.iter().position(|a: &Attribute| a.path().is_ident("receiver")).unwrap();
        let args = function.attrs.remove(at).meta.require_list().unwrap().tokens.clone();
        crate::receiver::attribute(args, quote::quote!(#function))
    });
}

/// Compares the expansion with the snapshot, and returns how long it is.
fn snapshot(name: &str, expand: impl FnOnce(Item) -> TokenStream) -> usize {
    let file = |end: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("snapshots/{name}.{end}.rs"))
    };
    let input = std::fs::read_to_string(file("in")).unwrap();
    let expanded = expand(syn::parse_str(&input).unwrap()).to_string();
    let output = prettyplease::unparse(&syn2::parse_file(&expanded).unwrap());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file("out"), &output).unwrap();
    }
    let expected = std::fs::read_to_string(file("out")).unwrap_or_default();
    assert!(output == expected, "the expansion has changed; UPDATE=1 writes it anew:\n{output}");
    output.lines().count()
}
