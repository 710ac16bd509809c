//! Connections: each has a place, limits of time, and is drained at the end.

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

use crate::error::ApiError;
use crate::paced::{Arriving, Leaving, PacedSocket};
use crate::places::{Places, Taken};

/// For the head of a request, and so for an idle connection too: both wait for a head.
const HEAD: Duration = Duration::from_secs(20);

/// A client may keep the server waiting for so long before it takes what is written.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients who are told at one time that there is no place for them; more are closed without a word.
const TOLD: usize = 64;

/// What a client gets to read why there is no place for it.
const FAREWELL: Duration = Duration::from_secs(1);

/// The system keeps so much for a client that has not taken it yet. By itself it would keep megabytes for each, and
/// know of one who reads slowly only when a third of them was taken.
const AHEAD: u32 = 128 << 10;

/// Clients whose connections wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Listens at `address`, inside a runtime.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // a server that was just stopped may start again
    socket.set_send_buffer_size(AHEAD)?; // connections have it from here
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` ends, then takes nothing more and lets what is under way finish until `late` ends; then `abort`
/// tells it to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    places: Arc<Places>,
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
                // Out of file descriptors, say: whoever waits for nothing gives one up.
                places.close_one();
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let place = match places.take(peer.ip()) {
            Ok(place) => place,
            Err(taken) => {
                if let Ok(turn) = told.clone().try_acquire_owned() {
                    tokio::spawn(async move {
                        let _ = timeout(FAREWELL, refuse(stream, taken)).await; // it may have left
                        drop(turn);
                    });
                }
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // slower, but right, without it
        let (service, activity) = (TowerToHyperService::new(router.clone()), place.activity.clone());
        let noted = service_fn(move |mut request: Request<Incoming>| {
            activity.asked();
            request.extensions_mut().insert::<SocketAddr>(peer);
            request.extensions_mut().insert(activity.clone());
            if let Some(path) = crate::meant(request.uri().path()).and_then(|path| path.parse().ok()) {
                *request.uri_mut() = path;
            }
            let request = request.map(|body| Body::new(Arriving::new(body, activity.clone())));
            let (answer, activity) = (hyper::service::Service::call(&service, request), activity.clone());
            async move { answer.await.map(|answer| answer.map(|body| Leaving::new(body, activity))) }
        });
        let socket = PacedSocket::new(stream, place.activity.clone(), PATIENCE);
        let connection = drain.watch(http.serve_connection(TokioIo::new(socket), noted));
        let number = place.number();
        let task = tokio::spawn(async move {
            let _ = connection.await; // a client who breaks off is no event
            drop(place);
        });
        places.runs(number, task.abort_handle());
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
        // Everybody is told why; then there is no more waiting.
        let _ = timeout(Duration::from_secs(2), drained).await;
    }
}

/// Says why there is no place. What the client sends meanwhile is thrown away: a socket closed on unread bytes would take
/// the answer with it.
async fn refuse(mut stream: TcpStream, taken: Taken) -> std::io::Result<()> {
    let error = match taken {
        Taken::ByAddress => ApiError::busy("your address has too many connections here; close some", 1),
        Taken::ByAll => ApiError::crowded(),
    };
    let (status, body) = (error.status(), error.body().to_string());
    let head = "content-type: application/json\r\nconnection: close\r\nretry-after: 1";
    let answer = format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}
