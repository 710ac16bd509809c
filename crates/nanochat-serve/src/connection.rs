//! Connections: accepted up to a number, with limits of time, and drained at the end.

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
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait to be accepted.
const MOST: usize = 2_048;

/// For the head of a request, and so for an idle connection too: both wait for a head.
const HEAD: Duration = Duration::from_secs(20);

/// Serves until `stop` ends, then takes nothing more and lets what is under way finish until `late` ends; then `abort`
/// tells it to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    late: impl Future<Output = ()>,
    abort: impl FnOnce(),
) {
    let places = Arc::new(Semaphore::new(MOST));
    let drain = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10).max_headers(64);
    tokio::pin!(stop);
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of file descriptors, say: it gets better when somebody leaves.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // slower, but right, without it
        let service = TowerToHyperService::new(router.clone());
        let with_peer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert::<SocketAddr>(peer);
            if let Some(path) = crate::meant(request.uri().path()).and_then(|path| path.parse().ok()) {
                *request.uri_mut() = path;
            }
            hyper::service::Service::call(&service, request.map(Body::new))
        });
        let connection = drain.watch(http.serve_connection(TokioIo::new(stream), with_peer));
        tokio::spawn(async move {
            let _ = connection.await; // a client who breaks off is no event
            drop(place);
        });
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
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
    }
}
