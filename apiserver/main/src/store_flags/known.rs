//! etcd's flags that Barque does not have, and what becomes of each.
//! The rule: a flag is refused where a start that passed it over would put another cluster, other data, or other people in front of
//! clients than was asked for. Everything else is tuning of etcd's inside, or a feature whose absence whoever asks for it is told:
//! it is taken without effect, and the log says so.
//! Not here: the flags that are served (`StoreFlags` is their list, and comes first), where flags stand (`given`).

/// A flag of etcd's (3.4 to 3.7), also under its `experimental-` name.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    /// Stands alone or with `=value`; others take the next word as their value.
    pub switch: bool,
    pub class: Class,
}

#[derive(Debug)]
pub enum Class {
    NoEffect,
    Refused {
        /// Values that ask for what Barque does anyway.
        unless: fn(&str) -> bool,
        /// Why, and what to do instead.
        why: &'static str,
    },
}

/// Barque's own flags: their environment variables begin with `BARQUE_`, not with `ETCD_`.
pub const OWN: &[&str] = &["value-cache-bytes", "storage-engine", "disk-reserve-bytes"];

/// Variables with etcd's prefix that are not flags, and that need no warning: for builds and tests of etcd itself.
pub const NOT_FLAGS: &[&str] = &["ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH"];

/// The flag of this name, without dashes.
pub fn known(name: &str) -> Option<&'static Flag> {
    let find = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    find(name).or_else(|| find(name.strip_prefix("experimental-")?))
}

const fn value(name: &'static str) -> Flag {
    Flag {
        name,
        switch: false,
        class: Class::NoEffect,
    }
}
const fn switch(name: &'static str) -> Flag {
    Flag {
        name,
        switch: true,
        class: Class::NoEffect,
    }
}
const fn refused(name: &'static str, unless: fn(&str) -> bool, why: &'static str) -> Flag {
    Flag {
        name,
        switch: false,
        class: Class::Refused { unless, why },
    }
}
const fn refused_switch(name: &'static str, why: &'static str) -> Flag {
    Flag {
        name,
        switch: true,
        class: Class::Refused { unless: off, why },
    }
}

fn never(_: &str) -> bool {
    false
}
fn off(value: &str) -> bool {
    super::values::boolean(value) == Ok(false)
}

/// Every suite of TLS 1.2 that is ever offered; those of 1.3 cannot be chosen in etcd either.
const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
];

/// Whether nothing is offered that this list leaves out.
fn all_suites(list: &str) -> bool {
    let named: Vec<&str> = list
        .split(',')
        // Go knows the ChaCha suites by two names each.
        .map(|suite| suite.trim().trim_end_matches("_SHA256"))
        .collect();
    SUITES
        .iter()
        .all(|suite| named.contains(&suite.trim_end_matches("_SHA256")))
}

const DISCOVERY: &str = "there is no discovery; name all members in --initial-cluster";
const CRL: &str = "revocation lists are not looked at; revoked certificates would get in";
const NAMES: &str = "certificates are not checked by name; sign them with a CA of their own";
const AUTO_TLS: &str = "no certificates are made; give files";

