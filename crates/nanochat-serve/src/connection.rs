//! HTTP connections: each takes a slot, has time limits, and is drained at shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client_io::{PacedSocket, RequestBody, ResponseBody};
use crate::error::ApiError;
use crate::slots::{NoSlot, Slots};

/// The time limit for the head of a request; also for an idle connection, which waits for a head.
const HEAD: Duration = Duration::from_secs(20);

/// The longest time that a client may block the server's writes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most clients that are sent a refusal at one time; further ones are closed without a response.
const TOLD: usize = 64;

/// The time that a client has to read why it was refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// The send buffer of a socket, in bytes. The system's default grows to megabytes per client, and a slow reader would
/// be noticed only after a third of that was read.
const AHEAD: u32 = 128 << 10;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Listens at `address`. Must be called inside a Tokio runtime.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // allows a restart right after a stop
    socket.set_send_buffer_size(AHEAD)?; // accepted connections inherit it
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` resolves, then accepts no more and lets running requests finish until `late` resolves; then
/// calls `abort`, which makes them end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    slots: Arc<Slots>,
    stop: impl Future<Output = ()>,
    late: impl Future<Output = ()>,
    abort: impl FnOnce(),
) {
    let told = Arc::new(Semaphore::new(TOLD));
    let drain = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10).max_headers(64);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                // Probably out of file descriptors: closing an idle connection frees one.
                slots.close_one();
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let slot = match slots.take(peer.ip()) {
            Ok(slot) => slot,
            Err(no_slot) => {
                if let Ok(turn) = told.clone().try_acquire_owned() {
                    tokio::spawn(async move {
                        let _ = timeout(FAREWELL, refuse(stream, no_slot)).await; // fails if the client has left
                        drop(turn);
                    });
                }
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // without it responses are only slower
        let (service, activity) = (TowerToHyperService::new(router.clone()), slot.activity.clone());
        let noted = service_fn(move |mut request: Request<Incoming>| {
            activity.asked();
            request.extensions_mut().insert::<SocketAddr>(peer);
            request.extensions_mut().insert(activity.clone());
            if let Some(path) = crate::meant(request.uri().path()).and_then(|path| path.parse().ok()) {
                *request.uri_mut() = path;
            }
            let request = request.map(|body| Body::new(RequestBody::new(body, activity.clone())));
            let (answer, activity) = (hyper::service::Service::call(&service, request), activity.clone());
            async move { answer.await.map(|answer| answer.map(|body| ResponseBody::new(body, activity))) }
        });
        let socket = PacedSocket::new(stream, slot.activity.clone(), PATIENCE);
        let connection = drain.watch(http.serve_connection(TokioIo::new(socket), noted));
        let number = slot.number();
        let task = tokio::spawn(async move {
            let _ = connection.await; // an aborted connection is not worth a message
            drop(slot);
        });
        slots.runs(number, task.abort_handle());
    }
    drop(listener);
    let drained = drain.shutdown();
    tokio::pin!(drained);
    let all_done = tokio::select! {
        () = &mut drained => true,
        () = late => false,
    };
    if !all_done {
        abort();
        // Running answers end with an error; their last bytes have two seconds to be sent.
        let _ = timeout(Duration::from_secs(2), drained).await;
    }
}

/// Responds why there is no free slot. Reads and discards what the client sends meanwhile: closing a socket with unread
/// bytes would discard the response too.
async fn refuse(mut stream: TcpStream, no_slot: NoSlot) -> std::io::Result<()> {
    let error = match no_slot {
        NoSlot::ForAddress => ApiError::busy("your address has too many connections here; close some", 1),
        NoSlot::InServer => ApiError::crowded(),
    };
    let (status, body) = (error.status(), error.body().to_string());
    let head = "content-type: application/json\r\nconnection: close\r\nretry-after: 1";
    let answer = format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}
