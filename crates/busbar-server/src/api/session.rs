//! Logging in and out of the console.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use busbar_access::{Principal, Right};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, JsonBody, blocking};
use crate::answer::Answer;
use crate::app::App;
use crate::guard::{SESSION_COOKIE, authenticate, login, session_cookie};
use crate::peer::Link;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(who, log_in, log_out))
}

/// Who is logged in, and what they may do.
#[derive(Serialize, utoipa::ToSchema)]
struct Session {
    /// The user; null when nobody is logged in.
    user: Option<String>,
    /// The role in effect: `device`, `viewer`, `operator` or `admin`; null when nobody is logged in.
    #[schema(value_type = Option<super::users::RoleName>)]
    role: Option<&'static str>,
    /// What the role allows: `publish`, `receive`, `read`, `operate`, `administer`.
    rights: Vec<&'static str>,
    /// Whether rules restrict this login to some topics, streams or tables.
    restricted: bool,
    /// Whether the node has users, so that a login is needed.
    users: bool,
}

/// A login.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The user's name.
    user: String,
    /// The password.
    password: String,
}

/// Tell who is logged in.
#[utoipa::path(get, path = "/api/v1/session", tag = "access",
    responses((status = 200, description = "The caller, if it is known.", body = Session)))]
async fn who(State(app): State<Arc<App>>, link: Link, headers: HeaderMap) -> Json<Session> {
    let users = app.access.has_users();
    let session = match authenticate(&app.access, &headers, &link).await {
        Ok(caller) => session_of(&caller, users),
        Err(_) => Session {
            user: None,
            role: None,
            rights: Vec::new(),
            restricted: false,
            users,
        },
    };
    Json(session)
}

/// Log in.
///
/// Sets a cookie that scripts cannot read and that no other site's page can use.
#[utoipa::path(post, path = "/api/v1/session", tag = "access", request_body = Login,
    responses(
        (status = 200, description = "Logged in; the cookie is set.", body = Session),
        (status = 401, description = "Name or password is wrong.", body = super::Refused),
        (status = 429, description = "Too many failures; see Retry-After.", body = super::Refused),
    ))]
async fn log_in(
    State(app): State<Arc<App>>,
    link: Link,
    JsonBody(body): JsonBody<Login>,
) -> Answer<Response> {
    let caller = login(&app.access, &body.user, &body.password, &link).await?;
    let (access, principal) = (app.access.clone(), caller.clone());
    let session = blocking(move || access.open_session(&principal)).await?;
    let mut response = Json(session_of(&caller, true)).into_response();
    set_cookie(&mut response, &session.secret, session.idle_seconds, &link);
    Ok(response)
}

/// Log out.
#[utoipa::path(delete, path = "/api/v1/session", tag = "access",
    responses((status = 204, description = "The session is over, if there was one.")))]
async fn log_out(State(app): State<Arc<App>>, link: Link, headers: HeaderMap) -> Answer<Response> {
    if let Some(secret) = session_cookie(&headers) {
        let (access, secret) = (app.access.clone(), secret.to_owned());
        blocking(move || access.close_session(&secret)).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, "", 0, &link);
    Ok(response)
}

fn session_of(caller: &Principal, users: bool) -> Session {
    Session {
        user: Some(caller.name().to_owned()),
        role: Some(caller.role().as_str()),
        rights: Right::ALL
            .into_iter()
            .filter(|right| caller.has(*right))
            .map(name_of)
            .collect(),
        restricted: caller.is_restricted(),
        users,
    }
}

fn name_of(right: Right) -> &'static str {
    match right {
        Right::Publish => "publish",
        Right::Receive => "receive",
        Right::Read => "read",
        Right::Operate => "operate",
        Right::Administer => "administer",
    }
}

fn set_cookie(response: &mut Response, secret: &str, seconds: i64, link: &Link) {
    let secure = if link.is_tls() { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
    );
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
}