#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    // Where things are.
    refused("config-file", never, "no configuration file is read; give its settings as flags or in the environment"),
    refused("wal-dir", never, "the log lies in the data directory; leave it out, and place --data-dir on the fast disk"),
    refused("listen-client-http-urls", never, "gRPC and HTTP share --listen-client-urls"),

    // Which cluster.
    refused("discovery", never, DISCOVERY),
    refused("discovery-token", never, DISCOVERY),
    refused("discovery-endpoints", never, DISCOVERY),
    refused("discovery-srv", never, DISCOVERY),
    value("discovery-srv-name"),
    value("discovery-proxy"),
    value("discovery-fallback"),
    value("discovery-dial-timeout"),
    value("discovery-request-timeout"),
    value("discovery-keepalive-time"),
    value("discovery-keepalive-timeout"),
    switch("discovery-insecure-transport"),
    switch("discovery-insecure-skip-tls-verify"),
    value("discovery-cert"),
    value("discovery-key"),
    value("discovery-cacert"),
    value("discovery-user"),
    value("discovery-password"),
    refused("proxy", |mode| mode == "off", "there is no proxy; point clients at the members"),
    value("proxy-failure-wait"),
    value("proxy-refresh-interval"),
    value("proxy-dial-timeout"),
    value("proxy-write-timeout"),
    value("proxy-read-timeout"),

    // Who gets in.
    refused("client-crl-file", never, CRL),
    refused("peer-crl-file", never, CRL),
    refused("client-cert-allowed-cn", never, NAMES),
    refused("client-cert-allowed-hostname", never, NAMES),
    refused("peer-cert-allowed-cn", never, NAMES),
    refused("peer-cert-allowed-hostname", never, NAMES),
    refused_switch("auto-tls", AUTO_TLS),
    refused_switch("peer-auto-tls", AUTO_TLS),
    value("self-signed-cert-validity"),
    refused("peer-client-cert-file", never, "peers are called with --peer-cert-file; it must be good for servers and clients"),
    refused("peer-client-key-file", never, "peers are called with --peer-key-file"),
    // What etcd's own inner client shows; there is none.
    value("client-cert-file"),
    value("client-key-file"),
    refused("host-whitelist", |hosts| hosts == "*", "the Host header is not checked; use https with client certificates"),
    refused("cipher-suites", all_suites, "all suites of TLS 1.2 with forward secrecy and AEAD are offered; name all six, or leave it out"),
    refused("tls-min-version", |version| version != "TLS1.3", "TLS 1.2 is taken as well as 1.3"),
    refused("tls-max-version", |version| version == "TLS1.3", "TLS 1.3 is always offered"),
    switch("peer-skip-client-san-verification"),
    switch("set-member-localaddr"),
    value("cors"),
    // Without users and roles, which clients are told when they ask for them.
    value("auth-token"),
    value("auth-token-ttl"),
    value("bcrypt-cost"),

    // What clients may ask for. Less than the bound is no harm, more would be refused to clients that count on it.
    refused("max-txn-ops", |ops| at_most(ops, barque_store_state::limits::TXN_OPS_MAX), "a transaction has at most 128 operations"),
    refused("max-learners", |learners| at_most(learners, barque_store_state::limits::LEARNERS_MAX), "a cluster has at most one learner at a time"),
    value("max-concurrent-streams"),
    switch("enable-grpc-gateway"),
    switch("enable-v2"),
    value("enable-v2v3"),
    value("v2-deprecation"),

    // The inside of etcd.
    value("snapshot-count"),
    value("snapshot-catchup-entries"),
    value("max-snapshots"),
    value("max-wals"),
    switch("memory-mlock"),
    switch("unsafe-no-fsync"),
    switch("initial-election-tick-advance"),
    switch("pre-vote"),
    value("backend-bbolt-freelist-type"),
    value("backend-batch-interval"),
    value("backend-batch-limit"),
    value("bootstrap-defrag-threshold-megabytes"),
    value("compaction-batch-limit"),
    value("compaction-sleep-interval"),
    value("grpc-keepalive-min-time"),
    value("grpc-keepalive-interval"),
    value("grpc-keepalive-timeout"),
    switch("socket-reuse-port"),
    switch("socket-reuse-address"),
    value("raft-read-timeout"),
    value("raft-write-timeout"),
    value("wait-cluster-ready-timeout"),
    value("downgrade-check-time"),
    // Members compare their states by themselves.
    switch("initial-corrupt-check"),
    value("corrupt-check-time"),
    switch("compact-hash-check-enabled"),
    value("compact-hash-check-time"),
    switch("enable-lease-checkpoint"),
    switch("enable-lease-checkpoint-persist"),
    switch("txn-mode-write-with-shared-buffer"),
    switch("stop-grpc-service-on-defrag"),
    value("feature-gates"),

    // What it tells.
    value("metrics"),
    switch("enable-pprof"),
    switch("debug"),
    value("logger"),
    value("log-outputs"),
    value("log-format"),
    value("log-package-levels"),
    switch("enable-log-rotation"),
    value("log-rotation-config-json"),
    value("warning-apply-duration"),
    value("warning-unary-request-duration"),
    switch("enable-distributed-tracing"),
    value("distributed-tracing-address"),
    value("distributed-tracing-service-name"),
    value("distributed-tracing-instance-id"),
    value("distributed-tracing-sampling-rate"),
];

fn at_most(value: &str, bound: usize) -> bool {
    value.parse::<usize>().is_ok_and(|value| value <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_stands_once_and_has_the_form_of_one() {
        for (n, flag) in FLAGS.iter().enumerate() {
            let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(flag.name.chars().all(named), "{}", flag.name);
            assert!(!flag.name.starts_with("experimental-"), "{}", flag.name);
            let twice = FLAGS[n + 1..].iter().any(|other| other.name == flag.name);
            assert!(!twice, "{} stands twice", flag.name);
        }
    }

    #[test]
    fn values_that_ask_for_what_is_done_anyway_pass() {
        let refuses = |name: &str, value: &str| match &known(name).expect(name).class {
            Class::NoEffect => false,
            Class::Refused { unless, .. } => !unless(value),
        };
        let six = SUITES.join(",");
        let go = six.replace("POLY1305", "POLY1305_SHA256");
        for (name, value) in [
            ("auto-tls", "false"),
            ("peer-auto-tls", "f"),
            ("proxy", "off"),
            ("host-whitelist", "*"),
            ("cipher-suites", six.as_str()),
            ("cipher-suites", go.as_str()),
            ("tls-min-version", "TLS1.2"),
            ("max-txn-ops", "128"),
            ("max-learners", "1"),
            ("experimental-max-learners", "1"),
            ("snapshot-count", "10000"),
        ] {
            assert!(!refuses(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("auto-tls", "true"),
            ("peer-auto-tls", "1"),
            ("proxy", "on"),
            ("host-whitelist", "localhost"),
            ("cipher-suites", SUITES[0]),
            ("tls-min-version", "TLS1.3"),
            ("tls-max-version", "TLS1.2"),
            ("max-txn-ops", "10000"),
            ("discovery-srv", "example.com"),
            ("config-file", "/etc/etcd.yaml"),
            ("peer-cert-allowed-cn", "peer"),
            ("client-crl-file", "/crl"),
            ("wal-dir", "/wal"),
        ] {
            assert!(refuses(name, value), "{name}={value}");
        }
        assert!(known("no-such").is_none() && known("name").is_none());
    }
}
