//! Command lines and environments as they are met, and what becomes of them.

use clap::Parser;

use super::*;

/// As the program has it.
#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: Sub,
}
#[derive(clap::Subcommand)]
enum Sub {
    Etcd(Line),
}
#[derive(Args)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    flags: StoreFlags,
}

fn merge(line: &[&str], environment: &[(&str, &str)]) -> Result<Given, String> {
    let args = ["barque", "etcd"].iter().chain(line).map(OsString::from);
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    Given::merge(args, environment.iter().map(pair)).map_err(|e| e.to_string())
}

fn parse(given: &Given) -> Result<StoreFlags, String> {
    let program = Program::try_parse_from(&given.args).map_err(|e| e.to_string())?;
    let Sub::Etcd(line) = program.command;
    Ok(line.flags)
}

fn flags(line: &[&str], environment: &[(&str, &str)]) -> StoreFlags {
    let given = merge(line, environment).unwrap();
    parse(&given).unwrap_or_else(|e| panic!("{line:?} {environment:?}: {e}"))
}

/// The line kubeadm writes; what differs by version comes besides.
const KUBEADM: &[&str] = &[
    "--advertise-client-urls=https://10.0.0.1:2379",
    "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
    "--client-cert-auth=true",
    "--data-dir=/var/lib/etcd",
    "--initial-advertise-peer-urls=https://10.0.0.1:2380",
    "--initial-cluster=cp1=https://10.0.0.1:2380,cp2=https://10.0.0.2:2380",
    "--initial-cluster-state=existing",
    "--key-file=/etc/kubernetes/pki/etcd/server.key",
    "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
    "--listen-metrics-urls=http://127.0.0.1:2381",
    "--listen-peer-urls=https://10.0.0.1:2380",
    "--name=cp1",
    "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
    "--peer-client-cert-auth=true",
    "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
    "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    "--snapshot-count=10000",
    "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
];

