//! Compares expansions with snapshots: `snapshots/NAME.in.rs` is the input, `snapshots/NAME.out.rs` the output. `UPDATE=1` rewrites the
//! outputs.

use std::path::Path;

use proc_macro2::TokenStream;
use syn::{Attribute, Item};

#[test]
fn model() {
    let lines = snapshot("model", |item| crate::model::derive(quote::quote!(#item)));
    assert!(lines <= 125, "a model of three fields fits on two screens, not {lines} lines");
}

/// A model with a column of each role.
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

#[test]
fn a_receiver_is_in_an_impl_only_if_that_is_the_innermost_block() {
    use crate::receiver::enclosing;
    for source in [
        "impl User {",
        "use x; unsafe impl<const N: usize, T: Fn() -> [u8; 4]> A<T> for B where T: C { const D: E = F; fn g() {} ",
        "mod a { /* } { */ impl /* nested /* */ */ X { // }\n",
        "impl X { fn a() { let b = \"}\\\"}\"; let c = '{'; let d = b'\\''; let e: &'a str = r#\"}\"}\"#; }",
        "impl X { #[cfg_attr(a, ",
        "m! { (impl X {",
    ] {
        assert_eq!(enclosing(source), Some("impl"), "{source}");
    }
    assert_eq!(enclosing("pub(crate) trait A: B { fn c(); "), Some("trait"));
    for source in [
        "",
        "mod a {",
        "impl User {}",
        "impl User {} mod b { ",
        "impl User { fn a(&self) {",
        "fn a() -> impl B { ",
        "impl A { const B: () = { ",
        "// impl A {\n",
        "const A: &str = \"impl B {\"; const _: () = { ",
    ] {
        assert_eq!(enclosing(source), None, "{source}");
    }
}

/// `.ci/run` runs this test, because the workspace enables the feature.
#[cfg(not(feature = "durable"))]
#[test]
fn a_durable_receiver_without_the_feature_names_the_feature() {
    for option in [quote::quote!(durable), quote::quote!(durable(queue = "mail", max_attempts = 3))]
    {
        let args = quote::quote!(post_save, sender = User, #option);
        let function = quote::quote!(
            async fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>) {}
        );
        let expanded = crate::receiver::attribute(args, function).to_string();
        let message = "`durable` needs the feature `durable` of sqlx-signals: add it in Cargo.toml";
        assert!(expanded.contains(message), "{expanded}");
        assert_eq!(expanded.matches("compile_error").count(), 1, "{expanded}");
    }
}

/// Compares an expansion with its snapshot, and returns the number of its lines.
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
    assert!(
        output == expected,
        "the expansion has changed; UPDATE=1 rewrites the snapshot:\n{output}"
    );
    output.lines().count()
}
