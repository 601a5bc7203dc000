//! Leading by a Lease object in the API. Promise: while a `Leadership` says so, no other candidate's does.
//! Not here: the rules (`core::election`), what a leader does.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::core::backoff::spread;
use crate::core::election::{Candidate, Decision, LeaseView, Settings};
use crate::core::reflector::Key;
use crate::error::Error;
use crate::resource::resources::LEASES;

/// What to be elected for, and as whom.
#[derive(Clone, Debug)]
pub struct ElectionConfig {
    /// Lease name, e.g. `barque-scheduler`, in `namespace`.
    pub name: String,
    pub namespace: String,
    /// Unique among running candidates. A candidate that returns under the same name leads on at once.
    pub identity: String,
    pub settings: Settings,
}

impl ElectionConfig {
    /// In kube-system, with Kubernetes' times.
    pub fn new(name: &str, identity: &str) -> ElectionConfig {
        ElectionConfig {
            name: name.to_owned(),
            namespace: "kube-system".to_owned(),
            identity: identity.to_owned(),
            settings: Settings::default(),
        }
    }
}

/// Whether this candidate leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    Follower,
    Leader,
}

/// A running candidacy; dropping it ends it without releasing the lease.
pub struct Election {
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Election {
    pub fn start(client: &Client, config: ElectionConfig) -> Election {
        let (sender, leadership) = watch::channel(Leadership::Follower);
        let (stop, stopped) = watch::channel(false);
        let campaign = Campaign {
            // A renewal that takes longer than a retry period is better tried again, on another master.
            client: client
                .with_call_timeout(config.settings.retry_period.max(Duration::from_millis(500))),
            candidate: Candidate::new(&config.identity, config.settings),
            key: Key::new(&config.namespace, &config.name),
            config,
            origin: Instant::now(),
            leadership: sender,
        };
        Election {
            leadership,
            stop,
            task: tokio::spawn(campaign.run(stopped)),
        }
    }

    /// Waits until this candidate leads.
    pub async fn elected(&self) {
        self.wait_for(Leadership::Leader).await;
    }

    /// Waits until this candidate does not lead (any more). Whatever a leader does must stop then.
    pub async fn lost(&self) {
        self.wait_for(Leadership::Follower).await;
    }

    pub fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    async fn wait_for(&self, wanted: Leadership) {
        let mut leadership = self.leadership.clone();
        if leadership
            .wait_for(|current| *current == wanted)
            .await
            .is_err()
            && wanted == Leadership::Leader
        {
            std::future::pending::<()>().await; // the candidacy is over: never again
        }
    }

    /// Ends the candidacy and frees the lease, so that another takes over at once.
    pub async fn resign(mut self) {
        self.stop.send_replace(true);
        // The task ends by itself within a call's deadline; an error would mean it panicked, which ends it too.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs `work` whenever (and only while) this candidate leads, until `shutdown`. `work` is dropped when the lead is lost, and begun
/// anew when it is won again; it may also end by itself, which ends all.
pub async fn lead<T, W>(
    client: &Client,
    config: ElectionConfig,
    shutdown: impl Future<Output = ()>,
    mut work: impl FnMut() -> W,
) -> Option<T>
where
    W: Future<Output = T>,
{
    let name = config.name.clone();
    let election = Election::start(client, config);
    tokio::pin!(shutdown);
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break None,
            () = election.elected() => tracing::info!(lease = name, "leading"),
        }
        tokio::select! {
            () = &mut shutdown => break None,
            () = election.lost() => tracing::warn!(lease = name, "lead lost, stopped acting"),
            ended = work() => break Some(ended),
        }
    };
    election.resign().await;
    ended
}

struct Campaign {
    client: Client,
    candidate: Candidate,
    config: ElectionConfig,
    key: Key,
    origin: Instant,
    leadership: watch::Sender<Leadership>,
}

impl Campaign {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            // A leader whose renewal hangs is no leader any more when its time is up, wherever the call stands.
            let until = self
                .candidate
                .leads_until()
                .map(|until| self.origin + until);
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let retry = self.config.settings.retry_period;
            let leadership = self.leadership.clone();
            let round = async {
                let leading = self.round().await;
                self.publish();
                // Candidates spread out, a leader renews on time.
                let pause = if leading {
                    retry
                } else {
                    spread(retry.mul_f64(1.2), rand::random())
                };
                sleep(pause).await;
            };
            tokio::select! {
                () = round => {}
                () = over => {
                    leadership.send_replace(Leadership::Follower);
                    self.candidate.holds_not();
                }
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let led = *self.leadership.borrow() == Leadership::Leader;
        self.leadership.send_replace(Leadership::Follower);
        if led && let Err(error) = self.release().await {
            tracing::debug!(lease = %self.key, %error, "lease not released");
        }
    }

