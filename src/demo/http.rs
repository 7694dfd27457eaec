//! What a worker serves by HTTP: the page, the WebSocket, and a summary in JSON.

use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::io;

use axum::extract::{Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use corecast::Hub;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::accept::Listener;
use super::hall::Identity;
use super::session::{self, Command};
use super::wire::{Counters, NAME_CHARS, Seat, clean, clean_id};

/// The longest frame that a page may send, in bytes.
const FRAME_BYTES: usize = 16 * 1024;

/// The page loads nothing from elsewhere, and runs no script but its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What the handlers of one worker share.
#[derive(Clone)]
pub struct Context {
    pub me: Identity,
    pub hub: Hub,
    pub commands: mpsc::Sender<Command>,
}

/// Serves until `stop` is ready and all plain connections are done.
pub async fn serve(
    listener: Listener,
    context: Context,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(context))
        .with_graceful_shutdown(stop)
        .into_future()
        .await
}

fn router(context: Context) -> Router {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const JS: &str = "text/javascript; charset=utf-8";
    Router::new()
        .route("/", get(|| file(HTML, include_str!("page/index.html"))))
        .route(
            "/page.css",
            get(|| file(CSS, include_str!("page/page.css"))),
        )
        .route("/page.js", get(|| file(JS, include_str!("page/page.js"))))
        .route("/view.js", get(|| file(JS, include_str!("page/view.js"))))
        .route("/api/hub", get(summary))
        .route("/ws", get(upgrade))
        .with_state(context)
}

async fn file(kind: &'static str, text: &'static str) -> Result<Response, Infallible> {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, text).into_response())
}

#[derive(Serialize)]
struct Summary {
    seat: Seat,
    pid: u32,
    workers: u32,
    stats: Counters,
}

/// Who answers, and the hub's counters: for curl.
async fn summary(State(context): State<Context>) -> Json<Summary> {
    let Identity {
        seat, pid, workers, ..
    } = context.me;
    let stats = Counters::from(&context.hub.stats());
    Json(Summary {
        seat,
        pid,
        workers,
        stats,
    })
}

#[derive(Deserialize)]
struct Visitor {
    id: String,
    name: String,
}

async fn upgrade(
    State(context): State<Context>,
    Query(visitor): Query<Visitor>,
    headers: HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        return (
            StatusCode::FORBIDDEN,
            "pages of other sites may not connect",
        )
            .into_response();
    }
    let (Some(id), Some(name)) = (clean_id(&visitor.id), clean(&visitor.name, NAME_CHARS)) else {
        return (StatusCode::BAD_REQUEST, "an id and a name are needed").into_response();
    };
    socket
        .max_message_size(FRAME_BYTES)
        .on_upgrade(move |socket| session::run(socket, context.commands, id, name))
}

/// A browser says which page asks. Other programs (no `Origin`) may connect:
/// they can send what they like anyway.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    origin.split_once("://").map(|(_, rest)| rest) == host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "127.0.0.1:8080".parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        same_origin(&headers)
    }

    #[test]
    fn only_the_servers_own_page_may_connect_from_a_browser() {
        assert!(asked_by(Some("http://127.0.0.1:8080")));
        assert!(asked_by(None));
        for other in [
            "http://example.org",
            "http://127.0.0.1:80801",
            "null",
            "http://",
        ] {
            assert!(!asked_by(Some(other)), "{other}");
        }
    }
}
