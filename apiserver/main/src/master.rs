//! What `barque etcd` and `barque server` do alike: a member, its etcd front, and whatever is served beside, from the start to the
//! end that a signal asks for.

use std::pin::{Pin, pin};
use std::time::Duration;

use barque_apiserver_gateway as gateway;
use barque_store_env::Env;
use barque_store_env::real::RealEnv;
use barque_store_node::Store;
use barque_store_rpc::TlsFiles;
use barque_store_server::{BoundFront, EtcdFront, Handle, Pages};
use tracing::{error, info, warn};

use crate::ending::Ending;
use crate::signals::{self, StopSignal};
use crate::store_flags::{Notices, StoreFlags};
use crate::store_thread::StoreThread;
use crate::{Failure, log_to_stderr, with_causes};

/// One try to learn how far the cluster is, and the pause before the next.
const CAUGHT_UP_TRY: Duration = Duration::from_secs(1);
const CAUGHT_UP_PAUSE: Duration = Duration::from_millis(20);

/// Runs a member with these flags until it is asked to stop, on so many threads besides its own. `beside` starts what is served
/// next to the etcd front, once that is up; it is stopped before it.
pub fn run(
    flags: &StoreFlags,
    notices: &Notices,
    threads: usize,
    beside: impl AsyncFnOnce(Store<RealEnv>, &Handle) -> Result<Option<gateway::Handle>, Failure>,
) -> Result<(), Failure> {
    log_to_stderr(flags.log_level());
    notices.log();
    for warning in flags.check()? {
        warn!("{warning}");
    }
    let front = front_config(flags);
    let (config, net) = flags.node()?;
    let runtime = signals::runtime(threads)?;
    let stop = runtime.block_on(async { signals::stop_signal() })?;
    // Before the store: a member with a mistake in its client listener must not vote, lead, and end again.
    let tls = front.tls.clone();
    let front = EtcdFront::bind(front).map_err(|e| Failure::new(with_causes(&e)))?;
    let pages = Pages::default();
    let metrics = start_metrics(flags, tls.as_ref(), &pages)?;
    let mut stop = pin!(stop);
    let starting = StoreThread::start(config, net, stop.as_mut());
    let store = match runtime.block_on(starting)? {
        Ok(store) => store,
        Err(ending) => {
            ending.die();
            return Ok(());
        }
    };
    let served = runtime.block_on(async {
        let served = serve(&store.store, front, &pages, beside, stop).await;
        if let Some(metrics) = metrics {
            metrics.shutdown().await;
        }
        served
    });
    // Also where serving failed: it hands leadership over.
    store.stop()?;
    served?.die();
    Ok(())
}

/// Serves clients, once the member has caught up, until it is to end.
async fn serve(
    store: &Store<RealEnv>,
    front: BoundFront,
    pages: &Pages<RealEnv>,
    beside: impl AsyncFnOnce(Store<RealEnv>, &Handle) -> Result<Option<gateway::Handle>, Failure>,
    mut stop: Pin<&mut impl Future<Output = StopSignal>>,
) -> Result<Ending, Failure> {
    // Whoever probes it may know from now on what it waits for.
    pages.ready(store.clone());
    if let Some(ending) = caught_up(store, stop.as_mut()).await {
        return Ok(ending);
    }
    let front = front
        .serve(store.clone(), pages.clone())
        .map_err(|e| Failure::new(with_causes(&e)))?;
    let gateway = match beside(store.clone(), &front).await {
        Ok(gateway) => gateway,
        Err(failure) => {
            front.shutdown().await;
            return Err(failure);
        }
    };
    announce_ready(&front.addresses());
    let outcome = until_stopped(store, stop).await;
    if let Some(gateway) = gateway {
        gateway.shutdown().await;
    }
    front.shutdown().await;
    outcome
}

/// The etcd front that the store's flags describe.
fn front_config(flags: &StoreFlags) -> barque_store_server::Config {
    let tls = match (&flags.cert_file, &flags.key_file) {
        (Some(cert), Some(key)) => Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            // As etcd: naming the CA is asking for certificates, with or without --client-cert-auth.
            client_ca: flags.trusted_ca_file.clone(),
        }),
        _ => None,
    };
    barque_store_server::Config {
        listen: flags.listen_client_urls.to_vec(),
        tls,
        max_request_bytes: flags.max_request_bytes,
        election: Duration::from_millis(flags.election_timeout),
        cores: 0,
    }
}

/// How long a leader that is asked to stop looks for somebody to hand leadership to.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// Waits until this member has applied everything that was acknowledged before now; why it ends, if it does first.
/// A restarted member that served sooner would answer local reads from before its end, and go back in its clients' sight.
async fn caught_up(
    store: &Store<RealEnv>,
    mut stop: Pin<&mut impl Future<Output = StopSignal>>,
) -> Option<Ending> {
    // Once for all tries: it looks again and again.
    let mut gone = pin!(store.removed());
    let mut told = false;
    loop {
        let deadline = RealEnv::now() + CAUGHT_UP_TRY;
        tokio::select! {
            signal = stop.as_mut() => return Some(Ending::Signal(signal)),
            () = gone.as_mut() => return Some(Ending::removed()),
            reason = store.failed() => failed(&reason),
            read = store.read_index(deadline) => {
                if read.is_ok() {
                    return None;
                }
            }
        }
        if !told {
            warn!(
                "no leader yet: clients are served once this member has caught up with a majority of the cluster"
            );
            told = true;
        }
        RealEnv::sleep(CAUGHT_UP_PAUSE).await;
    }
}

fn failed(reason: &str) -> ! {
    error!(
        reason,
        "this member stops: it can no longer trust its disk or state"
    );
    // The store's thread may hang on the very disk that failed; nothing more is acknowledged either way.
    eprintln!("barque: {reason}");
    std::process::exit(1);
}

/// The pages of `--listen-metrics-urls`, if there are any. Started before the store: whoever probes a member that recovers, or
/// that finds no quorum, gets answers.
fn start_metrics(
    flags: &StoreFlags,
    tls: Option<&TlsFiles>,
    pages: &Pages<RealEnv>,
) -> Result<Option<Handle>, Failure> {
    let urls = flags.metrics_urls();
    if urls.is_empty() {
        return Ok(None);
    }
    let handle = EtcdFront::start_metrics(urls, tls, pages.clone())
        .map_err(|e| Failure::new(with_causes(&e)))?;
    info!(urls = ?handle.addresses(), "serving metrics");
    Ok(Some(handle))
}

/// Says so, as etcd does: supervisors wait for these lines.
fn announce_ready(addresses: &[String]) {
    for address in addresses {
        info!(address, "ready to serve client requests");
    }
    for address in addresses {
        match address.starts_with("https://") {
            true => info!(
                traffic = "grpc+http",
                address, "serving client traffic securely"
            ),
            false => warn!(
                traffic = "grpc+http",
                address, "serving client traffic insecurely; this is strongly discouraged!"
            ),
        }
    }
}

/// Until a signal asks to stop or the member was removed; or it can no longer be trusted, which is a failure. When it returns,
/// leadership has been handed over: before anything is stopped, so that the clients of the other members notice little.
async fn until_stopped(
    store: &Store<RealEnv>,
    stop: impl Future<Output = StopSignal>,
) -> Result<Ending, Failure> {
    tokio::select! {
        signal = stop => {
            info!(?signal, "received signal; shutting down");
            store.hand_over(RealEnv::now() + HAND_OVER_MAX).await;
            Ok(Ending::Signal(signal))
        }
        () = store.removed() => Ok(Ending::removed()),
        reason = store.failed() => failed(&reason),
    }
}
