//! Clients that keep writing while members come and go: each sends its next put when the last was acknowledged, and goes to the
//! next member when it loses its own.
//! Promise: a put is sent again only when it cannot have been carried out (`fate`); every other failure is counted and told.
//! Not here: which members come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, PutResponse};
use bytes::Bytes;

use crate::client::{CallError, Client, Target};
use crate::fate::Fate;
use crate::limits::{FAILURES_TOLD, PUT_DEADLINE, RETRY};
use crate::load::{Chance, key};
use crate::work::KEY_BYTES;

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub clients: usize,
    /// Between an acknowledgement and the client's next put.
    pub pause: Duration,
}

/// Distinct keys, and what is written to them.
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 256;

/// What all clients saw since the mark.
#[derive(Clone, Debug)]
pub struct Seen {
    pub acknowledged: u64,
    /// Attempts that were sent again at once: no connection, told to go elsewhere, refused before being proposed.
    pub moved: u64,
    /// Puts whose outcome their client does not know: it may not send them again by itself.
    pub failed: u64,
    /// What the first of those were told.
    pub failures: Vec<String>,
    last: Instant,
    /// The longest time without an acknowledgement to anybody. One that began before the mark counts whole.
    pub gap: Duration,
    /// The longest time one client waited for one put, attempts included.
    pub wait: Duration,
}

impl Seen {
    fn new(now: Instant) -> Seen {
        Seen {
            acknowledged: 0,
            moved: 0,
            failed: 0,
            failures: Vec::new(),
            last: now,
            gap: Duration::ZERO,
            wait: Duration::ZERO,
        }
    }

    fn acknowledged(&mut self, asked: Instant, now: Instant) {
        self.acknowledged += 1;
        self.gap = self.gap.max(now - self.last);
        self.wait = self.wait.max(now - asked);
        self.last = now;
    }

    fn failed(&mut self, why: &CallError) {
        self.failed += 1;
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(why.to_string());
        }
    }

    /// Forgets all but when the last acknowledgement came.
    fn mark(&mut self) {
        *self = Seen::new(self.last);
    }

    /// With the time since the last acknowledgement.
    fn at(&self, now: Instant) -> Seen {
        let mut seen = self.clone();
        seen.gap = seen.gap.max(now - seen.last);
        seen
    }
}

/// The clients, until they are ended.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: tokio::task::JoinSet<()>,
}

impl Load {
    /// Clients are spread evenly over `addrs` to begin with.
    pub fn start(addrs: &[&str], shape: Shape) -> Load {
        let addrs: Arc<[String]> = addrs.iter().map(|addr| (*addr).to_owned()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::new(Instant::now())));
        let mut clients = tokio::task::JoinSet::new();
        for n in 0..shape.clients {
            let client = Roaming {
                addrs: addrs.clone(),
                at: n % addrs.len(),
                connection: None,
                stop: stop.clone(),
                seen: seen.clone(),
            };
            clients.spawn(client.run(n as u64, shape.pause));
        }
        Load {
            stop,
            seen,
            clients,
        }
    }

    /// Counts from here on.
    pub fn mark(&self) {
        self.seen.lock().expect("nobody panics with it").mark();
    }

    pub fn seen(&self) -> Seen {
        let seen = self.seen.lock().expect("nobody panics with it");
        seen.at(Instant::now())
    }

    /// Each client ends with the put it has under way.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
    }
}

struct Roaming {
    addrs: Arc<[String]>,
    at: usize,
    connection: Option<(Client, Target)>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

impl Roaming {
    async fn run(mut self, n: u64, pause: Duration) {
        let mut chance = Chance(n << 32);
        let value = Bytes::from(vec![b'r'; VALUE_BYTES]);
        while !self.stop.load(Ordering::Relaxed) {
            let put = PutRequest {
                key: key(chance.next() % KEYS, KEY_BYTES),
                value: value.clone(),
                ..PutRequest::default()
            };
            self.put(&put).await;
            // A sleep of nothing would last until the timer's next tick, a millisecond.
            match pause.is_zero() {
                true => tokio::task::yield_now().await,
                false => tokio::time::sleep(pause).await,
            }
        }
    }

    /// One put, sent until it is acknowledged or its outcome is unknown.
    async fn put(&mut self, put: &PutRequest) {
        let asked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let answer = self.attempt(put).await;
            if answer.is_err() {
                self.connection = None;
                self.at = (self.at + 1) % self.addrs.len();
            }
            if self.is_over(asked, answer) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Counts an attempt; whether it was the put's last.
    fn is_over(&self, asked: Instant, answer: Result<(), CallError>) -> bool {
        let mut seen = self.seen.lock().expect("nobody panics with it");
        match answer {
            Ok(()) => seen.acknowledged(asked, Instant::now()),
            Err(why) => match why.fate() {
                Fate::NeverSent | Fate::Refused => {
                    seen.moved += 1;
                    return false;
                }
                Fate::Unknown | Fate::NoAnswer => seen.failed(&why),
            },
        }
        true
    }

    async fn attempt(&mut self, put: &PutRequest) -> Result<(), CallError> {
        if self.connection.is_none() {
            let client = Client::connect(&self.addrs[self.at]).await?;
            let target = client.target("/etcdserverpb.KV/Put");
            self.connection = Some((client, target));
        }
        let (client, target) = self.connection.as_ref().expect("it was just made");
        let answer = client.call_within::<PutResponse>(target, put, PUT_DEADLINE);
        answer.await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_whole_and_a_wait_from_when_the_client_asked() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut seen = Seen::new(start);
        seen.acknowledged(at(0), at(80));
        seen.mark();
        seen.acknowledged(at(70), at(130));
        seen.acknowledged(at(125), at(140));
        assert_eq!(seen.gap, Duration::from_millis(50));
        assert_eq!(seen.wait, Duration::from_millis(60));
        assert_eq!(seen.acknowledged, 2);
        assert_eq!(seen.at(at(200)).gap, Duration::from_millis(60));
    }

    #[test]
    fn failures_are_all_counted_and_some_are_told() {
        let mut seen = Seen::new(Instant::now());
        for _ in 0..FAILURES_TOLD + 2 {
            seen.failed(&CallError::Timeout(Duration::from_secs(5)));
        }
        assert_eq!(seen.failed, FAILURES_TOLD as u64 + 2);
        assert_eq!(seen.failures.len(), FAILURES_TOLD);
    }

    #[tokio::test]
    async fn clients_without_any_server_move_on_and_can_be_ended() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = listener.local_addr().unwrap().to_string();
        drop(listener);
        let shape = Shape {
            clients: 2,
            pause: Duration::ZERO,
        };
        let load = Load::start(&[&gone, &gone], shape);
        while load.seen().moved < 4 {
            tokio::time::sleep(RETRY).await;
        }
        let seen = load.seen();
        assert_eq!((seen.acknowledged, seen.failed), (0, 0));
        tokio::time::timeout(Duration::from_secs(5), load.end())
            .await
            .unwrap();
    }
}
