//! Closed-loop load: each client sends its next put when the last was acknowledged.
//! Promise: every acknowledged put is counted in `acknowledged`; only those that began and ended inside the window
//! are in the latencies, and only those that ended inside it in the rate.

use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, PutResponse};
use bytes::{BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;

use crate::client::{CallError, Client};

/// `b/` and 20 digits.
pub const KEY_BYTES_MIN: usize = 22;

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub clients: usize,
    pub keys: u64,
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub warm_up: Duration,
    pub window: Duration,
    /// The same seed is the same sequence of keys.
    pub seed: u64,
}

/// What one round measured.
pub struct Measured {
    /// Acknowledged in the window.
    pub ended: u64,
    /// Acknowledged in all.
    pub acknowledged: u64,
    pub nanos: Histogram<u64>,
}

impl Measured {
    fn new() -> Self {
        Measured {
            ended: 0,
            acknowledged: 0,
            nanos: Histogram::new(3).expect("three digits are allowed"),
        }
    }
}

/// Runs the load against the given addresses, clients spread evenly over them. Every client has a connection.
pub async fn run(addrs: &[&str], shape: Shape) -> Result<Measured, CallError> {
    let mut connected = Vec::with_capacity(shape.clients);
    for n in 0..shape.clients {
        connected.push(Client::connect(addrs[n % addrs.len()]).await?);
    }
    let from = Instant::now() + shape.warm_up;
    let to = from + shape.window;
    let clients = connected
        .into_iter()
        .enumerate()
        .map(|(n, client)| tokio::spawn(one(client, shape, n as u64, from, to)));
    let mut sum = Measured::new();
    for client in futures::future::join_all(clients).await {
        let measured = client.expect("a client does not panic")?;
        sum.ended += measured.ended;
        sum.acknowledged += measured.acknowledged;
        sum.nanos.add(&measured.nanos).expect("the same range");
    }
    Ok(sum)
}

async fn one(
    client: Client,
    shape: Shape,
    n: u64,
    from: Instant,
    to: Instant,
) -> Result<Measured, CallError> {
    let target = client.target("/etcdserverpb.KV/Put");
    let mut chance = Chance(shape.seed ^ (n << 32));
    let mut measured = Measured::new();
    // Bytes that do not compress, in case some file system would.
    let mut value = BytesMut::new();
    while value.len() < shape.value_bytes {
        value.put_u64(chance.next());
    }
    value.truncate(shape.value_bytes);
    loop {
        let start = Instant::now();
        if start >= to {
            return Ok(measured);
        }
        let request = PutRequest {
            key: key(chance.next() % shape.keys, shape.key_bytes),
            value: Bytes::copy_from_slice(&value),
            ..Default::default()
        };
        client.call::<PutResponse>(&target, &request).await?;
        let end = Instant::now();
        measured.acknowledged += 1;
        if end >= from && end < to {
            measured.ended += 1;
            if start >= from {
                let nanos = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX);
                measured.nanos.record(nanos).expect("the histogram grows");
            }
        }
    }
}

pub fn key(number: u64, len: usize) -> Bytes {
    format!("b/{number:0width$}", width = len - 2).into()
}

/// splitmix64: the same keys on every machine, in every version.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_length_asked_for_and_differ() {
        assert_eq!(key(7, 32).len(), 32);
        assert_eq!(key(u64::MAX, KEY_BYTES_MIN).len(), KEY_BYTES_MIN);
        assert_ne!(key(1, 32), key(2, 32));
    }
}
