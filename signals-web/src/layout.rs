//! The layout of all pages.

use axum::response::Html;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::guard::Secrets;
use crate::link::Base;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The entries of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Deliveries,
}

/// A page with the menu, which updates itself.
pub(crate) fn page(
    title: &str,
    section: impl Into<Option<Section>>,
    base: &Base,
    secrets: &Secrets,
    content: Markup,
) -> Html<String> {
    let nonce = &secrets.nonce;
    let section = section.into();
    let current = |of: Section| (Some(of) == section).then_some("page");
    let body = html! {
        a.skip href="#content" { "Skip to the content" }
        header {
            span.brand { (PreEscaped(MARK)) "Signals" }
            nav aria-label="Pages" {
                a href=(base.overview()) aria-current=[current(Section::Overview)] { "Overview" }
                a href=(base.path("/deliveries")) aria-current=[current(Section::Deliveries)] { "Deliveries" }
            }
            div.live hidden {
                span #live {}
                button #updates type="button" aria-pressed="false" { "Pause updates" }
            }
        }
        main #content tabindex="-1" { (content) }
        script nonce=(nonce) { (PreEscaped(SCRIPT)) }
    };
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Signals" }
                link rel="icon" href="data:,";
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    Html(document.into_string())
}

/// The logo: a signal with two receivers.
const MARK: &str = r#"<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><path d="M6 12C12 12 11 6 17 6M6 12C12 12 11 18 17 18"/><circle cx="5" cy="12" r="3"/><circle cx="19" cy="6" r="3"/><circle cx="19" cy="18" r="3"/></svg>"#;

/// A form with one button and the token.
pub(crate) fn button(
    secrets: &Secrets,
    action: &str,
    values: &[(&str, &str)],
    button: Markup,
) -> Markup {
    html! {
        form.action method="post" action=(action) {
            input type="hidden" name="token" value=(secrets.token);
            @for (name, value) in values.iter().filter(|(_, value)| !value.is_empty()) {
                input type="hidden" name=(name) value=(value);
            }
            (button)
        }
    }
}

/// The result of the last button, which is part of the URL of the page.
pub(crate) fn message(done: &str, count: u64) -> Markup {
    let deliveries =
        if count == 1 { "1 delivery is".to_owned() } else { format!("{count} deliveries are") };
    let text = match done {
        "retried" => "The delivery is due now, with all its attempts left.".to_owned(),
        "retried_all" => format!("{deliveries} due now, with all attempts left."),
        "discarded" => "The delivery was discarded.".to_owned(),
        "unchanged" => "Nothing was changed: the delivery is running, or is gone.".to_owned(),
        "paused" => {
            "The receiver is paused in this process: it neither stores nor runs deliveries."
                .to_owned()
        }
        "resumed" => "The receiver runs again in this process.".to_owned(),
        _ => return html! {},
    };
    html! { p.message role="status" { (text) } }
}