    fn publish(&self) {
        let now = self.origin.elapsed();
        let current = if self.candidate.is_leader(now) {
            Leadership::Leader
        } else {
            Leadership::Follower
        };
        self.leadership.send_if_modified(|leadership| {
            let changed = *leadership != current;
            *leadership = current;
            changed
        });
    }

    /// One look at the lease and what follows from it. Says whether it is held.
    async fn round(&mut self) -> bool {
        match self.try_round().await {
            Ok(held) => {
                if !held {
                    self.candidate.holds_not();
                }
                held
            }
            Err(error) => {
                // A conflict or a lost master decides nothing: the next round looks again.
                if error.needs_attention() {
                    tracing::warn!(lease = %self.key, %error, "lease not written");
                } else {
                    tracing::debug!(lease = %self.key, %error, "lease not written");
                }
                self.candidate.is_leader(self.origin.elapsed())
            }
        }
    }

    async fn try_round(&mut self) -> Result<bool, Error> {
        let begun = self.origin.elapsed();
        let found: Option<Lease> = match self
            .client
            .get(LEASES, &self.key.namespace, &self.key.name)
            .await
        {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let view = found
            .as_ref()
            .map(|lease| view_of(lease, self.config.settings.lease_duration));
        let now = MicroTime(Timestamp::now());
        match self.candidate.decide(view.as_ref(), begun) {
            Decision::Wait => return Ok(false),
            Decision::Create => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.key.name.clone()),
                        namespace: Some(self.key.namespace.clone()),
                        ..Default::default()
                    },
                    spec: Some(self.spec(now.clone(), now, 0)),
                };
                let _: Lease = self
                    .client
                    .create(LEASES, &self.key.namespace, &lease)
                    .await?;
            }
            Decision::Take { transitions } => {
                let spec = self.spec(now.clone(), now, transitions);
                self.put(found.unwrap_or_default(), spec).await?;
            }
            Decision::Renew => {
                let lease = found.unwrap_or_default();
                let old = lease.spec.clone().unwrap_or_default();
                let acquired = old.acquire_time.unwrap_or_else(|| now.clone());
                let spec = self.spec(acquired, now, old.lease_transitions.unwrap_or(0));
                self.put(lease, spec).await?;
            }
        }
        self.candidate.holds(begun);
        Ok(true)
    }

    async fn put(&self, mut lease: Lease, spec: LeaseSpec) -> Result<(), Error> {
        lease.spec = Some(spec);
        let _: Lease = self.client.update(LEASES, &self.key, "", &lease).await?;
        Ok(())
    }

    fn spec(&self, acquired: MicroTime, renewed: MicroTime, transitions: i32) -> LeaseSpec {
        let seconds = self.config.settings.lease_duration.as_secs_f64().ceil();
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some((seconds as i32).max(1)),
            acquire_time: Some(acquired),
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }

    async fn release(&self) -> Result<(), Error> {
        let mut lease: Lease = self
            .client
            .get(LEASES, &self.key.namespace, &self.key.name)
            .await?;
        let mut spec = lease.spec.take().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.config.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.put(lease, spec).await
    }
}

fn view_of(lease: &Lease, default_duration: Duration) -> LeaseView {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    LeaseView {
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.map_or(default_duration, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}
