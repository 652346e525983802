//! API tokens: logins for programs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use busbar_access::{NewToken, Role, Rules, TokenView};
use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::users::{RoleName, RulesView, rules_text};
use super::{Json, JsonBody, Path, blocking};
use crate::actor::Actor;
use crate::answer::Answer;
use crate::app::App;
use crate::audit::Action;
use crate::guard::Caller;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(remove))
}

/// A token, without its secret.
#[derive(Serialize, utoipa::ToSchema)]
struct Token {
    /// Its public id, part of the token.
    id: String,
    /// What it is for.
    name: String,
    /// The user it belongs to.
    user: String,
    /// Its role, at most its user's.
    #[schema(value_type = RoleName)]
    role: &'static str,
    /// What restricts the role, beside the user's own rules.
    #[schema(value_type = RulesView)]
    rules: Rules,
    /// When it was added.
    created: String,
    /// When it expires; null when it does not.
    expires: Option<String>,
}

/// A new token.
#[derive(Serialize, utoipa::ToSchema)]
struct FreshToken {
    /// The token itself, shown this once.
    token: String,
    #[serde(flatten)]
    about: Token,
}

/// A token to add.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTokenBody {
    /// What it is for.
    name: String,
    /// At most the caller's role. When absent it is the caller's, or `operator` for a token of an admin that
    /// has rules.
    #[schema(value_type = Option<RoleName>)]
    role: Option<Role>,
    /// What restricts the role.
    #[serde(default, deserialize_with = "super::object")]
    #[schema(value_type = RulesView)]
    rules: Rules,
    /// When it expires, RFC 3339.
    expires: Option<String>,
}

/// Tokens.
#[derive(Serialize, utoipa::ToSchema)]
struct Tokens {
    /// One's own; all of them for an admin; only itself for a token that has less than its user.
    tokens: Vec<Token>,
}

/// List the tokens.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "access",
    responses((status = 200, description = "One's own; an admin sees all.", body = Tokens)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<Tokens> {
    Json(Tokens {
        tokens: app.access.tokens(&caller).into_iter().map(view).collect(),
    })
}

/// Add a token.
///
/// The answer holds its text, which is not shown again. Needs a login by password or session.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "access", request_body = NewTokenBody,
    responses((status = 201, description = "The token.", body = FreshToken)))]
async fn add(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(body): JsonBody<NewTokenBody>,
) -> Answer<Response> {
    let expires = match body
        .expires
        .as_deref()
        .map(|text| time::parse(text).ok_or(text))
    {
        None => None,
        Some(Ok(micros)) => Some(micros / 1_000_000),
        Some(Err(_)) => {
            return Err(Error::new(Class::Permanent, "server.bad-field")
                .with("field", "expires")
                .into());
        }
    };
    let new = NewToken {
        name: body.name,
        role: body.role,
        rules: body.rules,
        expires,
    };
    let (access, caller) = (app.access.clone(), actor.caller.clone());
    let (token, text) = blocking(move || access.add_token(&caller, new)).await?;
    let token = view(token);
    let detail = [
        ("name", token.name.clone()),
        ("role", token.role.to_owned()),
        ("rules", rules_text(&token.rules)),
        ("expires", token.expires.clone().unwrap_or_default()),
    ];
    actor
        .record(&app, Action::TokenAdd, &token.id, &detail)
        .await;
    let fresh = FreshToken {
        token: text,
        about: token,
    };
    Ok((StatusCode::CREATED, Json(fresh)).into_response())
}

/// Revoke a token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "access",
    params(("id" = String, Path, description = "The token's id.")),
    responses((status = 204, description = "The token was revoked.")))]
async fn remove(State(app): State<Arc<App>>, actor: Actor, Path(id): Path) -> Answer<StatusCode> {
    let (access, caller) = (app.access.clone(), actor.caller.clone());
    let token = blocking(move || access.remove_token(&caller, &id)).await?;
    let detail = [("name", token.name), ("user", token.user)];
    actor
        .record(&app, Action::TokenRemove, token.id, &detail)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

fn view(token: TokenView) -> Token {
    let shown = |seconds: i64| time::text(seconds.saturating_mul(1_000_000));
    Token {
        id: token.id,
        name: token.name,
        user: token.user,
        role: token.role.as_str(),
        rules: token.rules,
        created: shown(token.created),
        expires: token.expires.map(shown),
    }
}
