//! The page `/metrics`, with etcd's names. Only what has a true value here is on it.

use barque_store_env::Env;
use barque_store_env::real::process_stats;
use barque_store_node::{Figures, PeerTraffic, Status, Store};
use barque_store_rpc::Code;
use barque_store_state::MemberId;

use crate::ETCD_API_VERSION;
use crate::exposition::Page;
use crate::pages::{METHODS, Pages};

pub(crate) fn page<E: Env>(pages: &Pages<E>) -> String {
    let mut page = Page::default();
    page.fact(
        "etcd_server_version",
        "Version of etcd's API that is served.",
        "server_version",
        ETCD_API_VERSION,
    );
    match pages.store() {
        Some(store) => {
            let (status, figures) = (store.status(), store.figures());
            server(&mut page, store, &status, &figures);
            mvcc(&mut page, store, &status, &figures);
            disk(&mut page, &status, &figures);
            peers(&mut page, status.member, &figures.peers);
        }
        None => page.gauge("etcd_server_has_leader", "Whether a leader is known.", 0),
    }
    let (successes, failures) = pages.health_checks();
    page.counter(
        "etcd_server_health_success",
        "Successful checks of /health.",
        successes,
    );
    page.counter(
        "etcd_server_health_failures",
        "Failed checks of /health.",
        failures,
    );
    calls(&mut page, pages);
    process(&mut page);
    page.finish()
}

fn server<E: Env>(page: &mut Page, store: &Store<E>, status: &Status, figures: &Figures) {
    let leads = status.leader == Some(status.member);
    if let Some(version) = status.cluster_version {
        page.fact(
            "etcd_cluster_version",
            "Version the cluster works in.",
            "cluster_version",
            &version.to_string(),
        );
    }
    page.fact(
        "etcd_server_id",
        "This member's id, in hexadecimal.",
        "server_id",
        &format!("{:x}", status.member.0),
    );
    page.gauge(
        "etcd_server_has_leader",
        "Whether a leader is known.",
        u8::from(status.leader.is_some()),
    );
    page.gauge(
        "etcd_server_is_leader",
        "Whether this member leads.",
        u8::from(leads),
    );
    page.gauge(
        "etcd_server_is_learner",
        "Whether this member does not vote.",
        u8::from(store.is_learner()),
    );
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Leaders seen since the start.",
        figures.leader_changes,
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "Index of the newest committed entry.",
        figures.proposals_committed,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "Index of the newest applied entry.",
        figures.proposals_applied,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "Commands waiting to be proposed.",
        figures.proposals_pending,
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "Commands of this member that were not carried out, or whose outcome is not known.",
        figures.proposals_failed,
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "Entries that took more than 100 ms to carry out.",
        figures.slow_applies,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "Rounds of read indexes that took more than 500 ms.",
        figures.slow_read_indexes,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "Rounds of read indexes that failed.",
        figures.failed_read_indexes,
    );
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that this member, leading, began more than two intervals after the one before: it is overloaded.",
        figures.peers.iter().map(|peer| peer.late_heartbeats).sum::<u64>(),
    );
    page.counter(
        "barque_integrity_compared_total",
        "Times this member, leading, found a majority of the members' states equal.",
        figures.integrity_compared,
    );
    page.counter(
        "barque_integrity_differing_total",
        "Members it found to differ from a majority, and times there was none.",
        figures.integrity_differing,
    );
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Quota on live bytes; negative: none.",
        quota(status.quota_bytes),
    );
    page.counter(
        "etcd_debugging_lease_granted_total",
        "Leases granted.",
        figures.leases_granted,
    );
    page.counter(
        "etcd_debugging_lease_revoked_total",
        "Leases revoked or expired.",
        figures.leases_revoked,
    );
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "Leases renewed.",
        figures.leases_renewed,
    );
    page.counter(
        "etcd_debugging_server_lease_expired_total",
        "Leases expired.",
        figures.leases_expired,
    );
}

/// etcd's sign for "no quota".
pub(crate) fn quota(bytes: Option<u64>) -> i64 {
    bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn mvcc<E: Env>(page: &mut Page, store: &Store<E>, status: &Status, figures: &Figures) {
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the rows' files; the log is not among them.",
        status.db_size,
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Live bytes: what the quota counts.",
        status.db_size_in_use,
    );
    for (name, help, value) in [
        ("put_total", "Keys put.", figures.puts),
        ("delete_total", "Deletions of ranges.", figures.deletes),
        ("range_total", "Ranges answered here.", figures.ranges),
        (
            "txn_total",
            "Transactions of more than one operation.",
            figures.txns,
        ),
    ] {
        // Dashboards use both: etcd moved these out of "debugging" and kept the old names for a while.
        page.counter(&format!("etcd_mvcc_{name}"), help, value);
        page.counter(&format!("etcd_debugging_mvcc_{name}"), help, value);
    }
    for (name, help, value) in [
        ("keys_total", "Live keys.", figures.keys),
        (
            "current_revision",
            "The store's revision.",
            status.revision.0,
        ),
        (
            "compact_revision",
            "The newest compacted revision.",
            store.compact_revision().0,
        ),
        ("watch_stream_total", "Open streams.", figures.watch_streams),
        ("watcher_total", "Watchers.", figures.watchers),
        (
            "slow_watcher_total",
            "Watchers that read history to catch up.",
            figures.slow_watchers,
        ),
        (
            "total_put_size_in_bytes",
            "Bytes of keys and values put.",
            figures.put_bytes,
        ),
    ] {
        page.gauge(&format!("etcd_debugging_mvcc_{name}"), help, value);
    }
    page.counter(
        "etcd_debugging_mvcc_events_total",
        "Events sent to watchers.",
        figures.watch_events,
    );
}

