//! The layers of `signals-core` import only what is below them, the files of `signals-derive` have no import cycle, and
//! ARCHITECTURE.md names every file of both.
//!
//! Each folder of `signals-core/src` is a layer. The first lines of its `mod.rs` state what it may import (`May import: …`).
//! The test reads every `crate::…` path of every file as tokens, so that comments and documentation do not count, and resolves
//! the names that `lib.rs` re-exports.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

#[test]
fn no_layer_imports_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../signals-core/src");
    let layers = stated(&source);
    let order = bottom_up(&layers);
    let reexports = reexports(&source.join("lib.rs"));
    let mut upward = Vec::new();
    for file in files(&source) {
        let path = file.strip_prefix(&source).unwrap();
        let Some(layer) = path.components().next().filter(|_| path.components().count() > 1) else {
            continue;
        };
        let layer = layer.as_os_str().to_str().unwrap();
        let depth = depth(path);
        for import in imports(&file) {
            let Some(first) = import.below_root(depth) else { continue };
            let target = reexports.get(first).map_or(first, String::as_str);
            if layers.contains_key(target) && target != layer && !layers[layer].contains(target) {
                upward.push(format!(
                    "{}:{}: `{layer}` may not import `crate::{first}` (layer `{target}`)",
                    file.display(),
                    import.line
                ));
            }
        }
    }
    assert!(upward.is_empty(), "bottom up: {}\n{}", order.join(", "), upward.join("\n"));
}

#[test]
fn the_files_of_the_derive_have_no_import_cycle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../signals-derive/src");
    let modules: BTreeMap<String, PathBuf> =
        files(&source).map(|file| (module(file.strip_prefix(&source).unwrap()), file)).collect();
    let mut graph = BTreeMap::new();
    for (name, file) in &modules {
        let depth = depth(file.strip_prefix(&source).unwrap());
        let parents: Vec<_> = name.split("::").collect();
        let mut targets = BTreeSet::new();
        for import in imports(file) {
            let base = match import.supers {
                // Relative to the module that this many `super` lead to.
                0 => String::new(),
                supers if supers <= depth => parents[..depth - supers].join("::"),
                _ => continue,
            };
            let path = [base.as_str(), &import.path.join("::")].join("::");
            let path = path.trim_start_matches("::");
            // The longest part of the path that is a file. A parent declares its children, which is no import.
            let target = modules.keys().filter(|module| {
                path == module.as_str() || path.starts_with(&format!("{module}::"))
            });
            if let Some(target) = target.max_by_key(|module| module.len())
                && target != name
                && !name.starts_with(&format!("{target}::"))
            {
                targets.insert(target.clone());
            }
        }
        graph.insert(name.clone(), targets);
    }
    bottom_up(&graph);
}

#[test]
fn the_code_map_names_every_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let sources = ["signals-core/src", "signals-derive/src"];
    let relative = |file: PathBuf| file.strip_prefix(&root).unwrap().to_path_buf();
    let existing: BTreeSet<PathBuf> =
        sources.iter().flat_map(|source| files(&root.join(source))).map(relative).collect();
    let named: BTreeSet<PathBuf> = named_in_map(&text)
        .into_iter()
        .filter_map(|path| match path.extension() {
            Some(_) => Some(path),
            None => Some(path.join("mod.rs")).filter(|path| existing.contains(path)),
        })
        .collect();
    let missing: Vec<_> = existing.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&existing).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in the code map: {missing:#?}\nin the code map, but no file: {unknown:#?}"
    );
}

/// `Model` has most of its lines in the documentation of its methods, which have to be in one block.
const LONG: &[&str] = &["signals-core/src/model/mod.rs"];

#[test]
fn a_file_has_at_most_400_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in ["src", "signals-core/src", "signals-derive/src"]
        .iter()
        .flat_map(|source| files(&root.join(source)))
        .filter(|file| !LONG.iter().any(|long| file.ends_with(long)))
    {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 400, "{} has {lines} lines: split it by idea", file.display());
    }
}

/// The files and folders that the code map in ARCHITECTURE.md names.
fn named_in_map(text: &str) -> Vec<PathBuf> {
    let start = text.find("\n## Code map\n").expect("there is a code map");
    let map = text[start + 1..].split("\n## ").next().unwrap();
    let mut named = Vec::new();
    for table in map.split("\n\n").filter(|part| part.starts_with('|')) {
        let mut rows =
            table.lines().map(|row| row.trim_matches('|').split_once(" | ").unwrap_or((row, "")));
        let (title, _) = rows.next().unwrap();
        let base = match &in_code(title)[..] {
            _ if title.contains("outside") => continue,
            [folder] if folder.starts_with("signals-derive") => PathBuf::from(folder),
            [folder] => Path::new("signals-core/src").join(folder),
            folders => {
                named.extend(
                    folders.iter().map(|folder| Path::new("signals-core/src").join(folder)),
                );
                PathBuf::from("signals-core/src")
            }
        };
        named.push(base.clone());
        for (first, second) in rows {
            let first: Vec<_> = in_code(first).into_iter().map(|path| base.join(path)).collect();
            for folder in first.iter().filter(|path| path.extension().is_none()) {
                named.extend(in_code(second).into_iter().map(|path| folder.join(path)));
            }
            named.extend(first);
        }
    }
    named
}

/// The paths in backticks: names of files, and of folders with a slash at the end.
fn in_code(cell: &str) -> Vec<&str> {
    let code = cell.split('`').skip(1).step_by(2);
    code.filter(|code| code.ends_with(".rs") || code.ends_with('/')).collect()
}

