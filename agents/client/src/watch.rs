//! One open watch. Promise: it ends with an error, never with silence: when the master is left, when the connection dies, when
//! nothing (not even a bookmark) came for too long.
//! Not here: opening it again (`informer`).

use std::time::Duration;

use barque_proto::objects as wire;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Streaming;

use crate::client::Client;
use crate::endpoints::Connection;
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventType {
    Added,
    Modified,
    Deleted,
    Synced,
    Bookmark,
}

/// One event; `json` is empty for `Synced` and `Bookmark`.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub event_type: WatchEventType,
    pub revision: i64,
    pub json: Bytes,
}

pub struct WatchStream {
    stream: Streaming<wire::WatchResponse>,
    client: Client,
    connection: Connection,
    epochs: watch::Receiver<u64>,
    idle: Duration,
}

impl WatchStream {
    pub(crate) fn new(
        stream: Streaming<wire::WatchResponse>,
        client: Client,
        connection: Connection,
        epochs: watch::Receiver<u64>,
        idle: Duration,
    ) -> WatchStream {
        WatchStream {
            stream,
            client,
            connection,
            epochs,
            idle,
        }
    }

    /// The next events, in order. After an error the stream is dead.
    pub async fn next(&mut self) -> Result<Vec<WatchEvent>, Error> {
        let epoch = self.connection.epoch;
        let left = async {
            // The sender lives as long as the client this stream holds: an error cannot happen, and would mean the same.
            let _ = self.epochs.wait_for(|current| *current != epoch).await;
        };
        let message = tokio::select! {
            message = timeout(self.idle, self.stream.message()) => message,
            () = left => return Err(self.broken("its master was left")),
        };
        match message {
            Ok(Ok(Some(response))) => Ok(response.events.into_iter().filter_map(event).collect()),
            Ok(Ok(None)) => Err(self.broken("the master ended the stream")),
            Ok(Err(status)) => Err(self.client.judge(&self.connection, &status)),
            Err(_) => Err(self.broken("nothing came for too long")),
        }
    }

    fn broken(&self, detail: &str) -> Error {
        Error::Lost {
            endpoint: self.connection.endpoint.clone(),
            detail: format!("watch: {detail}"),
        }
    }
}

fn event(event: wire::WatchEvent) -> Option<WatchEvent> {
    let event_type = match event.r#type() {
        wire::watch_event::Type::Added => WatchEventType::Added,
        wire::watch_event::Type::Modified => WatchEventType::Modified,
        wire::watch_event::Type::Deleted => WatchEventType::Deleted,
        wire::watch_event::Type::Synced => WatchEventType::Synced,
        wire::watch_event::Type::Bookmark => WatchEventType::Bookmark,
        // A newer master's: whatever it says, it is not about an object.
        wire::watch_event::Type::Unknown => return None,
    };
    Some(WatchEvent {
        event_type,
        revision: event.resource_version,
        json: event.json,
    })
}
