//! The audit log: who changed what.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::Role;
use busbar_event::{Class, Error, Language, messages};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, Query, blocking};
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Entry;
use crate::guard::Caller;
use crate::limits::AUDIT_SHOWN_MAX;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Only changes by this user.
    user: Option<String>,
    /// Only this action (`user.add`), or actions that begin with this word (`user`).
    action: Option<String>,
    /// Only changes of this user, token, flow or version.
    target: Option<String>,
    /// Most entries to return; at most 1000, 100 when absent.
    limit: Option<usize>,
    /// Entries before this one: `next` of the page before.
    before: Option<String>,
}

/// Changes.
#[derive(Serialize, utoipa::ToSchema)]
struct Changes {
    /// Newest first.
    entries: Vec<AuditEntry>,
    /// Pass it as `before` for the next page; null on the last one.
    next: Option<String>,
}

/// A change and its author.
#[derive(Serialize, utoipa::ToSchema)]
struct AuditEntry {
    /// Its number.
    id: String,
    /// When it was made.
    time: String,
    /// The user; `local` on a node without users, empty for what the node did itself.
    user: String,
    /// How the user was authenticated: `password`, `session`, `token` or `local`.
    via: String,
    /// The id of the token, if it was one.
    token: Option<String>,
    /// Where the request was made: `console`, `cli`, `api`, or `node` for what the node did itself.
    origin: String,
    /// The address the request came from.
    peer: Option<String>,
    /// What was done: `user.add`, `user.change`, `user.remove`, `token.add`, `token.remove`, `project.apply`,
    /// `flow.rollback`, `flow.pause`, `flow.resume`, `flow.replay`, `plugin.rollback`, `dead-letters.redrive`,
    /// `dead-letters.discard`, `dead-letters.edit`, `table.repair`, `event.resend`,
    /// `connection.snapshot`.
    action: String,
    /// The user, token, flow, version or dead letters that were changed.
    target: String,
    /// Names and values that say more, such as `role` or `version`.
    detail: BTreeMap<String, String>,
    /// The change in English.
    message: String,
    /// The change in Chinese.
    message_zh: String,
}

const SHOWN_DEFAULT: usize = 100;

/// List changes with their authors.
///
/// Needs the role admin. The node keeps the last 10,000 changes.
#[utoipa::path(get, path = "/api/v1/audit", tag = "access", params(Which),
    responses((status = 200, description = "The changes.", body = Changes)))]
async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(which): Query<Which>,
) -> Answer<Json<Changes>> {
    caller.require(Role::Admin)?;
    let before = match which.before.as_deref().map(str::parse) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            return Err(Error::new(Class::Permanent, "server.bad-field")
                .with("field", "before")
                .into());
        }
    };
    let limit = which
        .limit
        .unwrap_or(SHOWN_DEFAULT)
        .clamp(1, AUDIT_SHOWN_MAX);
    let (entries, next) = blocking(move || {
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
        let of_kind = |action: &str| {
            which.action.as_deref().is_none_or(|wanted| {
                action
                    .strip_prefix(wanted)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        Ok(app.audit.page(before, limit, |entry| {
            is(&which.user, &entry.user)
                && is(&which.target, &entry.target)
                && of_kind(&entry.action)
        }))
    })
    .await?;
    Ok(Json(Changes {
        entries: entries
            .into_iter()
            .map(|(id, entry)| view(id, entry))
            .collect(),
        next: next.map(|number| number.to_string()),
    }))
}

fn view(id: u64, entry: Entry) -> AuditEntry {
    let code = format!("server.audit-{}", entry.action.replace('.', "-"));
    let mut args = vec![("target".to_owned(), entry.target.clone())];
    args.extend(entry.detail.iter().cloned());
    AuditEntry {
        id: id.to_string(),
        time: time::text(entry.time),
        user: entry.user,
        via: entry.via,
        token: entry.token,
        origin: entry.origin,
        peer: entry.peer.map(|peer| peer.to_string()),
        action: entry.action,
        target: entry.target,
        detail: entry.detail.into_iter().collect(),
        message: messages::text(Language::En, &code, &args),
        message_zh: messages::text(Language::Zh, &code, &args),
    }
}
