//! The console's files, built by `web/` and part of the binary.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use rust_embed::RustEmbed;

/// What `web/dist` held when this binary was built; empty when the console was not built.
#[derive(RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Console;

/// Answers what no other route does: the console, which is one page, its files, and 404 for everything else. The path
/// is looked up in a list inside the binary, never on a disk.
pub(crate) async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path == "api" || path.starts_with("api/") {
        return crate::answer::Refusal::unknown("server.unknown-route", uri.path()).into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        let allowed = HeaderValue::from_static("GET, HEAD");
        return crate::api::method_not_allowed(method, uri)
            .await
            .with_header(header::ALLOW, allowed)
            .into_response();
    }
    if let Some(file) = Console::get(path).filter(|_| !path.is_empty()) {
        return answer(path, file, &headers);
    }
    match Console::get("index.html") {
        Some(file) if path.is_empty() => answer("index.html", file, &headers),
        Some(file) if wants_page(path, &headers) => missing(&file),
        _ if !path.is_empty() => {
            crate::answer::Refusal::unknown("server.unknown-route", uri.path()).into_response()
        }
        _ => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            "Busbar is running; its console is not part of this build.\n\
             Build it with `make web`, then build Busbar again. The API is at /api/openapi.json\n\
             \n\
             Busbar 正在运行，但此版本未包含控制台。\n\
             请先执行 `make web`，再重新构建 Busbar。接口说明见 /api/openapi.json\n",
        )
            .into_response(),
    }
}

/// Whether a path that is not there was typed or followed by a person. A name with an extension is a file that a page
/// asks for.
fn wants_page(path: &str, headers: &HeaderMap) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    !name.contains('.')
        && accepted.any(|value| {
            value
                .to_str()
                .is_ok_and(|value| value.contains("text/html"))
        })
}

/// The console, which says that the path is none of its pages.
fn missing(page: &rust_embed::EmbeddedFile) -> Response {
    let page = String::from_utf8_lossy(&page.data);
    let page = page.replacen("<head>", "<head><meta name=\"busbar-missing\">", 1);
    let headers = [
        (header::CONTENT_TYPE, content_type("index.html")),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::NOT_FOUND, headers, page).into_response()
}

fn answer(path: &str, file: rust_embed::EmbeddedFile, headers: &HeaderMap) -> Response {
    let gzip = is_text(path) && accepts_gzip(headers);
    let hash = file.metadata.sha256_hash();
    let tag: String = hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Each encoding is a representation of its own.
    let tag = format!("\"{tag}{}\"", if gzip { "-gzip" } else { "" });
    // Vite puts a hash of the content into the names below assets/.
    let caching = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            // Proxies mark tags as weak; for asking whether a file is the same that is good enough.
            let mut known = value
                .split(',')
                .map(|known| known.trim().trim_start_matches("W/"));
            known.any(|known| known == tag || known == "*")
        });
    let mut response = Response::builder()
        .header(header::ETAG, tag)
        .header(header::CACHE_CONTROL, caching);
    if is_text(path) {
        response = response.header(header::VARY, "accept-encoding");
    }
    let response = if known {
        response
            .status(StatusCode::NOT_MODIFIED)
            .body(Body::empty())
    } else {
        let body = if gzip {
            response = response.header(header::CONTENT_ENCODING, "gzip");
            Body::from(gzipped(path, &file.data))
        } else {
            match file.data {
                Cow::Borrowed(bytes) => Body::from(bytes),
                Cow::Owned(bytes) => Body::from(bytes),
            }
        };
        response
            .header(header::CONTENT_TYPE, content_type(path))
            .body(body)
    };
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// What becomes smaller when it is compressed.
fn is_text(path: &str) -> bool {
    let kind = content_type(path);
    kind.starts_with("text/") || kind.contains("json") || kind.contains("svg")
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case("gzip") && weight.parse::<f32>().is_ok_and(|q| q > 0.0)
        })
}

