//! The checks every request passes before its handler runs: the rate of its peer, its origin, its
//! authentication; and the headers every answer carries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use busbar_access::{Access, Principal, Role};
use busbar_event::{Class, Error};

use crate::answer::{Answer, Refusal};
use crate::apis;
use crate::app::App;
use crate::body::{self, Held};
use crate::limits::{OPEN_BODY_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use crate::peer::Link;

/// The cookie of a console session.
pub(crate) const SESSION_COOKIE: &str = "busbar_session";

/// The authenticated caller, as an argument of handlers.
pub(crate) struct Caller(pub(crate) Principal);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Answer<Self> {
        // Absent only on routes that are open to everybody.
        parts
            .extensions
            .get::<Principal>()
            .cloned()
            .map(Caller)
            .ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "access.login-needed"))
    }
}

/// The connection of a request.
impl FromRequestParts<Arc<App>> for Link {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Answer<Self> {
        parts
            .extensions
            .get::<Link>()
            .cloned()
            .ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, "server.no-peer"))
    }
}

/// The middleware around all routes.
pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let open = is_open(request.method(), request.uri().path());
    let mut response = match admit(&app, &mut request, open).await {
        Ok(()) => match take_body(&app, request).await {
            Ok((request, _held)) => {
                let _turn = match apis::is_call(request.uri().path()) {
                    // Calls wait for replies, and each API has a bound of its own.
                    true => None,
                    // Closed only when the node has stopped.
                    false => app.http.turns.acquire().await.ok(),
                };
                next.run(request).await
            }
            Err(refusal) => refusal.into_response(),
        },
        Err(refusal) => {
            let (parts, body) = request.into_parts();
            body::forget(&parts.headers, body.into_data_stream()).await;
            refusal.into_response()
        }
    };
    app.http.answers.count(response.status());
    secure(response.headers_mut());
    response
}

/// Reads the body, so that handlers find it in memory.
async fn take_body(app: &App, request: Request) -> Answer<(Request, Option<Held>)> {
    if request.body().is_end_stream() {
        return Ok((request, None));
    }
    let bytes_max = match request.extensions().get::<Principal>() {
        Some(caller) => app
            .body_bytes_max()
            .min(body_bytes_max(caller, request.uri().path())),
        None => app.body_bytes_max().min(OPEN_BODY_BYTES_MAX),
    };
    let (parts, body) = request.into_parts();
    let (bytes, held) = app
        .http
        .bodies
        .read(&parts.headers, body, bytes_max)
        .await?;
    Ok((Request::from_parts(parts, Body::from(bytes)), Some(held)))
}

/// The largest body that a caller may send to a path: only those who may publish or deploy send large ones.
fn body_bytes_max(caller: &Principal, path: &str) -> usize {
    match path {
        "/api/v1/events" if caller.require_publish().is_ok() => usize::MAX,
        "/api/v1/apply" if caller.require(Role::Operator).is_ok() => usize::MAX,
        _ => SMALL_BODY_BYTES_MAX,
    }
}

