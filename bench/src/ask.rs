//! Single questions to one member: status, a linearizable read's revision, membership, a plain HTTP page.
//! Promise: each has a deadline, so that a member that is paused or has no quorum costs its caller that and no more.

use std::time::Duration;

use barque_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberRemoveRequest, MemberRemoveResponse,
    RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{CallError, Client};
use crate::limits::RESPONSE_BYTES_MAX;

async fn ask<R: Message + Default>(
    addr: &str,
    path: &str,
    request: &impl Message,
    deadline: Duration,
) -> Result<R, CallError> {
    let exchange = async {
        let client = Client::connect(addr).await?;
        client
            .call_within(&client.target(path), request, deadline)
            .await
    };
    // Connecting counts too: a paused process's kernel still accepts.
    match tokio::time::timeout(deadline, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Timeout(deadline)),
    }
}

/// What the member thinks of itself and the cluster; it asks nobody.
pub async fn status(addr: &str, deadline: Duration) -> Result<StatusResponse, CallError> {
    let path = "/etcdserverpb.Maintenance/Status";
    ask(addr, path, &StatusRequest {}, deadline).await
}

/// The store's revision, as a linearizable read sees it.
pub async fn revision(addr: &str, deadline: Duration) -> Result<i64, CallError> {
    let request = RangeRequest {
        key: "bench".into(),
        ..RangeRequest::default()
    };
    let answer: RangeResponse = ask(addr, "/etcdserverpb.KV/Range", &request, deadline).await?;
    let header = answer
        .header
        .ok_or(CallError::Malformed("a response without a header"))?;
    Ok(header.revision)
}

/// Announces a learner. What it is known as.
pub async fn add_learner(
    addr: &str,
    peer_url: &str,
    deadline: Duration,
) -> Result<Member, CallError> {
    let request = MemberAddRequest {
        peer_ur_ls: vec![peer_url.to_owned()],
        is_learner: true,
    };
    let path = "/etcdserverpb.Cluster/MemberAdd";
    let answer: MemberAddResponse = ask(addr, path, &request, deadline).await?;
    answer
        .member
        .ok_or(CallError::Malformed("a member was added, but not named"))
}

pub async fn remove(addr: &str, id: u64, deadline: Duration) -> Result<(), CallError> {
    let path = "/etcdserverpb.Cluster/MemberRemove";
    let request = MemberRemoveRequest { id };
    ask::<MemberRemoveResponse>(addr, path, &request, deadline).await?;
    Ok(())
}

/// Status code and body of a page on the client port.
pub async fn page(addr: &str, path: &str, deadline: Duration) -> Result<(u16, String), CallError> {
    let exchange = async {
        let failed = |cause| CallError::Connect {
            addr: addr.to_owned(),
            cause,
        };
        let mut socket = TcpStream::connect(addr).await.map_err(failed)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        let mut bounded = socket.take(RESPONSE_BYTES_MAX as u64);
        bounded.read_to_end(&mut answer).await.map_err(failed)?;
        parse(&String::from_utf8_lossy(&answer))
    };
    match tokio::time::timeout(deadline, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Timeout(deadline)),
    }
}

/// Enough of HTTP/1.1 for a code; the body is as it came, chunked or not.
fn parse(answer: &str) -> Result<(u16, String), CallError> {
    let not_http = CallError::Malformed("not an HTTP/1.1 response");
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(not_http);
    };
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    match code {
        Some(code) if head.starts_with("HTTP/1.") => Ok((code, body.to_owned())),
        _ => Err(not_http),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_code_and_a_body() {
        let (code, body) = parse("HTTP/1.1 503 No\r\nA: b\r\n\r\nnot yet").unwrap();
        assert_eq!((code, body.as_str()), (503, "not yet"));
        assert!(parse("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }

    #[tokio::test]
    async fn a_member_that_accepts_and_stays_silent_costs_the_deadline() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap().to_string();
        let deadline = Duration::from_millis(30);
        assert!(matches!(
            status(&addr, deadline).await,
            Err(CallError::Timeout(_))
        ));
        assert!(matches!(
            page(&addr, "/readyz", deadline).await,
            Err(CallError::Timeout(_))
        ));
    }
}
