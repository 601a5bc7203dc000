//! What the plain HTTP pages draw from: the store, once it is there, and the counters of every core.
//! Pages are served before the store has recovered, so that whoever probes can tell "starting" from "hanging".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use barque_store_env::Env;
use barque_store_node::Store;
use barque_store_rpc::{Code, Tally};
use parking_lot::Mutex;

/// Shared by everything that serves pages of one member. Cheap to clone.
pub struct Pages<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    store: OnceLock<Store<E>>,
    cores: Mutex<Vec<Arc<Calls>>>,
    health_successes: AtomicU64,
    health_failures: AtomicU64,
}

impl<E: Env> Default for Pages<E> {
    fn default() -> Self {
        Pages {
            inner: Arc::new(Inner {
                store: OnceLock::new(),
                cores: Mutex::default(),
                health_successes: AtomicU64::new(0),
                health_failures: AtomicU64::new(0),
            }),
        }
    }
}

impl<E: Env> Clone for Pages<E> {
    fn clone(&self) -> Self {
        Pages {
            inner: self.inner.clone(),
        }
    }
}

impl<E: Env> std::fmt::Debug for Pages<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl<E: Env> Pages<E> {
    /// The store has recovered. Later calls change nothing: it is the same one.
    pub fn ready(&self, store: Store<E>) {
        let _ = self.inner.store.set(store);
    }

    /// `None` while it recovers.
    pub(crate) fn store(&self) -> Option<&Store<E>> {
        self.inner.store.get()
    }

    /// A further core's counters.
    pub(crate) fn core(&self) -> Arc<Calls> {
        let calls = Arc::new(Calls::default());
        self.inner.cores.lock().push(calls.clone());
        calls
    }

    pub(crate) fn health_checked(&self, healthy: bool) {
        let counter = if healthy {
            &self.inner.health_successes
        } else {
            &self.inner.health_failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Successes, failures.
    pub(crate) fn health_checks(&self) -> (u64, u64) {
        (
            self.inner.health_successes.load(Ordering::Relaxed),
            self.inner.health_failures.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn started(&self, method: usize) -> u64 {
        let cores = self.inner.cores.lock();
        cores.iter().map(|core| core.started(method)).sum()
    }

    pub(crate) fn handled(&self, method: usize, code: Code) -> u64 {
        let cores = self.inner.cores.lock();
        cores
            .iter()
            .map(|core| core.0[method].tally.ended_with(code))
            .sum()
    }

    /// Bytes of gRPC messages sent and received.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let cores = self.inner.cores.lock();
        let methods = cores.iter().flat_map(|core| &core.0);
        methods.fold((0, 0), |(sent, received), method| {
            let (out, r#in) = method.tally.bytes();
            (sent + out, received + r#in)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MethodType {
    Unary,
    Bidi,
}

impl MethodType {
    /// As grpc-go's metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            MethodType::Unary => "unary",
            MethodType::Bidi => "bidi_stream",
        }
    }
}

/// How a path that is served is called.
pub(crate) fn method(path: &str) -> Option<MethodType> {
    let found = METHODS.iter().find(|(known, _)| *known == path)?;
    Some(found.1)
}

/// The methods that are served, those called most first: the list is searched from its beginning.
pub(crate) const METHODS: &[(&str, MethodType)] = &[
    ("/etcdserverpb.KV/Range", MethodType::Unary),
    ("/etcdserverpb.KV/Txn", MethodType::Unary),
    ("/etcdserverpb.KV/Put", MethodType::Unary),
    ("/etcdserverpb.KV/DeleteRange", MethodType::Unary),
    ("/etcdserverpb.Watch/Watch", MethodType::Bidi),
    ("/etcdserverpb.Lease/LeaseKeepAlive", MethodType::Bidi),
    ("/etcdserverpb.Lease/LeaseGrant", MethodType::Unary),
    ("/etcdserverpb.Lease/LeaseRevoke", MethodType::Unary),
    ("/etcdserverpb.Lease/LeaseTimeToLive", MethodType::Unary),
    ("/etcdserverpb.Lease/LeaseLeases", MethodType::Unary),
    ("/etcdserverpb.KV/Compact", MethodType::Unary),
    ("/etcdserverpb.Maintenance/Status", MethodType::Unary),
    ("/etcdserverpb.Maintenance/Alarm", MethodType::Unary),
    ("/etcdserverpb.Maintenance/Defragment", MethodType::Unary),
    ("/etcdserverpb.Maintenance/Hash", MethodType::Unary),
    ("/etcdserverpb.Maintenance/HashKV", MethodType::Unary),
    ("/etcdserverpb.Maintenance/MoveLeader", MethodType::Unary),
    ("/etcdserverpb.Maintenance/Downgrade", MethodType::Unary),
    ("/etcdserverpb.Cluster/MemberList", MethodType::Unary),
    ("/etcdserverpb.Cluster/MemberAdd", MethodType::Unary),
    ("/etcdserverpb.Cluster/MemberRemove", MethodType::Unary),
    ("/etcdserverpb.Cluster/MemberUpdate", MethodType::Unary),
    ("/etcdserverpb.Cluster/MemberPromote", MethodType::Unary),
    ("/grpc.health.v1.Health/Check", MethodType::Unary),
    ("/grpc.health.v1.Health/Watch", MethodType::Bidi),
];

#[derive(Debug, Default)]
struct Method {
    started: AtomicU64,
    tally: Arc<Tally>,
}

/// One core's calls, by method.
#[derive(Debug)]
pub(crate) struct Calls(Vec<Method>);

impl Default for Calls {
    fn default() -> Self {
        Calls(METHODS.iter().map(|_| Method::default()).collect())
    }
}

impl Calls {
    /// Counts a call that begins; its end and its bytes are to be counted in what is returned.
    pub fn begin(&self, path: &str) -> Option<Arc<Tally>> {
        let index = METHODS.iter().position(|(known, _)| *known == path)?;
        let method = &self.0[index];
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(method.tally.clone())
    }

    fn started(&self, method: usize) -> u64 {
        self.0[method].started.load(Ordering::Relaxed)
    }
}
