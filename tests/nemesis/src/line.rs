//! A client's connections: one a member, made when they are wanted and made anew when they have failed.
//! Promise: a free line asks every member in turn, so that no member's answers go unheard; a pinned one asks its member only.
//! Not here: what is asked.

use std::sync::Arc;

use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::journal::Journal;
use crate::limits::{RECONNECT, TURN};
use crate::member::connect;

/// What came of one request.
pub enum Outcome<T> {
    Done(T),
    /// Certainly not carried out, and why.
    Refused(Status),
    Unknown,
}

/// Connections that are made again when they have failed; a free line then goes on at the next member.
pub struct Line {
    journal: Arc<Journal>,
    at: usize,
    pinned: bool,
    /// Requests until a free line goes on to the next member.
    left: u32,
    channels: Vec<Option<Channel>>,
}

impl Line {
    /// A free line that begins at the member after `at`.
    pub fn new(journal: Arc<Journal>, at: usize) -> Self {
        let size = journal.endpoints.len();
        Line {
            at: (at + 1) % size,
            pinned: false,
            left: TURN,
            channels: vec![None; size],
            journal,
        }
    }

    pub fn pinned(journal: Arc<Journal>, member: usize) -> Self {
        Line {
            pinned: true,
            at: member,
            ..Line::new(journal, 0)
        }
    }

    fn turn(&mut self) {
        if !self.pinned {
            self.at = (self.at + 1) % self.channels.len();
            self.left = TURN;
        }
    }

    /// A channel, once somebody can be reached; `None` when the run is over before.
    pub async fn channel(&mut self) -> Option<Channel> {
        if self.left == 0 {
            self.turn();
        }
        self.left = self.left.saturating_sub(1);
        loop {
            if let Some(channel) = &self.channels[self.at] {
                return Some(channel.clone());
            }
            if self.journal.is_stopped() {
                return None;
            }
            match connect(&self.journal.endpoints[self.at]).await {
                Ok(channel) => self.channels[self.at] = Some(channel),
                Err(_) => {
                    self.turn();
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// Waits for an answer and judges its absence.
    pub async fn outcome<T>(
        &mut self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Outcome<T> {
        let patience = self.journal.patience();
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(response)) => return Outcome::Done(response.into_inner()),
            Ok(Err(status)) if is_final(&status) => return Outcome::Refused(status),
            // Some of these say that nothing happened; to take them for unknown never accuses wrongly.
            Ok(Err(status)) => self.journal.went_wrong(&said(&status)),
            Err(_) => self.journal.went_wrong("no answer in time"),
        }
        self.channels[self.at] = None;
        self.turn();
        Outcome::Unknown
    }
}

/// Whether an error says that the request was looked at and turned down. "Not leader" has a code of that kind, and is not.
fn is_final(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented
    );
    code && !status.message().contains("leader")
}

/// Code and text of an error; those that the client's own transport made are of two kinds.
pub fn said(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    if cause.is_some() {
        while let Some(inner) = cause {
            let io = inner.downcast_ref::<std::io::Error>();
            if io.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
                return "nobody listens".to_owned();
            }
            cause = inner.source();
        }
        return "connection lost".to_owned();
    }
    let text: String = status.message().chars().take(80).collect();
    format!("{:?}: {text}", status.code())
}
