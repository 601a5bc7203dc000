//! A small network of our own: a bridge and one host a member, each in a network namespace, whose links can be cut in one direction.
//! Promise: the machine's own network is not touched, nothing in it has a name outside, and it ends with its value or with this
//! process, however that ends: the namespaces have no other holder.
//! How a link is cut: the receiver routes what comes from that sender into a black hole. It is lost without a word to either side.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Uid;

use crate::Failure;
use crate::member::Place;
use crate::mount::{command, has};

/// The network's first three numbers; in namespaces of its own it meets no other.
const NET: &str = "10.99.0";
/// The rule of a host that names what is lost stands before all others.
const LOST: &str = "10";
/// How long a new process may take to be in its namespace.
const BORN: Duration = Duration::from_secs(5);

/// One member's host.
struct Host {
    /// Reads from a pipe that only we hold, and ends with it.
    holder: Child,
    /// Senders whose packets are lost here.
    deaf_to: Vec<usize>,
}

pub struct Net {
    hosts: Vec<Host>,
    /// Where this thread came from.
    home: File,
}

impl Net {
    /// Moves this thread into the network, at the bridge, from where every host is reached and nothing else. Its children are born
    /// there; use a runtime of one thread.
    pub fn make(count: usize) -> Result<Net, Failure> {
        if !Uid::effective().is_root() {
            return Err(Failure::Skip("network namespaces need root".into()));
        }
        for tool in ["ip", "unshare", "nsenter", "cat"] {
            if !has(tool) {
                return Err(Failure::Skip(format!("{tool} is not installed")));
            }
        }
        let home = File::open("/proc/thread-self/ns/net");
        let home = home.map_err(Failure::io("finding this thread's network"))?;
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("{e}");
            return Err(Failure::Skip("no network namespaces here".into()));
        }
        let mut net = Net {
            hosts: Vec::new(),
            home,
        };
        ip(None, "link set lo up\nlink add br0 type bridge")?;
        ip(
            None,
            &format!("addr add {NET}.254/24 dev br0\nlink set br0 up"),
        )?;
        for n in 0..count {
            net.add(n)?;
        }
        Ok(net)
    }

    fn add(&mut self, n: usize) -> Result<(), Failure> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "cat"]).stdin(Stdio::piped());
        let holder = unshare.stdout(Stdio::null()).spawn();
        let holder = holder.map_err(Failure::io("starting a namespace's holder"))?;
        let pid = holder.id();
        self.hosts.push(Host {
            holder,
            deaf_to: Vec::new(),
        });
        let of = |what: &str| std::fs::read_link(format!("/proc/{what}/ns/net")).ok();
        let began = Instant::now();
        while of(&pid.to_string()).is_none_or(|ns| Some(ns) == of("thread-self")) {
            if began.elapsed() > BORN {
                return Err(Failure::Skip("no network namespaces here".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        ip(
            None,
            &format!(
                "link add v{n} type veth peer name eth0 netns {pid}\nlink set v{n} master br0\nlink set v{n} up"
            ),
        )?;
        let addr = addr(n);
        // The rule that finds local addresses comes first by default, and nothing could be lost before it.
        ip(
            Some(pid),
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {addr}/24 dev eth0\nrule add pref 100 lookup local\nrule del pref 0"
            ),
        )
    }

    /// Places for members, one on each host.
    pub fn places(&self, data: &std::path::Path) -> Vec<Place> {
        let place = |(n, host): (usize, &Host)| Place {
            data: data.join(format!("m{}", n + 1)),
            client_addr: format!("{}:2379", addr(n)),
            peer_addr: format!("{}:2380", addr(n)),
            through: ["nsenter", "-n", "-t", &host.holder.id().to_string(), "--"]
                .map(str::to_owned)
                .into(),
        };
        self.hosts.iter().enumerate().map(place).collect()
    }

    /// From now on what each `(from, to)` names is lost.
    pub fn cut(&mut self, links: &[(usize, usize)]) -> Result<(), Failure> {
        for (to, host) in self.hosts.iter_mut().enumerate() {
            let from = links.iter().filter(|l| l.1 == to).map(|l| l.0);
            let from: Vec<usize> = from.filter(|from| !host.deaf_to.contains(from)).collect();
            let lines: Vec<String> = from
                .iter()
                .map(|from| {
                    format!(
                        "rule add pref {LOST} from {} iif eth0 blackhole",
                        addr(*from)
                    )
                })
                .collect();
            if !lines.is_empty() {
                ip(Some(host.holder.id()), &lines.join("\n"))?;
            }
            host.deaf_to.extend(from);
        }
        Ok(())
    }

    /// Everybody hears everybody again.
    pub fn heal(&mut self) -> Result<(), Failure> {
        for host in &mut self.hosts {
            let lines: Vec<String> = std::mem::take(&mut host.deaf_to)
                .into_iter()
                .map(|from| {
                    format!(
                        "rule del pref {LOST} from {} iif eth0 blackhole",
                        addr(from)
                    )
                })
                .collect();
            if !lines.is_empty() {
                ip(Some(host.holder.id()), &lines.join("\n"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            // Its namespace ends when the last process in it has; members end before.
            let _ = host.holder.kill();
            let _ = host.holder.wait();
        }
        if let Err(e) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            eprintln!("this thread stays in its own network: {e}");
        }
    }
}

fn addr(n: usize) -> String {
    format!("{NET}.{}", n + 1)
}

/// Lines for ip(8), here or in the namespace of a process.
fn ip(within: Option<u32>, lines: &str) -> Result<(), Failure> {
    let mut script = tempfile::NamedTempFile::new().map_err(Failure::io("writing for ip"))?;
    script
        .write_all(lines.as_bytes())
        .and_then(|()| script.flush())
        .map_err(Failure::io("writing for ip"))?;
    let mut ip = match within {
        None => Command::new("ip"),
        Some(pid) => {
            let mut nsenter = Command::new("nsenter");
            nsenter.args(["-n", "-t", &pid.to_string(), "--", "ip"]);
            nsenter
        }
    };
    command(ip.arg("-batch").arg(script.path()))
}
