//! What the scenarios over a large number of keys do to a server: fill it, overwrite it, write steadily, read pages, compact.
//! Promise: every acknowledged request is counted and every failed one voids the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse,
};
use bytes::{BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use tokio::sync::{Mutex, Semaphore};

use crate::client::{CallError, Client};
use crate::limits::{LOADERS, PAGE_KEYS, STEADY_IN_FLIGHT};
use crate::load::{Chance, key};

pub const KEY_BYTES: usize = 32;

/// How much, of what size.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub count: u64,
    pub value_bytes: usize,
}

impl Keys {
    pub fn live_bytes(self) -> u64 {
        self.count * (KEY_BYTES + self.value_bytes) as u64
    }

    /// The put of key `number`; `salt` makes another value of it.
    fn put(self, number: u64, salt: u64) -> PutRequest {
        // Bytes that do not compress, in case some file system would.
        let mut chance = Chance(number ^ (salt << 40));
        let mut value = BytesMut::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            value.put_u64(chance.next());
        }
        value.truncate(self.value_bytes);
        PutRequest {
            key: key(number, KEY_BYTES),
            value: value.freeze(),
            ..PutRequest::default()
        }
    }
}

/// Writes every key once.
pub async fn write_all(addr: &str, keys: Keys, salt: u64) -> Result<(), CallError> {
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::<Result<(), CallError>>::new();
    for _ in 0..LOADERS {
        let client = Client::connect(addr).await?;
        let next = next.clone();
        writers.spawn(async move {
            let target = client.target("/etcdserverpb.KV/Put");
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys.count {
                    return Ok(());
                }
                client
                    .call::<PutResponse>(&target, &keys.put(number, salt))
                    .await?;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer does not panic")?;
    }
    Ok(())
}

/// Writers in a closed loop over random keys, until they fail: for a server that is about to be killed. The number acknowledged.
pub async fn write_until_it_fails(addr: &str, keys: Keys) -> u64 {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..LOADERS as u64 {
        let Ok(client) = Client::connect(addr).await else {
            break;
        };
        let acknowledged = acknowledged.clone();
        writers.spawn(async move {
            let target = client.target("/etcdserverpb.KV/Put");
            let mut chance = Chance(n << 32);
            loop {
                let put = keys.put(chance.next() % keys.count, n + 1);
                if client.call::<PutResponse>(&target, &put).await.is_err() {
                    return;
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while writers.join_next().await.is_some() {}
    acknowledged.load(Ordering::Relaxed)
}

/// Writes of random keys at a fixed rate, until it is ended.
pub struct Steady {
    stop: Arc<AtomicBool>,
    nanos: Arc<Mutex<Histogram<u64>>>,
    task: tokio::task::JoinHandle<Result<(), CallError>>,
}

impl Steady {
    pub async fn start(addr: &str, keys: Keys, per_second: u64) -> Result<Steady, CallError> {
        let client = Client::connect(addr).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let nanos = Arc::new(Mutex::new(histogram()));
        let task = tokio::spawn(steady(
            client,
            keys,
            per_second,
            stop.clone(),
            nanos.clone(),
        ));
        Ok(Steady { stop, nanos, task })
    }

    /// Latencies since the last time this was asked.
    pub async fn since(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.nanos.lock().await, histogram())
    }

    pub async fn end(self) -> Result<(), CallError> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the steady load does not panic")
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// Each write has its time, whether or not the server is ready for it: latency counts from there.
async fn steady(
    client: Client,
    keys: Keys,
    per_second: u64,
    stop: Arc<AtomicBool>,
    nanos: Arc<Mutex<Histogram<u64>>>,
) -> Result<(), CallError> {
    let target = client.target("/etcdserverpb.KV/Put");
    let room = Arc::new(Semaphore::new(STEADY_IN_FLIGHT));
    let mut under_way = tokio::task::JoinSet::<Result<(), CallError>>::new();
    let mut chance = Chance(per_second);
    let gap = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
    let mut due = tokio::time::Instant::now();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(due).await;
        let began = due;
        due += gap;
        let permit = room
            .clone()
            .acquire_owned()
            .await
            .expect("it is not closed");
        let (client, target, nanos) = (client.clone(), target.clone(), nanos.clone());
        let put = keys.put(chance.next() % keys.count, chance.next() >> 40);
        under_way.spawn(async move {
            let answer = client.call::<PutResponse>(&target, &put).await;
            drop(permit);
            if answer.is_ok() {
                let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                nanos
                    .lock()
                    .await
                    .record(took)
                    .expect("the histogram grows");
            }
            answer.map(|_| ())
        });
        while let Some(done) = under_way.try_join_next() {
            done.expect("a write does not panic")?;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done.expect("a write does not panic")?;
    }
    Ok(())
}

/// A page of keys from `from` on.
fn page(from: Bytes, limit: i64) -> RangeRequest {
    RangeRequest {
        key: from,
        range_end: Bytes::from_static(b"b0"),
        limit,
        ..RangeRequest::default()
    }
}

/// Reads everything, page by page. The number of keys.
pub async fn read_all(addr: &str) -> Result<u64, CallError> {
    let client = Client::connect(addr).await?;
    let target = client.target("/etcdserverpb.KV/Range");
    let mut from = Bytes::from_static(b"b/");
    let mut count = 0;
    loop {
        let answer: RangeResponse = client.call(&target, &page(from, PAGE_KEYS)).await?;
        count += answer.kvs.len() as u64;
        match answer.kvs.last() {
            Some(last) if answer.more => {
                let mut next = BytesMut::from(&last.key[..]);
                next.put_u8(0);
                from = next.freeze();
            }
            _ => return Ok(count),
        }
    }
}

/// What is read, and of which keys.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Keys are taken from the first so many.
    pub among: u64,
    /// Keys a request returns.
    pub page: u64,
    pub clients: usize,
    pub window: Duration,
}

/// Linearizable reads in a closed loop; how many requests per second.
pub async fn read(addr: &str, reading: Reading, seed: u64) -> Result<f64, CallError> {
    let end = Instant::now() + reading.window;
    let mut readers = tokio::task::JoinSet::<Result<u64, CallError>>::new();
    for n in 0..reading.clients as u64 {
        let client = Client::connect(addr).await?;
        readers.spawn(async move {
            let target = client.target("/etcdserverpb.KV/Range");
            let mut chance = Chance(seed ^ (n << 32));
            let mut done = 0u64;
            while Instant::now() < end {
                let from = chance.next() % reading.among.saturating_sub(reading.page - 1).max(1);
                let request = if reading.page == 1 {
                    RangeRequest {
                        key: key(from, KEY_BYTES),
                        ..RangeRequest::default()
                    }
                } else {
                    page(
                        key(from, KEY_BYTES),
                        i64::try_from(reading.page).expect("a page is small"),
                    )
                };
                let answer: RangeResponse = client.call(&target, &request).await?;
                if answer.kvs.len() as u64 != reading.page {
                    return Err(CallError::Malformed("not the keys that were asked for"));
                }
                done += 1;
            }
            Ok(done)
        });
    }
    let mut done = 0;
    while let Some(one) = readers.join_next().await {
        done += one.expect("a reader does not panic")?;
    }
    Ok(done as f64 / reading.window.as_secs_f64())
}

/// Compacts up to `revision`; returns when the server says that it is done.
pub async fn compact(addr: &str, revision: i64) -> Result<(), CallError> {
    let client = Client::connect(addr).await?;
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    let target = client.target("/etcdserverpb.KV/Compact");
    client.call::<CompactionResponse>(&target, &request).await?;
    Ok(())
}

pub async fn defragment(addr: &str) -> Result<(), CallError> {
    let client = Client::connect(addr).await?;
    let target = client.target("/etcdserverpb.Maintenance/Defragment");
    client
        .call::<DefragmentResponse>(&target, &DefragmentRequest {})
        .await?;
    Ok(())
}
