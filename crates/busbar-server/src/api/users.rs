//! Users: who may log in.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use busbar_access::{NewUser, Role, Rules, UserChange, UserView, Via};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::guard::{Caller, login};
use crate::peer::Link;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(change, remove))
}

/// A user.
#[derive(Serialize, utoipa::ToSchema)]
struct User {
    /// The name.
    name: String,
    /// What it may do.
    #[schema(value_type = RoleName)]
    role: &'static str,
    /// What restricts the role.
    #[schema(value_type = RulesView)]
    rules: Rules,
    /// When it was added.
    created: String,
}

/// What restricts a role. `publish`: absent leaves it to the role; a list allows what it names and nothing
/// else. `subscribe` and `read` stand in for each other: with only one of them, it restricts both.
#[derive(utoipa::ToSchema)]
#[expect(
    dead_code,
    reason = "describes a type of a crate that knows nothing of HTTP"
)]
pub(super) struct RulesView {
    /// Topic filters, or `stream:NAME`.
    publish: Option<Vec<String>>,
    /// Topic filters, or `stream:NAME`.
    subscribe: Option<Vec<String>>,
    /// `stream:NAME`, `table:NAME`, or `#` for all.
    read: Option<Vec<String>>,
    /// `api:NAME`, or `#` for all APIs: these may be called whatever the role.
    call: Option<Vec<String>>,
}

/// A role.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    /// Publishes and receives live events; reads no history, sees no configuration.
    Device,
    /// Receives and reads; changes nothing.
    Viewer,
    /// Publishes, receives and reads; re-drives dead letters, pauses, resumes and replays flows.
    Operator,
    /// Everything: applies projects, manages users. Rules cannot restrict it.
    Admin,
}

/// A user to add.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUserBody {
    /// Letters, digits and `. _ - @`.
    name: String,
    /// At least 8 characters.
    password: String,
    /// What it may do; `viewer` when absent. The first user must be an admin, which it is when absent.
    #[schema(value_type = Option<RoleName>)]
    role: Option<Role>,
    /// What restricts the role.
    #[serde(default, deserialize_with = "super::object")]
    #[schema(value_type = RulesView)]
    rules: Rules,
}

/// What to change about a user.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    /// The new password; ends the user's sessions.
    password: Option<String>,
    /// The present password: needed to change one's own from a session.
    current_password: Option<String>,
    /// The new role.
    #[schema(value_type = Option<RoleName>)]
    role: Option<Role>,
    /// The new rules.
    #[serde(default, deserialize_with = "super::optional_object")]
    #[schema(value_type = Option<RulesView>)]
    rules: Option<Rules>,
}

/// The users.
#[derive(Serialize, utoipa::ToSchema)]
struct Users {
    /// By name.
    users: Vec<User>,
}

/// List the users.
#[utoipa::path(get, path = "/api/v1/users", tag = "access",
    responses((status = 200, description = "The users.", body = Users)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Json<Users>> {
    caller.require_user_management()?;
    Ok(Json(Users {
        users: app.access.users().into_iter().map(view).collect(),
    }))
}

/// Add a user.
///
/// The first one can be added without a login, from this machine.
#[utoipa::path(post, path = "/api/v1/users", tag = "access", request_body = NewUserBody,
    responses((status = 201, description = "The user was added.", body = User)))]
async fn add(
    State(app): State<Arc<App>>,
    actor: Actor,
    link: Link,
    JsonBody(body): JsonBody<NewUserBody>,
) -> Answer<Response> {
    actor.caller.require_user_management()?;
    // A caller without a login exists only while there are no users, and over loopback. That this still
    // holds is checked in one step with adding the user.
    let only_first = actor.caller.is_local();
    if only_first && !link.is_loopback() {
        return Err(Refusal::permanent(
            StatusCode::UNAUTHORIZED,
            "access.login-needed",
        ));
    }
    let access = app.access.clone();
    let new = NewUser {
        name: body.name,
        password: body.password,
        role: body.role,
        rules: body.rules,
    };
    let user = blocking(move || access.add_user(new, only_first)).await?;
    let detail = [
        ("role", user.role.to_string()),
        ("rules", rules_text(&user.rules)),
    ];
    actor
        .record(&app, Action::UserAdd, &user.name, &detail)
        .await;
    Ok((StatusCode::CREATED, Json(view(user))).into_response())
}

/// Change a user's password, role or rules. Users may change their own password, with the present one.
#[utoipa::path(post, path = "/api/v1/users/{name}", tag = "access", request_body = ChangeBody,
    params(("name" = String, Path, description = "The user's name.")),
    responses((status = 200, description = "The user as it is now.", body = User)))]
async fn change(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(name): Path,
    link: Link,
    JsonBody(body): JsonBody<ChangeBody>,
) -> Answer<Json<User>> {
    let own = name == actor.caller.name() && *actor.caller.via() == Via::Session;
    if !own || body.role.is_some() || body.rules.is_some() {
        actor.caller.require_user_management()?;
    }
    if own && body.password.is_some() {
        // Somebody who finds an open session must not be able to take over the account.
        let Some(current) = &body.current_password else {
            return Err(Refusal::permanent(
                StatusCode::FORBIDDEN,
                "access.current-password-needed",
            ));
        };
        login(&app.access, &name, current, &link).await?;
    }
    let access = app.access.clone();
    let detail = [
        (
            "role",
            body.role.map(|role| role.to_string()).unwrap_or_default(),
        ),
        (
            "rules",
            body.rules.as_ref().map(rules_text).unwrap_or_default(),
        ),
        (
            "password",
            body.password
                .as_ref()
                .map(|_| "changed".to_owned())
                .unwrap_or_default(),
        ),
    ];
    let change = UserChange {
        password: body.password,
        role: body.role,
        rules: body.rules,
    };
    let user = blocking(move || access.change_user(&name, change)).await?;
    actor
        .record(&app, Action::UserChange, &user.name, &detail)
        .await;
    Ok(Json(view(user)))
}

/// Remove a user, with all tokens and sessions. The last admin stays.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "access",
    params(("name" = String, Path, description = "The user's name.")),
    responses((status = 204, description = "The user was removed.")))]
async fn remove(State(app): State<Arc<App>>, actor: Actor, Path(name): Path) -> Answer<StatusCode> {
    actor.caller.require_user_management()?;
    let (access, removed) = (app.access.clone(), name.clone());
    blocking(move || access.remove_user(&removed)).await?;
    actor.record(&app, Action::UserRemove, name, &[]).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Rules as the audit log shows them; `{}` for none.
pub(super) fn rules_text(rules: &Rules) -> String {
    serde_json::to_string(rules).unwrap_or_default()
}

fn view(user: UserView) -> User {
    User {
        name: user.name,
        role: user.role.as_str(),
        rules: user.rules,
        created: time::text(user.created.saturating_mul(1_000_000)),
    }
}