fn disk(page: &mut Page, status: &Status, figures: &Figures) {
    page.gauge(
        "barque_log_bytes",
        "Bytes of the log's segments, the one filled ahead included.",
        status.log_bytes,
    );
    for (name, help, durations) in [
        (
            "etcd_disk_wal_fsync_duration_seconds",
            "Writing and syncing a batch of the log.",
            &figures.log_syncs,
        ),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "Writing and syncing a batch of rows.",
            &figures.commits,
        ),
    ] {
        page.head(name, "histogram", help);
        page.histogram(name, "", durations);
    }
}

/// By each other member. etcd's labels: `To` for what is sent, `From` for what comes.
fn peers(page: &mut Page, me: MemberId, peers: &[PeerTraffic]) {
    if peers.is_empty() {
        return;
    }
    let name = "etcd_network_active_peers";
    let help = "Whether a connection to or from the member is open.";
    page.head(name, "gauge", help);
    for peer in peers {
        page.line(format_args!(
            "{name}{{Local=\"{me}\",Remote=\"{}\"}} {}",
            peer.member,
            u8::from(peer.connected)
        ));
    }
    type Value = fn(&PeerTraffic) -> u64;
    let counters: [(&str, &str, &str, Value); 3] = [
        (
            "etcd_network_peer_sent_bytes_total",
            "Bytes sent to the member.",
            "To",
            |peer| peer.sent_bytes,
        ),
        (
            "etcd_network_peer_received_bytes_total",
            "Bytes received from the member.",
            "From",
            |peer| peer.received_bytes,
        ),
        (
            "etcd_network_peer_sent_failures_total",
            "Connections that could not be made, and messages whose connection broke before they were answered.",
            "To",
            |peer| peer.failures,
        ),
    ];
    for (name, help, label, value) in counters {
        page.head(name, "counter", help);
        for peer in peers {
            let (member, value) = (peer.member, value(peer));
            page.line(format_args!("{name}{{{label}=\"{member}\"}} {value}"));
        }
    }
    let name = "etcd_network_peer_round_trip_time_seconds";
    let help = "From a heartbeat of this member, leading, to its answer.";
    page.head(name, "histogram", help);
    for peer in peers {
        let label = format!("To=\"{}\"", peer.member);
        page.histogram(name, &label, &peer.round_trips);
    }
}

fn calls<E: Env>(page: &mut Page, pages: &Pages<E>) {
    let labels = |method: usize| {
        let (path, kind) = METHODS[method];
        let (service, name) = path[1..].split_once('/').unwrap_or((path, ""));
        format!(
            "grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{}\"",
            kind.name()
        )
    };
    let (sent, received) = pages.bytes();
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of messages sent to clients.",
        sent,
    );
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of messages received from clients.",
        received,
    );
    page.head("grpc_server_started_total", "counter", "RPCs started.");
    for method in 0..METHODS.len() {
        let (labels, started) = (labels(method), pages.started(method));
        page.line(format_args!(
            "grpc_server_started_total{{{labels}}} {started}"
        ));
    }
    page.head(
        "grpc_server_handled_total",
        "counter",
        "RPCs completed, by how they ended.",
    );
    for method in 0..METHODS.len() {
        let labels = labels(method);
        for code in Code::ALL {
            let (name, handled) = (code.name(), pages.handled(method, code));
            page.line(format_args!(
                "grpc_server_handled_total{{grpc_code=\"{name}\",{labels}}} {handled}"
            ));
        }
    }
}

fn process(page: &mut Page) {
    let stats = process_stats();
    if let Some(seconds) = stats.cpu_seconds {
        page.counter("process_cpu_seconds_total", "CPU time used.", seconds);
    }
    for (name, help, value) in [
        ("process_open_fds", "Open file descriptors.", stats.open_fds),
        ("process_max_fds", "Their limit.", stats.max_fds),
        ("os_fd_used", "Open file descriptors.", stats.open_fds),
        ("os_fd_limit", "Their limit.", stats.max_fds),
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            stats.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory.",
            stats.virtual_bytes,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    }
    if let Some(seconds) = stats.start_time_seconds {
        page.gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            seconds,
        );
    }
}
