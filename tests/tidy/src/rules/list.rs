//! The rules about what code may name, as data.

use super::{Exception, Rule};

/// ◆ paths: pure and synchronous.
pub const PURE: &[&str] = &[
    "store/state/src/",
    "store/watch/src/",
    "store/node/src/ledger.rs",
    "store/wal/src/codec.rs",
    "store/wal/src/replay.rs",
    "store/wal/src/scan.rs",
    "store/engine/src/codec.rs",
    "store/engine/src/segments/blocks.rs",
    "store/engine/src/segments/table.rs",
    "apiserver/schema/src/",
    "apiserver/rules/src/",
    "apiserver/registry/src/",
    "agents/*/src/core/",
];

pub const RULES: &[Rule] = &[
    Rule {
        name: "pure code has no world",
        why: "time, chance and bytes are arguments of ◆ code, so that it is the same on every member and in every test",
        scope: PURE,
        tests_too: false,
        forbids: |name| {
            const WORLD: &[&str] = &[
                "tokio",
                "futures",
                "openraft",
                "std::fs",
                "std::net",
                "std::thread",
                "std::process",
                "std::env",
                "std::io::stdin",
                "std::io::stdout",
                "rand",
                "getrandom",
                "fastrand",
                "barque_store_env",
                "async_trait",
            ];
            const PARTS: &[&str] = &[
                "Instant",
                "SystemTime",
                "new_v4",
                "RandomState",
                "thread_rng",
                "async",
                "await",
            ];
            // An address is data; only what opens a socket is the world.
            const DATA: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr"];
            let data = DATA.iter().any(|part| name.has(part));
            WORLD.iter().any(|world| name.is_in(world)) && !data
                || PARTS.iter().any(|part| name.has(part))
                || name.path.ends_with("::now")
        },
        exceptions: &[],
        catches: &[
            ("store/state/src/a.rs", "use tokio::sync::Mutex;"),
            (
                "store/watch/src/a.rs",
                "use std::{collections::BTreeMap, fs};",
            ),
            (
                "store/wal/src/codec.rs",
                "fn f() { std::thread::yield_now() }",
            ),
            (
                "apiserver/rules/src/a.rs",
                "use std::time;\nfn f() { time::Instant::elapsed(t) }",
            ),
            (
                "apiserver/registry/src/a.rs",
                "fn f() { jiff::Timestamp::now() }",
            ),
            (
                "apiserver/schema/src/a.rs",
                "fn f() { uuid::Uuid::new_v4() }",
            ),
            ("agents/kubelet/src/core/a.rs", "async fn f() {}"),
            (
                "agents/scheduler/src/core/x/a.rs",
                "use std::time::{Duration, SystemTime};",
            ),
            ("store/state/src/a.rs", "fn f() { rand::random() }"),
        ],
        lets_pass: &[
            ("agents/kubelet/src/core/a.rs", "use std::net::Ipv4Addr;"),
            (
                "store/state/src/a.rs",
                "use std::time::Duration; fn f(now: u64) -> u64 { now }",
            ),
            ("store/state/src/tests.rs", "use std::fs;"),
            (
                "store/state/src/a.rs",
                "// tokio\n#[cfg(test)] mod tests { use std::thread; }",
            ),
            ("agents/scheduler/src/run.rs", "use tokio::time::sleep;"),
        ],
    },
    Rule {
        name: "pure code has no hash order",
        why: "the order of a HashMap differs from run to run and from member to member",
        scope: PURE,
        tests_too: false,
        forbids: |name| name.has("HashMap") || name.has("HashSet"),
        exceptions: &[],
        catches: &[
            (
                "store/state/src/a.rs",
                "use std::collections::{BTreeMap, HashMap};",
            ),
            (
                "agents/client/src/core/a.rs",
                "struct S { a: std::collections::HashSet<u8> }",
            ),
        ],
        lets_pass: &[(
            "store/state/src/a.rs",
            "use std::collections::BTreeMap; struct MyHashMapLike;",
        )],
    },
    Rule {
        name: "only store/consensus names openraft",
        why: "the next version, or another library, is then one crate's business",
        scope: &[
            "store/",
            "apiserver/",
            "agents/",
            "proto/",
            "bench/",
            "tests/",
        ],
        tests_too: true,
        forbids: |name| name.is_in("openraft") || name.is_in("openraft_rt"),
        exceptions: &[Exception {
            path: "store/consensus/",
            reason: "this is the one",
        }],
        catches: &[
            ("store/node/src/a.rs", "use openraft::Raft;"),
            ("store/node/tests/a.rs", "fn f() { openraft::testing::x() }"),
        ],
        lets_pass: &[(
            "store/node/src/a.rs",
            "// as openraft does\nlet x = \"openraft::Raft\";",
        )],
    },
    Rule {
        name: "the store reaches the world through store/env",
        why: "the simulator then runs what production runs",
        scope: &["store/"],
        tests_too: false,
        forbids: |name| {
            const WORLD: &[&str] = &[
                "tokio::time",
                "tokio::fs",
                "tokio::net",
                "tokio::runtime",
                "tokio::task",
                "tokio::spawn",
                "tokio::signal",
                "tokio::process",
                "std::fs",
                "std::thread",
                "std::process",
                "std::net::TcpListener",
                "std::net::TcpStream",
                "std::net::UdpSocket",
                "std::net::ToSocketAddrs",
                "std::time::Instant",
                "std::time::SystemTime",
                "rand",
                "getrandom",
                "fastrand",
            ];
            const PARTS: &[&str] = &["SystemTime", "new_v4", "RandomState", "thread_rng"];
            WORLD.iter().any(|world| name.is_in(world)) || PARTS.iter().any(|part| name.has(part))
        },
        exceptions: &[
            Exception {
                path: "store/env/src/",
                reason: "both worlds are made here",
            },
            Exception {
                path: "store/rpc/src/",
                reason: "the edge: listeners and sockets of clients, a runtime per core; nothing behind it is simulated from here",
            },
            Exception {
                path: "store/consensus/src/runtime.rs",
                reason: "openraft asks its runtime for a generator; it is seeded from the world's chance",
            },
        ],
        catches: &[
            ("store/node/src/a.rs", "fn f() { tokio::spawn(x) }"),
            ("store/wal/src/a.rs", "use tokio::{sync::mpsc, time};"),
            (
                "store/consensus/src/a.rs",
                "use std::time::{Duration, Instant};",
            ),
            ("store/server/src/a.rs", "use std::fs::File;"),
        ],
        lets_pass: &[
            (
                "store/node/src/a.rs",
                "use tokio::sync::{mpsc, oneshot}; use std::time::Duration;",
            ),
            (
                "store/node/src/a.rs",
                "use barque_store_env::{Instant, watch};",
            ),
            ("store/server/src/a.rs", "use std::net::SocketAddr;"),
            ("store/node/tests/a.rs", "fn f() { tokio::spawn(x) }"),
        ],
    },
    Rule {
        name: "the simulated store takes its turns in order",
        why: "tokio picks branches and wakes receivers by a chance of its own, which no seed repeats",
        scope: &["store/wal/", "store/consensus/", "store/node/"],
        tests_too: false,
        forbids: |name| {
            name.is_in("tokio::select")
                || name.is_in("tokio::sync::watch")
                || (name.is_macro && name.path == "select")
        },
        exceptions: &[],
        catches: &[
            (
                "store/node/src/a.rs",
                "fn f() { tokio::select! { x = y => {} } }",
            ),
            ("store/node/src/a.rs", "fn f() { select! { x = y => {} } }"),
            (
                "store/consensus/src/a.rs",
                "use tokio::sync::{mpsc, watch};",
            ),
        ],
        lets_pass: &[
            (
                "store/node/src/a.rs",
                "use barque_store_env::watch; use futures::future::select;",
            ),
            ("store/server/src/a.rs", "use tokio::sync::watch;"),
        ],
    },
    Rule {
        name: "the gateway sees the store through one trait",
        why: "the gateway also runs against a remote store, and against one in memory",
        scope: &["apiserver/"],
        tests_too: false,
        forbids: |name| {
            const SHELLS: &[&str] = &[
                "barque_store_env",
                "barque_store_node",
                "barque_store_consensus",
                "barque_store_wal",
                "barque_store_server",
                "barque_store_rpc",
                "barque_store_watch",
            ];
            SHELLS.iter().any(|shell| name.is_in(shell))
        },
        exceptions: &[
            Exception {
                path: "apiserver/gateway/src/storage/embedded.rs",
                reason: "the trait over the embedded store",
            },
            Exception {
                path: "apiserver/gateway/src/storage/memory.rs",
                reason: "the trait over the bare state machine",
            },
            Exception {
                path: "apiserver/main/src/",
                reason: "the program puts the parts together",
            },
        ],
        catches: &[
            (
                "apiserver/gateway/src/pipeline/a.rs",
                "use barque_store_node::Store;",
            ),
            (
                "apiserver/registry/src/a.rs",
                "fn f(w: barque_store_watch::Hub) {}",
            ),
        ],
        lets_pass: &[(
            "apiserver/gateway/src/pipeline/a.rs",
            "use barque_store_state::Revision;",
        )],
    },
    Rule {
        name: "agents see neither store nor gateway",
        why: "they work through the front door only, as every other client",
        scope: &["agents/"],
        tests_too: true,
        forbids: |name| {
            let root = name.path.split("::").next().unwrap_or_default();
            root.starts_with("barque_store_") || root.starts_with("barque_apiserver_")
        },
        exceptions: &[],
        catches: &[
            (
                "agents/scheduler/src/run.rs",
                "use barque_store_state::Revision;",
            ),
            (
                "agents/client/tests/a.rs",
                "use barque_apiserver_gateway::Gateway;",
            ),
        ],
        lets_pass: &[(
            "agents/scheduler/src/run.rs",
            "use barque_agents_client::Client;",
        )],
    },
    Rule {
        name: "wire types stop at the edge",
        why: "core signatures use domain types, so that a change of a protocol stays at its edge",
        scope: &["store/", "apiserver/", "agents/"],
        tests_too: false,
        forbids: |name| name.is_in("barque_proto"),
        exceptions: &[
            Exception {
                path: "store/server/src/",
                reason: "etcd's front",
            },
            Exception {
                path: "agents/client/src/",
                reason: "the agents' end of the gateway's stream",
            },
            Exception {
                path: "apiserver/gateway/src/grpc/",
                reason: "the gateway's end of the agents' stream",
            },
            Exception {
                path: "apiserver/gateway/src/listener/mod.rs",
                reason: "hands the agents' connections to their service",
            },
            Exception {
                path: "apiserver/main/src/up/probe.rs",
                reason: "a client of the running members, for `barque status`",
            },
            Exception {
                path: "apiserver/main/src/status.rs",
                reason: "prints what that client was told",
            },
        ],
        catches: &[
            (
                "store/state/src/a.rs",
                "use barque_proto::mvccpb::KeyValue;",
            ),
            (
                "agents/kubelet/src/a.rs",
                "fn f(o: barque_proto::objects::Object) {}",
            ),
        ],
        lets_pass: &[(
            "store/server/src/kv.rs",
            "use barque_proto::etcdserverpb as pb;",
        )],
    },
    Rule {
        name: "no queue without a bound",
        why: "each bound stands in a limits.rs, with what happens when it is reached",
        scope: &["store/", "apiserver/", "agents/", "bench/", "tests/"],
        tests_too: true,
        forbids: |name| {
            const PARTS: &[&str] = &[
                "unbounded",
                "unbounded_channel",
                "UnboundedSender",
                "UnboundedReceiver",
                "LinkedList",
            ];
            PARTS.iter().any(|part| name.has(part)) || name.is_in("std::sync::mpsc::channel")
        },
        exceptions: &[],
        catches: &[
            (
                "store/node/src/a.rs",
                "fn f() { tokio::sync::mpsc::unbounded_channel() }",
            ),
            (
                "agents/client/src/a.rs",
                "use futures::channel::mpsc::unbounded;",
            ),
            (
                "bench/src/a.rs",
                "use std::sync::mpsc::{channel, Receiver};",
            ),
        ],
        lets_pass: &[
            (
                "store/node/src/a.rs",
                "use tokio::sync::mpsc; fn unbounded_is_bad() {}",
            ),
            ("bench/src/a.rs", "use std::sync::mpsc::sync_channel;"),
        ],
    },
    Rule {
        name: "nothing is left to do",
        why: "what is not there is said in README, not hidden behind a panic",
        scope: &[
            "store/",
            "apiserver/",
            "agents/",
            "proto/",
            "bench/",
            "tests/",
        ],
        tests_too: true,
        forbids: |name| {
            const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
            name.is_macro && MACROS.iter().any(|part| name.has(part))
        },
        exceptions: &[],
        catches: &[
            ("store/node/src/a.rs", "fn f() { todo!() }"),
            ("store/node/tests/a.rs", "fn f() { unimplemented!(\"x\") }"),
        ],
        lets_pass: &[(
            "store/node/src/a.rs",
            "// todo: no\nfn unimplemented() { a.todo() }",
        )],
    },
];
