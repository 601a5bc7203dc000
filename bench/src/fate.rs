//! What a failed request may have done: whether it can be sent again at once without doing it twice.
//! Promise: a request is called never sent or refused only when no server can have carried it out; in doubt it is unknown.
//! Not here: who sends it again (`roam`).

use crate::client::CallError;

/// What became of a request that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No connection, or the server said that it has not looked at it: it may be sent again elsewhere at once.
    NeverSent,
    /// The server said that it was not and will not be carried out.
    Refused,
    /// An error that leaves open whether it was carried out.
    Unknown,
    /// Its deadline passed without any answer.
    NoAnswer,
}

impl CallError {
    pub fn fate(&self) -> Fate {
        match self {
            CallError::Connect { .. } | CallError::NotSent(_) => Fate::NeverSent,
            CallError::Http(error) if unprocessed(error) => Fate::NeverSent,
            CallError::Grpc { code, message } if is_refusal(code, message) => Fate::Refused,
            CallError::Timeout(_) => Fate::NoAnswer,
            CallError::Http(_)
            | CallError::Status(_)
            | CallError::Grpc { .. }
            | CallError::Malformed(_) => Fate::Unknown,
        }
    }
}

/// Streams beyond the last one a leaving server names, and refused ones, were not processed (RFC 9113, 6.8 and 8.7): what gRPC
/// libraries call a transparent retry.
fn unprocessed(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)
            || error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
}

/// By etcd's codes and texts, which Barque shares. Everything else of code Unavailable may have been proposed: "leader changed",
/// the timeouts, "server stopped".
fn is_refusal(code: &str, message: &str) -> bool {
    const NOT_PROPOSED: [&str; 3] = [
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: rpc not supported for learner",
    ];
    // Invalid argument, not found, exists, denied, exhausted, failed precondition, out of range, unimplemented, unauthenticated.
    const DECIDED: [&str; 9] = ["3", "5", "6", "7", "8", "9", "11", "12", "16"];
    NOT_PROPOSED.contains(&message) || DECIDED.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use barque_proto::etcdserverpb::{PutRequest, PutResponse};

    #[test]
    fn only_what_cannot_have_happened_is_called_refused() {
        let grpc = |code: &str, message: &str| CallError::Grpc {
            code: code.into(),
            message: message.into(),
        };
        let cases = [
            (grpc("14", "etcdserver: no leader"), Fate::Refused),
            (grpc("2", "etcdserver: too many requests"), Fate::Refused),
            (grpc("3", "etcdserver: key is not provided"), Fate::Refused),
            (grpc("14", "etcdserver: leader changed"), Fate::Unknown),
            (grpc("14", "etcdserver: request timed out"), Fate::Unknown),
            (
                grpc(
                    "14",
                    "etcdserver: request timed out, possibly due to previous leader failure",
                ),
                Fate::Unknown,
            ),
            (grpc("4", "context deadline exceeded"), Fate::Unknown),
            (
                CallError::Timeout(std::time::Duration::from_secs(5)),
                Fate::NoAnswer,
            ),
            (CallError::Malformed("cut"), Fate::Unknown),
        ];
        for (error, fate) in cases {
            assert_eq!(error.fate(), fate, "{error}");
        }
    }

    /// A server that takes one request, and then leaves: answering all, none but by a polite farewell, or at once.
    async fn fate_at(
        leaving: fn(h2::server::Connection<tokio::net::TcpStream, bytes::Bytes>),
    ) -> Fate {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            leaving(h2::server::handshake(socket).await.unwrap());
        });
        let client = Client::connect(&addr).await.unwrap();
        let put = PutRequest::default();
        let answer = client
            .call::<PutResponse>(&client.target("/etcdserverpb.KV/Put"), &put)
            .await;
        answer.unwrap_err().fate()
    }

    #[tokio::test]
    async fn a_polite_farewell_means_never_sent_and_a_cut_means_unknown() {
        let farewell = fate_at(|mut connection| {
            tokio::spawn(async move {
                // Names stream 0 as the last: the request on its way was not looked at.
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                let _ = std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
            });
        });
        assert_eq!(farewell.await, Fate::NeverSent);
        let refused = fate_at(|mut connection| {
            tokio::spawn(async move {
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        });
        assert_eq!(refused.await, Fate::NeverSent);
        let cut = fate_at(|mut connection| {
            tokio::spawn(async move {
                let taken = connection.accept().await;
                drop(connection);
                drop(taken);
            });
        });
        assert_eq!(cut.await, Fate::Unknown);
    }

    #[tokio::test]
    async fn nobody_there_means_never_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(&addr).await.err().unwrap();
        assert_eq!(error.fate(), Fate::NeverSent);
    }
}
