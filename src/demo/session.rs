//! One page's WebSocket: frames from the hall go out, requests come in.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use tokio::sync::{mpsc, oneshot};

use super::visitors::{Outlet, SessionId};
use super::wire::Request;

/// Frames that may wait for a page before it counts as lost.
const OUTLET_FRAMES: usize = 512;
/// How long one frame may take to get into the socket.
const SEND_TIME: Duration = Duration::from_secs(10);

/// From the tasks that serve connections to the worker's loop.
pub enum Command {
    /// A page has connected; the answer is its number, or none if there is no room.
    Arrive {
        id: String,
        name: String,
        outlet: Outlet,
        answer: oneshot::Sender<Option<SessionId>>,
    },
    /// It wants something.
    Ask {
        session: SessionId,
        request: Request,
    },
    /// It has gone.
    Depart { session: SessionId },
}

/// Serves one page until it goes, or the hall gives it up.
pub async fn run(mut socket: WebSocket, commands: mpsc::Sender<Command>, id: String, name: String) {
    let (outlet, frames) = mpsc::channel(OUTLET_FRAMES);
    let Some(session) = arrive(&commands, id, name, outlet).await else {
        close(&mut socket, close_code::AGAIN, "this worker is full").await;
        return;
    };
    pump(&mut socket, frames, &commands, session).await;
    // Fails only when the loop has ended, and then there is nothing to leave.
    let _ = commands.send(Command::Depart { session }).await;
}

async fn arrive(
    commands: &mpsc::Sender<Command>,
    id: String,
    name: String,
    outlet: Outlet,
) -> Option<SessionId> {
    let (answer, answered) = oneshot::channel();
    commands
        .send(Command::Arrive {
            id,
            name,
            outlet,
            answer,
        })
        .await
        .ok()?;
    answered.await.ok()?
}

async fn pump(
    socket: &mut WebSocket,
    mut frames: mpsc::Receiver<Utf8Bytes>,
    commands: &mpsc::Sender<Command>,
    session: SessionId,
) {
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(text) => if !send(socket, Message::Text(text)).await { return },
                None => return close(socket, close_code::AWAY, "come back").await,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    // What is no request is no reason to cut a page off.
                    let Ok(request) = serde_json::from_str(&text) else { continue };
                    if commands.send(Command::Ask { session, request }).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(
        tokio::time::timeout(SEND_TIME, socket.send(message)).await,
        Ok(Ok(()))
    )
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    };
    send(socket, Message::Close(Some(frame))).await;
}
