//! Every page is in the table of contents, in the README and among the doctests, and every link leads somewhere.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How the pages link to files outside of the book.
const REPOSITORY: &str = "https://github.com/sqlx-signals/sqlx-signals/blob/main/";

fn guide() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    let path = guide().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the pages in `src`, without the table of contents.
fn pages() -> BTreeSet<String> {
    let files = fs::read_dir(guide().join("src")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect()
}

/// The lines of a page that are not in a code block, and the first lines of its code blocks.
fn split(page: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut text, mut fences, mut in_code) = (Vec::new(), Vec::new(), false);
    for line in page.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            if !in_code {
                fences.push(info.trim());
            }
            in_code = !in_code;
        } else if !in_code {
            text.push(line);
        }
    }
    assert!(!in_code, "a code block has no end");
    (text, fences)
}

/// The targets of the links in a text, `[…](target)`.
fn links<'p>(text: &[&'p str]) -> Vec<&'p str> {
    let after = text.iter().flat_map(|line| line.split("](").skip(1));
    after.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// The anchors of the headings, as mdBook and GitHub make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = split(page).0.into_iter().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let kept = line.trim_start_matches('#').trim().chars();
        let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn the_table_of_contents_lists_every_page_once() {
    let summary = read("src/SUMMARY.md");
    let listed = links(&split(&summary).0);
    let unique: BTreeSet<_> = listed.iter().map(|page| (*page).to_owned()).collect();
    assert_eq!(unique.len(), listed.len(), "a page is listed twice");
    assert_eq!(unique, pages());
}

#[test]
fn every_page_is_among_the_doctests() {
    let modules = read("pages.rs");
    let included: BTreeSet<_> =
        modules.split('"').filter(|s| s.ends_with(".md")).map(str::to_owned).collect();
    assert_eq!(included, pages());
}

#[test]
fn every_link_to_a_file_or_heading_resolves() {
    let mut files = pages();
    files.insert("SUMMARY.md".to_owned());
    for name in files {
        let page = read(Path::new("src").join(&name));
        for link in links(&split(&page).0) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file.strip_prefix(REPOSITORY) {
                Some(file) => guide().join("../..").join(file),
                None if file.starts_with("https://") => continue,
                None if file.is_empty() => guide().join("src").join(&name),
                None => guide().join("src").join(file),
            };
            assert!(path.exists(), "{name}: `{link}` leads nowhere");
            let found = anchor.is_empty() || anchors(&read(&path)).contains(anchor);
            assert!(found, "{name}: there is no heading for `{link}`");
        }
    }
}

#[test]
fn every_link_of_the_readme_resolves_and_every_page_is_linked() {
    let readme = read("../../README.md");
    let mut linked = BTreeSet::new();
    for link in links(&split(&readme).0) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match file.strip_prefix(REPOSITORY) {
            Some(file) => file,
            None if file.is_empty() => "README.md",
            // A relative link leads nowhere on crates.io and docs.rs.
            None => {
                assert!(file.starts_with("https://"), "`{link}` is relative");
                continue;
            }
        };
        assert!(guide().join("../..").join(target).exists(), "`{link}` leads nowhere");
        let found =
            anchor.is_empty() || anchors(&read(Path::new("../..").join(target))).contains(anchor);
        assert!(found, "there is no heading for `{link}`");
        linked.extend(target.strip_prefix("docs/guide/src/").map(str::to_owned));
    }
    assert_eq!(linked, pages());
}

#[test]
fn the_readme_fits_on_a_few_screens() {
    assert!(read("../../README.md").lines().count() <= 200);
}

#[test]
fn every_rust_block_is_compiled() {
    for name in pages() {
        let page = read(Path::new("src").join(&name));
        for info in split(&page).1 {
            let words: Vec<_> = info.split(',').collect();
            let known = ["rust", "toml", "sh", "json", "text", "python", "mermaid"];
            assert!(known.contains(&words[0]), "{name}: a block says `{info}`");
            assert!(!words.contains(&"ignore"), "{name}: a block is not compiled");
        }
    }
}
