//! Response bytes of one connection that its client has not taken yet, counted. A client that asks much and reads nothing must
//! not fill our memory: above the bound no further request of its connection is looked at.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use crate::limits::UNREAD_RESPONSE_BYTES_MAX;

/// One connection's count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Rc<Cell<usize>>);

impl Unread {
    pub fn is_full(&self) -> bool {
        self.0.get() >= UNREAD_RESPONSE_BYTES_MAX
    }
    /// Counts `bytes` until h2 has written them and lets go of them.
    pub fn output(&self, bytes: Bytes) -> Output {
        self.0.set(self.0.get() + bytes.len());
        Output {
            counted: bytes.len(),
            bytes,
            unread: self.clone(),
        }
    }
}

/// Bytes of one DATA payload.
#[derive(Debug)]
pub(crate) struct Output {
    bytes: Bytes,
    counted: usize,
    unread: Unread,
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }
    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }
    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.unread.0.set(self.unread.0.get() - self.counted);
    }
}