/// A file of the console, compressed when it is asked for the first time.
fn gzipped(path: &str, bytes: &[u8]) -> Bytes {
    static KNOWN: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    if let Some(gzipped) = known.get(path) {
        return gzipped.clone();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(bytes);
    let gzipped = Bytes::from(encoder.finish().unwrap_or_default());
    known.insert(path.to_owned(), gzipped.clone());
    gzipped
}

/// The types a console is made of; anything else is bytes, which no browser runs.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("webp") => "image/webp",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(path: &str) -> Response {
        serve(Method::GET, path.parse().unwrap(), HeaderMap::new()).await
    }

    #[tokio::test]
    async fn the_first_page_is_there_with_or_without_a_console() {
        let response = get("/").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(get("/flows/rain").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(get("/no-such.js").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(get("/../Cargo.toml").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(get("/api/v1/none").await.status(), StatusCode::NOT_FOUND);
        let post = serve(Method::POST, "/".parse().unwrap(), HeaderMap::new()).await;
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn a_person_who_mistypes_a_path_is_told_by_the_console() {
        let ask = async |path: &str, accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            let response = serve(Method::GET, path.parse().unwrap(), headers).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path} {accept}");
            let kind = response.headers()[header::CONTENT_TYPE].clone();
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
            let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
            (kind.to_str().unwrap().to_owned(), body)
        };
        let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
        for (path, accept) in [
            ("/streems", "*/*"),
            ("/streems.js", browser),
            ("/api/v1/none", browser),
            ("/api", browser),
        ] {
            let (kind, body) = ask(path, accept).await;
            assert_eq!(kind, "application/json", "{path}");
            assert!(body.contains("server.unknown-route"), "{path}: {body}");
        }
        if Console::get("index.html").is_none() {
            return; // no console in this build
        }
        let (kind, body) = ask("/streems/rain", browser).await;
        assert!(kind.starts_with("text/html"), "{kind}");
        assert!(body.contains("<meta name=\"busbar-missing\">"), "{body}");
    }

    #[tokio::test]
    async fn a_file_that_is_known_is_not_sent_again() {
        let first = get("/").await;
        let Some(tag) = first.headers().get(header::ETAG).cloned() else {
            return; // no console in this build
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, tag);
        let second = serve(Method::GET, "/".parse().unwrap(), headers).await;
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn only_names_that_change_with_their_content_are_kept_by_browsers() {
        for path in Console::iter() {
            let caching = get(&format!("/{path}")).await.headers()[header::CACHE_CONTROL].clone();
            let forever = path.starts_with("assets/");
            assert_eq!(caching == "no-cache", !forever, "{path}: {caching:?}");
            assert_eq!(
                caching.to_str().unwrap().contains("immutable"),
                forever,
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn texts_are_compressed_for_those_who_take_it() {
        if Console::get("index.html").is_none() {
            return; // no console in this build
        }
        let ask = async |pairs: &[(header::HeaderName, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()))
                .collect();
            serve(Method::GET, "/".parse().unwrap(), headers).await
        };
        let plain = ask(&[]).await;
        let gzip = ask(&[(header::ACCEPT_ENCODING, "br, gzip;q=0.5")]).await;
        let (plain_tag, gzip_tag) = (
            &plain.headers()[header::ETAG],
            &gzip.headers()[header::ETAG],
        );
        assert_ne!(plain_tag, gzip_tag);
        assert_eq!(gzip.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(plain.headers()[header::VARY], "accept-encoding");
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        let weak = format!("W/{}", gzip_tag.to_str().unwrap());
        let again = ask(&[
            (header::ACCEPT_ENCODING, "gzip"),
            (header::IF_NONE_MATCH, &weak),
        ])
        .await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let unwanted = ask(&[(header::ACCEPT_ENCODING, "gzip;q=0, identity")]).await;
        assert!(!unwanted.headers().contains_key(header::CONTENT_ENCODING));
        let sent = axum::body::to_bytes(gzip.into_body(), 1 << 20)
            .await
            .unwrap();
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(&sent[..]);
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(text.contains("<html"));
    }
}
