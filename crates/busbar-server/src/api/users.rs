//! Users: who may log in.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use busbar_access::{NewUser, Role, Rules, UserChange, UserView};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, Path, blocking};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::guard::{Caller, login};
use crate::peer::Link;
use crate::time;

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
    /// What narrows the role down.
    #[schema(value_type = RulesView)]
    rules: Rules,
    /// When it was made.
    created: String,
}

/// What a user or token may do, beside its role: a list that is given allows what it names and nothing else.
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
}

/// A role.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    /// Looks: receives and reads, changes nothing.
    Viewer,
    /// Works: publishes too, re-drives dead letters, pauses, resumes and replays flows.
    Operator,
    /// Owns the node: applies projects, keeps users.
    Admin,
}

/// A user to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUserBody {
    /// Letters, digits and `. _ - @`.
    name: String,
    /// At least 8 characters.
    password: String,
    /// What it may do. The first user is an admin.
    #[schema(value_type = RoleName)]
    role: Role,
    /// What narrows the role down.
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
    /// The password there is: needed to change one's own from a session.
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
    caller.require(Role::Admin)?;
    Ok(Json(Users {
        users: app.access.users().into_iter().map(view).collect(),
    }))
}

/// Add a user.
///
/// The first one can be made from this machine without a login; from then on everybody needs one.
#[utoipa::path(post, path = "/api/v1/users", tag = "access", request_body = NewUserBody,
    responses((status = 201, description = "The user is there.", body = User)))]
async fn add(State(app): State<Arc<App>>, link: Link, request: Request) -> Answer<Response> {
    let caller = request
        .extensions()
        .get::<busbar_access::Principal>()
        .cloned();
    match &caller {
        Some(caller) => caller.require(Role::Admin)?,
        None => {
            return Err(Refusal::permanent(
                StatusCode::UNAUTHORIZED,
                "access.login-needed",
            ));
        }
    }
    // A caller without a login is there only while there are no users, and over loopback. That it
    // is still so is decided together with adding.
    let only_first = caller.is_none_or(|caller| caller.is_local());
    if only_first && !link.is_loopback() {
        return Err(Refusal::permanent(
            StatusCode::UNAUTHORIZED,
            "access.login-needed",
        ));
    }
    let JsonBody(body) =
        <JsonBody<NewUserBody> as axum::extract::FromRequest<_>>::from_request(request, &app)
            .await?;
    let access = app.access.clone();
    let new = NewUser {
        name: body.name,
        password: body.password,
        role: body.role,
        rules: body.rules,
    };
    let user = blocking(move || access.add_user(new, only_first)).await?;
    Ok((StatusCode::CREATED, Json(view(user))).into_response())
}

/// Change a user's password, role or rules. Users may change their own password, with the one there is.
#[utoipa::path(post, path = "/api/v1/users/{name}", tag = "access", request_body = ChangeBody,
    params(("name" = String, Path, description = "The user's name.")),
    responses((status = 200, description = "The user as it is now.", body = User)))]
async fn change(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    link: Link,
    JsonBody(body): JsonBody<ChangeBody>,
) -> Answer<Json<User>> {
    let own = name == caller.name() && *caller.via() == busbar_access::Via::Session;
    if !own || body.role.is_some() || body.rules.is_some() {
        caller.require(Role::Admin)?;
    }
    if own && body.password.is_some() {
        // Whoever finds a session open must not keep its user out.
        let Some(current) = &body.current_password else {
            return Err(Refusal::permanent(
                StatusCode::FORBIDDEN,
                "access.current-password-needed",
            ));
        };
        login(&app.access, &name, current, &link).await?;
    }
    let access = app.access.clone();
    let change = UserChange {
        password: body.password,
        role: body.role,
        rules: body.rules,
    };
    let user = blocking(move || access.change_user(&name, change)).await?;
    Ok(Json(view(user)))
}

/// Remove a user, with all tokens and sessions. The last admin stays.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "access",
    params(("name" = String, Path, description = "The user's name.")),
    responses((status = 204, description = "The user is gone.")))]
async fn remove(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<StatusCode> {
    caller.require(Role::Admin)?;
    let access = app.access.clone();
    blocking(move || access.remove_user(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(user: UserView) -> User {
    User {
        name: user.name,
        role: user.role.as_str(),
        rules: user.rules,
        created: time::text(user.created.saturating_mul(1_000_000)),
    }
}
