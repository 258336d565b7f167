//! What the receivers have done: the audit log and the mails.

use std::collections::HashMap;

use axum::response::Html;
use maud::html;
use sqlx_signals::prelude::*;

use super::WebError;
use super::layout::page;
use crate::models::{AuditEntry, User};
use crate::receivers::mail::Mailer;
use crate::value;

/// The latest changes, newest first.
pub(super) async fn audit(db: Db) -> Result<Html<String>, WebError> {
    let entries = AuditEntry::query("ORDER BY id DESC LIMIT 100").fetch_all(&db).await?;
    let users: HashMap<_, _> =
        User::all(&db).await?.into_iter().map(|user| (user.id, user.name)).collect();
    let name = |user: Option<i64>| match user {
        Some(_) => users.get(&user).map_or("somebody", String::as_str),
        None => "the shop",
    };
    let content = html! {
        table {
            thead { tr { th { "Entry" } th { "Who" } th { "Change" } } }
            tbody {
                @for entry in &entries {
                    tr {
                        td data-label="Entry" { (entry.id.unwrap_or_default()) }
                        td data-label="Who" { (name(entry.user_id)) }
                        td data-label="Change" { (entry.change) }
                    }
                }
            }
        }
    };
    page(&db, "Audit log", content).await
}

/// The mails that were sent since the server has started.
pub(super) async fn mails(db: Db) -> Result<Html<String>, WebError> {
    let mails = value::<Mailer>(&db)?.sent();
    let content = html! {
        table {
            thead { tr { th { "To" } th { "Subject" } } }
            tbody {
                @for mail in mails.iter().rev() {
                    tr { td data-label="To" { (mail.to) } td data-label="Subject" { (mail.subject) } }
                }
            }
        }
        @if mails.is_empty() { p { "No mail was sent yet." } }
    };
    page(&db, "Mails", content).await
}
