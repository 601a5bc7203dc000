//! Probes: unary puts to one member at a fixed pace, each with a deadline and never sent again; and what a fault did to them.
//! Promise: the pace does not depend on the answers, so that a member that does not answer is seen as it is.
//! Not here: clients that move on to another member (`roam`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, PutResponse};

use crate::client::{CallError, Client};
use crate::fate::Fate;
use crate::limits::{FAILURES_TOLD, PUT_DEADLINE};
use crate::load::key;
use crate::work::KEY_BYTES;

/// Keys of one probe, written in turn.
const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 256;

/// One put that came to an end.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    pub sent: Instant,
    pub ended: Instant,
    /// `None`: acknowledged.
    pub failed: Option<Fate>,
}

/// Puts to one member until it is ended.
pub struct Probe {
    stop: Arc<AtomicBool>,
    puts: Arc<Mutex<Vec<Put>>>,
    told: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Probe {
    /// `number` tells the keys of probes apart.
    pub async fn start(addr: &str, number: u64, every: Duration) -> Result<Probe, CallError> {
        let client = Client::connect(addr).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let puts = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::new(Mutex::new(BTreeSet::new()));
        let pace = Pace {
            addr: addr.to_owned(),
            number,
            every,
            stop: stop.clone(),
            puts: puts.clone(),
            told: told.clone(),
        };
        let task = tokio::spawn(pace.run(client));
        Ok(Probe {
            stop,
            puts,
            told,
            task,
        })
    }

    /// Whether a put that was sent after `moment` has been acknowledged.
    pub fn served_since(&self, moment: Instant) -> bool {
        let puts = self.puts.lock().expect("nobody panics with it");
        // The newest ended last.
        let ended = puts.iter().rev().take_while(|put| put.ended > moment);
        let mut served = ended.filter(|put| put.sent > moment);
        served.any(|put| put.failed.is_none())
    }

    /// Sends no more, waits for those under way, and gives all; and some of the errors that puts were told.
    pub async fn end(self) -> (Vec<Put>, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("a probe does not panic");
        let puts = std::mem::take(&mut *self.puts.lock().expect("nobody panics with it"));
        let told = std::mem::take(&mut *self.told.lock().expect("nobody panics with it"));
        (puts, told)
    }
}

struct Pace {
    addr: String,
    number: u64,
    every: Duration,
    stop: Arc<AtomicBool>,
    puts: Arc<Mutex<Vec<Put>>>,
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Pace {
    async fn run(self, mut client: Client) {
        let target = client.target("/etcdserverpb.KV/Put");
        let mut under_way = tokio::task::JoinSet::new();
        let mut due = tokio::time::Instant::now();
        let value = bytes::Bytes::from(vec![b'p'; VALUE_BYTES]);
        for count in 0.. {
            tokio::time::sleep_until(due).await;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            due += self.every;
            let put = PutRequest {
                key: key(self.number * KEYS + count % KEYS, KEY_BYTES),
                value: value.clone(),
                ..PutRequest::default()
            };
            let (client_now, target) = (client.clone(), target.clone());
            let (puts, told) = (self.puts.clone(), self.told.clone());
            under_way.spawn(async move {
                let sent = Instant::now();
                let answer = client_now
                    .call_within::<PutResponse>(&target, &put, PUT_DEADLINE)
                    .await;
                let failed = answer.err().map(|error| {
                    let mut told = told.lock().expect("nobody panics with it");
                    if told.len() < FAILURES_TOLD {
                        told.insert(error.to_string());
                    }
                    error.fate()
                });
                puts.lock().expect("nobody panics with it").push(Put {
                    sent,
                    ended: Instant::now(),
                    failed,
                });
                failed
            });
            let mut broken = false;
            while let Some(ended) = under_way.try_join_next() {
                broken |= ended.expect("a put does not panic") == Some(Fate::NeverSent);
            }
            // The next put gets a new connection; this one is not sent again.
            if broken && let Ok(again) = Client::connect(&self.addr).await {
                client = again;
            }
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// What became of the puts that were sent while no survivor acknowledged any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub no_answer: u64,
    pub never_sent: u64,
}

impl Fates {
    fn count(&mut self, failed: Option<Fate>) {
        *match failed {
            None => &mut self.acknowledged,
            Some(Fate::Refused) => &mut self.refused,
            Some(Fate::Unknown) => &mut self.unknown,
            Some(Fate::NoAnswer) => &mut self.no_answer,
            Some(Fate::NeverSent) => &mut self.never_sent,
        } += 1;
    }

    pub fn add(&mut self, other: Fates) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.no_answer += other.no_answer;
        self.never_sent += other.never_sent;
    }

    pub fn sent(&self) -> u64 {
        self.failed() + self.acknowledged
    }

    pub fn failed(&self) -> u64 {
        self.refused + self.unknown + self.no_answer + self.never_sent
    }
}

/// How long writes stood still after a fault, and the puts of that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Until the first acknowledgement, by any survivor, of a put sent after the fault.
    pub first: Duration,
    /// Until every survivor had given one.
    pub last: Duration,
    /// Of the puts sent between the fault and the first acknowledgement.
    pub fates: Fates,
}

/// `survivors`: all puts to each of them. `None` when one of them never served again.
pub fn window(fault: Instant, survivors: &[Vec<Put>]) -> Option<Window> {
    let served: Option<Vec<Instant>> = survivors
        .iter()
        .map(|puts| {
            let after = puts.iter().filter(|put| put.sent > fault);
            let served = after.filter(|put| put.failed.is_none());
            served.map(|put| put.ended).min()
        })
        .collect();
    let served = served?;
    let (first, last) = (*served.iter().min()?, *served.iter().max()?);
    let mut fates = Fates::default();
    let all = survivors.iter().flatten();
    for put in all.filter(|put| put.sent > fault && put.sent < first) {
        fates.count(put.failed);
    }
    Some(Window {
        first: first - fault,
        last: last - fault,
        fates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_ends_with_the_first_acknowledged_put_that_was_sent_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let put = |sent, ended, failed| Put {
            sent: at(sent),
            ended: at(ended),
            failed,
        };
        let survivors = [
            vec![
                // Sent before the fault at 100: says nothing of it.
                put(98, 103, None),
                put(110, 900, Some(Fate::Unknown)),
                put(120, 1_000, None),
                // Sent when writes went on again.
                put(2_000, 2_001, Some(Fate::Refused)),
            ],
            vec![
                put(115, 5_115, Some(Fate::NoAnswer)),
                put(130, 131, Some(Fate::Refused)),
                put(1_000, 1_200, None),
            ],
        ];
        let window = window(at(100), &survivors).unwrap();
        assert_eq!(window.first, Duration::from_millis(900));
        assert_eq!(window.last, Duration::from_millis(1_100));
        let expected = Fates {
            acknowledged: 1,
            refused: 1,
            unknown: 1,
            no_answer: 1,
            never_sent: 0,
        };
        assert_eq!(window.fates, expected);
        assert_eq!((window.fates.sent(), window.fates.failed()), (4, 3));
    }

    #[test]
    fn a_survivor_that_never_serves_again_leaves_no_window() {
        let start = Instant::now();
        let put = Put {
            sent: start + Duration::from_millis(1),
            ended: start + Duration::from_millis(2),
            failed: None,
        };
        assert!(window(start, &[vec![put], vec![]]).is_none());
    }
}
