//! The first program of the README is `examples/quickstart.rs`, and prints on both databases what the README shows.
#![allow(missing_docs)]

mod common;

use common::TestDb;

/// The example, with the arguments and the output of a test in place of those of the process.
mod program {
    use ::std::cell::RefCell;

    thread_local! {
        static URL: RefCell<String> = const { RefCell::new(String::new()) };
        static PRINTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    mod std {
        pub(super) mod env {
            pub(in super::super) fn args() -> impl Iterator<Item = String> {
                ["quickstart".to_owned(), super::super::URL.with_borrow(Clone::clone)].into_iter()
            }
        }
    }

    macro_rules! println {
        ($($words:tt)*) => { PRINTED.with_borrow_mut(|printed| printed.push(format!($($words)*))) };
    }

    include!("../examples/quickstart.rs");

    /// Runs `main` and returns the lines that it prints.
    pub(super) fn run(url: String) -> Vec<String> {
        URL.set(url);
        main().unwrap();
        PRINTED.take()
    }
}

/// The first code block of the README in this language.
fn readme_block(language: &str) -> &'static str {
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once(&format!("```{language}\n")).expect("a code block");
    block.split_once("```").expect("the end of the code block").0
}

async fn prints_what_the_readme_says(test: TestDb) {
    let url = test.url.clone();
    // On a thread that is in no runtime, because `main` starts its own.
    let printed = std::thread::spawn(|| program::run(url)).join().unwrap();
    assert_eq!(printed, readme_block("text").lines().collect::<Vec<_>>());
    test.passed().await;
}

#[test]
fn the_first_code_block_of_the_readme_is_the_example() {
    assert_eq!(readme_block("rust"), include_str!("../examples/quickstart.rs"));
}

mod the_program_prints_what_the_readme_says {
    use super::*;

    #[cfg(feature = "sqlite")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        prints_what_the_readme_says(TestDb::sqlite("quickstart").await).await;
    }

    #[cfg(feature = "postgres")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        prints_what_the_readme_says(TestDb::postgres("quickstart").await).await;
    }
}
