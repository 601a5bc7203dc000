//! One append stream: openraft's requests in, its answers out.
//! Promise: answers go out in the order of the requests; the stream ends with its connection.

use std::sync::Arc;

use barque_store_env::{Env, WriteHalf};
use bytes::BytesMut;
use futures::future::FutureExt;
use futures::stream::StreamExt;
use openraft::raft::StreamAppendError;
use tokio::sync::oneshot;

use super::Served;
use super::calls::error;
use crate::limits;
use crate::transport::frame::{Frame, FrameError, Kind, Reader};
use crate::transport::wire::{AppendBody, AppendReplyBody, ErrorCode};
use crate::transport::{ReadOf, WriteOf};
use crate::types::Types;

/// One append stream. openraft pipelines it; answers come back in order.
pub async fn serve<E: Env>(
    served: &Arc<Served<E>>,
    read: Reader<ReadOf<E>>,
    mut write: WriteOf<E>,
) -> Result<(), FrameError> {
    // openraft reads its input in a task of its own: dropping `alive` ends it together with this connection.
    let (alive, ended) = oneshot::channel::<()>();
    let heard = served.heard.clone();
    let machine = served.machine.clone();
    let requests = read
        .frames()
        .map(move |frame| {
            let frame = frame?;
            let body = match frame.kind {
                Kind::Append => frame.parse::<AppendBody>()?,
                other => return Err(FrameError::Kind(other as u8)),
            };
            body.request::<E>().map_err(|e| {
                if e.is_too_new() {
                    // The leader would send it again for ever.
                    machine.unfit(&format!("the leader sent {e}"));
                }
                FrameError::Body {
                    kind: Kind::Append,
                    cause: e.to_string(),
                }
            })
        })
        .scan((), |(), request| {
            let request = request
                .inspect_err(|e| tracing::debug!("an append stream ended: {e}"))
                .ok();
            std::future::ready(request)
        })
        .take_until(ended);
    let replies = served.raft.stream_append(Box::pin(requests)).fuse();
    futures::pin_mut!(replies);
    let mut id = 0;
    let mut encode = |result: &Result<_, openraft::errors::Fatal<Types<E>>>| {
        id += 1;
        match result {
            Ok(result) => {
                if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
                    heard.now(E::now());
                }
                Frame::encode(Kind::AppendReply, id, &AppendReplyBody::new::<E>(result))
            }
            Err(e) => error(id, ErrorCode::Stopped, e),
        }
    };
    while let Some(result) = replies.next().await {
        let mut out = encode(&result);
        if let Some(Some(second)) = replies.next().now_or_never() {
            let mut more = BytesMut::from(&out[..]);
            more.extend_from_slice(&encode(&second));
            while more.len() < limits::WRITE_BATCH_BYTES
                && let Some(Some(next)) = replies.next().now_or_never()
            {
                more.extend_from_slice(&encode(&next));
            }
            out = more.freeze();
        }
        write.write_all(out).await?;
    }
    drop(alive);
    Ok(())
}
