//! Plain HTTP beside gRPC: HTTP/1.1 on every port, HTTP/2 where TLS agreed on it. Bodies are small and collected whole.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use crate::call::Service;
use crate::core::Core;
use crate::limits::{HELLO_TIMEOUT, HTTP_BODY_BYTES_MAX};
use crate::output::{Output, Unread};
use crate::socket::Socket;

pub(crate) async fn serve_http1<S: Service>(core: Rc<Core<S>>, socket: Socket) {
    let answering = core.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let core = answering.clone();
        async move {
            let (parts, body) = request.into_parts();
            let response = match Limited::new(body, HTTP_BODY_BYTES_MAX).collect().await {
                Ok(body) => {
                    let request = Request::from_parts(parts, body.to_bytes());
                    core.service.http(request).await
                }
                Err(_) => too_large(),
            };
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HELLO_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service)
    );
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = core.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "HTTP/1.1 connection ended");
    }
}

pub(crate) async fn answer_http2<S: Service>(
    core: Rc<Core<S>>,
    parts: Parts,
    mut recv: RecvStream,
    mut respond: SendResponse<Output>,
    unread: Unread,
) {
    let mut body = BytesMut::new();
    let mut response = None;
    while let Some(chunk) = recv.data().await {
        let Ok(chunk) = chunk else { return };
        let _ = recv.flow_control().release_capacity(chunk.len());
        if body.len() + chunk.len() > HTTP_BODY_BYTES_MAX {
            response = Some(too_large());
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let response = match response {
        Some(response) => response,
        None => {
            core.service
                .http(Request::from_parts(parts, body.freeze()))
                .await
        }
    };
    let (head, body) = response.into_parts();
    let _ = respond
        .send_response(Response::from_parts(head, ()), false)
        .and_then(|mut stream| stream.send_data(unread.output(body), true));
}

fn too_large() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"request body too large\n"));
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    response
}
