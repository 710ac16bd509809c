//! The web chat: a few files compiled into the program. `web/` is served unchanged; there is no build step.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// The content security policy: nothing from other origins, no inline scripts or styles, and no way to turn text into
/// markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const JS: &str = "text/javascript; charset=utf-8";

/// The files as (path, content type, content).
const FILES: [(&str, &str, &str); 11] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/app.js", JS, include_str!("../web/app.js")),
    ("/api.js", JS, include_str!("../web/api.js")),
    ("/dom.js", JS, include_str!("../web/dom.js")),
    ("/markdown.js", JS, include_str!("../web/markdown.js")),
    ("/messages.js", JS, include_str!("../web/messages.js")),
    ("/settings.js", JS, include_str!("../web/settings.js")),
    ("/store.js", JS, include_str!("../web/store.js")),
    ("/words.js", JS, include_str!("../web/words.js")),
];

pub fn find(path: &str) -> Option<(&'static str, &'static str)> {
    FILES.iter().find(|(name, ..)| *name == path).map(|(_, kind, content)| (*kind, *content))
}

/// The route for all paths that have no other one.
pub async fn serve(method: Method, uri: Uri) -> Response {
    let Some((kind, content)) = find(uri.path()) else {
        let path: String = uri.path().chars().take(100).collect();
        let message = format!(
            "{method} {path} leads nowhere; the API is at /v1/chat/completions, /v1/completions and /v1/models"
        );
        return ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url").into_response();
    };
    if method != Method::GET && method != Method::HEAD {
        return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this page can only be read").into_response();
    }
    let mut response = Response::new(Body::from(content));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page shows text through textContent only.
    #[test]
    fn no_file_makes_markup_from_text_or_fetches_from_elsewhere() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "createContextualFragment",
            "DOMParser",
            "setHTML",
            "javascript:",
            "@import",
            "http://",
            "https://",
        ];
        for (path, _, content) in FILES {
            let content = content.replace("http://www.w3.org/2000/svg", "");
            for word in forbidden {
                assert!(!content.contains(word), "{path} has {word}");
            }
        }
        let html = find("/").unwrap().1;
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"));
        assert!(
            html.matches("<script").count() == 1 && html.contains("<script type=\"module\" src=\"app.js\">")
        );
    }

    #[test]
    fn every_module_that_is_imported_is_here() {
        for (path, _, content) in FILES.iter().filter(|(.., kind, _)| *kind == JS) {
            for import in content.lines().filter_map(|line| line.split_once(" from \"./")) {
                let name = format!("/{}", import.1.trim_end_matches("\";"));
                assert!(find(&name).is_some(), "{path} imports {name}");
            }
        }
    }
}