#[test]
fn paths_are_found_in_code_only() {
    let code = "//! crate::comment\nuse crate::{a::b, c};\nfn f() { crate::d::e(); super::super::g(); \"crate::text\"; }\n\
                macro_rules! m { () => { $crate::h::i } }";
    let found: Vec<_> = scan(code.parse().unwrap())
        .iter()
        .map(|import| format!("{}:{}:{}", import.line, import.supers, import.path.join("::")))
        .collect();
    assert_eq!(found, ["2:0:a::b", "2:0:c", "3:0:d::e", "3:2:g", "4:0:h::i"]);
}

/// What each layer may import, as its `mod.rs` states it.
fn stated(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let folders = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
    let folders = folders.filter(|path| path.is_dir());
    let layer = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(path.join("mod.rs"))
            .unwrap_or_else(|error| panic!("the layer `{name}` has no mod.rs: {error}"));
        let stated = text
            .lines()
            .find_map(|line| line.trim_start_matches(['/', '!', ' ']).strip_prefix("May import: "));
        let stated =
            stated.unwrap_or_else(|| panic!("`{name}/mod.rs` does not state what it may import"));
        let allowed = stated.trim_end_matches('.').split(", ").filter(|name| *name != "nothing");
        (name, allowed.map(|name| name.trim_matches('`').to_owned()).collect())
    };
    let layers: BTreeMap<String, BTreeSet<String>> = folders.map(layer).collect();
    for (name, allowed) in &layers {
        for import in allowed {
            assert!(
                layers.contains_key(import),
                "`{name}` may import `{import}`, which is no layer"
            );
        }
    }
    layers
}

/// The nodes of a graph in topological order: each node after the nodes that it points to.
fn bottom_up(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    while order.len() < graph.len() {
        let next: Vec<_> = graph
            .iter()
            .filter(|(name, to)| !order.contains(name) && to.iter().all(|to| order.contains(to)))
            .map(|(name, _)| name.clone())
            .collect();
        let left = || graph.iter().filter(|(name, _)| !order.contains(name)).collect::<Vec<_>>();
        assert!(!next.is_empty(), "an import cycle: {:#?}", left());
        order.extend(next);
    }
    order
}

/// The layer of each name that `lib.rs` re-exports.
fn reexports(lib: &Path) -> BTreeMap<String, String> {
    let tokens: TokenStream = fs::read_to_string(lib).unwrap().parse().unwrap();
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut names = BTreeMap::new();
    for at in 0..tokens.len() {
        if is(&tokens[at], "use") {
            let mut end = at + 1;
            while end < tokens.len()
                && !matches!(&tokens[end], TokenTree::Punct(p) if p.as_char() == ';')
            {
                end += 1;
            }
            let mut paths = Vec::new();
            tree(&tokens[at + 1..end], &[], &mut paths);
            for path in paths.into_iter().filter(|path| path.len() > 1) {
                names.insert(path.last().unwrap().clone(), path[0].clone());
            }
        }
    }
    names
}

/// A path in the code that starts at the root of the crate or of a module above.
struct Import {
    line: usize,
    /// How many `super` it begins with.
    supers: usize,
    path: Vec<String>,
}

impl Import {
    /// The first name below the root of the crate, in a module at this depth.
    fn below_root(&self, depth: usize) -> Option<&str> {
        let leads_to_root = self.supers == 0 || self.supers >= depth;
        leads_to_root.then(|| self.path.first().map(String::as_str)).flatten()
    }
}

fn imports(file: &Path) -> Vec<Import> {
    let text = fs::read_to_string(file).unwrap();
    let tokens = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    scan(tokens)
}

fn scan(tokens: TokenStream) -> Vec<Import> {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if let TokenTree::Group(group) = &tokens[at] {
            found.extend(scan(group.stream()));
        }
        let line = tokens[at].span().start().line;
        let (mut supers, start) = (0, at);
        while at + 2 < tokens.len() && is(&tokens[at], "super") && is_separator(&tokens[at + 1..]) {
            (supers, at) = (supers + 1, at + 3);
        }
        if supers == 0 && is(&tokens[at], "crate") && is_separator(&tokens[at + 1..]) {
            at += 3;
        }
        if at == start {
            at += 1;
            continue;
        }
        let mut paths = Vec::new();
        tree(&tokens[at..], &[], &mut paths);
        found.extend(paths.into_iter().map(|path| Import { line, supers, path }));
    }
    found
}

/// The paths of a use tree, or the one path that the tokens begin with.
fn tree(tokens: &[TokenTree], before: &[String], paths: &mut Vec<Vec<String>>) {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => {
            let path = [before, &[name.to_string()]].concat();
            if is_separator(&tokens[1..]) {
                tree(&tokens[3..], &path, paths);
            } else {
                paths.push(path);
            }
        }
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            let parts =
                inner.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','));
            parts.filter(|part| !part.is_empty()).for_each(|part| tree(part, before, paths));
        }
        _ => paths.push(before.to_vec()),
    }
}

fn is(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

fn is_separator(tokens: &[TokenTree]) -> bool {
    let colon = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ':');
    tokens.len() > 2 && tokens[..2].iter().all(colon)
}

/// How many modules deep the module of a file is.
fn depth(path: &Path) -> usize {
    module(path).split("::").count()
}

/// The path of the module of a file.
fn module(path: &Path) -> String {
    let path = path.with_extension("");
    let parts = path.components().map(|part| part.as_os_str().to_str().unwrap());
    parts.filter(|part| *part != "mod" && *part != "lib").collect::<Vec<_>>().join("::")
}

fn files(folder: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| match path.is_dir() {
        true => files(&path),
        false => Box::new(std::iter::once(path)),
    }))
}