#[test]
fn kubeadms_command_line_starts_in_all_its_spellings() {
    let old = [
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=5s",
    ];
    let new = [
        "--feature-gates=InitialCorruptCheck=true",
        "--watch-progress-notify-interval=5s",
    ];
    for spelling in [old, new] {
        let line: Vec<&str> = KUBEADM.iter().copied().chain(spelling).collect();
        let given = merge(&line, &[]).unwrap();
        assert_eq!(given.notices.no_effect.len(), 2, "{:?}", given.notices);
        let flags = parse(&given).unwrap();
        assert!(flags.client_cert_auth && flags.peer_client_cert_auth);
        assert_eq!(flags.listen_client_urls.len(), 2);
        assert_eq!(flags.watch_progress_notify_interval.as_secs(), 5);
        assert_eq!(flags.check().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn of_a_flag_given_twice_the_last_counts_and_an_empty_one_is_none() {
    let last = flags(
        &[
            "--name=a",
            "-name",
            "b",
            "--listen-client-urls=http://a:1",
            "--listen-client-urls=http://b:1,http://c:1",
            "--client-cert-auth",
            "--client-cert-auth=false",
            "--cert-file=c",
            "--cert-file=",
        ],
        &[
            ("ETCD_NAME", "c"),
            ("ETCD_LISTEN_CLIENT_URLS", "http://d:1"),
        ],
    );
    assert_eq!(last.name, "b");
    assert_eq!(last.listen_client_urls.0, ["http://b:1", "http://c:1"]);
    assert!(!last.client_cert_auth && last.cert_file.is_none());
}

#[test]
fn the_environment_is_read_as_etcd_reads_it() {
    let set = flags(
        &[],
        &[
            ("ETCD_CLIENT_CERT_AUTH", "1"),
            ("ETCD_TRUSTED_CA_FILE", ""),
            ("ETCD_LISTEN_METRICS_URLS", ""),
            ("ETCD_WAL_DIR", ""),
            ("ETCD_NAME", "-a"),
            ("ETCD_QUOTA_BACKEND_BYTES", "-1"),
            ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s"),
            ("BARQUE_VALUE_CACHE_BYTES", "7"),
            ("BARQUE_NAME", "not etcd's"),
        ],
    );
    assert!(set.client_cert_auth && set.trusted_ca_file.is_none());
    assert!(set.metrics_urls().is_empty());
    assert_eq!((set.name.as_str(), set.quota_backend_bytes), ("-a", -1));
    assert_eq!(set.watch_progress_notify_interval.as_secs(), 5);
    assert_eq!(set.value_cache_bytes, 7);
    let unset = flags(&[], &[("ETCD_CLIENT_CERT_AUTH", "false")]);
    assert!(!unset.client_cert_auth);
    // The command line comes first, also where it takes something back.
    let line = flags(&["--cert-file="], &[("ETCD_CERT_FILE", "c")]);
    assert!(line.cert_file.is_none());
    assert!(merge(&["--auto-tls=false"], &[("ETCD_AUTO_TLS", "true")]).is_ok());
}

#[test]
fn what_is_not_served_is_refused_named_or_warned_about() {
    let given = merge(
        &[
            "--snapshot-count",
            "5",
            "--logger=zap",
            "--enable-v2=false",
            "--pre-vote",
        ],
        &[
            ("ETCD_MAX_WALS", "3"),
            ("ETCD_NO_SUCH", "1"),
            ("ETCD_PORT_2379_TCP", "tcp://10.0.0.1:2379"),
            ("ETCD_VERIFY", "all"),
            ("ETCD_VALUE_CACHE_BYTES", "7"),
            ("ETCD_FORCE_NEW_CLUSTER", "false"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(
        given.notices.no_effect,
        [
            "--snapshot-count",
            "--logger",
            "--enable-v2",
            "--pre-vote",
            "ETCD_MAX_WALS"
        ]
    );
    assert_eq!(
        given.notices.unrecognized,
        [
            "ETCD_NO_SUCH",
            "ETCD_PORT_2379_TCP",
            "ETCD_VALUE_CACHE_BYTES"
        ]
    );
    assert_eq!(parse(&given).unwrap().name, "default");

    let refused = merge(
        &["--wal-dir", "/wal", "--peer-cert-allowed-cn=peer"],
        &[
            ("ETCD_DISCOVERY_SRV", "example.com"),
            ("ETCD_CONFIG_FILE", "/c"),
        ],
    )
    .unwrap_err();
    for named in [
        "--wal-dir: ",
        "--peer-cert-allowed-cn: ",
        "ETCD_DISCOVERY_SRV: ",
        "ETCD_CONFIG_FILE: ",
    ] {
        assert!(refused.contains(named), "{named} is not in {refused}");
    }
}

#[test]
fn an_error_about_a_variable_names_it() {
    let given = merge(
        &[],
        &[("ETCD_HEARTBEAT_INTERVAL", "100ms"), ("ETCD_NAME", "a")],
    )
    .unwrap();
    let error = parse(&given).unwrap_err();
    let origin = given.origin(&error).unwrap();
    assert!(origin.ends_with("ETCD_HEARTBEAT_INTERVAL"), "{origin}");
    let given = merge(&["--no-such-flag", "x"], &[("ETCD_NAME", "a")]).unwrap();
    let error = parse(&given).unwrap_err();
    assert!(error.contains("--no-such-flag"), "{error}");
    assert_eq!(given.origin(&error), None);
}

#[test]
fn etcds_flags_are_served_or_known_but_not_both_and_only_here_read_from_the_environment() {
    let served = Served::new();
    for name in served.0.keys() {
        let twice = known::FLAGS.iter().any(|flag| flag.name == name);
        assert!(!twice, "{name} is served: take it out of `known`");
    }
    for own in known::OWN {
        assert!(served.0.contains_key(*own), "{own}");
    }
    let command = StoreFlags::augment_args(clap::Command::new("x"));
    for arg in command.get_arguments() {
        // clap takes an empty variable for a value.
        assert!(
            arg.get_env().is_none(),
            "{} has a variable in clap",
            arg.get_id()
        );
    }
}

#[test]
fn other_subcommands_are_left_alone() {
    let args = ["barque", "up", "-dir"].map(OsString::from);
    let given = Given::merge(args.clone(), [("ETCD_WAL_DIR".into(), "/wal".into())]).unwrap();
    assert_eq!(given.args, args);
    // Single dashes are Go's, for etcd only.
    let args = ["barque", "server", "-name"].map(OsString::from);
    assert_eq!(Given::merge(args.clone(), []).unwrap().args, args);
    let help = merge(&["-h"], &[]).unwrap();
    assert_eq!(help.args, ["barque", "etcd", "-h"]);
}