async fn admit(app: &App, request: &mut Request, open: bool) -> Answer<()> {
    let link = request
        .extensions()
        .get::<Link>()
        .cloned()
        .ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, "server.no-peer"))?;
    if !link.admit() {
        app.http.answers.limited.fetch_add(1, Ordering::Relaxed);
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            Error::new(Class::Transient, "server.too-many-requests").with("seconds", 1),
        ));
    }
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        return Err(refuse(StatusCode::BAD_REQUEST, "server.no-host"));
    }
    if !app.access.has_users() {
        // Without users the loopback address is the only protection, so a page of another site must not
        // reach it under a name that its owner made point here (DNS rebinding).
        check_host(headers)?;
    }
    let upgrade = headers.contains_key(header::UPGRADE);
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes || upgrade {
        check_origin(headers, link.is_tls())?;
    }
    if changes {
        check_content_type(headers)?;
    }
    match authenticate(&app.access, headers, &link).await {
        Ok(principal) => {
            check_rights(&principal, request.method(), request.uri().path())?;
            request.extensions_mut().insert(principal);
            Ok(())
        }
        Err(_) if open => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// Routes that need no login: the console's files, health, the description of the API, messages, and
/// logging in.
fn is_open(method: &Method, path: &str) -> bool {
    let reads = *method == Method::GET || *method == Method::HEAD;
    match path {
        "/healthz" | "/readyz" | "/api/openapi.json" => reads,
        "/api/v1/session" => true,
        // The first user is added without a login; the handler checks that it is the first.
        "/api/v1/users" => *method == Method::POST,
        // MQTT has its own login, in CONNECT.
        "/mqtt" => true,
        "/metrics" => false,
        path if path.starts_with("/api/v1/messages/") => reads,
        path => !path.starts_with("/api/") && !apis::is_call(path) && reads,
    }
}

/// Refuses what the role does not allow before the body is read. Handlers check in detail.
fn check_rights(caller: &Principal, method: &Method, path: &str) -> Result<(), Error> {
    // Who may call an API is said by its name, which the handler checks.
    if is_open(method, path) || apis::is_call(path) {
        return Ok(());
    }
    if !is_for_devices(path) {
        caller.require(Role::Viewer)?;
    }
    if *method != Method::POST {
        return Ok(());
    }
    match path {
        "/api/v1/events" => caller.require_publish(),
        "/api/v1/apply" => caller.require(Role::Operator),
        path if path.starts_with("/api/v1/orchestrations/") => caller.require(Role::Operator),
        path if path.starts_with("/api/v1/flows/") || path.starts_with("/api/v1/dead-letters/") => {
            caller.require(Role::Operator)
        }
        _ => Ok(()),
    }
}

/// The routes for logins that only publish and receive: events, and their own tokens and password.
fn is_for_devices(path: &str) -> bool {
    matches!(
        path,
        "/api/v1/events" | "/api/v1/ws" | "/api/v1/topics" | "/api/v1/tokens"
    ) || path.starts_with("/api/v1/tokens/")
        || path.starts_with("/api/v1/users/")
}

/// The principal of a request, by its `Authorization` header or its cookie.
pub(crate) async fn authenticate(
    access: &Arc<Access>,
    headers: &HeaderMap,
    link: &Link,
) -> Answer<Principal> {
    let peer = Some(link.address().ip());
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(access.authenticate_token(rest.trim(), peer)?);
        }
        let decoded = scheme
            .eq_ignore_ascii_case("basic")
            .then(|| {
                base64::engine::general_purpose::STANDARD
                    .decode(rest.trim())
                    .ok()
            })
            .flatten()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':'))
        else {
            return Err(refuse(StatusCode::UNAUTHORIZED, "access.refused"));
        };
        return login(access, user, password, link).await;
    }
    if let Some(secret) = session_cookie(headers) {
        let access = access.clone();
        let secret = secret.to_owned();
        // Extending a session may write to the disk.
        let principal = tokio::task::spawn_blocking(move || access.session(&secret)).await;
        if let Ok(Some(principal)) = principal {
            return Ok(principal);
        }
    }
    if !access.has_users() && link.is_loopback() {
        return Ok(Principal::local());
    }
    Err(refuse(StatusCode::UNAUTHORIZED, "access.login-needed"))
}

/// Authenticates by password, outside the threads that serve requests.
pub(crate) async fn login(
    access: &Arc<Access>,
    user: &str,
    password: &str,
    link: &Link,
) -> Answer<Principal> {
    let (access, peer) = (access.clone(), Some(link.address().ip()));
    let (user, password) = (user.to_owned(), password.to_owned());
    tokio::task::spawn_blocking(move || access.authenticate_password(&user, &password, peer))
        .await
        .map_err(|_| Refusal::from(Error::new(Class::Transient, "server.stopping")))?
        .map_err(Refusal::from)
}

/// The secret of the session cookie.
pub(crate) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value)
}

/// Refuses host names other than `localhost`: a name can be made to point to this machine, an address
/// cannot.
fn check_host(headers: &HeaderMap) -> Answer<()> {
    let host = host(headers).unwrap_or_default();
    let name = host_name(host);
    let literal = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>()
        .is_ok();
    if literal
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
    {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        Error::new(Class::Permanent, "server.foreign-host").with("host", busbar_event::quote(host)),
    ))
}

/// Refuses requests that a page of another site makes a browser send. Programs send no `Origin`.
fn check_origin(headers: &HeaderMap, tls: bool) -> Answer<()> {
    let fetched = headers
        .get("sec-fetch-site")
        .and_then(|site| site.to_str().ok())
        .is_none_or(|site| matches!(site, "same-origin" | "none"));
    let Some(origin) = headers.get(header::ORIGIN) else {
        return if fetched { Ok(()) } else { Err(foreign("?")) };
    };
    let origin = origin.to_str().unwrap_or("?");
    let same = host(headers).is_some_and(|host| {
        // Behind a proxy that terminates TLS the page's scheme differs from ours; the host does not.
        let standard = if tls || origin.starts_with("https://") {
            ":443"
        } else {
            ":80"
        };
        let authority = origin
            .split_once("://")
            .map_or("", |(_, authority)| authority);
        let plain = |authority: &str| {
            authority
                .strip_suffix(standard)
                .unwrap_or(authority)
                .to_ascii_lowercase()
        };
        !authority.is_empty() && plain(authority) == plain(host)
    });
    if same { Ok(()) } else { Err(foreign(origin)) }
}

fn foreign(origin: &str) -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        Error::new(Class::Permanent, "server.foreign-origin")
            .with("origin", busbar_event::quote(origin)),
    )
}

/// A form of another site can send three content types without a preflight request; none is accepted.
fn check_content_type(headers: &HeaderMap) -> Answer<()> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().unwrap_or_default();
    let kind = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match &*kind {
        "application/x-www-form-urlencoded" | "multipart/form-data" | "text/plain" => {
            Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Error::new(Class::Permanent, "server.content-type").with("type", kind),
            ))
        }
        _ => Ok(()),
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

fn refuse(status: StatusCode, code: &'static str) -> Refusal {
    Refusal::permanent(status, code)
}

/// Makes browsers run only the console's own files and show it in no frame.
fn secure(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
        connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry("cross-origin-resource-policy")
        .or_insert(HeaderValue::from_static("same-origin"));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect::<HeaderMap>()
    }

    #[test]
    fn only_addresses_and_localhost_are_this_machine() {
        for host in [
            "127.0.0.1:8080",
            "localhost",
            "LOCALHOST:80",
            "[::1]:8080",
            "[::1]",
            "10.0.0.7",
            "a.localhost:1",
        ] {
            assert!(check_host(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(check_host(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(check_host(&HeaderMap::new()).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check =
            |pairs: &[(&'static str, &'static str)]| check_origin(&headers(pairs), false).is_ok();
        assert!(check(&[("host", "127.0.0.1:8080")]));
        assert!(check(&[
            ("host", "127.0.0.1:8080"),
            ("origin", "http://127.0.0.1:8080")
        ]));
        assert!(check(&[
            ("host", "node.example"),
            ("origin", "https://node.example")
        ]));
        assert!(check(&[
            ("host", "node.example:443"),
            ("origin", "https://node.example")
        ]));
        assert!(!check(&[
            ("host", "127.0.0.1:8080"),
            ("origin", "http://evil.example")
        ]));
        assert!(!check(&[
            ("host", "127.0.0.1:8080"),
            ("origin", "http://127.0.0.1:8081")
        ]));
        assert!(!check(&[("host", "127.0.0.1:8080"), ("origin", "null")]));
        assert!(!check(&[("host", ""), ("origin", "null")]));
        assert!(!check(&[
            ("host", "127.0.0.1:8080"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(check(&[
            ("host", "127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
    }

    #[test]
    fn forms_are_refused() {
        for kind in [
            "text/plain",
            "Text/Plain; charset=utf-8",
            "multipart/form-data; boundary=x",
        ] {
            assert!(
                check_content_type(&headers(&[("content-type", kind)])).is_err(),
                "{kind}"
            );
        }
        for kind in [
            "application/json",
            "application/x-ndjson",
            "application/octet-stream",
        ] {
            assert!(
                check_content_type(&headers(&[("content-type", kind)])).is_ok(),
                "{kind}"
            );
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=b; busbar_session=secret; c=d")]);
        assert_eq!(session_cookie(&headers), Some("secret"));
        assert_eq!(session_cookie(&HeaderMap::new()), None);
    }

    #[test]
    fn a_route_for_devices_is_named_one_by_one() {
        for path in [
            "/api/v1/overview",
            "/api/v1/sql",
            "/api/v1/streams/meter/events",
            "/api/v1/project",
            "/api/v1/audit",
            "/api/v1/anything-new",
            "/metrics",
        ] {
            assert!(!is_for_devices(path), "{path}");
        }
        assert!(is_for_devices("/api/v1/events"));
    }

    #[test]
    fn little_is_open_to_all() {
        assert!(is_open(&Method::GET, "/"));
        assert!(is_open(&Method::GET, "/healthz"));
        assert!(!is_open(&Method::POST, "/api/v1/events"));
        assert!(!is_open(&Method::GET, "/api/v1/streams"));
        assert!(!is_open(&Method::GET, "/metrics"));
        assert!(!is_open(&Method::GET, "/api/v1/users"));
        assert!(!is_open(&Method::DELETE, "/api/v1/users"));
        assert!(!is_open(&Method::GET, "/apis/levels"));
        assert!(!is_open(&Method::GET, "/services/double"));
    }
}
